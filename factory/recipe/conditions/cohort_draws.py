"""What patients, slides and patches of a cohort are drawn by: shares, stains, profiles.

All of it follows from seeds and words, so that no draw depends on how many patients there are.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from factory.catalog.captions.grid import CaptionGrid, list_shares
from factory.core.hashing import derive_seed
from factory.core.stain_transfer import StainLook, bound_contrast
from factory.data.streams import ClassName, Stream
from factory.data.streams.stain import Stain
from factory.recipe.conditions.grids import WeightedSeries

_NORMAL = NormalDist()
_UNIT = 1 << 63
_DECIMALS = 4
FARTHEST = 0.5
"""Share of the way from one real stain to another that a patient's may lie at."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Numbers that follow from a seed and words alone, the same on any machine."""

    seed: int

    def unit(self, *words: str | int) -> float:
        """Returns a number in (0, 1)."""
        return (derive_seed(self.seed, *words) + 0.5) / _UNIT

    def normal(self, *words: str | int) -> float:
        """Returns a standard normal number."""
        return _NORMAL.inv_cdf(self.unit(*words))

    def choose(self, weights: Mapping[str, float], *words: str | int) -> str:
        """Returns a name, as often as its weight says."""
        point = self.unit(*words) * sum(weights.values())
        for name, weight in weights.items():
            point -= weight
            if point < 0:
                return name
        return [name for name, weight in weights.items() if weight > 0][-1]


@dataclass(frozen=True)
class Shown:
    """What patches show: classes by weight, or captions of a grid; one of them.

    All captions name the attributes `named`.
    """

    classes: Mapping[str, float] = field(default_factory=dict)
    grid: CaptionGrid | None = None
    named: tuple[str, ...] = ()

    def describe(self) -> Any:
        """Returns it as plain data."""
        if self.grid is None:
            return dict(self.classes)
        return [self.grid.describe(), list(self.named)]

    def check(self) -> None:
        """Checks that the grid has captions that name the attributes.

        Raises:
            InputError: it has none.
        """
        if self.grid is not None:
            self.fix({})

    def fix(self, values: Mapping[str, str]) -> CaptionGrid:
        """Returns the grid with these values of attributes alone.

        Raises:
            InputError: no template names all attributes that are to be named.
        """
        assert self.grid is not None
        fixed = self.grid.reweigh({name: {value: 1.0} for name, value in values.items()}, {})
        return fixed.keep_naming(self.named) if self.named else fixed

    def choose(self, draw: Draw, names: Sequence[str]) -> dict[str, str]:
        """Returns values of attributes, as often as the grid says."""
        if self.grid is None:
            return {}
        shares = list_shares(self.grid)
        return {name: draw.choose(shares[name], "attribute", name) for name in names}

    def ask(
        self, draw: Draw, patch: int, patches: int, fixed: Mapping[str, str]
    ) -> tuple[Stream, ...]:
        """Returns the streams of one of the patches of a slide."""
        if self.grid is None:
            weights = dict(sorted(self.classes.items()))  # as its identity, of no order
            return (ClassName(draw.choose(weights, "class", patch)),)
        told = tuple(fixed.items())
        series = WeightedSeries(self._fixed(told), derive_seed(draw.seed, "captions"), patches)
        return series.request_at(patch).condition.streams

    @functools.cached_property
    def _fixed(self) -> Callable[[tuple[tuple[str, str], ...]], CaptionGrid]:
        """Fixes values, the last ones only once."""
        return functools.lru_cache(maxsize=32)(lambda told: self.fix(dict(told)))


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """A label: its share of the patients, and what of a slide shows it.

    `positive` are the least and the greatest share of a slide's patches that do, `means` those of
    values of its patients' profiles that are not 0.
    """

    name: str
    share: float
    positive: tuple[float, float]
    shown: Shown
    means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profiles:
    """RNA of patients: values of standard deviation `patient` among them, `patch` within one."""

    names: tuple[str, ...]
    patient: float
    patch: float


@dataclass(frozen=True, slots=True)
class Stains:
    """Real stains, and how far slides of one patient differ, in their standard deviations."""

    looks: tuple[Stain, ...]
    within: float

    @property
    def mean(self) -> StainLook:
        """What images are taken to look like before they are stained."""
        return StainLook(*(_average([each.look for each in self.looks], part) for part in _PARTS))

    def draw(self, draw: Draw, slide: int) -> Stain:
        """Returns the stain of a slide of a patient.

        The patient's lies between a real one and a point up to FARTHEST of the way to another;
        that of a slide is normal around it. Notes the images and patients of all of them.
        """
        looks = self.looks
        first = int(draw.unit("stain") * len(looks))
        other = int(draw.unit("other stain") * len(looks))
        way = FARTHEST * draw.unit("way")
        found = []
        for part in _PARTS:
            spreads = _deviate([each.look for each in looks], part)
            ends = zip(
                getattr(looks[first].look, part), getattr(looks[other].look, part), strict=True
            )
            centre = (one + way * (two - one) for one, two in ends)
            moved = (
                value + self.within * spread * draw.normal("slide stain", slide, part, place)
                for place, (value, spread) in enumerate(zip(centre, spreads, strict=True))
            )
            found.append(tuple(round(each, _DECIMALS) for each in moved))
        # mean and deviations are of all looks: each image that tells one has touched this stain
        hashes = (each for stain in looks for each in stain.pixels_sha256s)
        groups = {each for stain in looks for each in stain.group_sha256s}
        look = bound_contrast(StainLook(*found), self.mean)
        return Stain(look, tuple(dict.fromkeys(hashes)), tuple(sorted(groups)))


_PARTS = ("mean", "spread")


def apportion(shares: Sequence[float]) -> Iterator[int]:
    """Yields places without end, of any first n each about as often as its share says.

    The place that lacks most comes next (the first of equals), so that no share above 0 waits for
    long, and what was dealt stays when more is.
    """
    given = [0] * len(shares)
    for count in itertools.count(1):
        lacks = [round(share * count - had, 9) for share, had in zip(shares, given, strict=True)]
        place = lacks.index(max(lacks))
        given[place] += 1
        yield place


def _average(looks: Sequence[StainLook], part: str) -> Any:
    columns = zip(*(getattr(each, part) for each in looks), strict=True)
    return tuple(round(math.fsum(each) / len(looks), _DECIMALS) for each in columns)


def _deviate(looks: Sequence[StainLook], part: str) -> list[float]:
    """Returns the standard deviations of the three numbers over looks."""
    found = []
    for values in zip(*(getattr(each, part) for each in looks), strict=True):
        mean = math.fsum(values) / len(values)
        found.append(math.sqrt(math.fsum((each - mean) ** 2 for each in values) / len(values)))
    return found
