"""How much samples copy the few images that a model was adapted to."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.thumbnails import DIM, Descriptors, compare_all, describe_images, turn_descriptors
from factory.filters.training_copy import TrainingCopyFilter

LEAST_SIMILARITY = 0.9
"""Real patches of other slides reach .87 (`factory.core.thumbnails`); below it is no copy."""

MOST_SIMILARITY: float = TrainingCopyFilter.Settings.model_fields["max_similarity"].default
"""Above it, shots are near-duplicates of each other."""

_FEATURELESS = 0.8
"""Share of a descriptor that is its constant floor: detail below 0.75 grey levels."""


@dataclass(frozen=True, slots=True)
class CopyCheck:
    """What one check found.

    Attributes:
        step: training steps done.
        images: samples compared.
        copies: share of them more similar to a shot than the threshold, in [0, 1].
        highest: largest similarity of a sample to a shot.
        median: median over the samples of their largest similarity.
        threshold: similarity from which a sample counts as a copy.
        loss: mean training loss since the check before.
    """

    step: int
    images: int
    copies: float
    highest: float
    median: float
    threshold: float
    loss: float

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data, rounded to 4 decimals."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class CopyMeter:
    """Compares samples with the shots, over all flips and quarter turns, as `training_copy` does.

    The threshold is how similar two different shots are at most, but at least LEAST_SIMILARITY and
    at most MOST_SIMILARITY; or the one that is given. An image without structure (empty background)
    copies nothing.

    Args:
        shots: (N, H, W, 3) uint8 RGB, fitted as the model sees them.
        max_similarity: threshold, or None to read it off the shots.
    """

    def __init__(self, shots: NDArray[np.uint8], max_similarity: float | None) -> None:
        self._shots = describe_images(shots)
        self.shots_similarity = _compare_others(self._shots)
        among = min(max(self.shots_similarity, LEAST_SIMILARITY), MOST_SIMILARITY)
        self.threshold = among if max_similarity is None else max_similarity

    def check(self, samples: NDArray[np.uint8], step: int, loss: float) -> CopyCheck:
        """Measures samples, (N, H, W, 3) uint8 RGB."""
        described = describe_images(samples)
        similar = compare_all(described, self._shots.astype(np.float32))
        is_copy = (similar > self.threshold) & ~find_featureless(described)
        return CopyCheck(
            step=step,
            images=len(samples),
            copies=float(is_copy.mean()),
            highest=float(similar.max()),
            median=float(np.median(similar)),
            threshold=self.threshold,
            loss=loss,
        )


def find_featureless(described: Descriptors) -> NDArray[np.bool_]:
    """Returns (N,) True for images without structure, such as empty background: they copy nothing.

    Args:
        described: (N, 256).
    """
    floor = described.astype(np.float32).sum(1) / np.sqrt(DIM)
    return np.asarray(np.abs(floor) > _FEATURELESS)


def _compare_others(described: Descriptors) -> float:
    """Returns the largest similarity of two different shots that show something; 0 if none do."""
    shown = described[~find_featureless(described)].astype(np.float32)
    if len(shown) < 2:
        return 0.0
    similar = (turn_descriptors(shown) @ shown.T).max(axis=0)
    np.fill_diagonal(similar, -1.0)
    return float(similar.max())
