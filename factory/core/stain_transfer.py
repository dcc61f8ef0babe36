"""Stain transfer without a network: the tissue of an image gets the stain that others have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, TypeAlias

from factory.core.late import NDArray, np

Pixels: TypeAlias = "NDArray[np.uint8]"
Three = tuple[float, float, float]

LEAST_TISSUE = 100
"""px of tissue, to know the stain of an image by."""
RESTAINED = 2
"""Version of `restain`, part of the identity of what it made."""
STRETCH = 1.25
"""How far the contrast of images is stretched at most: farther, colours are of no stain."""
SQUEEZE = 0.5
"""And how far it is squeezed."""
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
HAEMATOXYLIN = (0.2528, 0.198)
"""Mean and standard deviation of haematoxylin in the tissue of these."""


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
    lms, from_lms = _build_matrices()
    pixels = 255.0 * 10.0 ** (moved @ np.linalg.inv(from_lms).T) @ np.linalg.inv(lms).T
    return keep_glass(np.rint(pixels.clip(0, 255)).astype(np.uint8), image)[0]


def normalise(images: Pixels) -> Pixels:
    """Gives each of (N, H, W, 3) uint8 RGB images the look `REFERENCE`, as `restain` does.

    Its contrast, too, however far it is: what is measured above a threshold of stain then depends
    on where the stain is, and hardly on how strong it is.
    """
    return np.stack([_restain(each, REFERENCE, None, HAEMATOXYLIN) for each in images])


def restain(image: Pixels, look: StainLook, own: StainLook | None = None) -> Pixels:
    """Gives an image a look, in which nuclei, tissue and glass are where they were.

    Mean and deviation of its tissue become those of the look (`give_look`), the deviation as far as
    `bound_contrast` lets it; tissue stays tissue and nothing else becomes it (`keep_tissue`); its
    own haematoxylin plane comes back, as strong as the look has it (`keep_haematoxylin`). What
    changes here makes images that no earlier version made again: raise RESTAINED.

    Args:
        image: (H, W, 3) uint8 RGB.
        look: of others.
        own: as in `give_look`.
    """
    before = own or StainLook(*map(_name, _measure_own(_to_lab(image), image)))
    return _restain(image, bound_contrast(look, before), own)


def bound_contrast(look: StainLook, own: StainLook) -> StainLook:
    """Returns a look whose deviations are SQUEEZE to STRETCH times those of what it is given to."""
    pairs = zip(look.spread, own.spread, strict=True)
    spread = [min(max(each, SQUEEZE * before), STRETCH * before) for each, before in pairs]
    return StainLook(look.mean, _name(np.round(spread, _DECIMALS)))


def _restain(
    image: Pixels,
    look: StainLook,
    own: StainLook | None,
    haematoxylin: tuple[float, float] | None = None,
) -> Pixels:
    from factory.core.glass import keep_glass
    from factory.core.haematoxylin import keep_haematoxylin
    from factory.core.tissue import keep_tissue

    made = keep_tissue(give_look(image, look, own), image)
    made = keep_haematoxylin(made, image, haematoxylin)
    return keep_tissue(keep_glass(made, image)[0], image, by_eosin=True)


@cache
def _build_matrices() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns RGB to LMS, and log LMS to l, alpha, beta (Reinhard et al. 2001, eqs. 4 and 6)."""
    lms = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
    turn = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
    return np.array(lms), np.diag(np.array([3.0, 6.0, 2.0]) ** -0.5) @ turn


def _measure_own(lab: NDArray[np.float64], image: Pixels) -> tuple[Any, Any]:
    tissue = _find(image)
    shown = lab[tissue if tissue.sum() > LEAST_TISSUE else ...].reshape(-1, 3)
    return shown.mean(0), shown.std(0)


def _find(image: Pixels) -> NDArray[np.bool_]:
    from factory.core.stains import find_tissue

    return np.asarray(find_tissue(image[None])[0])


def _to_lab(image: Pixels) -> NDArray[np.float64]:
    lms, from_lms = _build_matrices()
    return np.asarray(np.log10(np.maximum(image / 255.0 @ lms.T, 1 / 255.0)) @ from_lms.T)


def _name(values: NDArray[Any]) -> Three:
    first, second, third = map(float, values)
    return first, second, third
