"""`realism`: rejects images that lie too far from a set of real ones, or too near to one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import FilterError, SourceError
from factory.data.records import Condition, Sample, Verdict
from factory.filters.base import Surroundings
from factory.filters.real.scores import SCORES, RealScores
from factory.filters.real.set import RealImage, RealSet, read_real_set
from factory.filters.settings import RealismFilter

if TYPE_CHECKING:
    from factory.models.encoders import Encoder

REVISION = "1"
Size = tuple[int, int]


class RealismJudge:
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

    kind: ClassVar[str] = "realism"
    score_names: tuple[str, ...] = (*SCORES, *(f"{name}_quantile" for name in SCORES))
    thresholds: ClassVar[Mapping[str, str]] = {
        "min_realism": "realism",
        "min_realism_quantile": "realism_quantile",
        "max_neighbour_distance": "neighbour_distance",
        "max_neighbour_distance_quantile": "neighbour_distance_quantile",
        "max_mahalanobis_distance": "mahalanobis_distance",
        "max_mahalanobis_distance_quantile": "mahalanobis_distance_quantile",
        "max_centroid_distance": "centroid_distance",
        "max_centroid_distance_quantile": "centroid_distance_quantile",
        "min_authenticity": "authenticity_ratio",
        "min_authenticity_quantile": "authenticity_ratio_quantile",
    }

    def __init__(self, settings: RealismFilter, surroundings: Surroundings) -> None:
        self.settings, self._surroundings = settings, surroundings
        self._set: RealSet | None = None
        self._encoder: Encoder | None = None
        self._fitted: dict[Size, RealScores] = {}

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns all scores, never NaN.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: the real images cannot be read, do not have the asked class or are all
                alike to the encoder, or the encoder failed.
        """
        found = {name: np.empty(len(samples)) for name in self.score_names}
        sizes = [sample.pixels.shape[:2] for sample in samples]
        for height, width in dict.fromkeys(sizes):
            rows = [i for i, size in enumerate(sizes) if size == (height, width)]
            fitted = self._fit((height, width))
            features = self._encode(np.stack([samples[i].pixels for i in rows]))
            asked = [self._find_asked(conditions[i].class_name) for i in rows]
            for name, values in fitted.score(features, asked).items():
                found[name][rows] = values
        return found

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects a score on the wrong side of a threshold that is set."""
        for field, name in self.thresholds.items():
            limit = getattr(self.settings, field)
            if limit is None:
                continue
            value = scores[name]
            if field.startswith("min_") and value < limit:
                return Verdict(False, self.kind, f"{name} {value:g} < {limit:g}")
            if field.startswith("max_") and value > limit:
                return Verdict(False, self.kind, f"{name} {value:g} > {limit:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, revision, encoder, and which real images were compared with.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: a real image cannot be read.
        """
        encoder, real = self._load_encoder().describe(), self._read_set()
        return {
            **self.settings.model_dump(mode="json", exclude_none=True),
            "revision": REVISION,
            "encoder_revision": encoder["revision"],
            "weights_sha256": encoder["weights_sha256"],
            "images_sha256": real.sha256,
            "images_used": len(real.images),
            "images_found": real.found,
        }

    @property
    def real_images(self) -> tuple[RealImage, ...]:
        """The real images used, with hashes and groups; `nearest` gives positions in it.

        Raises:
            FilterError: one cannot be read.
        """
        return self._read_set().images

    def nearest(self, pixels: NDArray[np.uint8], count: int = 1) -> list[tuple[int, float]]:
        """Returns the nearest real images to (H, W, 3) uint8 RGB pixels, nearest first.

        Returns:
            (position in `real_images`, distance in units of the set's median k-NN distance).

        Raises:
            InputError: the encoder cannot be had.
            FilterError: as `score`.
        """
        height, width = pixels.shape[:2]
        fitted = self._fit((height, width))
        return fitted.find_nearest(self._encode(pixels[None])[0], count)

    def leave_one_out(self, size: Size) -> Mapping[str, NDArray[np.float64]]:
        """Returns each real image's scores as if it were not in the set, in `real_images` order.

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
                self._set = read_real_set(self.settings, self._surroundings.base)
            except SourceError as error:
                raise FilterError(f"realism: {error}") from error
        return self._set

    def _load_encoder(self) -> "Encoder":
        if self._encoder is None:
            base, encoders = self._surroundings.base, self._surroundings.encoders
            self._encoder = encoders.load(self.settings.encoder, base)
        return self._encoder

    def _encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return self._load_encoder().encode(images)
        except (RuntimeError, ValueError, OSError) as error:
            raise FilterError(f"realism {self.settings.encoder}: {error}") from error

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
                    self._encode(block)
                    for block in real.iterate_blocks(width, height, self.settings.fit)
                ]
                labels = [image.class_name for image in real.images]
                self._fitted[size] = RealScores(
                    np.concatenate(blocks), labels, self.settings.neighbours
                )
            except SourceError as error:
                raise FilterError(f"realism: {error}") from error
        return self._fitted[size]
