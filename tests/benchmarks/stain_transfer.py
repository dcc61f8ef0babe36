"""Stain transfer without a network: what a translation by a model is held against."""

import numpy as np
from numpy.typing import NDArray

from factory.core.color import to_density
from factory.core.glass import keep_glass
from factory.core.stain_transfer import LEAST_TISSUE, give_look, measure_look
from factory.core.stains import find_tissue

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]


def transfer_reinhard(images: Pixels, look: Pixels) -> Pixels:
    """Gives the tissue of each image the mean and deviation of the tissue of others.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        look: others of the target, whose statistics are averaged over images.
    """
    measured = measure_look(look)
    assert measured is not None
    return np.stack([give_look(image, measured) for image in images])


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
        is_told = _find(image).sum() > LEAST_TISSUE
        stains, own = _fit(density) if is_told else common
        amounts = _unmix(density, stains) * (strengths / np.maximum(own, 1e-6))
        pixels = 256.0 * np.exp(-amounts @ target).reshape(image.shape) - 1.0
        made.append(keep_glass(_round(pixels), image)[0])
    return np.stack(made)


def _fit(density: Values, least: float = 0.15, percent: float = 1.0) -> tuple[Values, Values]:
    """Returns (2, 3) stain colours, haematoxylin first, and the strengths of both."""
    stained = density[(density > least).all(1)].astype(np.float64)
    stained = stained if len(stained) > LEAST_TISSUE else density.astype(np.float64)
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


def _round(values: Values) -> Pixels:
    return np.rint(values.clip(0, 255)).astype(np.uint8)
