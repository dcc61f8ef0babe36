"""What is said about a data set when it is published: its licence recorded, no place of a disk."""

import json
from collections.abc import Mapping, Sequence

from factory.core.errors import InputError
from factory.core.markdown import split_header, write_inert_json
from factory.core.places import list_places, replace_places, shorten_places
from factory.data.summary import Summary
from factory.engine.dataset import Dataset
from factory.engine.finalise import SUMMARY
from factory.engine.summary import RECIPE
from factory.evaluate.base import EVALUATION
from factory.publish.card import build_documents as build_card_documents
from factory.publish.card import collect_facts
from factory.publish.card.citation import CITATION_FILE
from factory.publish.card.documents import MARKS
from factory.publish.card.facts import find_others, read_evaluations, write_again
from factory.publish.card.header import LICENCE_FILE
from factory.publish.card.prov import PROV_FILE, build_prov
from factory.publish.hub.items import CARD, DOCUMENT_FOLDERS, Item
from factory.recipe.licences import record_licence

CROISSANT = "croissant.json"


def build_documents(
    dataset: Dataset,
    data: Sequence[Item],
    license_id: str | None,
    override: str | None,
    url: str | None,
) -> dict[str, bytes]:
    """Returns card, recipe, summary and the like as they are published; writes nothing to the run.

    The card is made anew from what was measured; what a user wrote in it stays.

    Args:
        dataset: the finished run.
        data: its data files, as they are sent.
        license_id: the licence to publish under; None: the one that it has.
        override: who approved what the terms forbid; None: nobody.
        url: where it will be found; None: not said.

    Raises:
        LicenceError: the terms of a maker forbid it.
        InputError: the card has no valid header, or evaluations are of other images.
    """
    recipe, before = dataset.require_finished()
    refuse_others(dataset)
    chosen = license_id or before.license or recipe.card.license
    summary = record_licence(before, chosen, override)
    _check_header(dataset)
    facts = collect_facts(Dataset(dataset.url, recipe, summary), url)
    documents = _read_kept(dataset) | build_card_documents(dataset, facts)
    if dataset.files.exists(PROV_FILE):
        documents[PROV_FILE] = build_prov(facts).encode()
    documents[SUMMARY] = _describe_published(summary, data)
    documents[RECIPE] = dataset.files.read(RECIPE)
    if CROISSANT in documents:
        documents[CROISSANT] = _correct_sizes(documents[CROISSANT], data)
    changed = {before.hashes[item.name]: item.sha256 for item in data if item.is_rewritten}
    return _hide_places(documents, changed)


def refuse_others(dataset: Dataset) -> None:
    """Refuses evaluation results that do not speak of the images that are there.

    Raises:
        InputError: names each, and the command that measures it again.
    """
    results = read_evaluations(dataset)
    others = find_others(dataset, results)
    if not others:
        return
    lines = []
    for name, why in others.items():
        command = write_again(dataset, name, results[name])
        again = f"measure again: {command}, or remove it" if command else "remove it"
        lines.append(f"{dataset.url}/{EVALUATION}/{name}.json: {why}: {again}")
    raise InputError("\n".join(lines))


def _check_header(dataset: Dataset) -> None:
    try:
        split_header(dataset.files.read(CARD).decode())
    except ValueError as error:
        where = f"{dataset.url}/{CARD}"
        raise InputError(f"{where}: its YAML header cannot be read: {error}: mend it") from error


def _read_kept(dataset: Dataset) -> dict[str, bytes]:
    """Returns evaluation results, pictures, and documents of a user's own."""
    files = dataset.files
    names = [
        f"{folder}/{name}"
        for folder, suffix in DOCUMENT_FOLDERS.items()
        for name in files.list(folder)
        if name.endswith(suffix)
    ]
    kept = {name: files.read(name) for name in names}
    for name in (LICENCE_FILE, CITATION_FILE):
        if files.exists(name) and MARKS[name] not in (text := files.read(name)).decode():
            kept[name] = text
    return kept


def _describe_published(summary: Summary, items: Sequence[Item]) -> bytes:
    """Returns the summary with the files that are published, their hashes and bytes as sent."""
    hashes = {item.name: item.sha256 for item in items}
    sizes = {item.name: item.size for item in items}
    tars = sum(item.name.endswith(".tar") for item in items)
    files = summary.files.model_dump(exclude_unset=True) if summary.files else {}
    files |= {"tars": tars, "sha256": hashes, "bytes": sizes}
    return summary.change(files=files).dump()


def _correct_sizes(croissant: bytes, items: Sequence[Item]) -> bytes:
    """Returns the Croissant text with the sizes of files that are changed when they are sent."""
    sizes = {item.name: f"{item.size} B" for item in items if item.is_rewritten}
    value = json.loads(croissant)
    for file in value.get("distribution", ()):
        if file.get("contentUrl") in sizes:
            file["contentSize"] = sizes[file["contentUrl"]]
    return write_inert_json(value).encode() if sizes else croissant


def _hide_places(documents: Mapping[str, bytes], changed: Mapping[str, str]) -> dict[str, bytes]:
    """Cuts absolute paths in JSON wherever they stand, elsewhere those that JSON files name.

    Hashes of files that are changed by it are put right.
    """
    values = {name: json.loads(data) for name, data in documents.items() if name.endswith(".json")}
    places = {place for value in values.values() for place in list_places(value)}
    published = {}
    for name, data in documents.items():
        if name.endswith(".png"):
            published[name] = data
            continue
        text = data.decode()
        if name in values and any(list_places(values[name])):
            text = write_inert_json(shorten_places(values[name]))
        text = replace_places(text, places)
        for before, after in changed.items():
            text = text.replace(before, after)
        published[name] = text.encode()
    return published
