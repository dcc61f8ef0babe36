"""What is tissue in an image is tissue in another that is made of it, and nothing else is."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from factory.core.color import tabulate_density
from factory.core.stains import (
    STAIN_VECTORS,
    TISSUE_STRENGTH,
    find_tissue,
    measure_strength,
    smooth_strength,
)

LEAST_GAIN, MOST_GAIN = 0.2, 4.0
"""How strongly strength may grow around the threshold of tissue: of less 8 bits would not tell
tissue from glass, with more `_bend` would not rise everywhere."""
_LEAST = 0.02  # strength that the mean of tissue must have to tell a direction
_DENSITY = tabulate_density()
_View = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_ROUNDS: tuple[tuple[int, float, _View], ...] = (
    (2, 1.0, lambda strength: strength),
    (20, 1.8, smooth_strength),
)
"""Rounds and how far each goes (over-relaxed: smoothing takes detail, so that single steps are
short): over pixels by themselves, then over what `find_tissue` compares, smoothed."""
_EOSIN: NDArray[np.float64] = STAIN_VECTORS[1] / np.linalg.norm(STAIN_VECTORS[1])


def keep_tissue(
    made: NDArray[np.uint8], source: NDArray[np.uint8], by_eosin: bool = False
) -> NDArray[np.uint8]:
    """Returns an image whose tissue, as `find_tissue` has it, is where that of its source is.

    The strength of stain (`measure_strength`) becomes a function of that of the source, smooth and
    rising, which leaves glass and the threshold of tissue what they are (`_bend`); its slope there
    is such that the tissue is as strong, on average, as it was made. What is too strong or too weak
    loses or gets the mean colour of the tissue that was made, so that the hue is of the new stain.

    Args:
        made: (H, W, 3) uint8 RGB.
        source: of the same shape.
        by_eosin: gives and takes eosin instead, which leaves the haematoxylin as it was made; for
            what little is to be mended.
    """
    tissue = find_tissue(source[None])[0]
    density, real = _DENSITY[made], measure_strength(_DENSITY[source])
    gain, colour = 1.0, _EOSIN
    if tissue.any():
        own = float(real[tissue].mean()) - TISSUE_STRENGTH
        wanted = float(measure_strength(density)[tissue].mean()) - TISSUE_STRENGTH
        gain = min(max(wanted / own, LEAST_GAIN), MOST_GAIN) if own > 0 else 1.0
        mean = density[tissue].mean(0)
        if not by_eosin and measure_strength(mean) > _LEAST:
            colour = mean
    step = colour / measure_strength(colour)
    for rounds, far, view in _ROUNDS:
        target = _bend(view(real), gain)
        for _ in range(rounds):
            lacking = far * (target - view(measure_strength(density)))
            density = np.maximum(density + lacking[..., None] * step, 0.0)
    return np.asarray(np.rint((256.0 * 10.0**-density - 1.0).clip(0.0, 255.0)), np.uint8)


def _bend(strength: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    """Returns strengths that are what they were at 0, below it, and at the threshold of tissue.

    Above that they are straight of slope `gain`, between the two the cubic of Hermite that joins
    both with one slope; it rises for any gain in (0, 4].
    """
    part = strength / TISSUE_STRENGTH
    between = part + (1.0 - gain) * part**2 * (1.0 - part)
    bent = np.where(part < 0.0, part, np.where(part < 1.0, between, 1.0 + gain * (part - 1.0)))
    return np.asarray(TISSUE_STRENGTH * bent)
