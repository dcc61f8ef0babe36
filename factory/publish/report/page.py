"""The page of a report: what the template shows, and the HTML that it makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.places import shorten_places
from factory.data.summary import Summary
from factory.models.generators.families import does_generate
from factory.publish.card import describe_licence, funnel
from factory.publish.report.charts import Histogram, draw_acceptance, draw_histogram
from factory.publish.report.comparisons import Comparison
from factory.publish.report.evaluations import Evaluations
from factory.publish.report.galleries import Galleries
from factory.publish.report.margins import Limit
from factory.publish.report.state import RunState
from factory.recipe.recipe import Recipe

TEMPLATE = "report.html.jinja"
MAX_PANELS = 12
"""Series that get histograms of their own; of more, one panel stands for all."""
MANY_REASONS, MANY_ALARMS = 8, 12


@dataclass(frozen=True, slots=True)
class ScorePanels:
    """The histograms of one score."""

    score: str
    filter: str | None
    notes: tuple[str, ...]
    panels: tuple[Histogram, ...]
    is_bounded: bool


def render_page(
    state: RunState,
    numbers: Mapping[str, Any],
    limits: Sequence[Limit],
    galleries: Galleries,
    comparisons: Sequence[Comparison],
    evaluations: Evaluations | None,
) -> str:
    """Returns the whole HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("factory.publish.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"strong": mark_strong, "count": "{:,}".format, "show": _show}
    environment.filters["breakable"] = mark_breaks
    filters = [settings["kind"] for settings in numbers["filters"]]
    columns = [*filters, *(name for name in numbers["totals"] if name not in filters)]
    html = environment.get_template(TEMPLATE).render(
        numbers=numbers,
        title=state.recipe.card.pretty_name or state.recipe.name,
        description=state.recipe.description.strip(),
        alarms=list_alarms(state, numbers),
        columns=columns,
        acceptance=draw_acceptance(numbers["acceptance"]),
        scores=build_panels(numbers, limits, state),
        galleries=galleries,
        comparisons=comparisons,
        evaluations=evaluations,
        keeps_images=state.recipe.output.keep_rejected == "images",
        makers=describe_makers(state.summary),
        filters=describe_filters(state),
        dedup=state.recipe.dedup,
        rules=[
            *describe_rules(state.recipe),
            *filter(None, [funnel.describe_early(state.summary)]),
            *filter(None, [funnel.describe_stop_rule(state.summary)]),
            *funnel.describe_ends(state.summary),
        ],
        picks=state.recipe.pick is not None,
        references=[
            (funnel.describe_references(part), funnel.is_one_sided(part))
            for part in state.summary.series
            if part.references
        ],
        recipe_text=write_recipe(state.recipe),
        many_reasons=MANY_REASONS,
    )
    return html.strip() + "\n"


def list_alarms(state: RunState, numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what must not be overlooked, as (kind, text): quarantine, shortfall, not finished."""
    alarms = [
        ("quarantine", f"Shard {record.shard} kept failing: {record.error}")
        for record in state.quarantined
    ]
    shards = numbers["shards"]
    if state.survey.missing:
        text = f"{shards['committed']:,} of {shards['planned']:,} shards are committed: what "
        text += "follows is so far. The same command goes on with the run."
        alarms.append(("unfinished", text))
    elif not state.is_finished:
        text = "All shards are committed, but no data set of them is written: the run goes on, was "
        text += "stopped, or fell short under budget.on_shortfall: error."
        alarms.append(("unfinished", text))
    if not state.survey.missing:
        short = state.summary.shortfalls
        alarms += [("shortfall", funnel.describe_shortfall(part)) for part in short]
    alarms += [("not judged", text) for text in funnel.describe_unjudged(state.summary)]
    more = len(alarms) - MANY_ALARMS
    return alarms[:MANY_ALARMS] + ([("and", f"{more:,} more of these")] if more > 0 else [])


def build_panels(
    numbers: Mapping[str, Any], limits: Sequence[Limit], state: RunState
) -> list[ScorePanels]:
    """Returns the histograms of each score: a panel for each series that has values."""
    import numpy as np

    found = []
    for part in numbers["scores"]:
        mine = [limit for limit in limits if limit.score == part["score"]]
        panels = [
            draw_histogram(
                each["label"],
                np.array(part["edges"]),
                each["accepted"],
                each["rejected"],
                _find_values(mine, names),
            )
            for each, names in _join_series(part["series"], state)
            if any(each["accepted"]) or any(each["rejected"])
        ]
        notes = [
            f"{limit.filter}.{limit.field} only scores: accept does not name it"
            for limit in mine
            if not limit.decides
        ]
        panel = ScorePanels(part["score"], part["filter"], tuple(notes), tuple(panels), bool(mine))
        found.append(panel)
    return found


def describe_filters(state: RunState) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns kind -> settings in force, and the revisions that the run recorded."""
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    for settings in state.recipe.filters:
        plain = settings.model_dump(mode="json", exclude_none=True, exclude={"kind"})
        known: dict[str, Any] = next(reversed(state.summary.list_recorded(settings.name)), {})
        recorded = {name: known[name] for name in known if name not in {*plain, "kind"}}
        both = {**plain, **recorded}
        fields = [(name, _show(value)) for name, value in both.items() if value is not None]
        rows.append((settings.name, fields))
    return rows


def describe_makers(summary: Summary) -> list[dict[str, Any]]:
    """Returns what each kind of worker was: model, sampling, libraries, and licence terms."""
    found: list[dict[str, Any]] = []
    for maker in summary.makers:
        generator = maker.generator
        if not does_generate(maker.generator.family):
            text = "Nothing was generated: the images were given. Their own terms hold."
            found.append({"model": "given", "fields": [], "terms": [text]})
            continue
        fields = [
            (name, _show(value))
            for name, value in generator.to_json().items()
            if name not in {"model", "libraries"} and value not in (None, [], {}, "")
        ]
        libraries = generator.libraries
        listed = ", ".join(f"{name} {libraries[name]}" for name in sorted(libraries))
        terms = [describe_licence("the model", maker.licence)]
        terms += [
            describe_licence(f"{part.role} {part.source}", part.licence)
            for part in maker.components
        ]
        found.append(
            {
                "model": generator.model,
                "fields": [*fields, ("libraries", listed)],
                "terms": terms,
            }
        )
    return found


def describe_rules(recipe: Recipe) -> list[str]:
    """Returns how verdicts are combined and images picked, where the recipe says so."""
    rules = []
    if recipe.dedup is not None:
        most = recipe.dedup.max_similarity
        rules.append(f"Near-duplicates (similarity above {most:g}) of a series are removed.")
    if recipe.accept is not None:
        rules.append(f"Accepted where {recipe.accept}; other filters only score.")
    if recipe.pick is not None:
        fields = recipe.pick.model_dump(mode="json")
        listed = ", ".join(f"{name} {_show(value)}" for name, value in fields.items())
        rules.append(f"Of the accepted images some are picked: {listed}.")
    return rules


def write_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML, without defaults and without the names of folders above."""
    import yaml

    plain = shorten_places(recipe.model_dump(mode="json", exclude_defaults=True))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def mark_strong(text: str) -> Any:
    """Escapes a text, and makes what stands between `**` strong."""
    from markupsafe import Markup, escape

    parts = str(text).split("**")
    marked = [
        Markup("<strong>{}</strong>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def mark_breaks(text: str) -> Any:
    """Escapes a name, and lets a line end after each underscore of it."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in str(text).split("_"))


def _find_values(limits: Sequence[Limit], names: Sequence[str]) -> list[tuple[Limit, float]]:
    """Returns the thresholds that hold for classes, each value once."""
    found: dict[tuple[str, float], tuple[Limit, float]] = {}
    for limit in limits:
        for name in names or (None,):
            value = limit.find_value(name)
            if value is not None:
                found[limit.field, value] = (limit, value)
    return list(found.values())


def _join_series(
    series: Sequence[Mapping[str, Any]], state: RunState
) -> list[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """Returns histogram counts with the classes in them; of many series, joined into one."""
    classes = [part.class_names for part in state.outline.series]
    if len(series) <= MAX_PANELS:
        return list(zip(series, classes, strict=True))
    joined = {
        name: [sum(counts) for counts in zip(*(each[name] for each in series), strict=True)]
        for name in ("accepted", "rejected")
    }
    label = f"all {len(series)} series"
    return [({"label": label, **joined}, tuple(dict.fromkeys(sum(classes, ()))))]


def _show(value: Any) -> str:
    """Returns a setting as text: numbers short, paths cut to their last part."""
    value = shorten_places(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_show(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_show(each) for each in value)
    return str(value)
