"""Guiders: how guidance's two predictions of a velocity become one; formulas of each row alone."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.catalog.entries import Fraction, Strict


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a step's predictions are, each (N, C, h, w) torch.Tensor.

    Attributes:
        guided: velocity that classifier-free guidance makes of them.
        bound: velocity under all streams; None: guidance is 0.
        free: under none; None: it does not count.
        weight: of `free` in `guided`, 1 - scale where there is one scale.
        sample: where the images are on the path.
        sigma: share of noise there.
    """

    guided: Any
    bound: Any
    free: Any
    weight: float
    sample: Any
    sigma: Any


class GuiderSettings(Strict):
    """Base of guiders: a subclass changes what guidance makes of the predictions."""

    def guide(self, found: Predictions) -> Any:
        """Returns the velocity; that of guidance where there is nothing to change."""
        return found.guided if found.bound is None else self.change(found)

    @abstractmethod
    def change(self, found: Predictions) -> Any:
        """Returns the velocity, where there is a prediction under all streams."""


class ProjectedGuidance(GuiderSettings):
    """Adaptive projected guidance: less of the change along the image itself, which saturates.

    Sadat et al. 2024, arXiv 2410.02416, equation 6, of the image foreseen; without its momentum,
    which would be held between steps, and its bound.
    """

    kind: Literal["apg"]
    parallel: Fraction = Field(0.0, description="share kept of the change along the image")

    def change(self, found: Predictions) -> Any:
        """Returns the velocity with a part of the change taken off."""
        change = found.guided - found.bound
        foreseen = found.sample - found.sigma * found.bound
        along = _dot(change, foreseen) / _dot(foreseen, foreseen).clamp(min=1e-12)
        return found.guided - (1.0 - self.parallel) * along * foreseen


class ZeroStarGuidance(GuiderSettings):
    """CFG-Zero*: the prediction without streams is brought to the length that fits the other best.

    Fan et al. 2025, arXiv 2503.18886, equation 7; without its zero velocity at first steps.
    """

    kind: Literal["cfg_zero"]

    def change(self, found: Predictions) -> Any:
        """Returns the velocity with the prediction without streams scaled."""
        if found.free is None:
            return found.guided
        fitted = _dot(found.bound, found.free) / (_dot(found.free, found.free) + 1e-8)
        return found.guided + found.weight * (fitted - 1.0) * found.free


class RescaledGuidance(GuiderSettings):
    """Rescaled guidance: the guided velocity is as spread as that under all streams.

    Lin et al. 2023, arXiv 2305.08891, equations 14 to 16.
    """

    kind: Literal["rescale"]
    share: Fraction = Field(0.7, description="0 leaves guidance as it is, 1 rescales wholly")

    def change(self, found: Predictions) -> Any:
        """Returns the velocity rescaled."""
        bound, guided = (each.flatten(1).std(1) for each in (found.bound, found.guided))
        scale = self.share * bound / guided.clamp(min=1e-12) + (1.0 - self.share)
        return found.guided * scale.view(-1, 1, 1, 1)


Guider = Annotated[
    ProjectedGuidance | ZeroStarGuidance | RescaledGuidance, Field(discriminator="kind")
]


def _dot(one: Any, other: Any) -> Any:
    """Returns the (N, 1, 1, 1) inner products of rows."""
    return (one * other).flatten(1).sum(1).view(-1, 1, 1, 1)
