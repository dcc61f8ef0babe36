"""Checks of an encoder that a recipe names: known or a folder, with weights that may be had."""

from factory.catalog.catalog import EncoderEntry
from factory.catalog.checker import Checker
from factory.core.errors import InputError, PluginError
from factory.core.yaml.reader import FieldPath
from factory.models.encoders import (
    describe_gate,
    explain_unknown,
    find_weights,
    has_access,
    open_kind,
    open_text_kind,
)
from factory.models.encoders.kinds.folder import FolderKind


def check_encoder(checker: Checker, spec: str, path: FieldPath) -> None:
    """Notes an encoder of a broken kind, or that is not there; loads nothing."""
    if spec in checker.catalogs.list_ids("encoders"):
        entry = checker.look_up(path, checker.catalogs.find_encoder, spec)
        if entry is not None and checker.check_files:
            _check_entry(checker, entry, path)
        return
    try:
        kind = open_kind(spec, None, checker.base)
        lack = kind.explain_missing()
    except PluginError as error:
        checker.add(path, str(error))
        return
    if checker.check_files and lack is not None:
        is_folder = isinstance(kind, FolderKind)
        checker.add(path, explain_unknown(spec, checker.catalogs) if is_folder else lack)


def check_clip(checker: Checker, spec: str, path: FieldPath) -> None:
    """Notes an image-text model that cannot be had; loads nothing."""
    if spec in checker.catalogs.list_ids("encoders"):
        check_encoder(checker, spec, path)
    if checker.check_files or open_kind(spec).placeless == spec:
        try:
            open_text_kind(spec, checker.base, checker.catalogs)
        except InputError as error:
            checker.add(path, str(error))


def _check_entry(checker: Checker, entry: EncoderEntry, path: FieldPath) -> None:
    """Notes missing weights, and gated ones where neither a token nor a stored copy is there."""
    try:
        lack = open_kind(entry.source, entry, checker.base).explain_missing()
    except PluginError as error:
        problem = checker.catalogs.make_problem(entry, ("source",), f"{error} (encoder {entry.id})")
        checker.problems.append(problem)
        return
    if lack is not None:
        checker.add(path, lack)
    if entry.licence.gated and not has_access(find_weights(entry.id, checker.catalogs)):
        checker.add(path, describe_gate(entry))
