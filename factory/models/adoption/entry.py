"""The catalog entry of an adopted model, and the terms that its card states."""

import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from factory.catalog.entries import LicenceTerms, ModelEntry
from factory.catalog.licences.known import UNANSWERED
from factory.core.errors import FactoryError, InputError
from factory.models.generators import weights

_HEADER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_ASKED = (
    "Fill in from the model's page: id, url, commercial_use, redistribution_of_outputs, "
    "training_on_outputs, dataset_generation, gated. Until then nothing made with it is published."
)


def read_terms(source: str, folder: Path | None, revision: str | None) -> LicenceTerms:
    """Returns the terms that a model card states, else ones that are clearly unanswered.

    Args:
        source: Hub id or folder, as given.
        folder: with the model's files, where they lie on this disk.
        revision: of a Hub model.
    """
    header = _read_header(source, folder, revision)
    name = str(header.get("license") or "")
    is_hub = folder is None or weights.name_revision(folder, "") != ""
    page = f"https://huggingface.co/{source}" if is_hub and "/" in source else ""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    if not name:
        return LicenceTerms(id=UNANSWERED, url=page, date_read=today, note=_ASKED)
    named = str(header.get("license_name") or "")
    return LicenceTerms(
        id=name,
        url=str(header.get("license_link") or page),
        date_read=today,
        gated="extra_gated_prompt" in header or "extra_gated_fields" in header,
        note=f"{named}: as the card's header says; its text was not read"
        if named
        else "As the card's header says; the text, and what it says of outputs, was not read.",
    )


def _read_header(source: str, folder: Path | None, revision: str | None) -> Mapping[str, Any]:
    try:
        path = folder / "README.md" if folder is not None else None
        if path is None or not path.is_file():
            if folder is not None and folder.parent.name != "snapshots":
                return {}
            path = Path(weights.fetch_file(source, "README.md", revision))
        found = _HEADER.search(path.read_text(encoding="utf-8"))
        header = yaml.safe_load(found.group(1)) if found else {}
    except (OSError, FactoryError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return header if isinstance(header, dict) else {}


def check_place(out: Path) -> None:
    """Checks where an entry is to lie.

    Raises:
        InputError: not `CATALOG/models/ID.yaml`, no id, or a file that is there.
    """
    if out.suffix != ".yaml" or out.absolute().parent.name != "models":
        raise InputError(
            f"{out}: an entry is a file ID.yaml in the folder models of a catalog: "
            "give e.g. catalog/models/mine.yaml"
        )
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", out.stem) is None:
        raise InputError(f"{out}: {out.stem!r} is no id: small letters, digits, - and . only")
    if out.exists():
        raise InputError(f"{out}: is there already: remove it, or give another name")


def write_entry(entry: ModelEntry, out: Path) -> str:
    """Returns the text of an entry's file; a local source is told relative to it."""
    plain = entry.model_dump(mode="json", exclude_defaults=True)
    plain = {"id": entry.id, **{key: value for key, value in plain.items() if key != "id"}}
    if Path(entry.source).is_absolute():
        plain["source"] = os.path.relpath(entry.source, out.absolute().parent)
    head = ["# Written by `factory models adopt`: what stands here was tried on this model."]
    head += [f"# NOT PROVEN: {each}" for each in entry.unproven]
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=96)
    return "\n".join(head) + "\n" + body
