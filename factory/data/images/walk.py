"""What lies below a folder: links followed, loops cut, hidden folders named and not entered."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from factory.core.errors import SourceError
from factory.core.notes import tell
from factory.core.text_rows import find_fault

_NO_FILES = frozenset({"thumbs.db", "desktop.ini"})
"""What Windows leaves in folders, besides hidden files."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What lies below a folder, each sorted by its parts.

    Attributes:
        files: all but hidden ones.
        folders: all that were entered.
        hidden: folders that were not, as their names start with a dot.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def walk_files(root: Path) -> Walked:
    """Lists what lies below a folder.

    Links are followed; one that leads in a circle, to what is read already or nowhere is passed
    over, and said.

    Raises:
        SourceError: a folder that cannot be read, or a name that is no text.
    """
    found = Walked()
    _walk(root, frozenset({os.path.realpath(root)}), set(), found)
    for paths in (found.files, found.folders, found.hidden):
        paths.sort()
    return found


def _walk(folder: Path, above: frozenset[str], seen: set[str], found: Walked) -> None:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be read ({error.strerror}): mend its rights"
        ) from error
    for entry in listed:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name.lower() in _NO_FILES:
            if entry.is_dir(follow_symlinks=False):
                found.hidden.append(path)
            continue
        if find_fault(entry.name):
            raise SourceError(f"{folder}: the name {entry.name!r} is not UTF-8: rename it")
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            tell(f"{path}: passed over, a link that cannot be followed ({error.strerror})")
            continue
        if is_folder:
            real = os.path.realpath(path)
            if real in above:
                tell(f"{path}: passed over, a link to a folder above itself")
            elif entry.is_symlink() and real in seen:
                tell(f"{path}: passed over, a link to a folder that is read already")
            else:
                seen.add(real)
                found.folders.append(path)
                _walk(path, above | {real}, seen, found)
        elif is_file:
            found.files.append(path)
        else:
            what = "a link that leads nowhere" if entry.is_symlink() else "no file"
            tell(f"{path}: passed over, {what}")
