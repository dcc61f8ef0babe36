"""Checks of an encoder that a recipe names: known or a folder, with weights that may be had."""

from pathlib import Path

from factory.catalog.catalog import EncoderEntry
from factory.catalog.checker import Checker
from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.models.encoders import LIBRARIES, describe_gate, find_weights, has_access, list_specs
from factory.models.encoders.clip_text import LOCAL, resolve_clip


def check_encoder(checker: Checker, spec: str, path: FieldPath) -> None:
    """Notes an encoder that is neither known by its kind nor a folder; loads nothing."""
    if spec in checker.catalogs.list_ids("encoders"):
        entry = checker.look_up(path, checker.catalogs.find_encoder, spec)
        if entry is not None and checker.check_files:
            _check_entry(checker, entry, path)
        return
    library, _, name = spec.partition(":")
    if library in LIBRARIES and name:
        return
    if checker.check_files and not checker.resolve(spec).is_dir():
        known = list_specs(checker.catalogs)
        message = f"no encoder {spec!r} and no such folder: {advise(spec, known)}, or a folder"
        checker.add(path, message)


def check_clip(checker: Checker, spec: str, path: FieldPath) -> None:
    """Notes an image-text model that cannot be had; loads nothing."""
    if spec in checker.catalogs.list_ids("encoders"):
        check_encoder(checker, spec, path)
    if checker.check_files or not spec.startswith(LOCAL):
        try:
            resolve_clip(spec, checker.base, checker.catalogs)
        except InputError as error:
            checker.add(path, str(error))


def _check_entry(checker: Checker, entry: EncoderEntry, path: FieldPath) -> None:
    """Notes missing weights, and gated ones where neither a token nor a stored copy is there."""
    if entry.source.startswith("/") and not Path(entry.source).is_dir():
        message = f"the weights of {entry.id} are missing, no folder {entry.source!r}"
        checker.add(path, f"{message}: put them there")
    if entry.licence.gated and not has_access(find_weights(entry.id, checker.catalogs)):
        checker.add(path, describe_gate(entry))
