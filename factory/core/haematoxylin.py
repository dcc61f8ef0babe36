"""The haematoxylin of an image, laid where that of the image lies that it was made of."""

import numpy as np
from numpy.typing import NDArray

from factory.core.color import tabulate_density
from factory.core.stains import UNMIX, find_tissue

LEAST_SHARE = 0.01
"""Share of an image that must be tissue for its haematoxylin to be laid anew."""
_LEAST_SPREAD = 1e-3
_DENSITY = tabulate_density()
_MIX = np.linalg.inv(UNMIX)


def keep_haematoxylin(
    made: NDArray[np.uint8],
    source: NDArray[np.uint8],
    strength: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Returns an image with the haematoxylin of its source, as strong as it was made.

    Both are unmixed by colour deconvolution (Ruifrok & Johnston 2001, `factory.core.stains`). The
    plane of haematoxylin becomes that of the source, brought to the mean and the standard deviation
    that the one which was made has in the tissue of the source; eosin and rest stay as they were
    made. So nuclei are where they were, in the stain of the target. An image with hardly any
    tissue, or the same haematoxylin everywhere, is returned as it is.

    Args:
        made: (H, W, 3) uint8 RGB.
        source: of the same shape.
        strength: mean and deviation that it gets instead of those of `made`.
    """
    tissue = find_tissue(source[None])[0]
    if tissue.mean() < LEAST_SHARE:
        return made
    stains, real = _DENSITY[made] @ UNMIX, _DENSITY[source] @ UNMIX
    wanted, plane = stains[..., 0], real[..., 0]
    spread = plane[tissue].std()
    if spread < _LEAST_SPREAD:
        return made
    mean, deviation = strength or (wanted[tissue].mean(), wanted[tissue].std())
    stains[..., 0] = mean + deviation / spread * (plane - plane[tissue].mean())
    values = 256.0 * 10.0 ** -(stains @ _MIX) - 1.0
    return np.asarray(np.rint(values.clip(0.0, 255.0)), np.uint8)
