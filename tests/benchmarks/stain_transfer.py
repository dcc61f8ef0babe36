"""Stain transfer without a network: what a translation by a model is held against."""

import numpy as np
from numpy.typing import NDArray

from factory.core.color import to_density
from factory.core.glass import keep_glass
from factory.core.stains import find_tissue

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

# RGB to LMS, and log LMS to l, alpha, beta (Reinhard et al. 2001, eqs. 4 and 6).
_LMS = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], np.float64
)
_LAB = np.diag(np.array([3.0, 6.0, 2.0]) ** -0.5) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
_LEAST = 100  # px of tissue, to know its stains by


def transfer_reinhard(images: Pixels, look: Pixels) -> Pixels:
    """Gives the tissue of each image the mean and deviation of the tissue of others, channel-wise.

    In l-alpha-beta (Reinhard et al. 2001, Color transfer between images); glass stays.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        look: others of the target, whose statistics are averaged over images.
    """
    shown = [_to_lab(each)[tissue] for each in look if (tissue := _find(each)).sum() > _LEAST]
    mean = np.mean([each.mean(0) for each in shown], axis=0)
    spread = np.mean([each.std(0) for each in shown], axis=0)
    made = []
    for image in images:
        lab, tissue = _to_lab(image), _find(image)
        own = lab[tissue if tissue.sum() > _LEAST else ...].reshape(-1, 3)
        moved = (lab - own.mean(0)) / np.maximum(own.std(0), 1e-6) * spread + mean
        pixels = 255.0 * 10.0 ** (moved @ np.linalg.inv(_LAB).T) @ np.linalg.inv(_LMS).T
        made.append(keep_glass(_round(pixels), image)[0])
    return np.stack(made)


def transfer_macenko(images: Pixels, look: Pixels) -> Pixels:
    """Gives the stains of each image the colours and the strengths that those of others have.

    Two stains by the extreme angles in the plane of the optical densities, strengths by their 99th
    percentile (Macenko et al. 2009, A method for normalizing histology slides); glass stays.

    Args:
        images: (N, H, W, 3) uint8 RGB; one with too little tissue has the stains of all.
        look: others of the target, all together.
    """
    target, strengths = _fit(to_density(look).reshape(-1, 3))
    common = _fit(to_density(images).reshape(-1, 3))
    made = []
    for image in images:
        density = to_density(image).reshape(-1, 3)
        is_told = _find(image).sum() > _LEAST
        stains, own = _fit(density) if is_told else common
        amounts = _unmix(density, stains) * (strengths / np.maximum(own, 1e-6))
        pixels = 256.0 * np.exp(-amounts @ target).reshape(image.shape) - 1.0
        made.append(keep_glass(_round(pixels), image)[0])
    return np.stack(made)


def _fit(density: Values, least: float = 0.15, percent: float = 1.0) -> tuple[Values, Values]:
    """Returns (2, 3) stain colours, haematoxylin first, and the strengths of both."""
    stained = density[(density > least).all(1)].astype(np.float64)
    stained = stained if len(stained) > _LEAST else density.astype(np.float64)
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1.0, 1.0)
    angles = np.arctan2(*(stained @ plane).T[::-1])
    ends = np.percentile(angles, [percent, 100.0 - percent])
    stains = np.stack([plane @ (np.cos(end), np.sin(end)) for end in ends])
    stains = stains[np.argsort(-stains[:, 0])]
    return stains, np.percentile(_unmix(density, stains), 99, axis=0)


def _unmix(density: Values, stains: Values) -> Values:
    return np.asarray(density @ np.linalg.pinv(stains))


def _find(image: Pixels) -> NDArray[np.bool_]:
    return find_tissue(image[None])[0]


def _to_lab(image: Pixels) -> Values:
    return np.log10(np.maximum(image / 255.0 @ _LMS.T, 1 / 255.0)) @ _LAB.T


def _round(values: Values) -> Pixels:
    return np.rint(values.clip(0, 255)).astype(np.uint8)
