"""How near synthetic sets are to a real one: FD, KID, CMMD, precision, recall and their kin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import __version__
from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.stats.resampling import ROUNDS, cut_parts
from factory.data.images.image import Wanted
from factory.data.pairs import NEIGHBOURS, Side, measure_floor, measure_pair
from factory.evaluate.base import Context, Say
from factory.evaluate.features import Scaling, encode_set, fit_scaling
from factory.evaluate.fidelity import Fidelity, FidelitySettings
from factory.evaluate.image_sets import ImageSet, count_smaller, list_set
from factory.evaluate.judge_overlap import find_parts, read_making, write_circle
from factory.models.encoders import Encoder, load_encoder

MIX_TOLD = 0.05
"""Difference of a class's share from which the overall figures speak of it."""


def measure(settings: Fidelity.Settings, context: Context) -> dict[str, Any]:
    """Measures every synthetic set against the real one."""
    sets, catalogs = (settings.real, settings.synthetic), context.session.catalogs
    return evaluate_fidelity(*sets, settings, context.say, catalogs)


def evaluate_fidelity(
    real: Path,
    synthetic: Sequence[Path],
    settings: FidelitySettings,
    say: Say = lambda line: None,
    catalogs: Catalogs | None = None,
) -> dict[str, Any]:
    """Measures every synthetic set against the real one, per class and overall.

    Args:
        real: any source that `factory.data.images.list_images` reads.
        synthetic: one or more of them.
        settings: encoders, size, limits.
        say: is told what is being done.
        catalogs: where encoders are looked up; default: the shipped ones.

    Returns:
        `real`, `synthetic` (described sets), `settings`, `warnings`, and `figures`: one for each
        encoder, synthetic set and class (`class` None: overall), with the `metrics` of the pair and
        those of the `floor`, real images held back against the other real ones.

    Raises:
        SourceError: a set that cannot be read.
        InputError: an encoder that cannot be had, or does not take the images.
        EvaluationError: sets too small to compare, or an encoder that failed.
        StoreError: the cache cannot be written.
    """
    catalogs = catalogs or load_catalogs()
    whole, others = _list_sets(real, synthetic, settings)
    warnings = [*_find_warnings(whole, others)]
    figures: list[dict[str, Any]] = []
    for spec in settings.encoders:
        encoder = load_encoder(spec, device=settings.device, catalogs=catalogs)
        judge = _Judge(spec, encoder, settings, say)
        side = judge.encode(whole, None)
        for other in others:
            making = read_making(other.root, catalogs)
            parts = find_parts(spec, encoder.describe(), making, catalogs)
            warnings += [write_circle(spec, other.name, part) for part in parts]
            query = judge.encode(other, side.scaling)
            figures += [
                {**figure, "circular": list(parts)} for figure in judge.compare(side, query)
            ]
    return {
        "factory_version": __version__,
        "real": whole.describe(),
        "synthetic": [{"name": other.name, **other.describe()} for other in others],
        "data": [other.describe_data() for other in others],
        "settings": _describe_settings(settings, whole.size),
        "warnings": list(dict.fromkeys(warnings)),
        "figures": figures,
    }


def _list_sets(
    real: Path, synthetic: Sequence[Path], settings: FidelitySettings
) -> tuple[ImageSet, list[ImageSet]]:
    """Lists all sets at one size."""
    limits: dict[str, Any] = {
        "fit": settings.fit,
        "max_images": settings.max_images,
        "seed": settings.seed,
    }
    others = [list_set(root, size=settings.size, **limits) for root in synthetic]
    size = settings.size or min(other.size for other in others)
    whole = list_set(
        real,
        size=size,
        columns=Wanted(
            settings.image_column,
            settings.label_column,
            group=settings.group_column,
            pattern=settings.group_pattern,
        ),
        **limits,
    )
    return whole, [replace(other, size=size) for other in others]


def _find_warnings(real: ImageSet, others: Sequence[ImageSet]) -> Iterator[str]:
    """Yields what makes figures of these sets weak."""
    if any(group is None for group in real.groups):
        yield (
            "NO PATIENT OR SLIDE GROUPS of all real images: the floor may compare images of one "
            "patient and be too good, and intervals too narrow; give --group-column or "
            "--group-pattern"
        )
    for each in (real, *others):
        smaller = count_smaller(each.images, each.size)
        if smaller:
            yield f"{each.name}: {smaller} images are smaller than {each.size} px and were enlarged"
    for other in others:
        missing = set(real.class_names) - set(other.class_names)
        foreign = set(other.class_names) - set(real.class_names)
        if real.class_names and not other.class_names:
            yield f"{other.name}: has no classes, so it is compared as a whole only"
        elif missing or foreign:
            said = [f"has no {', '.join(sorted(missing))}"] if missing else []
            said += [f"has {', '.join(sorted(foreign))}, which no real image is"] if foreign else []
            yield f"{other.name}: {' and '.join(said)}: the overall figures count this as distance"
        else:
            yield from _compare_mix(real, other)


