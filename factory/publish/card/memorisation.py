"""Whether the images copy real ones: what was checked, against what, and what was found."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.evaluate import view_result
from factory.evaluate.base import Evaluation
from factory.filters import build_filters
from factory.filters.base import Filter
from factory.models.session import Session
from factory.publish.card.facts import Facts
from factory.publish.card.text import join_blocks


def write_memorisation(facts: Facts) -> str:
    """Returns the section; says loudly where nothing was checked."""
    found = [*_describe_filter(facts), *_describe_results(facts)]
    if not found:
        return (
            "## Memorisation\n\n**Not checked.** No filter `training_copy` was used and no result "
            "of `factory evaluate copies` on these images is in `evaluation/`: images may repeat "
            "what the model was trained on."
        )
    trained = (
        "Copies of images outside these reference sets, above all of the model's own training "
        "data, are not excluded."
    )
    return join_blocks(["## Memorisation", "\n".join(f"- {text}" for text in found), trained])


def _describe_filter(facts: Facts) -> Iterator[str]:
    summary = facts.summary  # what was stopped part-way, no filter has judged whole
    judged = summary.generated - sum(each.early.stopped for each in summary.series if each.early)
    for judge in build_filters(facts.recipe.filters, Session.open()):
        field = next((f for f, score in judge.thresholds.items() if score == judge.likeness), None)
        if field is None:
            continue
        rejected = summary.rejected.get(judge.name, 0)
        against = list(_name_references(facts, judge))
        yield (
            f"filter `{judge.name}` rejected {rejected:,} of {judged:,} "
            f"candidates whose similarity was above {getattr(judge.settings, field):g}; checked "
            f"against {' and '.join(against) or 'nothing (no references, no images named)'} only"
        )


def _name_references(facts: Facts, judge: Filter) -> Iterator[str]:
    """Yields what a filter compared with: each setting whose content the run has a hash of."""
    if facts.varies_real_images:
        yield "the real images that were varied"
    described = facts.summary.list_recorded(judge.name)
    named = [name for each in described for name in each if f"{name}_sha256" in each]
    for name in dict.fromkeys([*named, *(real.field for real in judge.real_images)]):
        value = getattr(judge.settings, name, None)
        if value is not None:
            hashes = {each.get(f"{name}_sha256") for each in described} - {None}
            shown = f" (sha256 {', '.join(sorted(map(str, hashes)))})" if hashes else ""
            yield f"the set {write_code(shorten_places(str(value)))}{shown}"


def _describe_results(facts: Facts) -> Iterator[str]:
    for name, result in sorted(facts.evaluations.items()):
        yield from view_result(result, name, partial(_tell_copies, name, result))[0]


def _tell_copies(name: str, result: Mapping[str, Any], kind: type[Evaluation]) -> list[str]:
    told, command = kind.tell_copies(result), write_code(f"factory evaluate {kind.kind}")
    return [f"{command} ({escape(name)}): {escape(told)}; see Evaluation"] if told else []
