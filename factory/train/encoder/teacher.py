"""What another encoder sees in the images that a new one learns from."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from factory.core.hashing import hash_bytes
from factory.models.encoders import load_encoder
from factory.models.encoders.cache import FeatureCache
from factory.train.encoder.settings import EncoderRecipe
from factory.train.images import TrainingImages

_BLOCK = 512  # images


def read_targets(
    recipe: EncoderRecipe, images: TrainingImages, folder: Path
) -> torch.Tensor | None:
    """Returns the teacher's features of each whole cut, standardised over the images to learn from.

    Args:
        recipe: names the teacher, or none.
        images: what is learned from.
        folder: keeps what was encoded, for a resumed training.

    Returns:
        (N, D) float32, on the CPU; None without a teacher.

    Raises:
        InputError: the teacher cannot be loaded, or does not take images of this size.
        StoreError: the features cannot be written.
    """
    if recipe.teacher is None:
        return None
    encoder = load_encoder(recipe.teacher.encoder)
    cache, rows = FeatureCache(folder, encoder), []
    for start in range(0, len(images.pixels), _BLOCK):
        block = np.ascontiguousarray(images.pixels[start : start + _BLOCK])
        names = [hash_bytes(each.tobytes()) for each in block]
        found = cache.read(names)
        if found is None:
            found = encoder.encode(block)
            cache.write(names, found)
        rows.append(found)
    return torch.from_numpy(_standardise(np.concatenate(rows), ~images.held_out))


def _standardise(features: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns features of mean 0 and deviation 1 over the known rows; constant ones are 0."""
    mean, deviation = features[known].mean(0), features[known].std(0)
    return np.where(deviation > 1e-6, (features - mean) / np.maximum(deviation, 1e-6), 0.0).astype(
        np.float32
    )
