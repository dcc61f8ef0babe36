"""Comparisons of a report: accepted images beside the real ones that they vary or come near."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import FactoryError
from factory.filters.descriptors import describe_images
from factory.report.collect import Shown
from factory.report.galleries import Choice
from factory.report.real_images import (
    Neighbours,
    RealMatch,
    RealSet,
    Size,
    find_realism_judge,
    find_references,
    list_real_sets,
    list_reference_paths,
    match_by_realism,
    match_reference,
)
from factory.report.state import RunState
from factory.report.tiles import Maker, Pair, make_real_tile

MAX_SIZES = 3
"""Image sizes that a real set is described at; further ones are left out and named."""
Pixels = NDArray[np.uint8]


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
        notes: what the reader must know, e.g. why there is nothing.
    """

    title: str
    intro: str
    pairs: tuple[Pair, ...]
    found: tuple[Compared, ...]
    notes: tuple[str, ...] = ()


def compare_with_real(
    state: RunState,
    choice: Choice,
    maker: Maker,
    base: Path,
    extra: Sequence[Path],
    say: Callable[[str], None],
) -> list[Comparison]:
    """Compares accepted images with every real set that the recipe names, and with `extra` ones.

    Real images that cannot be read any more leave a note in the place of pictures.

    Raises:
        SourceError: a stored image cannot be read.
    """
    comparisons = []
    if choice.references:
        say("reading reference images")
        comparisons.append(_compare_references(state, choice, maker, base))
    for real in list_real_sets(state, base, extra):
        say(f"comparing with {real.path}")
        comparisons.append(_compare_set(real, choice, maker))
    if find_realism_judge(state) is not None:
        say("comparing by realism")
        comparisons.append(_compare_by_realism(state, choice, maker))
    return comparisons


def _compare_references(state: RunState, choice: Choice, maker: Maker, base: Path) -> Comparison:
    title, intro = "References", "Accepted images beside the real image that each varies."
    wanted = {str(each.row["reference_sha256"]) for each in choice.references}
    notes, found = [], []
    paths = list_reference_paths(state.recipe, base)
    try:
        images = find_references(paths, wanted)
        for each in choice.references:
            image = images.get(str(each.row["reference_sha256"]))
            pixels = _read_pixels(maker, each)
            if image is not None and pixels is not None:
                fit = maker.stored[each.sample_id].condition["reference"]["fit"]
                found.append(Compared(each, match_reference(image, pixels, fit)))
        missing = len(wanted - images.keys())
        if missing:
            notes.append(f"{missing} of {len(wanted)} references are not there any more")
    except FactoryError as error:
        notes.append(describe_missing(error))
    return _build(title, intro, found, maker, notes)


def _compare_set(real: RealSet, choice: Choice, maker: Maker) -> Comparison:
    if choice.copies:
        shown, which = choice.copies, "The accepted images with the highest copy_similarity"
    else:
        shown, which = choice.accepted, "The accepted images shown above"
    intro = f"{which}, each beside the nearest image of the set over all flips and quarter turns."
    notes: list[str] = []
    found: list[Compared] = []
    by_size: dict[Size, list[tuple[Shown, Pixels]]] = defaultdict(list)
    for each in shown:
        pixels = _read_pixels(maker, each)
        if pixels is not None:
            by_size[pixels.shape[0], pixels.shape[1]].append((each, pixels))
    left_out = sum(len(group) for group in list(by_size.values())[MAX_SIZES:])
    if left_out:
        notes.append(f"{left_out} images of further sizes were not compared")
    try:
        for size, group in list(by_size.items())[:MAX_SIZES]:
            neighbours = Neighbours(real, size)
            made = describe_images(np.stack([pixels for _, pixels in group]))
            matches = neighbours.find(made)
            found += [Compared(each, m) for (each, _), m in zip(group, matches, strict=True)]
            notes += [note for note in _describe_set(neighbours) if note not in notes]
    except FactoryError as error:
        notes.append(describe_missing(error))
    return _build(f"{real.title}: {real.path.name}", intro, found, maker, notes)


def _compare_by_realism(state: RunState, choice: Choice, maker: Maker) -> Comparison:
    judge = find_realism_judge(state)
    assert judge is not None
    shown = choice.unauthentic or choice.accepted
    which = "with the lowest authenticity_ratio" if choice.unauthentic else "shown above"
    intro = (
        f"The accepted images {which}, each beside the nearest real image in the features of "
        f"{judge.settings.encoder}. Distance 1 is that of a real image's usual neighbour."
    )
    notes, found = [], []
    try:
        for each in shown:
            pixels = _read_pixels(maker, each)
            if pixels is not None:
                found.append(Compared(each, match_by_realism(judge, pixels)))
    except FactoryError as error:
        notes.append(describe_missing(error))
    return _build(f"realism: {judge.settings.images.name}", intro, found, maker, notes)


def _build(
    title: str, intro: str, found: list[Compared], maker: Maker, notes: list[str]
) -> Comparison:
    ordered = sorted(found, key=_rank)
    pairs = []
    for each in ordered:
        first, second = maker.make(each.shown), make_real_tile(each.match)
        text = f"similarity {each.match.similarity:g}"
        if each.match.similarity is None:
            text = f"distance {each.match.distance:g}"
        pairs.append(Pair(first, second, text))
    return Comparison(title, intro, tuple(pairs), tuple(ordered), tuple(notes))


def _rank(each: Compared) -> float:
    if each.match.similarity is not None:
        return -each.match.similarity
    return each.match.distance or 0.0


def _describe_set(neighbours: Neighbours) -> list[str]:
    notes = [f"{len(neighbours.images):,} real images compared with"]
    if len(neighbours.images) < neighbours.found:
        notes = [f"{notes[0]}, evenly taken from {neighbours.found:,}"]
    if neighbours.is_another_set:
        notes.append("These are not the images that the run compared with: they have changed")
    return notes


def describe_missing(error: FactoryError) -> str:
    """Says that real images cannot be had, and what to do."""
    return f"Not shown: {error}. Relative paths start at --base"


def _read_pixels(maker: Maker, shown: Shown) -> Any:
    stored = maker.stored.get(shown.sample_id)
    return None if stored is None else stored.read_pixels(shown.sample_id)
