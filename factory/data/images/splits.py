"""Splits of files, as `datasets` recognises them: by names of folders, else by names of files."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import SourceError
from factory.core.notes import tell

TRAIN = "train"
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""As in `datasets.data_files.SPLIT_KEYWORDS` (datasets 4); case does not matter here."""

_SPLITS = {word: split for split, words in KEYWORDS.items() for word in words}
_BOUND = "-._ 0-9"
_WORD = re.compile(rf"(?<![^{_BOUND}])({'|'.join(_SPLITS)})(?![^{_BOUND}])", re.IGNORECASE)
_SHARDED = re.compile(r"data/([^/]+)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*")
"""`datasets` takes the word before the number of a sharded file in `data/` for its split."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One file of a source.

    Attributes:
        path: the file.
        folders: folders between root and file, that of the split left out.
        split: canonical name, or None.
        split_folder: folder of the split, or None where no folder tells it.
    """

    path: Path
    folders: tuple[str, ...]
    split: str | None = None
    split_folder: Path | None = None


def name_split(name: str) -> str:
    """Returns `train`, `validation` or `test` for what `datasets` takes for these, else the name.

    Of a name that says it is a split, as in a `dataset_dict.json` or a card.
    """
    return _SPLITS.get(name.lower(), name)


def find_train(splits: Sequence[str]) -> str | None:
    """Returns the split to read of several: the only one, else the one that means `train`."""
    if len(splits) == 1:
        return splits[0]
    exact = [name for name in splits if name == TRAIN]
    alike = exact or [name for name in splits if name_split(name) == TRAIN]
    return alike[0] if len(alike) == 1 else None


def choose_files(files: Sequence[Path], root: Path, counts: Mapping[Path, int]) -> list[Placed]:
    """Returns the files to read: all where there are no splits, else those of `train`.

    Args:
        files: all of one kind.
        root: what the user named; its own name tells nothing.
        counts: images of each file, where that is not one.

    Raises:
        SourceError: several splits and no `train`, or one and files of none, or `train` beside
            folders that are no splits.
    """
    placed = place_files(files, root)
    found = Counter(each.split for each in placed)
    names = sorted(name for name in found if name is not None)
    if not names or (len(names) == 1 and None not in found):
        if names and names[0] != TRAIN:
            tell(f"{root}: its only split, {names[0]}, is read")
        return placed
    strays = [each for each in placed if each.split is None and each.folders]
    by_folders = any(each.split_folder is not None for each in placed)
    if TRAIN in names and strays and by_folders:
        raise _describe_mixture(root, placed, strays[0])
    if TRAIN not in names:
        others = "" if None not in found else f", {found[None]:,} files of no split,"
        example = next(each for each in placed if each.split is not None)
        rest = next((each.path for each in placed if each.split is None), None)
        reading = f" (or rename it, if {_show(example, root)} is a class)" if rest else ""
        raise SourceError(
            f"{root}: splits {', '.join(names)}{others} and no `train`: name one, e.g. "
            f"{example.split_folder or example.path}{reading}"
        )
    images: Counter[str] = Counter()
    for each in placed:
        images[each.split or "no split"] += counts.get(each.path, 1)
    left = ", ".join(f"{name} {n:,}" for name, n in sorted(images.items()) if name != TRAIN)
    tell(f"{root}: its split train is read, {images[TRAIN]:,} images; left out: {left}")
    return [each for each in placed if each.split == TRAIN]


def place_files(files: Sequence[Path], root: Path) -> list[Placed]:
    """Tells the split and the folders of each file, by the first of three rules that finds any.

    Sharded files in `data/`, then names of folders, then names of files. Images are told by their
    own names only where every one names a split: `normal/a_test_3.png` may be anything.
    """
    parts = [path.parts[len(root.parts) :] for path in files]
    sharded = [_SHARDED.fullmatch("/".join(each)) for each in parts]
    if any(sharded):
        return [
            Placed(path, each[:-1], match and name_split(match.group(1)))
            for path, each, match in zip(files, parts, sharded, strict=True)
        ]
    folders = {each[:-1] for each in parts}
    places = {each: place for each in folders if (place := _find_split_folder(each)) is not None}
    if places:
        return _place_by_folders(files, parts, root, places)
    splits = [_find_word(each[-1]) for each in parts]
    tables = all(path.suffix.lower() in {".parquet", ".tar", ".arrow"} for path in files)
    told = {split for split in splits if split is not None}
    if not tables and (None in splits or len(told) < 2):
        if len(told) > 1:
            tell(
                f"{root}: some file names speak of splits ({', '.join(sorted(told))}), others do "
                "not: all are read; put splits into folders of their names"
            )
        splits = [None] * len(splits)
    return [
        Placed(path, each[:-1], split)
        for path, each, split in zip(files, parts, splits, strict=True)
    ]


Parts = tuple[str, ...]


def _place_by_folders(
    files: Sequence[Path], parts: Sequence[Parts], root: Path, places: Mapping[Parts, int]
) -> list[Placed]:
    """Places files by the split folders in `places`: folders -> which of them is the split's.

    A folder that holds all split folders is no class: `images/{train,test}/normal`.

    Raises:
        SourceError: splits at two levels, or between two levels that may both be the classes.
    """
    for folders, place in sorted(places.items()):
        again = _find_split_folder(folders[place + 1 :])
        if again is not None:
            raise SourceError(
                f"{root}: {'/'.join(folders)} names splits at two levels, {folders[place]} and "
                f"{folders[place + 1 + again]}: give one of them, e.g. "
                f"{root.joinpath(*folders[: place + 2 + again])}"
            )
    above = {folders[:place] for folders, place in places.items()}
    wraps = len(above) == 1 and all(len(folders) > place + 1 for folders, place in places.items())
    between = min((each for each, at in places.items() if at and each[at + 1 :]), default=None)
    if len(above) > 1 and between is not None:
        place = places[between]
        raise SourceError(
            f"{root}: {'/'.join(between)}: the split {between[place]} stands between "
            f"{between[place - 1]} and {between[place + 1]}, and both may be the class: give one "
            f"split, e.g. {root.joinpath(*between[: place + 1])}, or put splits at the first level"
        )
    told: dict[Parts, tuple[Parts, str | None, Path]] = {}
    for folders, place in places.items():
        rest = folders[place + 1 :]
        kept = rest if wraps else (*folders[:place], *rest)
        split = root.joinpath(*folders[: place + 1])
        told[folders] = (kept, _find_word(folders[place]), split)
    return [
        Placed(path, *told[each[:-1]]) if each[:-1] in told else Placed(path, each[:-1])
        for path, each in zip(files, parts, strict=True)
    ]


def _describe_mixture(root: Path, placed: Sequence[Placed], stray: Placed) -> SourceError:
    example = next(each for each in placed if each.split == TRAIN)
    return SourceError(
        f"{root}: {_show(example, root)} may be the split train or a class, since "
        f"{stray.folders[0]} beside it is no split: rename it if it is a class, or give it if it "
        "is the split"
    )


def _find_split_folder(folders: Parts) -> int | None:
    """Returns the place of the first folder that names a split."""
    return next((place for place, name in enumerate(folders) if _find_word(name)), None)


def _find_word(name: str) -> str | None:
    """Returns the split that a name tells, None where it tells none or several."""
    found = {_SPLITS[word.lower()] for word in _WORD.findall(name)}
    return found.pop() if len(found) == 1 else None


def _show(each: Placed, root: Path) -> str:
    return (each.split_folder or each.path).relative_to(root).as_posix()
