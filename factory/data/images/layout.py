"""What a folder of real images is, and which of its files count."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.core.errors import SourceError
from factory.core.markdown import split_header
from factory.core.notes import tell
from factory.data.folders import RUN_SUMMARY, FolderKind, tell_kind
from factory.data.images.image import IMAGE_SUFFIXES
from factory.data.images.passed import METADATA, tell_bare, tell_hidden, tell_passed_over
from factory.data.images.splits import (
    TRAIN,
    Placed,
    choose_files,
    find_train,
    name_split,
    place_files,
)
from factory.data.images.table import count_rows
from factory.data.images.walk import Walked, walk_files

Kind = Literal["table", "tar", "folder"]
"""Rows (parquet or arrow), WebDataset tars, or one file per image."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be read.

    Attributes:
        kind: of the files.
        files: in order, with their folders.
        known: every file of the folder, also of other splits; empty for tables and tars.
        metadata: every metadata file of a folder of images, wherever it lies.
    """

    kind: Kind
    files: Sequence[Placed]
    known: frozenset[Path] = frozenset()
    metadata: Sequence[Path] = ()

    @property
    def paths(self) -> list[Path]:
        """The files to read, in order."""
        return [each.path for each in self.files]


def find_files(root: Path) -> Found:
    """Tells what `root` is, and lists the files to read, sorted.

    What is left out is told: other splits, files of other kinds.

    Raises:
        SourceError: nothing there, an unfinished run, several splits and no `train`, or no telling
            what is meant.
    """
    if not root.exists():
        raise SourceError(
            f"{root}: no such file or folder: give a folder of images, parquet, a `datasets` "
            "folder, or .tar files"
        )
    if root.is_file():
        return _take("tar" if _check_file(root) == ".tar" else "table", [root])
    if tell_kind(root) is FolderKind.RUN:
        return _take("table", _list_run(root))
    if (root / "dataset_dict.json").is_file():
        root = root / _choose_split(_read_splits(root), f"{root}/dataset_dict.json")
    if (root / "state.json").is_file():
        return _take("table", _list_saved(root))
    return _sort_out(root, walk_files(root))


def _take(kind: Kind, files: Sequence[Path]) -> Found:
    return Found(kind, [Placed(path, ()) for path in files])


def _check_file(path: Path) -> str:
    """Returns the suffix of a single file.

    Raises:
        SourceError: an image, a compressed tar, or anything else that holds no rows.
    """
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise SourceError(f"{path}: a compressed tar: unpack it to .tar first")
    if suffix in IMAGE_SUFFIXES:
        raise SourceError(f"{path}: a single image: give the folder that it lies in")
    return suffix


def _sort_out(root: Path, walked: Walked) -> Found:
    files = walked.files
    tell_hidden(walked.hidden, root)
    tables, tars = _choose(files, ".parquet"), _choose(files, ".tar")
    if tables or tars:
        declared = _list_declared(root, files)
        if _choose(declared, ".parquet"):
            return _take("table", _choose(declared, ".parquet"))
        if _choose(declared, ".tar"):
            return _take("tar", _choose(declared, ".tar"))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if tables:
        tell_passed_over(_without(files, tables), root, "parquet")
        return Found(
            "table", choose_files(tables, root, {path: count_rows(path) for path in tables})
        )
    arrow = _choose(files, ".arrow")
    if arrow:
        return _sort_out_arrow(root, arrow, files)
    if tars and images:
        raise SourceError(
            f"{root}: holds images ({images[0].name}) and .tar files ({tars[0].name}): give one "
            "of them, or a folder with one kind only"
        )
    if tars:
        tell_passed_over(_without(files, tars), root, "tars")
        return Found("tar", choose_files(tars, root, {}))
    tell_passed_over(_without(files, images), root, "images")
    tell_bare(walked.folders if images else (), images, root)
    metadata = [path for path in files if path.name in METADATA]
    return Found("folder", choose_files(images, root, {}), frozenset(images), metadata)


def _without(files: Sequence[Path], taken: Sequence[Path]) -> list[Path]:
    known = set(taken)
    return [path for path in files if path not in known]


def _choose(files: Sequence[Path], suffix: str) -> list[Path]:
    return [path for path in files if path.suffix.lower() == suffix]


def _list_run(root: Path) -> list[Path]:
    """Lists the accepted rows of a run: neither the rejected ones nor the shards of its workers."""
    if not (root / RUN_SUMMARY).is_file():
        raise SourceError(f"{root}: a run that is not finished: run the same command again first")
    return sorted((root / "data").glob("*.parquet"))


# --- save_to_disk --------------------------------------------------------------------------------


def _list_saved(root: Path) -> list[Path]:
    """Lists the arrow files of one saved data set, in its own order."""
    state = _read_json(root / "state.json")
    if state.get("_indices_data_files"):
        raise SourceError(
            f"{root}: saved by an old version of `datasets`: load it and save it again"
        )
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
        return [root / name for name in names]
    except (KeyError, TypeError) as error:
        raise SourceError(f"{root}/state.json: not written by save_to_disk ({error!r})") from error


def _read_splits(root: Path) -> list[str]:
    splits = _read_json(root / "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise SourceError(f"{root}/dataset_dict.json: names no splits: save the data set again")
    return splits


def _choose_split(splits: Sequence[str], where: str) -> str:
    chosen = find_train(splits)
    if chosen is None:
        names = ", ".join(splits) or "none"
        raise SourceError(f"{where}: splits {names} and no `train`: name one, e.g. its sub folder")
    others = ", ".join(name for name in splits if name != chosen)
    if others or name_split(chosen) != TRAIN:
        tell(f"{where}: its split {chosen} is read" + (f"; left out: {others}" if others else ""))
    return chosen


def _sort_out_arrow(root: Path, arrow: Sequence[Path], files: Sequence[Path]) -> Found:
    """Takes the only saved data set below `root`, or that of the split `train`."""
    saved = sorted({path.parent for path in arrow if (path.parent / "state.json").is_file()})
    if saved:
        states = [path / "state.json" for path in saved]
        placed = place_files(states, root)
        if len(saved) > 1 and not all(each.split for each in placed):
            names = ", ".join(path.relative_to(root).as_posix() for path in saved[:4])
            raise SourceError(
                f"{root}: holds several data sets ({names}): name one of these folders"
            )
        counts = {state: sum(map(count_rows, _list_saved(state.parent))) for state in states}
        chosen = choose_files(states, root, counts)
        return _take("table", [path for each in chosen for path in _list_saved(each.path.parent)])
    if all(each.split for each in place_files(arrow, root)):
        tell_passed_over(_without(files, arrow), root, "arrow files")
        return Found("table", choose_files(arrow, root, {path: count_rows(path) for path in arrow}))
    raise SourceError(
        f"{root}: has {arrow[0].name} but no state.json, so it is no folder of save_to_disk: give "
        "one .arrow file, or save the data set with save_to_disk or to_parquet"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path}: not readable JSON ({error}): save the data set again"
        ) from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: want an object, got {type(content).__name__}")
    return content


# --- configs of a Hugging Face card --------------------------------------------------------------


def _list_declared(root: Path, files: Sequence[Path]) -> list[Path]:
    """Lists the files of the default config's split `train`, where README.md declares configs.

    The rules are those of the Hub ("Manual Configuration" of datasets): a config is the default
    that says so, that is called `default`, or that is the only one.

    Raises:
        SourceError: an unreadable header, no default, no `train`, or patterns that name no file.
    """
    path = root / "README.md"
    configs = _read_configs(path) if path.is_file() else []
    if not configs:
        return []
    named = {str(config.get("config_name", "default")): config for config in configs}
    marked = [name for name, config in named.items() if config.get("default") is True]
    name = marked[0] if marked else "default" if "default" in named else next(iter(named))
    if not marked and name != "default" and len(named) > 1:
        raise SourceError(
            f"{path}: declares {', '.join(named)} and no default: name a sub folder or a file"
        )
    splits = _read_data_files(named[name])
    if not splits:
        return []
    patterns = splits[_choose_split(list(splits), f"{path}: config {name}")]
    prefix = str(named[name].get("data_dir") or "").strip("/")
    try:
        declared = {hit for each in patterns for hit in root.glob(f"{prefix}/{each}".strip("/"))}
    except (ValueError, NotImplementedError) as error:
        raise SourceError(f"{path}: config {name}: {error}, got {', '.join(patterns)}") from error
    chosen = [each for each in files if each in declared]
    if not chosen:
        raise SourceError(f"{path}: config {name}: no file is called {', '.join(patterns)}")
    return chosen


def _read_configs(path: Path) -> list[dict[str, Any]]:
    try:
        header, _ = split_header(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    return [each for each in header.get("configs") or () if isinstance(each, dict)]


def _read_data_files(config: dict[str, Any]) -> dict[str, list[str]]:
    """Returns split -> patterns; patterns without a split are those of `train`."""
    given = config.get("data_files")
    if given is None:
        return {"train": ["**/*"]} if config.get("data_dir") else {}
    if isinstance(given, dict):
        return {str(split): _list_patterns(value) for split, value in given.items()}
    splits: dict[str, list[str]] = {}
    for each in given if isinstance(given, list) else [given]:
        split, value = (
            (each.get("split", "train"), each.get("path"))
            if isinstance(each, dict)
            else ("train", each)
        )
        splits.setdefault(str(split), []).extend(_list_patterns(value))
    return splits


def _list_patterns(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each.removeprefix("./").lstrip("/") for each in values if isinstance(each, str)]
