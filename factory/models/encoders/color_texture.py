"""`color-texture`: a deterministic hand-made encoder of stain, texture and nuclei; no weights.

Nothing is learned and nothing is downloaded, so it works anywhere and cannot share a teacher with a
generator. All features are averages over the image and, up to the sampling grid, do not change
under flips and quarter turns.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from factory.core.errors import InputError
from factory.core.stains import split_stains

REVISION = "1"
"""Raise it whenever any feature changes: it is the encoder's revision in provenance."""

Planes = NDArray[np.float32]

_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_BLOB_SIGMAS = (1.0, 1.5, 2.2, 3.3, 5.0)
_CHUNK_PIXELS = 32 * 64 * 64
_RADII = (1, 2, 4)
_LEVELS = 8
_BANDS = np.array([0.0, 0.03, 0.06, 0.1, 0.14, 0.19, 0.25, 0.32, 0.4, 0.51])


class ColorTextureEncoder:
    """Colour and texture statistics of images of at least 32 x 32 px."""

    dim: int

    def __init__(self) -> None:
        self.dim = _encode_chunk(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, weights hash (None: there are none), dim and preprocessing."""
        return {
            "id": "color-texture",
            "revision": REVISION,
            "weights_sha256": None,
            "dim": self.dim,
            "preprocessing": "none: features are taken at the image's own size",
        }

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describes each image by itself; who shares the batch does not matter.

        Args:
            images: (N, H, W, 3) uint8 RGB, H and W at least 32 px.

        Returns:
            (N, dim) float32, finite.

        Raises:
            InputError: the array has another shape.
        """
        if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < 32:
            raise InputError(f"images must be (N, H >= 32, W >= 32, 3), got {images.shape}")
        step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
        chunks = [_encode_chunk(images[i : i + step]) for i in range(0, len(images), step)]
        return np.concatenate(chunks) if chunks else np.zeros((0, self.dim), np.float32)


def _encode_chunk(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    planes = _split_planes(images)
    haematoxylin, eosin, grey = planes[3], planes[4], planes[6]
    parts: list[NDArray[Any]] = [
        _describe_colours(planes),
        _describe_gradients(haematoxylin),
        _describe_gradients(grey),
        _describe_blobs(haematoxylin),
        _describe_openings(haematoxylin),
        _describe_nuclei(haematoxylin),
    ]
    parts.extend(_describe_spectrum(plane) for plane in (haematoxylin, eosin, grey))
    for radius in _RADII:
        parts.append(_describe_patterns(grey, radius))
        parts.append(_describe_patterns(haematoxylin, radius))
        parts.append(_describe_pairs(haematoxylin, radius, 0.8))
        parts.append(_describe_pairs(eosin, radius, 0.6))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _split_planes(images: NDArray[np.uint8]) -> Planes:
    """Returns (8, N, H, W) float32: R, G, B, haematoxylin, eosin, rest, grey, saturation."""
    channels = np.ascontiguousarray(np.moveaxis(images, 3, 0))
    red, green, blue = rgb = channels.astype(np.float32) / np.float32(255.0)
    grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    saturation = rgb.max(0) - rgb.min(0)
    return np.stack([red, green, blue, *split_stains(images), grey, saturation])


def _measure_moments(flat: Planes) -> tuple[Planes, Planes, Planes]:
    """Returns mean, deviation and skewness over the last axis."""
    mean = flat.mean(-1)
    centred = flat - mean[..., None]
    square = centred * centred
    deviation = np.sqrt(square.mean(-1)) + np.float32(1e-6)
    return mean, deviation, (square * centred).mean(-1) / deviation**3


def _pick_quantiles(flat: Planes, quantiles: tuple[float, ...]) -> Planes:
    """Returns the nearest-rank quantiles over the last axis."""
    ranks = np.round(np.array(quantiles) * (flat.shape[-1] - 1)).astype(int)
    return np.asarray(np.sort(flat, axis=-1)[..., ranks])


def _describe_colours(planes: Planes) -> Planes:
    """Mean, deviation, skewness and quantiles of every plane, and correlations of R, G, B, H, E."""
    flat = planes.reshape(*planes.shape[:2], -1).swapaxes(0, 1)
    count = len(flat)
    mean, deviation, skewness = _measure_moments(flat)
    quantiles = _pick_quantiles(flat, _QUANTILES).reshape(count, -1)
    scaled = (flat[:, :5] - mean[:, :5, None]) / deviation[:, :5, None]
    pairs = [(scaled[:, i] * scaled[:, j]).mean(1) for i in range(5) for j in range(i + 1, 5)]
    return np.concatenate([mean, deviation, skewness, quantiles, np.stack(pairs, 1)], axis=1)


def _describe_gradients(plane: Planes) -> Planes:
    """Mean, deviation and quantiles of the gradient length at three scales."""
    found = []
    for _ in range(3):
        down = plane[:, 2:, 1:-1] - plane[:, :-2, 1:-1]
        across = plane[:, 1:-1, 2:] - plane[:, 1:-1, :-2]
        length = np.sqrt(down * down + across * across).reshape(len(plane), -1)
        found += [length.mean(1)[:, None], length.std(1)[:, None]]
        found.append(_pick_quantiles(length, (0.25, 0.5, 0.75, 0.95)))
        plane = _halve(plane)
    return np.concatenate(found, axis=1)


def _halve(plane: Planes) -> Planes:
    height, width = (side // 2 * 2 for side in plane.shape[1:])
    even = plane[:, :height, :width]
    upper, lower = even[:, ::2], even[:, 1::2]
    total = upper[:, :, ::2] + upper[:, :, 1::2] + lower[:, :, ::2] + lower[:, :, 1::2]
    return total * np.float32(0.25)


def _describe_blobs(plane: Planes) -> Planes:
    """Statistics of differences of Gaussians: how strong blobs of about 2 to 10 px are."""
    count, last = len(plane), plane
    found: list[Planes] = []
    for sigma in _BLOB_SIGMAS:
        smooth = ndimage.gaussian_filter(plane, sigma, truncate=3.0, axes=(1, 2))
        band = (last - smooth).reshape(count, -1)
        found += [np.stack(_measure_moments(band)[1:], 1), _pick_quantiles(band, (0.05, 0.95))]
        last = smooth
    return np.concatenate(found, axis=1)


def _describe_openings(plane: Planes) -> Planes:
    """Granulometry: what grey openings and closings of growing size remove (Matheron 1975).

    Squares of 3 and 5 px on the plane, then on the plane at half its size.
    """
    count = len(plane)
    found: list[Planes] = []
    for scale in (plane, _halve(plane)):
        for operation in (ndimage.grey_opening, ndimage.grey_closing):
            last = scale
            for size in (3, 5):
                now = operation(scale, size=(1, size, size))
                found += [np.abs(last - now).reshape(count, -1).mean(1)]
                found += [now.reshape(count, -1).std(1)]
                last = now
    return np.stack(found, axis=1)


def _describe_spectrum(plane: Planes) -> Planes:
    """Log power in rings of spatial frequency (cycles per px)."""
    count, height, width = plane.shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    centred = plane - plane.reshape(count, -1).mean(1)[:, None, None]
    waves = fft.rfft2(centred * window).reshape(count, -1)
    power = (waves.real**2 + waves.imag**2) / (height * width)
    radius = np.hypot(*np.meshgrid(fft.fftfreq(height), fft.rfftfreq(width), indexing="ij"))
    ring = np.digitize(radius.ravel(), _BANDS) - 1
    # All but the outer columns of a real transform stand for two of the full plane.
    twice = np.ones(radius.shape, np.float32)
    twice[:, 1 : (width + 1) // 2] = 2.0
    means = []
    for index in range(len(_BANDS) - 1):
        weight = twice.ravel()[ring == index]
        means.append((power[:, ring == index] * weight).sum(1) / weight.sum())
    return np.log10(np.stack(means, axis=1) + np.float32(1e-8))


def _describe_nuclei(plane: Planes) -> NDArray[np.float64]:
    """Area share, number, mean and deviation of size of dark blobs at three thresholds."""
    smooth = ndimage.gaussian_filter(plane, 1.0, truncate=3.0, axes=(1, 2))
    return np.array([_measure_nuclei(image) for image in smooth])


def _measure_nuclei(image: Planes) -> list[float]:
    mean, deviation = float(image.mean()), float(image.std())
    found: list[float] = []
    for threshold in (0.35, mean + 0.5 * deviation, mean + deviation):
        labels, _ = ndimage.label(image > threshold)
        sizes = np.bincount(labels.ravel())[1:]
        sizes = sizes[sizes >= 4]
        side = np.sqrt(sizes) if len(sizes) else np.zeros(1)
        found += [sizes.sum() / image.size, 1000.0 * len(sizes) / image.size]
        found += [float(side.mean()), float(side.std()), float(side.max())]
    return found


def _describe_patterns(plane: Planes, radius: int) -> NDArray[np.float64]:
    """Histogram of uniform local binary patterns without orientation, LBP riu2 (Ojala et al. 2002).

    The eight neighbours lie on the square of side 2 `radius`.
    """
    count = len(plane)
    floor = plane[:, radius:-radius, radius:-radius] + np.float32(0.01)
    ring = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    code = np.zeros(floor.shape, np.uint8)
    for bit, (down, across) in enumerate(ring):
        top, left = radius * (1 + down), radius * (1 + across)
        shifted = plane[:, top : top + floor.shape[1], left : left + floor.shape[2]]
        code |= (shifted > floor).astype(np.uint8) << np.uint8(bit)
    pattern = _UNIFORM[code].reshape(count, -1)
    return _count_rows(pattern, 10) / pattern.shape[1]


def _count_rows(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Returns (N, size) how often each value occurs in each row."""
    count = len(values)
    shifted = values + size * np.arange(count)[:, None]
    return np.bincount(shifted.ravel(), minlength=size * count).reshape(count, size)


def _describe_pairs(plane: Planes, radius: int, top: float) -> NDArray[np.float64]:
    """Co-occurrence of levels at a distance, four directions pooled (Haralick et al. 1973)."""
    count = len(plane)
    level = np.clip(plane * np.float32(_LEVELS / top), 0, _LEVELS - 1).astype(np.int64)
    pairs = (
        (level[:, :, :-radius], level[:, :, radius:]),
        (level[:, :-radius], level[:, radius:]),
        (level[:, :-radius, :-radius], level[:, radius:, radius:]),
        (level[:, radius:, :-radius], level[:, :-radius, radius:]),
    )
    joined = [(first * _LEVELS + second).reshape(count, -1) for first, second in pairs]
    table = _count_rows(np.concatenate(joined, axis=1), _LEVELS**2)
    square = table.reshape(count, _LEVELS, _LEVELS)
    square = (square + square.swapaxes(1, 2)) / (2 * table.sum(1)[:, None, None])
    rows, columns = np.triu_indices(_LEVELS)
    return np.asarray(np.sqrt(square[:, rows, columns]))


def _build_uniform() -> NDArray[np.int64]:
    """Maps an 8-bit ring to its riu2 pattern: bits set where at most two changes, else 9."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(1)
    return np.where(changes <= 2, bits.sum(1), 9)


_UNIFORM = _build_uniform()
