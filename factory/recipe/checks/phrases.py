"""Checks of terms: which phrases of the conditions have no concept."""

from factory.core.errors import CatalogError, RecipeError
from factory.core.notes import tell
from factory.recipe.checks.findings import Findings

SHOWN = 5


def check_phrases(findings: Findings) -> None:
    """Notes phrases without a concept where terms are strict; else they are counted and told."""
    terms = findings.loaded.recipe.terms
    if terms is None:
        return
    known = findings.look_up(("terms", "catalog"), findings.catalogs.find_terms, terms.catalog)
    for number, block in enumerate(findings.loaded.recipe.blocks if known else ()):
        try:
            phrases = dict.fromkeys(block.list_phrases(findings.catalogs))
        except (CatalogError, RecipeError):
            continue  # told where the condition names it
        unknown = [each for each in phrases if known and not known.find_concepts(each)]
        if not unknown:
            continue
        more = ", ..." if len(unknown) > SHOWN else ""
        listed = ", ".join(map(repr, unknown[:SHOWN])) + more
        message = f"{len(unknown)} of {len(phrases)} phrases have no concept in {terms.catalog}"
        if terms.strict:
            advice = "add synonyms to a catalog of your own, or set terms.strict: false"
            findings.add(("conditions", number), f"{message}: {listed}: {advice}")
        else:
            tell(f"conditions[{number}]: {message}: {listed}")
