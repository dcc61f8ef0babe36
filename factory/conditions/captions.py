"""Caption conditions: images of a catalog grid's captions, or of a file's."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog import CaptionGrid, caption_at, count_captions
from factory.errors import SourceError
from factory.fingerprint import compute_digest, derive_seed
from factory.records import Condition, Request


@dataclass(frozen=True)
class GridSeries:
    """Captions of a grid in a seeded order without repeats, then again with the next ordinal."""

    grid: CaptionGrid
    seed: int
    count: int

    @property
    def key(self) -> str:
        """Identity of the series: the grid's content."""
        grid = self.grid.model_dump(mode="json", exclude={"title"})
        return compute_digest("series", {"kind": "caption", "grid": grid})[:16]

    @property
    def label(self) -> str:
        """The grid's id."""
        return f"captions {self.grid.id}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Values of the grid's class attribute."""
        attribute = self.grid.class_attribute
        return tuple(self.grid.attributes[attribute]) if attribute else ()

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request; a permutation spreads any count over the grid."""
        total = count_captions(self.grid)
        position = permute(index % total, total, self.seed)
        caption, attributes = caption_at(self.grid, position)
        class_name = attributes.get(self.grid.class_attribute or "")
        return Request(self.key, index, Condition(class_name, caption), index // total)


@dataclass(frozen=True)
class ListSeries:
    """Captions of a file in file order, then again with the next ordinals.

    A caption that stands in the file several times gets an ordinal for each time, so that equal
    captions give different images.
    """

    name: str
    captions: tuple[str, ...]
    classes: tuple[str | None, ...]
    count: int

    def __post_init__(self) -> None:
        seen: Counter[tuple[str, str | None]] = Counter()
        ranks = []
        for entry in zip(self.captions, self.classes, strict=True):
            ranks.append(seen[entry])
            seen[entry] += 1
        content = [self.captions, self.classes]
        object.__setattr__(self, "_ranks", tuple(ranks))
        object.__setattr__(self, "_repeats", seen)
        digest = compute_digest("series", {"kind": "caption", "list": content})
        object.__setattr__(self, "_key", digest[:16])

    @property
    def key(self) -> str:
        """Identity of the series: the captions and classes in order."""
        return str(self._key)  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The file's name."""
        return f"captions {self.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the file, in order of appearance."""
        return tuple(dict.fromkeys(name for name in self.classes if name is not None))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.captions))
        entry = (self.captions[row], self.classes[row])
        ordinal = cycle * self._repeats[entry] + self._ranks[row]  # type: ignore[attr-defined]
        return Request(self.key, index, Condition(entry[1], entry[0]), ordinal)


def permute(position: int, total: int, seed: int) -> int:
    """Maps [0, total) onto itself, one to one, in a seeded order and in constant memory.

    A four-round Feistel network on the next even number of bits, walked until it lands inside
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    if total < 2:
        return position
    half = ((total - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for round_number in range(4):
            mixed = derive_seed(seed, "permute", round_number, right) & mask
            left, right = right, left ^ mixed
        position = left << half | right
        if position < total:
            return position


def read_captions(
    path: Path, column: str, class_column: str | None
) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Reads captions, and classes if asked, from jsonl, csv, tsv, parquet or plain text.

    Returns:
        Captions with outer blanks removed, and one class or None for each.

    Raises:
        SourceError: unreadable, a column missing, or an empty caption; names the line.
    """
    captions: list[str] = []
    classes: list[str | None] = []
    for place, row in _iterate_rows(path, column):
        for name in (column, class_column):
            if name is not None and name not in row:
                has = ", ".join(map(str, row))
                raise SourceError(f"{path}:{place}: no field {name!r}: it has {has}")
        caption = row[column]
        if not isinstance(caption, str) or not caption.strip():
            raise SourceError(f"{path}:{place}: {column}: empty caption: write one or drop the row")
        captions.append(caption.strip())
        classes.append(None if class_column is None else str(row[class_column]))
    if not captions:
        raise SourceError(f"{path}: holds no captions")
    return tuple(captions), tuple(classes)


def _iterate_rows(path: Path, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            for row, values in enumerate(pq.read_table(path).to_pylist(), 1):
                yield row, values
            return
        with path.open(newline="", encoding="utf-8-sig") as file:
            if suffix in {".csv", ".tsv"}:
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                for values in reader:
                    yield reader.line_num, values
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if suffix in {".jsonl", ".ndjson", ".json"}:
                    yield number, _parse_json_line(path, number, line)
                else:
                    yield number, {column: line}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as {suffix or 'text'} ({error})") from error


def _parse_json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{number}: not a JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}:{number}: want one JSON object a line, got {type(row).__name__}")
    return row
