"""What a folder is to factory: a run, a copy of a finished one, a merged set, or none of these."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path

from factory.core.errors import InputError

RUN_RECORD, RUN_SUMMARY, MERGED_RECORD = ".factory/run.json", "summary.json", "merge.json"


class FolderKind(Enum):
    """Told by the records that lie in a folder."""

    RUN = "the folder of a run, finished or not"
    COPY = "a finished data set without its shards"
    MERGED = "a merged set"
    OTHER = "none of factory's"

    @property
    def has_rows(self) -> bool:
        """Whether rows of one recipe lie there, or will."""
        return self in (FolderKind.RUN, FolderKind.COPY)


def tell_kind(folder: Path) -> FolderKind:
    """Returns what a folder is; a file, or nothing at all, is none of factory's."""
    return tell_kind_of(lambda name: (folder / name).exists())


def tell_kind_of(exists: Callable[[str], bool]) -> FolderKind:
    """Returns what a place is, by the names that exist there."""
    if exists(MERGED_RECORD):
        return FolderKind.MERGED
    if exists(RUN_RECORD):
        return FolderKind.RUN
    if exists(RUN_SUMMARY) and exists("data"):
        return FolderKind.COPY
    return FolderKind.OTHER


def refuse_in_data_set(place: Path) -> None:
    """Refuses to put a file of one's own into a run folder or a finished data set, at any depth.

    Raises:
        InputError: says which; nothing was touched.
    """
    for folder in place.absolute().parents:
        if tell_kind(folder) is not FolderKind.OTHER:
            raise InputError(
                f"{place}: lies in a data set or the folder of a run ({folder}), and nothing was "
                "written into it: give another folder"
            )
