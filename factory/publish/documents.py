"""What is said about a data set when it is published: its licence recorded, no place of a disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from factory.card import write_card
from factory.dataset import SUMMARY
from factory.errors import InputError
from factory.licences import check_publish, record_licence
from factory.publish.finished import Finished
from factory.publish.items import CARD, DATA_FOLDERS, Item
from factory.publish.paths import list_places, replace_places, shorten_places
from factory.store.run_folder import RunFolder

DOCUMENTS = ("recipe.json", SUMMARY, "croissant.json", "prov.json")
TEXTS = (CARD, "CITATION.cff", "LICENSE.md")


def build_documents(
    finished: Finished, data: Sequence[Item], license_id: str | None, override: str | None
) -> dict[str, bytes]:
    """Returns card, recipe, summary and the like as they are published; writes nothing to the run.

    Args:
        finished: the run.
        data: its data files, as they are sent.
        license_id: the licence to publish under; None: the one that it has.
        override: who approved what the terms forbid; None: nobody.

    Raises:
        LicenceError: the terms of a maker forbid it.
        InputError: the card has no valid header.
    """
    summary = finished.summary
    chosen = license_id or summary.get("license") or finished.recipe.card.license
    check_publish(summary, chosen, override)
    if license_id is None and override is None:
        documents = _read_documents(finished.folder)
    else:
        recorded = record_licence(summary, chosen, override)
        documents = _write_documents(finished, recorded)
    documents[SUMMARY] = _describe_published(documents[SUMMARY], data)
    changed = {finished.hashes[item.name]: item.sha256 for item in data if item.is_rewritten}
    documents = _hide_places(documents, changed)
    check_header(documents[CARD].decode(), str(finished.folder / CARD))
    return documents


def check_header(card: str, where: str) -> dict[str, Any]:
    """Returns the YAML header of a card, as the Hub reads it.

    Raises:
        InputError: there is none, or it is not valid.
    """
    import yaml
    from huggingface_hub import DatasetCard

    try:
        header: dict[str, Any] = DatasetCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{where}: its YAML header cannot be read: {error}: mend it") from error
    if not header.get("license"):
        raise InputError(f"{where}: has no license in its YAML header: give --license ID")
    return header


def _read_documents(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for name in (*DOCUMENTS, *TEXTS) if (folder / name).is_file()]
    paths += (folder / "assets").glob("*.png")
    paths += (folder / "evaluation").glob("*.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _write_documents(finished: Finished, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Writes the card anew, aside, beside links to the data."""
    with TemporaryDirectory(prefix="factory-card-") as name:
        aside = Path(name)
        for path, data in _read_documents(finished.folder).items():
            (aside / path).parent.mkdir(exist_ok=True)
            (aside / path).write_bytes(data)
        for part in DATA_FOLDERS:
            if (finished.folder / part).is_dir():
                (aside / part).symlink_to((finished.folder / part).absolute())
        (aside / SUMMARY).write_bytes(json.dumps(summary, indent=1).encode())
        write_card(RunFolder(str(aside)), finished.recipe, dict(summary))
        return _read_documents(aside)


def _describe_published(data: bytes, items: Sequence[Item]) -> bytes:
    """Returns the summary with the files that are published, and their hashes as sent."""
    summary = json.loads(data)
    files = summary["files"]
    files["sha256"] = {item.name: item.sha256 for item in items}
    files["tars"] = sum(item.name.endswith(".tar") for item in items)
    return json.dumps(summary, indent=1).encode()


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
            text = json.dumps(shorten_places(values[name]), indent=1, ensure_ascii=False)
        text = replace_places(text, places)
        for before, after in changed.items():
            text = text.replace(before, after)
        published[name] = text.encode()
    return published
