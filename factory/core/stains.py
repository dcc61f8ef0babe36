"""Attributes of H&E images measured from their pixels: nuclei, stain strength, tissue, open space.

Stains are unmixed by colour deconvolution (Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23:291,
2001). The measures describe what is seen, not what it means: no diagnosis follows from them, and
lengths are in pixels, so compare images of one scale only.
"""

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from factory.core.attributes import MEASURED
from factory.core.color import tabulate_density
from factory.core.errors import InputError

STAIN_VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Haematoxylin, eosin and a rest, optical density of R, G, B (Ruifrok & Johnston 2001, table 1)."""

UNMIX = np.linalg.inv(STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True))
"""(3, 3): optical densities of R, G, B times this give amounts of haematoxylin, eosin, rest."""

OPTICAL_DENSITY = tabulate_density().astype(np.float32)
"""(256,) float32: optical density of an 8-bit value, 0 for 255."""

Planes = NDArray[np.float32]

TISSUE_STRENGTH = 0.11
"""Strength of stain that tissue has at least (`measure_strength`)."""
LEAST_NUCLEUS = 12
"""px of area: a disc of 4 px across, the smallest nucleus whose size is measured."""
_MIN_SIDE = 16
_CHUNK_PIXELS = 32 * 96 * 96
_LEVELS = 64  # of the histogram, and the haematoxylin density of its top
_TOP = 1.28
_LEAST_NUCLEAR = 0.14  # haematoxylin density that a nucleus has at least
_DARKEST = 0.04  # share of the image that shows how dark its nuclei are,
_SHARE_OF_DARKEST = 0.62  # and the part of that darkness that is surely nuclear
_LEAST_SHARE = 0.01  # of the image, to average over
_OPEN_RADIUS = 5  # px
_SIGMAS = tuple(1.6**step for step in range(5))  # px
_DIAMETER_SLOPE = 6.2  # from mean scale to diameter, fitted to drawn discs of 4 to 16 px
_DIAMETER_START = 0.5


def measure_attributes(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Measures each image by itself; flips and quarter turns do not matter.

    Args:
        images: (N, H, W, 3) uint8 RGB, H and W at least 16 px.

    Returns:
        (N,) float32 for each name in `MEASURED`:
        `nuclear_density`: share of the image covered by nuclei, 0 to 1.
        `nuclear_size`: typical diameter of nuclei in px, from about 4 to 15 (larger ones read as
        15); NaN without nuclei. Where single nuclei are too small to be seen, it is of their nests.
        `haematoxylin`: mean haematoxylin optical density of nuclei; NaN without nuclei.
        `eosin`: mean eosin optical density of tissue outside nuclei, below 0 where it is bluish;
        NaN without such tissue.
        `tissue`: share of the image that is tissue, 0 to 1.
        `fat`: share in open bright areas at least 10 px wide (fat, lumen, glass), 0 to 1.

    Raises:
        InputError: the array has another shape or type.
    """
    shape_fits = images.ndim == 4 and images.shape[3] == 3 and min(images.shape[1:3]) >= _MIN_SIDE
    if not shape_fits or images.dtype != np.uint8:
        raise InputError(
            f"images must be (N, H >= {_MIN_SIDE}, W >= {_MIN_SIDE}, 3) uint8, "
            f"got {images.shape} {images.dtype}"
        )
    step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    chunks = [_measure_chunk(images[i : i + step]) for i in range(0, len(images), step)]
    return {
        name: np.concatenate([chunk[name] for chunk in chunks] or [np.zeros(0)]).astype(np.float32)
        for name in MEASURED
    }


