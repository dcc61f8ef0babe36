"""Features of an image set by an encoder, kept on disk by the pixels and weights they come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError
from factory.core.files.rows import RowFile, Rows, average_rows, hold
from factory.core.images import hash_pixels
from factory.evaluate.image_sets import ImageSet
from factory.models.encoders import Encoder
from factory.models.encoders.cache import FeatureCache


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """Features of a set, image by image.

    Attributes:
        values: (N, D) float32.
        pixels_sha256: (N,) hash of the fitted pixels, as `factory.core.images.hash_pixels`.
    """

    values: NDArray[np.float32]
    pixels_sha256: tuple[str, ...]


def encode_set(images: ImageSet, encoder: Encoder, cache: Path | None = None) -> SetFeatures:
    """Encodes a set block by block; blocks that the cache holds are read from there.

    Args:
        images: the set; its size and fit decide what the encoder sees.
        encoder: its features hang on an image's pixels alone.
        cache: folder to keep features in; None keeps none. A damaged file is computed anew.

    Raises:
        SourceError: an image that cannot be read.
        InputError: images that the encoder does not take.
        EvaluationError: the encoder failed, or gave numbers that are not finite.
        StoreError: the cache cannot be written.
    """
    rows: list[NDArray[np.float32]] = [np.zeros((0, encoder.dim), np.float32)]
    hashes: list[str] = []
    for named, values in iterate_encoded(images, encoder, cache):
        rows.append(values)
        hashes.extend(named)
    return SetFeatures(np.concatenate(rows), tuple(hashes))


def iterate_encoded(
    images: ImageSet, encoder: Encoder, cache: Path | None = None
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yields pixel hashes and (B, D) features of each block of a set; see `encode_set`."""
    kept = FeatureCache(cache, encoder)
    for block in images.iterate_blocks():
        named = [hash_pixels(pixels) for pixels in block]
        values = kept.read(named)
        if values is None:
            values = _encode(encoder, block)
            kept.write(named, values)
        yield named, values


class FeatureFile(RowFile):
    """Features in a file, (N, D) float32: memory holds a block of them."""

    dtype = np.float32

    def __init__(self, path: Path, dim: int) -> None:
        super().__init__(path)
        self.width = dim


@dataclass(frozen=True, slots=True)
class Scaling:
    """How features are scaled before they are compared.

    Attributes:
        mean: (K,) subtracted.
        deviation: (K,) divided by.
        varies: (D,) True for the K features that are kept.
        name: in words.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    varies: NDArray[np.bool_]
    name: str

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns (N, K) float64 of (N, D) features."""
        raw = values[:, self.varies].astype(np.float64)
        return np.asarray((raw - self.mean) / self.deviation)


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """Features that are scaled as they are read, (N, K) float64."""

    rows: Rows
    scaling: Scaling

    @property
    def count(self) -> int:
        """How many there are."""
        return self.rows.count

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Returns rows that follow each other."""
        return self.scaling.apply(self.rows.read(start, stop))

    def pick(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the rows of any places."""
        return self.scaling.apply(self.rows.pick(rows))


def fit_scaling(values: NDArray[np.float32] | Rows, described: dict[str, Any]) -> Scaling:
    """Returns the scaling by a real set's (N, D) features.

    Hand-made features have units of their own and are standardised, so that none counts more for
    its unit; those of learned encoders stay as they are, as the metrics' papers have them.

    Raises:
        EvaluationError: the features do not differ.
    """
    rows = hold(values)
    mean = average_rows(rows)
    deviation, dim = np.sqrt(average_rows(rows, 2, mean)), len(mean)
    varies = deviation > 1e-6 * (np.abs(mean) + 1e-6)
    if not varies.any():
        raise EvaluationError(
            f"encoder {described['id']}: the real images all look alike to it: take another"
        )
    if described["weights_sha256"] is not None:
        return Scaling(np.zeros(dim), np.ones(dim), np.ones(dim, bool), "none")
    name = f"by mean and deviation of the real set, {int(varies.sum())} features that vary"
    return Scaling(mean[varies], deviation[varies], varies, name)


def _encode(encoder: Encoder, block: NDArray[np.uint8]) -> NDArray[np.float32]:
    name = encoder.describe()["id"]
    try:
        values = np.asarray(encoder.encode(block), np.float32)
    except (RuntimeError, ValueError, OSError) as error:
        raise EvaluationError(f"encoder {name}: failed on images: {error}") from error
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"encoder {name}: gave features that are not finite: take another, or another size"
        )
    return values
