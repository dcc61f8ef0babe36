"""Whether the images copy real ones: what was checked, against what, and what was found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.publish.card.facts import Facts
from factory.publish.card.text import join_blocks

FILTER = "training_copy"


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
    rejected = facts.summary.rejected.get(FILTER, 0)
    described = [
        each for maker in facts.summary.makers for each in maker.filters if each["kind"] == FILTER
    ]
    for settings in facts.summary.filters:
        if settings["kind"] != FILTER:
            continue
        against = list(_name_references(facts, settings, described))
        yield (
            f"filter `{FILTER}` rejected {rejected:,} of {facts.summary.generated:,} candidates "
            f"whose similarity was above {settings['max_similarity']:g}; checked against "
            f"{' and '.join(against) or 'nothing (no references, no images named)'} only"
        )


def _name_references(
    facts: Facts, settings: Mapping[str, Any], described: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if facts.varies_real_images:
        yield "the real images that were varied"
    for name in ("images", "held_out"):
        if settings.get(name) is not None:
            hashes = {each.get(f"{name}_sha256") for each in described} - {None}
            shown = f" (sha256 {', '.join(sorted(map(str, hashes)))})" if hashes else ""
            yield f"the set {write_code(shorten_places(settings[name]))}{shown}"


def _describe_results(facts: Facts) -> Iterator[str]:
    for name, result in sorted(facts.evaluations.items()):
        if result.get("kind") != "copies" and "authpct" not in result:
            continue
        scope = result.get("scope", "reference set not named")
        text = f"`factory evaluate copies` ({escape(name)}): {escape(scope)}"
        similar = result.get("similarity", {}).get("synthetic")
        if isinstance(similar, dict) and "above" in similar:
            limit = result["similarity"]["max_similarity"]
            text += f"; {similar['above']:,} of {similar['images']:,} images above {limit:g}"
        yield f"{text}; see Evaluation"
