"""Opens a finished run for publishing: refuses what is unfinished, or not as it was finalized."""

from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import InputError, StoreError
from factory.core.parquet import count_rows
from factory.data.summary import Summary
from factory.engine.finalise import SUMMARY
from factory.engine.run_folder import WORK, RunFolder
from factory.engine.summary import RECIPE, read_recipe, read_summary
from factory.publish.hub.items import CARD, DATA_FOLDERS
from factory.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Finished:
    """A run whose data set is whole: what its summary says, and the hashes of its files."""

    folder: Path
    recipe: Recipe
    summary: Summary
    hashes: dict[str, str]


def open_finished(folder: Path) -> Finished:
    """Reads what a run says of itself and checks that its files and rows are those.

    Bytes are compared with hashes later, while they are read anyway.

    Raises:
        InputError: not a finished run.
        StoreError: files are missing, too many or unreadable, or have other row counts.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give a finished run on this machine")
    if (folder / "merge.json").is_file():
        raise InputError(
            f"{folder}: a merged set, which may hold real images under terms of their own: publish "
            "the runs that it was merged from"
        )
    missing = [name for name in (SUMMARY, RECIPE, CARD) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: not finished: has no {', '.join(missing)}: run the recipe into it first"
        )
    run_folder = RunFolder(str(folder))
    summary, recipe = read_summary(run_folder), read_recipe(run_folder)
    assert summary is not None and recipe is not None  # both are there, as was seen above
    _refuse_unfinished(folder, summary)
    hashes = dict(summary.hashes)
    if not hashes:
        raise InputError(
            f"{folder}: was finalized before files had hashes: remove summary.json and run the "
            "recipe again into this folder, which writes the data set anew"
        )
    _check_names(folder, hashes)
    _check_rows(folder, hashes, summary)
    return Finished(folder, recipe, summary, hashes)


def _refuse_unfinished(folder: Path, summary: Summary) -> None:
    problem = ""
    if summary.files is None:
        problem = "no data set was written"
    elif summary.missing_shards:
        problem = f"{summary.missing_shards} shards are missing"
    elif (folder / WORK / "run.json").is_file():
        from factory.engine.run import read_status

        status = read_status(str(folder))
        if not status["finalized"]:
            problem = status["unfinished"]
        elif status["quarantined"]:
            problem = f"{len(status['quarantined'])} shards are quarantined"
    if problem:
        raise InputError(
            f"{folder}: not finished: {problem}: run the same recipe into it again, to the end"
        )


def _check_names(folder: Path, hashes: dict[str, str]) -> None:
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


def _check_rows(folder: Path, hashes: dict[str, str], summary: Summary) -> None:
    files = summary.files
    expected = {"data": files.rows, "rejected": files.rejected_rows} if files else {}
    found = {"data": 0, "rejected": 0}
    for name in hashes:
        if name.endswith(".parquet"):
            found[name.split("/", 1)[0]] += count_rows(folder / name)
    if found != expected or found["data"] != summary.accepted:
        raise StoreError(
            f"{folder}: damaged: holds {found} rows, its summary says {expected} and "
            f"{summary.accepted} accepted: remove summary.json and run the recipe again into "
            "this folder"
        )
