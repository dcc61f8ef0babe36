"""What people are shown: accepted images of a run, or the blinded, balanced draw of a study."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.data.images import iterate_rows
from factory.data.images.image import Wanted
from factory.data.review.answers import Case, Reading, Shown
from factory.engine.dataset import DATA, Dataset
from factory.engine.plan import describe_content
from factory.engine.run_records import compute_run_id
from factory.evaluate.image_sets import Fit, ImageSet, list_set
from factory.recipe.recipe import is_judging

StudyKind = Literal["turing", "label", "pair"]
Pictures = Mapping[tuple[str, int], bytes]
STUDY_COUNT = 60
"""Cases of a study, unless others are asked for."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a study is drawn by."""

    kind: StudyKind
    count: int = STUDY_COUNT
    seed: int = 0
    real: Path | None = None
    against: Path | None = None
    image_column: str | None = None
    size: int | None = None
    fit: Fit = "crop"

    def name_reading(self, run: str) -> str:
        """Returns the id of the study: the same draw of the same run is the same study."""
        sets = self.real, self.against
        places = [None if each is None else str(each.resolve()) for each in sets]
        read = [*places, self.image_column, self.size, self.fit]
        return compute_digest("reading", [self.kind, run, self.count, self.seed, *read])[:16]


def find_run(dataset: Dataset) -> str:
    """Returns the digest of what a data set is made by; thresholds changed afterwards do not count.

    Raises:
        InputError: it has no recipe.
    """
    recipe = dataset.made_with or dataset.recipe
    if recipe is None:
        raise InputError(f"{dataset.url}: has no recipe.json, by which answers are known again")
    return compute_run_id(describe_content(recipe))


def draw_review(
    dataset: Dataset, count: int | None, seed: int, blind: bool
) -> tuple[Reading, tuple[Case, ...]]:
    """Returns the accepted images of a data set, or so many of them, of each class alike.

    Args:
        dataset: a finished run, or a copy of one.
        count: images; None: all.
        seed: of which, and in which order.
        blind: do not show the class that was asked for.

    Raises:
        InputError: it has no recipe.
        StoreError: damaged data.
    """
    recipe, summary = dataset.require_finished()
    origin: Literal["real", "synthetic"] = "real" if is_judging(recipe) else "synthetic"
    found = [
        Case(
            id=_name_case("review", str(row.sample_id)),
            images=(Shown(origin=origin, source=summary.name, key=str(row.sample_id)),),
            class_name=row.values["class_name"],
        )
        for name in dataset.list_tables(DATA)
        for row in dataset.iterate_rows(name, ["sample_id", "class_name"])
    ]
    classes = summary.class_names or tuple(sorted({c.class_name for c in found if c.class_name}))
    reading = Reading(
        id="review-blind" if blind else "review",
        kind="review",
        run=find_run(dataset),
        seed=seed,
        blind=blind,
        classes=classes,
    )
    return reading, tuple(found if count is None else _balance(found, count, seed))


def draw_study(
    dataset: Dataset, draw: Draw, known: frozenset[str]
) -> tuple[Reading, tuple[Case, ...], Pictures]:
    """Draws a study: its cases, and the pictures of them, stripped of all that tells the origin.

    Args:
        dataset: a finished run on this machine.
        draw: what is asked for.
        known: keys of images that were in an earlier study: shown to nobody again.

    Raises:
        InputError: too few images, or sets that the study needs and that are not given.
        SourceError: images that cannot be read.
    """
    given = {"turing": draw.real, "pair": draw.against, "label": None}[draw.kind]
    option = {"turing": "--real", "pair": "--against", "label": ""}[draw.kind]
    if option and given is None:
        raise InputError(f"--study {draw.kind}: give the other images: {option} DIR")
    if draw.against is not None and draw.kind != "pair":
        raise InputError("--against: only for --study pair")
    if draw.real is not None and draw.kind == "pair":
        raise InputError("--real: not for --study pair, which compares DIR with --against")
    others = [each for each in (draw.real, draw.against) if each is not None]
    if draw.image_column is not None and not others:
        raise InputError("--image-column: of --real or --against: give one, or leave it out")
    column = Wanted(image=draw.image_column)
    sets = [list_set(Path(dataset.url), fit=draw.fit)]
    sets += [list_set(root, fit=draw.fit, columns=column) for root in others]
    size = draw.size or min(each.size for each in sets)
    sets = [_leave_out(replace(each, size=size), known) for each in sets]
    is_real = draw.kind != "pair"
    origins: list[Literal["real", "synthetic"]] = ["synthetic", "real" if is_real else "synthetic"]
    pool = _Pool(draw, sets, origins[: len(sets)])
    cases, pictures = {"turing": pool.turing, "label": pool.label, "pair": pool.pair}[draw.kind]()
    run = find_run(dataset)
    reading = Reading(
        id=draw.name_reading(run),
        kind=draw.kind,
        run=run,
        seed=draw.seed,
        blind=True,
        classes=pool.classes if draw.kind == "label" else (),
        names=tuple(each.name for each in sets),
        size=size,
    )
    return reading, cases, pictures


