"""Guidance by stream: scale and interval of each, and the predictions that a step needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NAMES = ("class_name", "caption", "embedding", "vector", "control", "scale")
"""The streams of `MultiTransformer`, as families and catalogs call them."""


@dataclass(frozen=True, slots=True)
class StreamScale:
    """How strongly a stream is followed, and where on the path.

    Attributes:
        scale: 1 follows it as it is, 0 not at all.
        low: least share of noise at which `scale` holds; elsewhere it is 1 (Kynkäänniemi et al.
            2024, arXiv 2404.07724).
        high: likewise the most.
    """

    scale: float
    low: float = 0.0
    high: float = 1.0

    def at(self, sigma: float) -> float:
        """Returns the scale at a share of noise."""
        return self.scale if self.low <= sigma <= self.high else 1.0


def plan_predictions(
    names: Iterable[str], scale: float, own: Mapping[str, StreamScale], sigma: float
) -> list[tuple[frozenset[str], float]]:
    """Returns which streams the network is shown, and the weights of what it then predicts.

    Streams are added one after the other, those of lower scale first, and each change counts by its
    stream's scale: v = v() + w1 (v(1) - v()) + w2 (v(1, 2) - v(1)) + ... (the nested guidance of
    Brooks et al. 2023, arXiv 2211.09800, equation 3). Streams of one scale come together, and
    predictions of weight 0 are left out, so one scale for all is classifier-free guidance as it is
    known: two predictions, or one at scale 1. Adding each stream's own difference to the null
    instead would cost as much or more, and at scales of 1 not give the joint prediction.

    Args:
        names: streams of the model.
        scale: of the streams without one of their own.
        own: stream -> its scale.
        sigma: share of noise of the step.
    """
    scales = {name: own[name].at(sigma) if name in own else float(scale) for name in names}
    values = sorted(set(scales.values()))
    shown: frozenset[str] = frozenset()
    plan = [(shown, 1.0 - values[0] if values else 1.0)]
    for value, following in zip(values, [*values[1:], 0.0], strict=True):
        shown = shown | {name for name, each in scales.items() if each == value}
        plan.append((shown, value - following))
    return [(names, weight) for names, weight in plan if weight != 0.0]