def _compare_mix(real: ImageSet, other: ImageSet) -> Iterator[str]:
    shares = [
        (name, len(real.find_rows(name)) / len(real), len(other.find_rows(name)) / len(other))
        for name in real.class_names
    ]
    apart = [each for each in shares if abs(each[1] - each[2]) > MIX_TOLD]
    if apart:
        name, one, two = max(apart, key=lambda each: abs(each[1] - each[2]))
        yield (
            f"{other.name}: another mix of classes ({name}: {two:.0%} of it, {one:.0%} of the real "
            "images): the overall figures count this as distance; compare per class"
        )


def _describe_settings(settings: FidelitySettings, size: int) -> dict[str, Any]:
    return {
        "encoders": list(settings.encoders),
        "size": size,
        "fit": settings.fit,
        "max_images": settings.max_images,
        "seed": settings.seed,
        "neighbours": NEIGHBOURS,
        "intervals": (
            f"95 %; kid and cmmd: {ROUNDS} half samples without replacement; precision and "
            "density: bootstrap over synthetic images with the real ones fixed; recall and "
            "coverage: over real images or groups with the synthetic ones fixed; fd has none, as "
            "resampling shifts it"
        ),
        "floor": (
            "parts of the real images, of as many as there are synthetic ones (at most half), each "
            "against the other real images: mean, smallest and largest"
        ),
    }


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A set with its scaled features, and the scaling."""

    images: ImageSet
    values: NDArray[np.float64]
    scaling: Scaling

    def take(self, rows: NDArray[np.int64]) -> Side:
        groups = self.images.groups
        return Side(self.values[rows], tuple(groups[row] for row in rows))


class _Judge:
    """One encoder: encodes sets and compares them."""

    def __init__(self, spec: str, encoder: Encoder, settings: FidelitySettings, say: Say) -> None:
        self._spec, self._encoder, self._settings, self._say = spec, encoder, settings, say
        self._described = encoder.describe()

    def encode(self, images: ImageSet, scaling: Scaling | None) -> _Encoded:
        """Encodes a set; the real one (`scaling` None) says how features are scaled."""
        self._say(f"{self._spec}: {len(images):,} images of {images.name}")
        found = encode_set(images, self._encoder, self._settings.cache)
        scaling = scaling or fit_scaling(found.values, self._described)
        return _Encoded(images, scaling.apply(found.values), scaling)

    def compare(self, real: _Encoded, other: _Encoded) -> Iterator[dict[str, Any]]:
        """Yields the figures overall and of each class that both sets have."""
        shared = [name for name in real.images.class_names if name in other.images.class_names]
        for name in (None, *shared):
            self._say(f"{self._spec}: {other.images.name}, {name or 'overall'}")
            rows = real.images.find_rows(name)
            side, query = real.take(rows), other.take(other.images.find_rows(name))
            yield {
                "encoder": self._describe(real.scaling),
                "size": real.images.size,
                "fit": real.images.fit,
                "synthetic": other.images.name,
                "path": str(other.images.root),
                "class": name,
                "n_real": len(side),
                "n_synthetic": len(query),
                "metrics": self._measure(side, query, name),
                "floor": self._measure_floor(real, rows, len(query)),
            }

    def _measure(self, real: Side, query: Side, name: str | None) -> dict[str, Any]:
        return measure_pair(real, query, self._settings.force, self._settings.seed, name or "")

    def _measure_floor(
        self, real: _Encoded, rows: NDArray[np.int64], count: int
    ) -> dict[str, Any] | None:
        images = real.images.take(rows)
        keys = [image.key for image in images.images]
        count = min(count, len(rows) // 2)
        parts = cut_parts(keys, images.groups, count, self._settings.seed)
        if not parts:
            return None
        sizes = [int(part.sum()) for part in parts]
        return {
            "n_real": [len(rows) - size for size in sizes],
            "n_held_back": sizes,
            "groups_disjoint": all(group is not None for group in images.groups),
            "metrics": measure_floor(real.take(rows), parts, self._settings.force),
        }

    def _describe(self, scaling: Scaling) -> dict[str, Any]:
        return {"spec": self._spec, **self._described, "scaling": scaling.name}
