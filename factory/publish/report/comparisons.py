"""Comparisons of a report: accepted images beside the real ones that they vary or come near."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import FactoryError
from factory.core.thumbnails import describe_images
from factory.filters.base import Filter
from factory.publish.report.collect import Shown
from factory.publish.report.pictures import Stored, fetch_stored
from factory.publish.report.real_images import (
    NamedSet,
    Neighbours,
    RealMatch,
    Size,
    find_references,
    list_reference_paths,
    match_by_features,
    match_reference,
)
from factory.publish.report.state import RunState
from factory.publish.report.tiles import Maker, Pair, make_real_tile

MAX_SIZES = 3
"""Image sizes that a real set is described at; further ones are left out and counted."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One image with the real one beside it."""

    shown: Shown
    match: RealMatch


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accepted images beside real ones of one set, most alike first.

    Attributes:
        title: which real images.
        intro: which accepted images, and how they were compared.
        pairs: as they are shown.
        found: the same, as numbers.
        notes: what the reader must know, e.g. why there is nothing.
    """

    title: str
    intro: str
    pairs: tuple[Pair, ...]
    found: tuple[Compared, ...]
    notes: tuple[str, ...] = ()


def find_fit(condition: Mapping[str, Any], sha256: str) -> str:
    """Returns how a real image was fitted, by the stream of a condition that names its hash."""
    told = (each for each in condition.values() if isinstance(each, Mapping))
    return next((str(each["fit"]) for each in told if each.get("sha256") == sha256), "crop")


class Comparer:
    """Compares accepted images with real ones; what cannot be read leaves a note.

    Args:
        state: of the run.
        maker: of tiles; images that it lacks are read into its `stored`.
        stored: the maker's.
        base: folder that the recipe's relative paths start from.
        count: pairs shown of each set, at most.
    """

    def __init__(
        self, state: RunState, maker: Maker, stored: dict[str, Stored], base: Path, count: int
    ) -> None:
        self.state, self.maker, self.stored = state, maker, stored
        self.base, self.count = base, count

    def compare_references(self, shown: Sequence[Shown]) -> Comparison:
        """Puts images beside the references that they vary.

        Raises:
            StoreError: stored images cannot be read.
        """
        intro = "Accepted images, each beside the real image that it varies."
        self._fetch(shown)
        wanted = {str(each.row["reference_sha256"]) for each in shown}
        notes: list[str] = []
        found = []
        try:
            paths = list_reference_paths(self.state.recipe, self.base)
            varied = [self.stored[each.sample_id].varied for each in shown]
            images = find_references(paths, varied)
            for each in shown:
                image = images.get(str(each.row["reference_sha256"]))
                if image is not None:
                    varied_sha256 = str(each.row["reference_sha256"])
                    fit = find_fit(self.stored[each.sample_id].condition, varied_sha256)
                    match = match_reference(image, self._read_pixels(each), fit)
                    found.append(Compared(each, match))
            missing = len(wanted - images.keys())
            if missing:
                notes.append(f"{missing} of {len(wanted)} references are not there any more.")
        except FactoryError as error:
            notes.append(describe_missing(error, self.base))
        return self._build("References", intro, found, notes)

    def compare_set(self, real: NamedSet, shown: Sequence[Shown]) -> Comparison:
        """Puts the images that are most like one of a set beside it.

        Args:
            real: the set.
            shown: accepted images to compare; those without a descriptor are read.

        Raises:
            StoreError: stored images cannot be read.
        """
        title = f"{real.title}: {real.path.name}"
        by_size: dict[Size, list[Shown]] = defaultdict(list)
        for each in shown:
            by_size[each.row["height"], each.row["width"]].append(each)
        groups = sorted(by_size.items(), key=lambda item: -len(item[1]))
        notes, found, similarities = [], [], []
        try:
            for size, group in groups[:MAX_SIZES]:
                neighbours = Neighbours(real, size)
                places, similar = neighbours.find(self._describe(group))
                similarities += similar.tolist()
                for row in np.argsort(-similar, kind="stable")[: self.count].tolist():
                    match = neighbours.draw(int(places[row]), float(similar[row]))
                    found.append(Compared(group[row], match))
                notes = _describe_set(neighbours)
        except FactoryError as error:
            notes = [describe_missing(error, self.base)]
        left_out = sum(len(group) for _, group in groups[MAX_SIZES:])
        if left_out:
            notes.append(f"{left_out:,} images of further sizes were not compared.")
        found = sorted(found, key=_rank)[: self.count]
        return self._build(title, _describe_found(similarities), found, notes)

    def compare_by_features(self, judge: Filter, shown: Sequence[Shown]) -> Comparison:
        """Puts images beside the nearest real one in the features that a filter compares.

        Raises:
            StoreError: stored images cannot be read.
        """
        encoders = " and ".join(judge.encoders)
        intro = (
            f"The accepted images with the lowest {judge.nearness}, each beside the nearest real "
            f"image in the features of {encoders}. Distance 1 is usual among real images."
        )
        self._fetch(shown)
        notes: list[str] = []
        found = []
        try:
            for each in shown:
                found.append(Compared(each, match_by_features(judge, self._read_pixels(each))))
        except FactoryError as error:
            notes.append(describe_missing(error, self.base))
        return self._build(f"{judge.name}: {judge.real_images[0].path.name}", intro, found, notes)

    def _build(self, title: str, intro: str, found: list[Compared], notes: list[str]) -> Comparison:
        ordered = sorted(found, key=_rank)
        self._fetch([each.shown for each in ordered])
        pairs = []
        for each in ordered:
            first, second = self.maker.make(each.shown), make_real_tile(each.match)
            text = f"distance {each.match.distance:g}" if each.match.distance is not None else ""
            if each.match.similarity is not None:
                text = f"similarity {each.match.similarity:g}"
            pairs.append(Pair(first, second, text))
        return Comparison(title, intro, tuple(pairs), tuple(ordered), tuple(notes))

    def _describe(self, group: Sequence[Shown]) -> NDArray[np.float16]:
        """Returns (N, 256): descriptors that are stored, or of the images themselves."""
        if all(each.descriptor is not None for each in group):
            return np.stack([each.descriptor for each in group if each.descriptor is not None])
        self._fetch(group)
        return describe_images(np.stack([self._read_pixels(each) for each in group]))

    def _read_pixels(self, shown: Shown) -> Any:
        return self.stored[shown.sample_id].read_pixels(shown.sample_id)

    def _fetch(self, shown: Sequence[Shown]) -> None:
        missing = [each for each in shown if each.sample_id not in self.stored]
        if missing:
            self.stored |= fetch_stored(self.state.folder, self.state.outline, missing, {})


def describe_missing(error: FactoryError, base: Path) -> str:
    """Says that real images cannot be had, and what to do; tells no path above the base folder."""
    text = str(error).replace(f"{base.absolute()}/", "")
    return f"Not shown: {text}. Relative paths start at --base."


def _rank(each: Compared) -> float:
    if each.match.similarity is not None:
        return -each.match.similarity
    return each.match.distance or 0.0


def _describe_found(similarities: Sequence[float]) -> str:
    if not similarities:
        return "Nothing was compared."
    return (
        f"{len(similarities):,} accepted images compared over all flips and quarter turns: the "
        f"similarity to the nearest real one is {max(similarities):.2f} at most and "
        f"{np.median(similarities):.2f} in the median. Most alike first."
    )


def _describe_set(neighbours: Neighbours) -> list[str]:
    text = f"{len(neighbours.images):,} real images"
    if len(neighbours.images) < neighbours.found:
        text += f", evenly taken from {neighbours.found:,}"
    notes = [f"{text}."]
    if neighbours.is_another_set:
        notes.append("These are not the images that the run compared with: they have changed.")
    return notes
