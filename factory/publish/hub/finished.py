"""Whether a run can be published: refuses what is unfinished, or not as it was finalized."""

from factory.core.errors import InputError, StoreError
from factory.data.folders import FolderKind
from factory.data.summary import Summary
from factory.engine.dataset import Dataset
from factory.engine.finalise import SUMMARY
from factory.engine.summary import RECIPE
from factory.publish.hub.items import CARD, DATA_FOLDERS


def require_whole(dataset: Dataset) -> Summary:
    """Returns the summary of a run whose files and rows are those that it says it has.

    Bytes are compared with hashes later, while they are read anyway.

    Raises:
        InputError: not a finished run.
        StoreError: files are missing, too many or unreadable, or have other row counts.
    """
    refuse_merged(dataset)
    missing = [name for name in (SUMMARY, RECIPE, CARD) if not dataset.files.exists(name)]
    if missing:
        raise InputError(
            f"{dataset.url}: not finished: has no {', '.join(missing)}: run the recipe into it "
            "first"
        )
    if dataset.unfinished:
        raise InputError(
            f"{dataset.url}: not finished: {dataset.unfinished}: run the same recipe into it "
            "again, to the end"
        )
    _, summary = dataset.require_finished()
    if not summary.hashes:
        raise InputError(
            f"{dataset.url}: was finalized before files had hashes: remove summary.json and run "
            "the recipe again into this folder, which writes the data set anew"
        )
    _check_names(dataset, summary)
    _check_rows(dataset, summary)
    return summary


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


def _check_names(dataset: Dataset, summary: Summary) -> None:
    hashes = summary.hashes
    there = {
        f"{part}/{name}"
        for part in DATA_FOLDERS
        for name in dataset.files.list(part)
        if not name.startswith(".")
    }
    for what, names in (("missing", hashes.keys() - there), ("not of it", there - hashes.keys())):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise StoreError(
                f"{dataset.url}: damaged: {len(names)} data files are {what}, e.g. {listed}: "
                "remove summary.json and run the recipe again into this folder"
            )


def _check_rows(dataset: Dataset, summary: Summary) -> None:
    files = summary.files
    expected = {"data": files.rows, "rejected": files.rejected_rows} if files else {}
    found = {"data": 0, "rejected": 0}
    for name in summary.hashes:
        if name.endswith(".parquet"):
            with dataset.files.open_parquet(name) as table:
                found[name.split("/", 1)[0]] += table.num_rows
    if found != expected or found["data"] != summary.accepted:
        raise StoreError(
            f"{dataset.url}: damaged: holds {found} rows, its summary says {expected} and "
            f"{summary.accepted} accepted: remove summary.json and run the recipe again into "
            "this folder"
        )
