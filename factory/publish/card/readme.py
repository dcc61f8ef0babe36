"""README.md: the sections in order, inside marks, beside what a user wrote outside them."""

from collections.abc import Mapping
from typing import Any

from factory import __version__
from factory.core.markdown import escape, fence, soften, split_header, write_inert_json
from factory.core.places import shorten_places
from factory.publish.card.citation import write_citation
from factory.publish.card.evaluations import write_evaluations
from factory.publish.card.facts import Facts
from factory.publish.card.funnel import write_funnel
from factory.publish.card.header import build_header
from factory.publish.card.makers import write_makers, write_terms
from factory.publish.card.memorisation import write_memorisation
from factory.publish.card.promises import write_promises
from factory.publish.card.text import join_blocks
from factory.recipe.recipe import is_judging

BEGIN = "<!-- factory:begin - written anew from measurements; what stands outside is kept -->"
END = "<!-- factory:end -->"


def build_card(facts: Facts, has_grid: bool, before: str | None = None) -> str:
    """Returns the whole text of the card, YAML header included.

    Args:
        facts: of the run.
        has_grid: whether `assets/samples.png` is there.
        before: the card that was there. Its text outside the marks and its own keys of the header
            are kept; of one without marks, the whole text, below the block.
    """
    header, above, below = split_card(before)
    block = "\n\n".join([BEGIN, _write_sections(facts, has_grid), END])
    body = join_blocks([above.strip(), block, below.strip()])
    return f"---\n{build_header(facts, header)}\n---\n\n{body}\n"


def split_card(text: str | None) -> tuple[Mapping[str, Any], str, str]:
    """Returns the header of a card and a user's text above and below the marked block."""
    if not text:
        return {}, "", ""
    text = text.replace("\r\n", "\n")
    try:
        header, body = split_header(text)
    except ValueError:  # broken by hand: kept as text, so that nothing is lost
        header, body = {}, text
    start, end = body.find(BEGIN), body.rfind(END)
    if start < 0 or end < start:
        return header, "", body
    return header, body[:start], body[end + len(END) :]


def _write_sections(facts: Facts, has_grid: bool) -> str:
    summary = facts.summary
    return join_blocks(
        [
            _write_title(facts),
            "![Samples, one row per class](assets/samples.png)" if has_grid else "",
            _write_use(facts),
            write_funnel(summary),
            write_promises(facts.promises),
            write_evaluations(facts),
            write_memorisation(facts) if facts.is_synthetic else "",
            write_terms(facts),
            write_makers(summary, facts.sampled),
            _write_columns(facts),
            _write_reproduction(facts),
            _write_limits(facts),
            write_citation(facts),
        ]
    )


def _write_title(facts: Facts) -> str:
    recipe, summary = facts.recipe, facts.summary
    models = sorted(map(shorten_places, summary.models))
    varied = sum(part.references.used for part in summary.series if part.references)
    nearness = "None is a photograph of tissue; a model can still repeat what it was trained on."
    if varied:
        nearness = (
            f"**They vary {varied:,} real images**, resemble them, and may carry what identifies "
            "them: the terms of those images hold."
        )
    made = (
        f"{summary.accepted:,} **synthetic** histopathology images, made with "
        f"{escape(', '.join(models))} by factory {__version__}. {nearness}"
    )
    if summary.judged:
        made = (
            f"{summary.accepted:,} of {summary.asked:,} given histopathology images, "
            f"**judged, not generated**, by factory {__version__}: they were made elsewhere or are "
            "real, and their own terms hold."
        )
    return join_blocks(
        [
            f"# {escape(facts.title)}",
            f"{made} For research; not for diagnosis.",
            soften(recipe.description),
            soften(recipe.card.description),
        ]
    )


def _write_use(facts: Facts) -> str:
    whose = "they resemble" if facts.is_synthetic else "they are"
    said = "was asked for" if facts.is_synthetic else "the images came with"
    return (
        "## Intended use\n\nResearch, not diagnosis: training and testing of methods, beside real "
        "data. Not for clinical decisions about a person, not as evidence on a disease, and not to "
        f"find out whose tissue {whose}. `class_name` and `caption` are what {said}, not a "
        "pathologist's finding."
    )


def _write_columns(facts: Facts) -> str:
    mark, said = ", each marked as `trainedAlgorithmicMedia` (IPTC)", "what was asked for"
    made = (
        "`seed`, `attempt`, `model`, `weights_sha256` and `provenance` (JSON) how the image was "
        "made"
    )
    if is_judging(facts.recipe):
        mark, said = "", "what the images came with"
        made = "`provenance` (JSON) the file that it comes from and what judged it"
    real = _write_real_columns(facts)
    return (
        f"## Rows\n\nImages are lossless {facts.recipe.output.image_format.upper()}{mark}. "
        f"`label` and `class_name` or `caption` say {said}, "
        f"not what a pathologist saw. `scores` holds every filter's number, {made}, "
        f"`image_sha256` the hash of its file.{real}\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'accepted = load_dataset("PATH_OR_REPO", split="train")\n'
        'rejected = load_dataset("PATH_OR_REPO", "rejected", split="rejected")\n```'
    )


def _write_real_columns(facts: Facts) -> str:
    """Says which columns hold images that no model made."""
    return "".join(
        f" Where column `{name}` is not empty, **it holds the real image** that the row was made "
        "of, which bears no mark and whose own terms hold; so does the picture above, to the right "
        "of what was made."
        for name in facts.real_columns
    )


def _write_reproduction(facts: Facts) -> str:
    plain = shorten_places(facts.recipe.model_dump(mode="json", exclude_defaults=True))
    text = write_inert_json(plain)
    again = "makes it" if facts.is_synthetic else "judges the same images"
    return (
        f"## Recipe\n\nFingerprint `{facts.summary.recipe_sha256}`; whole in `recipe.json`. "
        f"`factory run recipe.json --out FOLDER` with factory {__version__} {again} again; other "
        "devices or library versions may change the last bits.\n\n"
        f"{fence(text, 'json')}"
    )


def _write_limits(facts: Facts) -> str:
    if not facts.is_synthetic:
        return ""
    return (
        "## Limits\n\nSynthetic images inherit the biases of the data that the model was trained "
        "on, and add errors of their own. Filters are models too: what they reject is not always "
        "wrong, and what they keep not always right. Whether the images help a task must be "
        "measured on real, patient-disjoint data. They are not validated for diagnosis and must "
        "not be used for it."
    )
