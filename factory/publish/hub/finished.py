"""Opens a finished run for publishing: refuses what is unfinished, or not as it was finalized."""

from pathlib import Path

from factory.core.errors import InputError, StoreError
from factory.core.parquet import count_rows
from factory.data.folders import FolderKind
from factory.data.summary import Summary
from factory.engine.dataset import Dataset
from factory.engine.finalise import SUMMARY
from factory.engine.summary import RECIPE
from factory.publish.hub.items import CARD, DATA_FOLDERS


def open_finished(folder: Path) -> Dataset:
    """Opens a run and checks that its files and rows are those that it says it has.

    Bytes are compared with hashes later, while they are read anyway.

    Raises:
        InputError: not a finished run.
        StoreError: files are missing, too many or unreadable, or have other row counts.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give a finished run on this machine")
    dataset = Dataset(str(folder))
    refuse_merged(dataset)
    missing = [name for name in (SUMMARY, RECIPE, CARD) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: not finished: has no {', '.join(missing)}: run the recipe into it first"
        )
    if dataset.unfinished:
        raise InputError(
            f"{folder}: not finished: {dataset.unfinished}: run the same recipe into it again, to "
            "the end"
        )
    _, summary = dataset.require_finished()
    if not summary.hashes:
        raise InputError(
            f"{folder}: was finalized before files had hashes: remove summary.json and run the "
            "recipe again into this folder, which writes the data set anew"
        )
    _check_names(folder, summary)
    _check_rows(folder, summary)
    return dataset


def refuse_merged(dataset: Dataset) -> None:
    """Refuses a merged set.

    Raises:
        InputError: says why.
    """
    if dataset.kind is FolderKind.MERGED:
        raise InputError(
            f"{dataset.url}: a merged set, which may hold real images under terms of their own: "
            "publish the runs that it was merged from"
        )


def _check_names(folder: Path, summary: Summary) -> None:
    hashes = summary.hashes
    there = {
        f"{part}/{path.name}"
        for part in DATA_FOLDERS
        for path in (folder / part).glob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    for what, names in (("missing", hashes.keys() - there), ("not of it", there - hashes.keys())):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise StoreError(
                f"{folder}: damaged: {len(names)} data files are {what}, e.g. {listed}: remove "
                "summary.json and run the recipe again into this folder"
            )


def _check_rows(folder: Path, summary: Summary) -> None:
    files = summary.files
    expected = {"data": files.rows, "rejected": files.rejected_rows} if files else {}
    found = {"data": 0, "rejected": 0}
    for name in summary.hashes:
        if name.endswith(".parquet"):
            found[name.split("/", 1)[0]] += count_rows(folder / name)
    if found != expected or found["data"] != summary.accepted:
        raise StoreError(
            f"{folder}: damaged: holds {found} rows, its summary says {expected} and "
            f"{summary.accepted} accepted: remove summary.json and run the recipe again into "
            "this folder"
        )
