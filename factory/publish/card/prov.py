"""PROV-JSON of a run: what was made from what, by which software (W3C PROV-DM, by `prov`)."""

import json
from typing import Any

from factory import __version__
from factory.core.errors import InputError
from factory.core.markdown import write_inert_json
from factory.core.places import shorten_places
from factory.data.summary import Summary
from factory.publish.card.facts import Facts
from factory.recipe.licences import collect_summary_terms

NAMESPACE = "urn:factory-pathology:"
PROV_FILE = "prov.json"


def build_prov(facts: Facts) -> str:
    """Returns the PROV-JSON text: data set, files, recipe, models, terms, and the run.

    Raises:
        InputError: the package `prov` is not installed.
    """
    try:
        from prov.model import ProvDocument
    except ImportError as error:
        raise InputError("--prov needs the package prov: pip install prov") from error
    summary = facts.summary
    document = ProvDocument()
    document.add_namespace("factory", NAMESPACE)
    recipe = document.entity(
        f"factory:recipe-{summary.recipe_sha256[:16]}",
        {"prov:type": "prov:Plan", "factory:sha256": summary.recipe_sha256},
    )
    software = document.agent(f"factory:factory-{__version__}", {"prov:type": "prov:SoftwareAgent"})
    run = document.activity(
        f"factory:run-{summary.digest[:16]}",
        other_attributes={
            "factory:asked": summary.asked,
            **({"factory:wanted": summary.wanted} if summary.stop else {}),
            "factory:generated": summary.generated,
            "factory:accepted": summary.accepted,
        },
    )
    document.wasAssociatedWith(run, software, recipe)
    _add_data_set(document, run, facts)
    for place, used in enumerate(_list_used(summary)):
        document.used(run, document.entity(f"factory:used-{place}", used))
    return write_inert_json(json.loads(document.serialize(format="json"))) + "\n"


def _add_data_set(document: Any, run: Any, facts: Facts) -> None:
    """Adds the data set, its authors and its files."""
    summary = facts.summary
    kind = "synthetic" if facts.is_synthetic else "judged"
    made = document.entity(
        f"factory:dataset-{summary.digest[:16]}",
        {"prov:label": facts.title, "factory:kind": kind, "factory:license": facts.license_id},
    )
    document.wasGeneratedBy(made, run)
    for place, name in enumerate(facts.recipe.card.authors):
        agent = document.agent(f"factory:author-{place}", {"prov:label": name})
        document.wasAttributedTo(made, agent)
    for file in facts.files:
        part = document.entity(
            f"factory:file-{file.sha256[:16]}",
            {"prov:label": file.name, "factory:sha256": file.sha256, "factory:rows": file.rows},
        )
        document.hadMember(made, part)


def _list_used(summary: Summary) -> list[dict[str, str]]:
    """Returns what the run used, each with its role, revision and licence as recorded."""
    hashes = {
        shorten_places(maker.model): maker.generator.weights_sha256 for maker in summary.makers
    }
    found = []
    terms = ((each.role, each.name, each.id) for each in collect_summary_terms(summary))
    for role, name, licence in dict.fromkeys(terms):
        used = {"prov:label": name, "factory:role": role, "factory:licence": licence}
        if role == "generator" and hashes.get(name):
            used["factory:weights_sha256"] = str(hashes[name])
        found.append(used)
    return found