@dataclass(frozen=True, slots=True)
class _Pool:
    draw: Draw
    sets: Sequence[ImageSet]
    origins: Sequence[Literal["real", "synthetic"]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({name for each in self.sets for name in each.class_names}))

    def turing(self) -> tuple[tuple[Case, ...], Pictures]:
        """Half real, half synthetic, of each class that both have alike."""
        common = set.intersection(*(set(each.class_names) for each in self.sets))
        return self._build(self._share([sorted(common)] * 2), "origin")

    def label(self) -> tuple[tuple[Case, ...], Pictures]:
        """Of each class alike; half of them real, where real images are given."""
        if len(self.classes) < 2:
            raise InputError("--study label: the images have no two classes to tell apart")
        return self._build(self._share([sorted(each.class_names) for each in self.sets]), "class")

    def pair(self) -> tuple[tuple[Case, ...], Pictures]:
        """Images of two sets side by side, of one condition, or else of one class."""
        first, second = self.sets
        if first.name == second.name:
            raise InputError(f"--against: both sets are called {first.name}: rename a folder")
        pairs = _match(first, second, self.draw.seed)[: self.draw.count]
        if len(pairs) < self.draw.count:
            raise InputError(
                f"--count {self.draw.count}: {first.name} and {second.name} have {len(pairs)} "
                "pairs of one condition or class: ask for fewer"
            )
        cases: list[Case] = []
        pictures: dict[tuple[str, int], bytes] = {}
        for place, (a, b) in enumerate(pairs):
            shown = [self._show(0, a), self._show(1, b)]
            pixels = [_read(first, a), _read(second, b)]
            if place % 2:  # so that each set stands left as often
                shown, pixels = shown[::-1], pixels[::-1]
            name = _name_case("pair", self.draw.seed, *(each.key for each in shown))
            label, own = first.labels[a], first.name
            cases.append(Case(id=name, images=tuple(shown), class_name=label, truth=own))
            pictures |= {(name, side): _encode(each) for side, each in enumerate(pixels)}
        return tuple(cases), pictures

    def _share(self, classes: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
        """Returns (set, row), as many of each set, and in it of each of its classes."""
        if self.draw.count % len(self.sets):
            raise InputError(f"--count {self.draw.count}: half are real: give an even number")
        share = self.draw.count // len(self.sets)
        return [
            (which, row)
            for which, names in enumerate(classes)
            for row in self._choose(which, share, names)
        ]

    def _choose(self, which: int, count: int, classes: Sequence[str]) -> list[int]:
        images, seed = self.sets[which], self.draw.seed
        if not classes:
            found = _rank(images, range(len(images)), seed)[:count]
        else:
            found = []
            for place, name in enumerate(classes):
                share = count // len(classes) + (place < count % len(classes))
                found += _rank(images, images.find_rows(name).tolist(), seed)[:share]
        if len(found) < count:
            raise InputError(
                f"--count {self.draw.count}: {images.name} has {len(found)} of {count} images "
                "wanted of its classes that no earlier study showed: ask for fewer"
            )
        return found

    def _build(
        self, chosen: Sequence[tuple[int, int]], asked: str
    ) -> tuple[tuple[Case, ...], Pictures]:
        cases: list[Case] = []
        pictures: dict[tuple[str, int], bytes] = {}
        for which, row in chosen:
            shown, label = self._show(which, row), self.sets[which].labels[row]
            name = _name_case(self.draw.kind, self.draw.seed, shown.origin, shown.key)
            truth = shown.origin if asked == "origin" else label
            cases.append(Case(id=name, images=(shown,), class_name=label, truth=truth))
            pictures[name, 0] = _encode(_read(self.sets[which], row))
        return tuple(cases), pictures

    def _show(self, which: int, row: int) -> Shown:
        images = self.sets[which]
        key = images.sample_ids[row] or images.images[row].key
        return Shown(origin=self.origins[which], source=images.name, key=key)


def _match(first: ImageSet, second: ImageSet, seed: int) -> list[tuple[int, int]]:
    """Pairs rows of one condition and ordinal; where there are none, images of one class."""
    by_key: list[dict[tuple[object, ...], int]] = []
    for each in (first, second):
        told = iterate_rows(each.images, ("condition_id", "ordinal"))
        keys = [(row.get("condition_id"), row.get("ordinal")) for row in told]
        by_key.append({key: place for place, key in enumerate(keys) if None not in key})
    common = sorted(by_key[0].keys() & by_key[1].keys(), key=str)
    if common:
        pairs = [(by_key[0][key], by_key[1][key]) for key in common]
        return sorted(pairs, key=lambda pair: _digest(first, pair[0], seed))
    found = []
    classes: list[str | None] = [*sorted({*first.class_names} & {*second.class_names})]
    for name in classes or [None]:
        rows = (_rank(each, each.find_rows(name).tolist(), seed) for each in (first, second))
        found += list(zip(*rows, strict=False))
    return sorted(found, key=lambda pair: _digest(first, pair[0], seed))


def _leave_out(images: ImageSet, known: frozenset[str]) -> ImageSet:
    keys = (name or image.key for name, image in zip(images.sample_ids, images.images, strict=True))
    return images.take([row for row, key in enumerate(keys) if key not in known])


def _balance(cases: Sequence[Case], count: int, seed: int) -> Iterator[Case]:
    """Yields `count` cases, classes taking turns."""
    ranked = sorted(cases, key=lambda case: compute_digest("case", [seed, case.id]))
    turns: Counter[str | None] = Counter()
    order = []
    for case in ranked:
        order.append((turns[case.class_name], case))
        turns[case.class_name] += 1
    yield from (case for _, case in sorted(order, key=lambda each: each[0])[:count])


def _rank(images: ImageSet, rows: Sequence[int] | range, seed: int) -> list[int]:
    return sorted(rows, key=lambda row: _digest(images, row, seed))


def _digest(images: ImageSet, row: int, seed: int) -> str:
    return compute_digest("study", [seed, images.sample_ids[row] or images.images[row].key])


def _name_case(*parts: str | int) -> str:
    return compute_digest("case", list(parts))[:16]


def _read(images: ImageSet, row: int) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = images.take([row]).read_all()[0]
    return found


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    """Returns a plain PNG: neither mark nor metadata tells where the image is from."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
