"""What lies below a folder: links followed, loops cut, what is passed over counted and named."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from factory.errors import SourceError
from factory.notes import tell
from factory.textrows import find_fault

NO_DATA = frozenset(
    {".cfg", ".csv", ".gmt", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lock", ".log"}
    | {".md", ".ndjson", ".pdf", ".py", ".rst", ".sh", ".sha256", ".tmp", ".toml", ".tsv", ".txt"}
    | {".xml", ".yaml", ".yml"}
)
"""Suffixes of texts that may stand beside images; files without a suffix are texts, too."""
_NO_FILES = frozenset({"thumbs.db", "desktop.ini"})
"""What Windows leaves in folders, besides hidden files."""
_KINDS_NAMED = 6


def walk_files(root: Path) -> list[Path]:
    """Returns all files below a folder, sorted by their parts; hidden ones are left out.

    Links are followed; one that leads in a circle, to what is read already or nowhere is passed
    over, and said.

    Raises:
        SourceError: a folder that cannot be read, or a name that is no text.
    """
    return sorted(_walk(root, frozenset({os.path.realpath(root)}), set()))


def _walk(folder: Path, above: frozenset[str], seen: set[str]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be read ({error.strerror}): mend its rights"
        ) from error
    for entry in listed:
        if entry.name.startswith(".") or entry.name.lower() in _NO_FILES:
            continue
        path = folder / entry.name
        if find_fault(entry.name):
            raise SourceError(f"{folder}: the name {entry.name!r} is not UTF-8: rename it")
        real = os.path.realpath(path)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            tell(f"{path}: passed over, a link that cannot be followed ({error.strerror})")
            continue
        if is_folder:
            if real in above:
                tell(f"{path}: passed over, a link to a folder above itself")
            elif entry.is_symlink() and real in seen:
                tell(f"{path}: passed over, a link to a folder that is read already")
            else:
                seen.add(real)
                yield from _walk(path, above | {real}, seen)
        elif is_file:
            yield path
        else:
            what = "a link that leads nowhere" if entry.is_symlink() else "no file"
            tell(f"{path}: passed over, {what}")


def tell_passed_over(files: Sequence[Path], root: Path, beside: str) -> None:
    """Says how many files of each kind are not read, texts excepted.

    Args:
        files: those that are not read.
        root: what the user named.
        beside: what is read.
    """
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        suffix = path.suffix.lower()
        if suffix and suffix not in NO_DATA:
            kinds[suffix].append(path)
    if kinds:
        ranked = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))
        said = ", ".join(
            f"{len(kinds[kind]):,} {kind} ({kinds[kind][0].relative_to(root).as_posix()})"
            for kind in ranked[:_KINDS_NAMED]
        )
        more = ", and further kinds" if len(ranked) > _KINDS_NAMED else ""
        total = sum(map(len, kinds.values()))
        many = "s" if total > 1 else ""
        tell(f"{root}: {total:,} file{many} passed over beside its {beside}: {said}{more}")
