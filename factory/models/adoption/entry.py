"""The catalog entry of an adopted model, and the terms that its card states."""

import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from factory.catalog.entries import LicenceTerms, ModelEntry
from factory.catalog.licences.known import KNOWN, UNANSWERED
from factory.core.errors import FactoryError, InputError
from factory.core.markdown import split_header
from factory.models.generators import weights

_ASKED = (
    "Fill in from the model's page: id, url, commercial_use, redistribution_of_outputs, "
    "training_on_outputs, dataset_generation, gated. Until then nothing made with it is published."
)
_VAGUE = ("other", "unknown")
"""Licence ids of the Hub that leave the terms open."""


def read_terms(source: str, folder: Path | None, revision: str | None) -> LicenceTerms:
    """Returns the terms that a model card states, else ones that are clearly unanswered.

    An id that factory does not know, or that leaves the terms open, answers nothing: the card's
    words are kept in the note.

    Args:
        source: Hub id or folder, as given.
        folder: with the model's files, where they lie on this disk.
        revision: of a Hub model.
    """
    hub_id = source if folder is None else _name_repository(folder)
    header = _read_header(hub_id, folder, revision)
    page = f"https://huggingface.co/{hub_id}" if hub_id else ""
    given = header.get("license")
    name = given.strip().lower() if isinstance(given, str) else ""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    stated = [key for key in ("license", "license_name", "license_link") if header.get(key)]
    words = ", ".join(f"{key}: {header[key]}" for key in stated)
    is_known = name in KNOWN and name not in _VAGUE
    note = "As the card's header says; the text, and what it says of outputs, was not read."
    return LicenceTerms(
        id=name if is_known else UNANSWERED,
        url=_resolve(str(header.get("license_link") or ""), page),
        date_read=today,
        gated=any(str(key).startswith("extra_gated") for key in header),
        note=note if is_known else f"The card says {words}. {_ASKED}" if words else _ASKED,
    )


def _name_repository(folder: Path) -> str:
    """Returns the Hub id of a snapshot in the Hub's cache; empty for any other folder."""
    kind, _, name = folder.parent.parent.name.partition("--")
    is_cached = kind == "models" and weights.name_revision(folder, "") != ""
    return name.replace("--", "/", 1) if is_cached else ""


def _resolve(link: str, page: str) -> str:
    """Returns the address of a licence's text: a link is absolute, or a file of the repository."""
    if not link or "://" in link:
        return link or page
    return f"{page}/blob/main/{link.removeprefix('./')}" if page else ""


def _read_header(hub_id: str, folder: Path | None, revision: str | None) -> Mapping[str, Any]:
    try:
        path = folder / "README.md" if folder is not None else None
        if path is None or not path.is_file():
            if not hub_id:
                return {}
            revision = revision if folder is None else folder.name
            path = Path(weights.fetch_file(hub_id, "README.md", revision))
        return split_header(path.read_text(encoding="utf-8-sig"))[0]
    except (OSError, FactoryError, ValueError):
        return {}


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


def check_size(width: int | None, height: int | None) -> None:
    """Checks that images of a size can be asked for in a recipe.

    Args:
        width: px; None: not given.
        height: px; likewise.

    Raises:
        InputError: a side that is not a multiple of 8 px.
    """
    for name, side in (("width", width), ("height", height)):
        if side is not None and side % 8:
            below = max(8, side - side % 8)
            raise InputError(
                f"{name}: must be a multiple of 8 px, as autoencoders shrink by 8, got {side}: "
                f"give --{name} {below} or {below + 8}"
            )


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
