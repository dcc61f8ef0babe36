"""Licence gate: what the terms of all that made a data set let it be, and how it may be published.

    terms = collect_summary_terms(summary)      # as read when the images were made
    verdict = combine_terms(terms)              # non-commercial, no derivatives, unstated, ...
    check_publish(summary, "cc-by-4.0", None)   # LicenceError: which model forbids it

It reads what catalogs and recipes record; it is no legal advice, and where nothing is recorded it
says `not stated` and guesses nothing.
"""

from factory.catalog.licences.known import KNOWN, KnownLicence, find_known
from factory.catalog.licences.terms import Limit, Permissions, Term, combine_terms
from factory.recipe.licences.collect import (
    collect_recipe_terms,
    collect_summary_terms,
    combine_recipe_terms,
    describe_source,
    describe_terms,
)
from factory.recipe.licences.gate import (
    Refusal,
    check_generation,
    check_publish,
    list_refusals,
    record_licence,
    suggest_licence,
)

__all__ = [
    "KNOWN",
    "KnownLicence",
    "Limit",
    "Permissions",
    "Refusal",
    "Term",
    "check_generation",
    "check_publish",
    "collect_recipe_terms",
    "collect_summary_terms",
    "combine_recipe_terms",
    "combine_terms",
    "describe_source",
    "describe_terms",
    "find_known",
    "list_refusals",
    "record_licence",
    "suggest_licence",
]