def segment_nuclei(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns (N, H, W) bool: where nuclei are in (N, H, W, 3) uint8 RGB, by stain alone.

    No network and nothing learned: the haematoxylin of a colour deconvolution, smoothed by a
    Gaussian of 1 px, above each image's own threshold (`find_nuclei`).
    """
    haematoxylin = split_stains(images)[0]
    smooth = ndimage.gaussian_filter(haematoxylin, 1.0, truncate=3.0, axes=(1, 2))
    return find_nuclei(smooth, find_tissue(images))


def count_nuclei(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns (N,) how many nuclei, or clumps of them that touch, are in (N, H, W, 3) uint8 RGB.

    Connected parts of `segment_nuclei` of LEAST_NUCLEUS px or more.
    """
    counts = []
    for mask in segment_nuclei(images):
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        counts.append(int((sizes >= LEAST_NUCLEUS).sum()))
    return np.array(counts, np.int64)


def split_stains(images: NDArray[np.uint8]) -> Planes:
    """Returns (3, N, H, W) float32: amounts of haematoxylin, eosin and rest."""
    density = OPTICAL_DENSITY[np.moveaxis(images, 3, 0)]
    return np.stack(
        [
            density[0] * row[0] + density[1] * row[1] + density[2] * row[2]
            for row in UNMIX.T.astype(np.float32)
        ]
    )


def find_nuclei(haematoxylin: Planes, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns (N, H, W) bool: where nuclei are in a smoothed haematoxylin plane (N, H, W).

    The threshold is each image's own, between the lighter and the darker part of its tissue (Otsu
    1979), so that a pale or a dark stain changes little. It stays within bounds, so that tissue
    without nuclei has none and tissue full of nuclei is not halved.
    """
    most = np.maximum(_SHARE_OF_DARKEST * _average_darkest(haematoxylin), _LEAST_NUCLEAR)
    threshold = np.clip(_split_levels(haematoxylin, tissue), _LEAST_NUCLEAR, most)
    return np.asarray(haematoxylin > threshold[:, None, None]) & tissue


def _measure_chunk(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    stains = ndimage.gaussian_filter(split_stains(images), 1.0, truncate=3.0, axes=(2, 3))
    haematoxylin, eosin = stains[0], stains[1]
    tissue = find_tissue(images)
    nuclei = find_nuclei(haematoxylin, tissue)
    density = nuclei.mean((1, 2))
    return {
        "nuclear_density": density,
        "nuclear_size": np.where(density >= _LEAST_SHARE, _measure_sizes(haematoxylin), np.nan),
        "haematoxylin": _average_within(haematoxylin, nuclei),
        "eosin": _average_within(eosin, tissue & ~nuclei),
        "tissue": tissue.mean((1, 2)),
        "fat": np.array([_open_bright(mask) for mask in ~tissue]),
    }


def find_tissue(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns (N, H, W) bool: where stain is stronger than TISSUE_STRENGTH, smoothed."""
    return smooth_strength(measure_strength(OPTICAL_DENSITY[images])) > TISSUE_STRENGTH


def measure_strength(density: NDArray[Any]) -> NDArray[Any]:
    """Returns (...) how strong the stain is of (..., 3) optical densities of R, G, B.

    What absorbs green, grey counting half: both stains absorb green most, so a background that is a
    little dark or tinted is not tissue.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    return np.asarray(green - density.dtype.type(0.5) * np.minimum(red, blue))


def smooth_strength(strength: NDArray[Any]) -> NDArray[Any]:
    """Returns (..., H, W) strengths as they are compared: smoothed by a Gaussian of 1 px."""
    return np.asarray(ndimage.gaussian_filter(strength, 1.0, truncate=3.0, axes=(-2, -1)))


def _split_levels(planes: Planes, tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns (N,) thresholds that part each plane's tissue best in two (Otsu 1979, eq. 18)."""
    count = len(planes)
    level = np.clip(planes * (_LEVELS / _TOP), 0, _LEVELS - 1).astype(np.int64)
    level = (level + (_LEVELS * np.arange(count))[:, None, None])[tissue]
    table = np.bincount(level, minlength=_LEVELS * count).reshape(count, _LEVELS)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    omega = share.cumsum(1)
    mu = (share * np.arange(_LEVELS)).cumsum(1)
    inside = omega * (1.0 - omega)
    between = (mu[:, -1:] * omega - mu) ** 2 / np.maximum(inside, 1e-9)
    between[inside <= 1e-9] = 0.0
    # Equal maxima (an empty gap between two groups) give the gap's middle.
    best = between >= between.max(1, keepdims=True) * (1 - 1e-9)
    middle = (best * np.arange(_LEVELS)).sum(1) / best.sum(1)
    return np.asarray((middle + 1.0) * _TOP / _LEVELS)


def _measure_sizes(haematoxylin: Planes) -> NDArray[np.float64]:
    """Returns (N,) typical diameters of dark blobs, px, from planes smoothed by the first sigma.

    The scale at which differences of Gaussians answer most (Lindeberg, Int. J. Comput. Vis.
    30:79, 1998), as the mean of log sigma weighted by squared answers: nuclei that touch or are
    cut by the border need not be parted. The line from scale to diameter fits drawn discs.
    """
    last, energy = haematoxylin.clip(0.0), []
    for sigma, following in itertools.pairwise(_SIGMAS):
        step = math.sqrt(following**2 - sigma**2)
        now = ndimage.gaussian_filter(last, step, truncate=2.5, axes=(1, 2))
        energy.append((np.maximum(last - now, 0.0) ** 2).mean((1, 2), dtype=np.float64))
        last = now
    weight = np.stack(energy, axis=1) + 1e-12
    scale = np.exp((weight * np.log(_SIGMAS[:-1])).sum(1) / weight.sum(1))
    return np.asarray(_DIAMETER_SLOPE * (scale - _DIAMETER_START))


def _average_darkest(plane: Planes) -> NDArray[np.float64]:
    flat = plane.reshape(len(plane), -1)
    count = max(1, round(_DARKEST * flat.shape[1]))
    return np.asarray(np.partition(flat, -count, axis=1)[:, -count:].mean(1, dtype=np.float64))


def _average_within(plane: Planes, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    total = mask.sum((1, 2))
    enough = total >= _LEAST_SHARE * mask[0].size
    mean = (plane * mask).sum((1, 2), dtype=np.float64) / np.maximum(total, 1)
    return np.where(enough, mean, np.nan)


def _open_bright(bright: NDArray[np.bool_]) -> float:
    """Returns the share of bright pixels that a disc of 10 px inside the bright area reaches."""
    if not bright.any() or bright.all():
        return float(bright.all())
    inner = ndimage.distance_transform_edt(bright) > _OPEN_RADIUS
    if not inner.any():
        return 0.0
    return float((ndimage.distance_transform_edt(~inner) <= _OPEN_RADIUS).mean())
