"""The numbers of a report as plain data: what `--json` prints and the page is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from factory import __version__
from factory.data.summary import SeriesSummary
from factory.publish.report.collect import Collected, Shown
from factory.publish.report.comparisons import Compared, Comparison
from factory.publish.report.galleries import Choice
from factory.publish.report.margins import Limit
from factory.publish.report.state import RunState
from factory.recipe.earlier import NEAR_DUPLICATE

KEPT = {"name", "recipe_sha256", "asked", "accepted", "generated", "judged", "seconds"}
COUNTS = {"label", "asked", "accepted", "short", "generated", "spare", "rejected", "reasons"}
"""Besides `attributes`, where shares are stated, `early` and `stop`."""
MAX_LINES = 6
"""Series that get a line of their own; of more, one line stands for all."""


def build_numbers(
    state: RunState,
    found: Collected,
    limits: Sequence[Limit],
    choice: Choice,
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """Returns counts, funnel, histograms, acceptance, and which images are shown."""
    summary = state.summary
    series = [build_series(part, state.labels[part.key]) for part in summary.series]
    return {
        "url": state.folder.url,
        "factory_version": __version__,
        **summary.model_dump(mode="json", include=KEPT),
        "status": name_status(state, series),
        "short": sum(part["short"] for part in series),
        "spare": sum(part["spare"] for part in series),
        "near_duplicates": sum(part["near_duplicates"] for part in series),
        "shards": {"committed": state.done, "planned": state.shards},
        "refiltered": state.is_refiltered,
        "quarantined": [each.to_json() for each in state.quarantined],
        "models": list(summary.models),
        "filters": list(summary.filters),
        "series": series,
        "totals": {
            name: count for name, count in summary.rejected.items() if name != "near_duplicate"
        },
        "scores": build_scores(state, found, limits),
        "acceptance": build_acceptance(state, found),
        "shown": {
            name: [build_shown(each) for each in getattr(choice, name)]
            for name in ("accepted", "borderline", "rejected", "repeats")
        },
        "real": [
            {
                "title": each.title,
                "notes": list(each.notes),
                "pairs": [_build_pair(pair) for pair in each.found],
            }
            for each in comparisons
        ],
    }


def build_series(part: SeriesSummary, label: str) -> dict[str, Any]:
    """Returns the funnel of one series; near-duplicates stand beside what filters rejected."""
    kept = COUNTS | {name for name in ("attributes", "early", "stop") if getattr(part, name)}
    counts = part.model_dump(mode="json", include=kept)
    rejected = counts["rejected"]
    repeats = rejected.pop(NEAR_DUPLICATE, 0)
    return {**counts, "label": label, "near_duplicates": repeats}


def name_status(state: RunState, series: Sequence[Mapping[str, Any]]) -> str:
    """Returns quarantined, unfinished, unwritten, short or finished."""
    if state.quarantined:
        return "quarantined"
    if state.survey.missing:
        return "unfinished"
    if not state.is_finished:
        return "unwritten"
    return "short" if any(part["short"] for part in series) else "finished"


def build_scores(
    state: RunState, found: Collected, limits: Sequence[Limit]
) -> list[dict[str, Any]]:
    """Returns the histograms of all scores, those of filters in recipe order first."""
    owners = find_owners(state)
    scores = []
    for name in sorted(found.edges, key=lambda each: (list(owners).index(each), each)):
        edges = [round(float(edge), 6) for edge in found.edges[name]]
        mine = [limit for limit in limits if limit.score == name]
        scores.append(
            {
                "score": name,
                "filter": owners[name],
                "thresholds": [
                    {"field": each.field, "value": each.value, "decides": each.decides}
                    for each in mine
                ],
                "edges": edges,
                "series": [
                    {
                        "label": state.labels[part.key],
                        "accepted": found.accepted.get((part.key, name), [0] * (len(edges) - 1)),
                        "rejected": found.rejected.get((part.key, name), [0] * (len(edges) - 1)),
                    }
                    for part in state.outline.series
                ],
            }
        )
    return scores


def find_owners(state: RunState) -> dict[str, str | None]:
    """Returns score -> the filter that writes it, or None, in the order of the recipe."""
    owners: dict[str, str | None] = {}
    for judge in state.decider.filters:
        owners |= dict.fromkeys(judge.score_names, judge.name)
    return owners | dict.fromkeys(name for name in state.score_names if name not in owners)


def build_acceptance(state: RunState, found: Collected) -> dict[str, Any]:
    """Returns label -> points along the requests; one line for all where series are many."""
    if len(state.outline.series) > MAX_LINES:
        return {"all series": found.overall.to_points()}
    return {
        state.labels[part.key]: found.acceptance[part.key].to_points()
        for part in state.outline.series
        if part.key in found.acceptance
    }


def build_shown(shown: Shown) -> dict[str, Any]:
    """Returns a shown candidate without its picture."""
    decision, row = shown.decision, shown.row
    return {
        "sample_id": shown.sample_id,
        "class_name": row["class_name"],
        "caption": row["caption"],
        "status": decision.status,
        "rejected_by": decision.rejected_by,
        "reason": decision.reason,
        "nearest": None if shown.margin is None else str(shown.margin),
        "match": decision.match,
    }


def _build_pair(pair: Compared) -> dict[str, Any]:
    match = pair.match
    return {
        "sample_id": pair.shown.sample_id,
        "real": match.name,
        "similarity": match.similarity,
        "distance": match.distance,
    }
