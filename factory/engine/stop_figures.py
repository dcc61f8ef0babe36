"""What tests of `budget.stop` see, and measure: what the newest block of images changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from factory.core.hashing import compute_digest
from factory.core.metrics.growing import GrowingSet, Growth
from factory.core.metrics.teaching import TaughtSet
from factory.engine.committed import read_markers
from factory.engine.plan import Plan
from factory.engine.run_folder import RunFolder
from factory.filters.real.set import RealSet
from factory.models.session import Session
from factory.recipe.conditions import Series
from factory.recipe.conditions.series import SeriesInfo
from factory.recipe.ending import list_classes, name_unit, tells_patients
from factory.recipe.stop import Stop

COLUMNS = ("sample_id", "features", "width", "height", "class_name")

Kept = Sequence[tuple[int, str]]
"""Index and sample id of the accepted images of a series, in order."""
Size = tuple[int, int]
"""Height and width in px."""


def compute_real_digest(rule: Stop, real: RealSet) -> str:
    """Returns the identity of the real images: of their patients too, where these count."""
    if not rule.is_joint:
        return real.sha256
    return compute_digest("real patients", [real.sha256, [name_unit(each) for each in real.images]])


class BlockDigests:
    """Digests of the accepted images of a series, block after block; keeps one block of ids.

    Args:
        every: requests of a block.
    """

    def __init__(self, every: int) -> None:
        self._every, self._names = every, list[str]()
        self._found: dict[int, str] = {}
        self._last = ""

    def add(self, index: int, name: str) -> None:
        """Takes the next accepted image, in the order of the requests."""
        self._close(index)
        self._names.append(name)

    def find(self, at: int) -> str:
        """Returns the digest of those among the first `at` requests, a number of blocks."""
        self._close(at)
        return self._found[at]

    def _close(self, index: int) -> None:
        while (end := (len(self._found) + 1) * self._every) <= index:
            self._last = compute_digest("stop test", [self._last, self._names])
            self._found[end], self._names = self._last, []


class SeenImages:
    """Digests of what tests see: accepted images of a series, or of all that are decided at once.

    Which series go on counts then as well.

    Args:
        rule: of the recipe.
        series: all of the run.
    """

    def __init__(self, rule: Stop, series: Iterable[SeriesInfo]) -> None:
        self._is_joint = rule.is_joint
        self._counts = {part.key: part.count for part in series}
        self._seen = {key: BlockDigests(rule.every) for key in self._counts}
        self._found: dict[int, str] = {}

    def add(self, series: str, index: int, name: str) -> None:
        """Takes the next accepted image of a series."""
        self._seen[series].add(index, name)

    def find(self, series: str, at: int) -> str:
        """Returns the digest of what a test of a series sees; all images were taken before."""
        if not self._is_joint:
            return self._seen[series].find(at)
        if at not in self._found:
            parts = [
                [key, count > at, self._seen[key].find(at)]
                for key, count in sorted(self._counts.items())
            ]
            self._found[at] = compute_digest("stop test of all", parts)
        return self._found[at]


@dataclass(slots=True)
class Source:
    """Features of accepted and of real images.

    Args:
        rule: of the recipe.
        session: that the encoder is loaded in.
        folder: run folder.
        plan: of the whole run.
        real: images that are compared with.
    """

    rule: Stop
    session: Session
    folder: RunFolder
    plan: Plan
    real: RealSet
    _encoded: dict[Size, NDArray[np.float32]] = field(default_factory=dict)

    def read_block(self, part: Series, kept: Kept, block: int) -> list[dict[str, Any]]:
        """Returns the rows of the accepted images of a block, in order."""
        start, stop = block * self.rule.every, (block + 1) * self.rule.every
        wanted = [name for index, name in kept if start <= index < stop]
        names, found = pa.array(wanted, pa.string()), {}
        for shard in self.plan.find_shards(part.key, start, stop):
            for marker in read_markers(self.folder, shard):
                table = self.folder.read_table(marker, COLUMNS)
                for row in table.filter(pc.is_in(table["sample_id"], names)).to_pylist():
                    found[row["sample_id"]] = row
        return [found[name] for name in wanted]

    def encode_real(self, size: Size) -> NDArray[np.float32]:
        """Returns (M, D) features of the real images at a size."""
        if size not in self._encoded:
            encoder = self.session.encoders.load(self.rule.encoder, self.session.base)
            blocks = self.real.iterate_blocks(size[1], size[0], self.rule.fit)
            self._encoded[size] = np.concatenate([encoder.encode(block) for block in blocks])
        return self._encoded[size]


class Figures(Protocol):
    """What the tests of a run measure; keeps what it saw of earlier blocks."""

    @property
    def told(self) -> dict[str, Any]:
        """What a test says besides its figures."""
        ...

    def measure(
        self, parts: Sequence[Series], kept: Mapping[str, Kept], blocks: int
    ) -> list[Growth | None]:
        """Returns what the newest of so many blocks changed, for each of some series.

        Args:
            parts: series that go on.
            kept: accepted images of all series.
            blocks: that are there.

        Raises:
            StoreError: damaged data.
            InputError: the encoder cannot be had.
            SourceError: a real image cannot be read any more.
        """
        ...


@dataclass(slots=True)
class Distances:
    """The kernel distance of each series to real images."""

    source: Source
    _sets: dict[str, GrowingSet] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def measure(
        self, parts: Sequence[Series], kept: Mapping[str, Kept], blocks: int
    ) -> list[Growth | None]:
        """See `Figures`."""
        return [self._measure(part, kept[part.key], blocks) for part in parts]

    def _measure(self, part: Series, kept: Kept, blocks: int) -> Growth | None:
        known = self._sets.get(part.key)
        for block in range(0 if known is None else known.blocks, blocks):
            rows = self.source.read_block(part, kept, block)
            if known is None and rows:
                known = self._sets[part.key] = GrowingSet(self._choose_real(part, rows[0]), block)
            if known is not None:
                known.add(_stack(rows))
        return None if known is None else known.compare(self.source.rule.confidence)

    def _choose_real(self, part: Series, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """Returns the features of real images at the size of a row, of the class of a series."""
        real = self.source.real
        is_one = len(part.class_names) == 1 and real.class_names
        name = part.class_names[0] if is_one else None
        chosen = [name in (None, image.class_name) for image in real.images]
        return self.source.encode_real(_find_size(row))[chosen]


@dataclass(slots=True)
class Accuracies:
    """How well what learns from all series tells real images; one figure for all of them."""

    source: Source
    _units: int = 0
    _taught: TaughtSet | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What the interval is over."""
        by = "patients" if tells_patients(self.source.real) else "images"
        return {"units": self._units, "by": by}

    def measure(
        self, parts: Sequence[Series], kept: Mapping[str, Kept], blocks: int
    ) -> list[Growth | None]:
        """See `Figures`."""
        series = self.source.plan.series
        classes = list_classes(series)
        for block in range(0 if self._taught is None else self._taught.blocks, blocks):
            read = (self.source.read_block(part, kept[part.key], block) for part in series)
            rows = [row for each in read for row in each if row["class_name"] in classes]
            if self._taught is None and rows:
                self._taught = self._begin(classes, rows[0], block)
            if self._taught is not None:
                labels = np.array([classes.index(row["class_name"]) for row in rows], np.int64)
                self._taught.add(_stack(rows), labels)
        if self._taught is None:
            return [None] * len(parts)
        wanted = [classes.index(name) for name in list_classes(parts)]
        return [self._taught.compare(self.source.rule.confidence, wanted)] * len(parts)

    def _begin(self, classes: Sequence[str], row: Mapping[str, Any], block: int) -> TaughtSet:
        """Returns the set, with real images of the classes at the size of the first row."""
        images = self.source.real.images
        chosen = [image.class_name in classes for image in images]
        kept = [image for image, is_chosen in zip(images, chosen, strict=True) if is_chosen]
        names = sorted({name_unit(image) for image in kept})
        places, self._units = {name: place for place, name in enumerate(names)}, len(names)
        labels = np.array([classes.index(str(image.class_name)) for image in kept], np.int64)
        units = np.array([places[name_unit(image)] for image in kept], np.int64)
        features = self.source.encode_real(_find_size(row))[chosen]
        return TaughtSet(features, labels, units, block)


def _find_size(row: Mapping[str, Any]) -> Size:
    return row["height"], row["width"]


def _stack(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Returns (N, D) features of rows."""
    return np.array([row["features"] for row in rows], np.float32)
