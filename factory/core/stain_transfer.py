"""Stain transfer without a network: the tissue of an image gets the stain that others have."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Three = tuple[float, float, float]

# RGB to LMS, and log LMS to l, alpha, beta (Reinhard et al. 2001, eqs. 4 and 6).
_LMS = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], np.float64
)
_LAB = np.diag(np.array([3.0, 6.0, 2.0]) ** -0.5) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
LEAST_TISSUE = 100
"""px of tissue, to know the stain of an image by."""
_DECIMALS = 4  # rounded, so that last bits never decide an id


@dataclass(frozen=True, slots=True)
class StainLook:
    """Mean and standard deviation of tissue in l, alpha, beta: what a stain looks like."""

    mean: Three
    spread: Three

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {name: list(values) for name, values in asdict(self).items()}


REFERENCE = StainLook((-0.6117, -0.1035, 0.0255), (0.3719, 0.0669, 0.0174))
"""The look of PatchCamelyon's training images: what images are brought to before nuclei are counted
in stains that differ (`normalise`)."""


def measure_look(images: Iterable[Pixels]) -> StainLook | None:
    """Returns the look of images, averaged over them; None where none has tissue enough.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
    """
    shown = [
        _to_lab(each)[tissue] for each in images if (tissue := _find(each)).sum() > LEAST_TISSUE
    ]
    if not shown:
        return None
    mean = np.mean([each.mean(0) for each in shown], axis=0).round(_DECIMALS)
    spread = np.mean([each.std(0) for each in shown], axis=0).round(_DECIMALS)
    return StainLook(_name(mean), _name(spread))


def give_look(image: Pixels, look: StainLook, own: StainLook | None = None) -> Pixels:
    """Gives the tissue of an image the mean and deviation of a look, channel-wise; glass stays.

    In l-alpha-beta (Reinhard et al. 2001, Color transfer between images, IEEE Comput. Graph. Appl.
    21(5)). An image with too little tissue is taken as a whole.

    Args:
        image: (H, W, 3) uint8 RGB.
        look: of others.
        own: what the image is taken to look like; None: as it does. Images of one `own` keep what
            they differ in.
    """
    from factory.core.glass import keep_glass

    lab = _to_lab(image)
    mean, spread = _measure_own(lab, image) if own is None else (own.mean, own.spread)
    moved = (lab - mean) / np.maximum(spread, 1e-6) * look.spread + look.mean
    pixels = 255.0 * 10.0 ** (moved @ np.linalg.inv(_LAB).T) @ np.linalg.inv(_LMS).T
    return keep_glass(np.rint(pixels.clip(0, 255)).astype(np.uint8), image)[0]


def normalise(images: Pixels) -> Pixels:
    """Gives each of (N, H, W, 3) uint8 RGB images the look `REFERENCE`.

    What is measured above a threshold of stain then depends on where the stain is, and hardly on
    how strong it is.
    """
    return np.stack([give_look(each, REFERENCE) for each in images])


def restain(image: Pixels, look: StainLook, own: StainLook | None = None) -> Pixels:
    """Gives an image a look, and its own haematoxylin plane back, as strong as the look has it.

    So nuclei are where they were (`keep_haematoxylin`), and glass is what it was. Arguments as in
    `give_look`.
    """
    from factory.core.glass import keep_glass
    from factory.core.haematoxylin import keep_haematoxylin

    return keep_glass(keep_haematoxylin(give_look(image, look, own), image), image)[0]


def _measure_own(lab: NDArray[np.float64], image: Pixels) -> tuple[Any, Any]:
    tissue = _find(image)
    shown = lab[tissue if tissue.sum() > LEAST_TISSUE else ...].reshape(-1, 3)
    return shown.mean(0), shown.std(0)


def _find(image: Pixels) -> NDArray[np.bool_]:
    from factory.core.stains import find_tissue

    return np.asarray(find_tissue(image[None])[0])


def _to_lab(image: Pixels) -> NDArray[np.float64]:
    return np.asarray(np.log10(np.maximum(image / 255.0 @ _LMS.T, 1 / 255.0)) @ _LAB.T)


def _name(values: NDArray[np.float64]) -> Three:
    first, second, third = map(float, values)
    return first, second, third
