"""The series of a cohort: patients in turn, the slides of each, and the patches of each slide."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.hashing import compute_digest, derive_seed
from factory.core.stain_transfer import RESTAINED
from factory.data.records import Condition, Request
from factory.data.streams import Recolour, Stream, Vector
from factory.data.streams.bag import BACKGROUND, Bag
from factory.data.streams.stain import Stain
from factory.recipe.conditions.cohort_draws import (
    Draw,
    LabelPlan,
    Profiles,
    Shown,
    Stains,
    apportion,
)


@dataclass(frozen=True)
class CohortSeries:
    """Patches of slides of patients; more patients, or other splits, change none that there were.

    Each request is a slot of a slide, tried until it has its image: so every slide is filled for
    itself.
    """

    seed: int
    count: int
    slides: int
    patches: int
    labels: tuple[LabelPlan, ...]
    background: Shown
    splits: Mapping[str, float]
    stains: Stains | None = None
    profiles: Profiles | None = None
    per_patient: tuple[str, ...] = ()

    @property
    def patients(self) -> int:
        """How many are begun by so many patches."""
        return -(-self.count // (self.slides * self.patches))

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its cohort, and the splits, which one run folder has once."""
        told: dict[str, Any] = {"cohort": self.cohort_key, "splits": list(self.splits.items())}
        if self.stains is not None:
            told["restained"] = RESTAINED
        return compute_digest("series", told)[:16]

    @functools.cached_property
    def cohort_key(self) -> str:
        """Identity of its patients: all that draws, but for their number and the splits."""
        told: dict[str, Any] = {
            "kind": "cohort",
            "slides": self.slides,
            "patches": self.patches,
            "background": self.background.describe(),
            "labels": [
                [one.name, one.share, list(one.positive), one.shown.describe(), dict(one.means)]
                for one in self.labels
            ],
        }
        if self.stains is not None:
            looks = [each.look.describe() for each in self.stains.looks]
            told["stains"] = [looks, self.stains.within]
        if self.profiles is not None:
            own = self.profiles
            told["profiles"] = [list(own.names), own.patient, own.patch]
        if self.per_patient:
            told["per_patient"] = list(self.per_patient)
        return compute_digest("series", told)[:16]

    @property
    def label(self) -> str:
        """How many patients, slides and patches there are."""
        many = self.patients * self.slides
        return f"cohort of {self.patients:,} patients, {many:,} slides of {self.patches:,} patches"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that patches may show."""
        shown = (self.background, *(each.shown for each in self.labels))
        names: dict[str, None] = {}
        for each in shown:
            grid = each.grid
            attribute = None if grid is None else grid.class_attribute
            own = each.classes if grid is None else grid.attributes.get(attribute or "", {})
            names.update(dict.fromkeys(own))
        return tuple(names)

    @property
    def bag_size(self) -> int:
        """Requests of a slide."""
        return self.patches

    @property
    def details(self) -> tuple[str, ...]:
        """Patients by label and split."""
        table: dict[tuple[str, str], int] = {}
        for place in range(self.patients):
            label, split = self._dealt.deal(place)
            key = self.labels[label].name, split
            table[key] = table.get(key, 0) + 1
        return tuple(
            f"{label}: "
            + ", ".join(
                f"{table[label, split]:,} patients in {split}"
                for split in self.splits
                if (label, split) in table
            )
            for label in (each.name for each in self.labels)
            if any(name == label for name, _ in table)
        )

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: a patch of a slide of a patient."""
        slide, patch = divmod(index, self.patches)
        patient, number = divmod(slide, self.slides)
        told = self._drawn(patient, number)
        side = math.isqrt(self.patches - 1) + 1
        row, column = divmod(patch, side)
        is_positive = patch in told.positive
        label = self.labels[told.label]
        shown = label.shown if is_positive else self.background
        shows = label.name if is_positive else BACKGROUND
        bag = Bag(told.patient, told.slide, label.name, shows, column, row, told.split)
        streams: list[Stream] = [bag, *shown.ask(told.draw, patch, self.patches, told.fixed)]
        if self.stains is not None and told.stain is not None:
            streams.append(Recolour(told.stain, self.stains.mean))
        if self.profiles is not None:
            streams.append(self._draw_vector(patient, told, patch))
        return Request(self.key, index, Condition(None, None, *streams), patch)

    def _draw_vector(self, patient: int, told: "_Slide", patch: int) -> Vector:
        own = self.profiles
        assert own is not None
        person = Draw(derive_seed(self.seed, "cohort patient", self.cohort_key, patient))
        means = self.labels[told.label].means
        values = {
            name: means.get(name, 0.0)
            + own.patient * person.normal("value", name)
            + own.patch * told.draw.normal("value", patch, name)
            for name in own.names
        }
        return Vector.of(values)

    @functools.cached_property
    def _drawn(self) -> "Callable[[int, int], _Slide]":
        return functools.lru_cache(maxsize=64)(self._draw_slide)

    def _draw_slide(self, patient: int, number: int) -> "_Slide":
        label, split = self._dealt.deal(patient)
        person = Draw(derive_seed(self.seed, "cohort patient", self.cohort_key, patient))
        own = Draw(derive_seed(person.seed, "slide", number))
        name = f"p{compute_digest('patient', [person.seed])[:12]}"
        stain = None if self.stains is None else self.stains.draw(person, number)
        positive = self._place_positive(self.labels[label], own)
        fixed = self.background.choose(person, self.per_patient)
        return _Slide(name, f"{name}-s{number}", label, split, own, positive, stain, fixed)

    def _place_positive(self, label: LabelPlan, draw: Draw) -> frozenset[int]:
        """Returns the patches that show the label: those nearest to a point of the slide."""
        low, high = label.positive
        if high <= 0:
            return frozenset()
        share = low + (high - low) * draw.unit("share")
        count = min(self.patches, max(1, round(share * self.patches)))
        side = math.isqrt(self.patches - 1) + 1
        centre = draw.unit("row") * side - 0.5, draw.unit("column") * side - 0.5

        def measure(patch: int) -> tuple[float, int]:
            row, column = divmod(patch, side)
            return (row - centre[0]) ** 2 + (column - centre[1]) ** 2, patch

        return frozenset(sorted(range(self.patches), key=measure)[:count])

    @functools.cached_property
    def _dealt(self) -> "_Dealer":
        return _Dealer([each.share for each in self.labels], self.splits)


@dataclass(frozen=True, slots=True)
class _Slide:
    """A slide as it was drawn."""

    patient: str
    slide: str
    label: int
    split: str
    draw: Draw
    positive: frozenset[int]
    stain: Stain | None
    fixed: Mapping[str, str]


class _Dealer:
    """Deals patients to labels, and those of each label to splits, as many as shares say."""

    def __init__(self, labels: Sequence[float], splits: Mapping[str, float]) -> None:
        self._dealt: list[tuple[int, str]] = []
        self._labels = apportion(labels)
        names = tuple(splits)
        by_label = [apportion(tuple(splits.values())) for _ in labels]
        self._splits = [(names[place] for place in each) for each in by_label]

    def deal(self, patient: int) -> tuple[int, str]:
        while len(self._dealt) <= patient:
            label = next(self._labels)
            self._dealt.append((label, next(self._splits[label])))
        return self._dealt[patient]
