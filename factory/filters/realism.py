"""`realism`: rejects images that lie too far from a set of real ones, or too near to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.catalog.entries import Fraction
from factory.core.errors import FilterError, SourceError
from factory.core.late import NDArray, np
from factory.core.yaml.messages import advise
from factory.data.images import check_fit
from factory.data.images.fields import NamedImages
from factory.data.records import Condition, Sample
from factory.filters.base import FilterSettings, Labels, Near, RealImages, Score, Scores
from factory.filters.batches import Size, group_by_size
from factory.filters.check import FilterCheck
from factory.filters.encoded import EncodedFilter
from factory.filters.real.scores import RealScores
from factory.filters.real.set import RealImage, RealSet, check_pixels, read_real_set
from factory.models.encoders import EncoderSpec
from factory.models.session import Session

_CLASS_BOUNDS = (
    "max_mahalanobis_distance",
    "max_mahalanobis_distance_quantile",
    "max_centroid_distance",
    "max_centroid_distance_quantile",
)


class RealismFilter(EncodedFilter):
    """Scores where an image lies among real ones, in the features of an image encoder.

    The formulas and papers stand in `factory.filters.real.neighbours` (`realism`: higher is more
    real; `neighbour_distance`: lower is more real; `authenticity_ratio`: near 0 for copies) and
    `real_classes` (`mahalanobis_distance`, `centroid_distance`: lower is more typical). The first
    three compare with all real images; the last two with the asked class, or with the nearest class
    where none is asked. A set without classes counts as one class. Features are standardised by
    mean and deviation of the real set, so that none counts more for its unit.

    Each score `x` has an `x_quantile`: its place among the scores that the real images of the asked
    class (of all classes, where none is asked) get when left out of the set, the inverse of
    `numpy.quantile`; beyond all of them it is -0.01 or 1.01. These are ranks as in conformal
    outlier tests (Bates et al. 2023, arXiv 2104.08279). They are stored, so that quantile
    thresholds can be changed without the real set.

    Nothing is NaN. The scores that real images get count neighbours of their own patient too, where
    there are any: quantile thresholds of distances are then stricter than between patients.
    """

    scores = (
        Score("realism", "min_realism"),
        Score("realism_quantile", "min_realism_quantile"),
        Score("neighbour_distance", at_most="max_neighbour_distance"),
        Score("neighbour_distance_quantile", at_most="max_neighbour_distance_quantile"),
        Score("mahalanobis_distance", at_most="max_mahalanobis_distance"),
        Score("mahalanobis_distance_quantile", at_most="max_mahalanobis_distance_quantile"),
        Score("centroid_distance", at_most="max_centroid_distance"),
        Score("centroid_distance_quantile", at_most="max_centroid_distance_quantile"),
        Score("authenticity_ratio", "min_authenticity"),
        Score("authenticity_ratio_quantile", "min_authenticity_quantile"),
    )

    nearness = "authenticity_ratio"

    class Settings(NamedImages, FilterSettings):
        """Rejects images too far from real ones, or from those of their class; or too near.

        A `*_quantile` bounds where a score lies among those of the real images of the asked class,
        each scored as if it were not in the set: 0.05 for a `min_`, 0.95 for a `max_` keep about
        95 % of them.
        """

        kind: Literal["realism"]
        images: Path = Field(description="real set: what a reference condition's images may be")
        encoder: EncoderSpec = Field("color-texture", min_length=1, description="image encoder")
        neighbours: int = Field(3, ge=1, le=50, description="k of the nearest neighbours")
        fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")
        limit: int = Field(2000, ge=4, le=10_000, description="most real images used")
        seed: int = Field(0, ge=0, description="chooses them, where there are more")
        min_realism: float | None = Field(None, ge=0.0, description="1: inside the real manifold")
        min_realism_quantile: Fraction | None = None
        max_neighbour_distance: float | None = Field(None, gt=0.0, description="1: usual for real")
        max_neighbour_distance_quantile: Fraction | None = None
        max_mahalanobis_distance: float | None = Field(
            None, gt=0.0, description="to the asked class"
        )
        max_mahalanobis_distance_quantile: Fraction | None = None
        max_centroid_distance: float | None = Field(
            None, gt=0.0, description="to the asked class's mean; 1: usual for real"
        )
        max_centroid_distance_quantile: Fraction | None = None
        min_authenticity: float | None = Field(None, ge=0.0, description="near 0: a copy; 1: usual")
        min_authenticity_quantile: Fraction | None = None

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._set: RealSet | None = None
        self._fitted: dict[Size, RealScores] = {}

    @classmethod
    def list_labels(cls, described: Mapping[str, Any]) -> Sequence[Labels]:
        """The classes of its real set, where a threshold compares with those of one class."""
        if all(described.get(bound) is None for bound in _CLASS_BOUNDS):
            return ()
        return (Labels(None, str(described["images"]), described.get("images_sha256")),)

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """The set compared with."""
        settings = self.settings
        place = self.context.resolve(settings.images)
        return (RealImages("images", place, columns=settings.columns),)

    def check(self, check: FilterCheck) -> None:
        """Notes a set that is missing, too small or without an asked class; a missing encoder."""
        super().check(check)
        checker, settings = check.checker, self.settings
        if not check.check_files:
            return
        try:
            real = read_real_set(settings, self.context)
            sources = [image.source for image in real.images]
            if checker.pixels is not None:
                reader = self.context.images
                check_fit(sources, *checker.pixels, settings.fit, real.root, reader.read_size)
            check_pixels(sources, self.context.images)
        except SourceError as error:
            check.add(str(error), "images")
            return
        for name, where in checker.asked.fields.items():
            if real.class_names and name not in real.class_names:
                hint = advise(name, real.class_names)
                message = f"realism: {settings.images} has no class {name!r}: {hint}"
                checker.add(where, f"{message}; rename the class, or take another real set")

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns all scores, never NaN.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: the real images cannot be read, do not have the asked class or are all
                alike to the encoder, or the encoder failed.
        """
        found = {name: np.empty(len(samples)) for name in self.score_names}
        for size, rows in group_by_size(sample.pixels for sample in samples).items():
            fitted = self._fit(size)
            features = self.encode([samples[i].pixels for i in rows])
            asked = [self._find_asked(conditions[i].class_name) for i in rows]
            for name, values in fitted.score(features, asked).items():
                found[name][rows] = values
        return found

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, revision, encoder, and which real images were compared with.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: a real image cannot be read.
        """
        real = self._read_set()
        return {
            **super().describe(),
            "images_sha256": real.sha256,
            "images_used": len(real.images),
            "images_found": real.found,
        }

    @property
    def used_images(self) -> tuple[RealImage, ...]:
        """The real images used, with hashes and groups.

        Raises:
            FilterError: one cannot be read.
        """
        return self._read_set().images

    def find_nearest(self, pixels: NDArray[np.uint8]) -> Near:
        """Returns the nearest real image to (H, W, 3) uint8 RGB pixels.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: as `score`.
        """
        height, width = pixels.shape[:2]
        try:
            features = self.encode(pixels[None])[0]
            place, distance = self._fit((height, width)).find_nearest(features, 1)[0]
        except (ImportError, OSError) as error:
            raise FilterError(f"realism {self.settings.encoder}: {error}") from error
        return Near(self.used_images[place].source, self.settings.fit, distance)

    def leave_one_out(self, size: Size) -> Mapping[str, NDArray[np.float64]]:
        """Returns each real image's scores as if it were not in the set, in `used_images` order.

        Args:
            size: (height, width) in px that the images are brought to.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: as `score`.
        """
        return self._fit(size).own

    def _read_set(self) -> RealSet:
        if self._set is None:
            try:
                self._set = read_real_set(self.settings, self.context)
            except SourceError as error:
                raise FilterError(f"realism: {error}") from error
        return self._set

    def _find_asked(self, name: str | None) -> int | None:
        known = self._read_set().class_names
        if name is None or not known:
            return None
        if name not in known:
            has, root = ", ".join(known), self.settings.images
            raise FilterError(f"realism: {root} has no class {name!r}: it has {has}")
        return known.index(name)

    def _fit(self, size: Size) -> RealScores:
        """Returns what the real images of one size say; kept in memory."""
        if size not in self._fitted:
            real, (height, width) = self._read_set(), size
            try:
                blocks = [
                    self.encode(block)
                    for block in real.iterate_blocks(width, height, self.settings.fit)
                ]
                labels = [image.class_name for image in real.images]
                self._fitted[size] = RealScores(
                    np.concatenate(blocks), labels, self.settings.neighbours
                )
            except SourceError as error:
                raise FilterError(f"realism: {error}") from error
        return self._fitted[size]
