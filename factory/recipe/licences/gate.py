"""The gate: refuses to make, or to publish, what the terms of a maker forbid."""

from collections.abc import Mapping
from dataclasses import dataclass

from factory.catalog.licences.known import find_known
from factory.catalog.licences.terms import SAYS, Limit, Permissions, combine_terms
from factory.core.errors import LicenceError
from factory.data.summary import Summary
from factory.recipe.file import LoadedRecipe
from factory.recipe.licences.collect import collect_recipe_terms, collect_summary_terms
from factory.recipe.recipe import is_judging

OWN_TEXT = "other"
"""Licence id of a text of one's own: the card and LICENSE.md state every restriction there."""
LADDER = (
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0",
    OWN_TEXT,
)
"""What is proposed instead of a licence that is refused: the freest first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a data set cannot have a licence: what it would allow, and whose terms forbid it."""

    what: str
    limit: Limit

    def __str__(self) -> str:
        term = self.limit.term
        if self.limit.restriction == "unanswered":
            return f"{self.what}: {SAYS['unanswered']} ({term.role} {term.name}, {term.cite()})"
        return f"{self.what}: the {term.role} {term.name} forbids it ({term.cite()})"


def check_generation(loaded: LoadedRecipe) -> None:
    """Refuses a recipe whose makers' terms forbid making data sets, unless it names an approval.

    Raises:
        LicenceError: names the term and the model, and the field for who holds an approval.
        RecipeError: a catalog file is wrong.
    """
    if is_judging(loaded.recipe) or loaded.recipe.generator.approval is not None:
        return
    verdict = combine_terms(collect_recipe_terms(loaded.recipe, loaded.session))
    found = verdict.find("dataset_generation")
    if found:
        listed = "\n".join(
            f"{loaded.path}: generator.model: the terms of the {limit.term.role} {limit.term.name} "
            f"forbid making data sets from its outputs (dataset_generation: false; "
            f"{limit.term.cite()})"
            for limit in found
        )
        raise LicenceError(
            f"{listed}\nTake another model (`factory models list`). If you hold a written "
            'approval, say whose and of when in the recipe, `generator: {approval: "WHO, WHEN, '
            'WHERE IT IS KEPT"}`: it is kept in the summary and shown in the card'
        )


def check_publish(summary: Summary, license_id: str, override: str | None) -> None:
    """Refuses to publish a run under a licence that the terms of its makers forbid.

    The terms are those recorded when the images were made, not what a catalog says today.

    Args:
        summary: `summary.json` of the run.
        license_id: licence of the data set, as the Hub writes it.
        override: who approved it, and when; `record_licence` keeps it for the card. None: nobody.

    Raises:
        LicenceError: names each term and its model, and what could be done.
    """
    refusals = list_refusals(summary, license_id)
    if not refusals or (override is not None and override.strip()):
        return
    listed = "\n".join(f"  {refusal}" for refusal in refusals)
    instead = suggest_licence(combine_terms(collect_summary_terms(summary)), summary.approval)
    do = f"take the licence {instead}" if instead else "no licence allows publishing it"
    raise LicenceError(
        f"{summary.name}: cannot be published as {license_id}:\n{listed}\n"
        f"{do[0].upper()}{do[1:]}; whoever holds an approval gives it as --override-terms "
        '"WHO APPROVED, WHEN": the card will show it'
    )


def list_refusals(summary: Summary, license_id: str) -> tuple[Refusal, ...]:
    """Returns why a run cannot be published under a licence; none: nothing recorded forbids it."""
    verdict = combine_terms(collect_summary_terms(summary))
    return _compare(verdict, license_id, summary.approval)


def suggest_licence(verdict: Permissions, approval: str | None = None) -> str | None:
    """Returns the freest common licence that the terms allow, or None where none does."""
    return next((name for name in LADDER if not _compare(verdict, name, approval)), None)


def record_licence(summary: Summary, license_id: str, override: str | None) -> Summary:
    """Returns the summary with the licence it is published under, and what was overridden.

    The card is made from it: `license` replaces the recipe's, `overrides` is shown with the terms.

    Raises:
        LicenceError: as `check_publish`.
    """
    check_publish(summary, license_id, override)
    overrides = [each.model_dump() for each in summary.overrides]
    refusals = [str(refusal) for refusal in list_refusals(summary, license_id)]
    if refusals:
        entry = {"license": license_id, "approved": override, "terms": tuple(refusals)}
        overrides = [*(each for each in overrides if each != entry), entry]
    return summary.change(license=license_id, overrides=overrides)


def _compare(verdict: Permissions, license_id: str, approval: str | None) -> tuple[Refusal, ...]:
    found: list[Refusal] = []
    for limit in verdict.limits:
        if limit.restriction == "dataset_generation" and approval is not None:
            continue
        what = _find_conflict(limit, license_id)
        if what:
            found.append(Refusal(what, limit))
    return tuple(found)


def _find_conflict(limit: Limit, license_id: str) -> str:
    """Returns what a data set's licence would allow against a restriction, or nothing.

    A licence of which nothing is known does not carry a restriction; a text of one's own may.
    """
    known, own = find_known(license_id), license_id == OWN_TEXT
    is_same = _is_same_or_later(license_id, limit.term.id)
    allowed: Mapping[str, tuple[bool, str]] = {
        "unanswered": (True, "publishing what is made with it"),
        "dataset_generation": (True, "making a data set of its outputs"),
        "redistribution_of_outputs": (True, "passing its images on"),
        "training_on_outputs": (not own, "allows training models on it"),
        "commercial_use": (known.commercial_use is not False and not own, "allows commercial use"),
        "derivatives": (known.adaptations is not False and not own, "allows derivatives"),
        "share_alike": (not is_same, f"is not the same licence ({limit.term.id})"),
        "attribution": (known.public_domain, "waives the naming of its makers"),
    }
    is_conflict, what = allowed.get(limit.restriction, (False, ""))
    if not is_conflict:
        return ""
    general = limit.restriction in ("unanswered", "dataset_generation", "redistribution_of_outputs")
    return what if general else f"{license_id} {what}"


def _is_same_or_later(license_id: str, wanted: str) -> bool:
    """Whether a licence is a share-alike one, or a later version of it (CC BY-SA 4.0, 3(b)(1))."""
    (name, _, version), (kind, _, least) = license_id.rpartition("-"), wanted.rpartition("-")
    return name == kind and version >= least
