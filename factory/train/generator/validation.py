"""Validation in training: samples of the current weights against held-out real images."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from factory.core.hashing import derive_seed
from factory.core.metrics import compute_fd, compute_kid
from factory.models.encoders import Encoder, load_encoder
from factory.models.generators.flow import FlowPipeline
from factory.train.generator.settings import TrainingRecipe
from factory.train.generator.setup import Material

_BATCH = 32
_PER_ROW = 8
_ROWS = 16  # of a sample grid at most


class Judge:
    """Measures exported weights against the held-out images, by their own conditions."""

    def __init__(self, recipe: TrainingRecipe, material: Material, device: torch.device) -> None:
        self._recipe = recipe
        self._material = material
        self._device = device
        images = material.images
        held = np.flatnonzero(images.held_out)
        draw = np.random.default_rng(derive_seed(recipe.seed, "validation"))
        weights = np.array([source.weight for source in recipe.data.sources])
        counts = np.bincount(images.sources[held], minlength=len(weights))
        share = (weights / np.maximum(counts, 1))[images.sources[held]]
        count = min(recipe.validation.images, len(held))
        self._rows = held
        if count:
            self._rows = np.sort(draw.choice(held, count, replace=False, p=share / share.sum()))
        self._encoder: Encoder | None = None
        self._real: NDArray[np.float64] | None = None

    def measure(self, folder: Path) -> dict[str, float]:
        """Returns `kid`, `fd` and `validated` (images) of the pipeline in `folder`.

        Features are standardised on the held-out images. Nothing with fewer than 16 of them.
        """
        if len(self._rows) < 16:
            return {}
        if self._encoder is None:
            self._encoder = load_encoder(self._recipe.validation.encoder)
            features = self._encoder.encode(
                np.ascontiguousarray(self._material.images.pixels[self._rows])
            )
            self._mean, self._spread = features.mean(0), np.maximum(features.std(0), 1e-3)
            self._real = (features - self._mean) / self._spread
        made = self._encoder.encode(self._sample(folder))
        assert self._real is not None
        standard = (made - self._mean) / self._spread
        return {
            "kid": compute_kid(standard, self._real),
            "fd": compute_fd(standard, self._real),
            "validated": len(self._rows),
        }

    def _sample(self, folder: Path) -> NDArray[np.uint8]:
        pipeline = load_pipeline(folder, self._device)
        draw = np.random.default_rng(derive_seed(self._recipe.seed, "validation-captions"))
        parts = []
        for start in range(0, len(self._rows), _BATCH):
            rows = self._rows[start : start + _BATCH]
            labels = [int(self._material.images.labels[row]) for row in rows]
            write = self._material.write
            prompts = None if write is None else [write(int(row), draw) for row in rows]
            parts.append(sample(pipeline, self._recipe, labels, prompts, start))
        return np.concatenate(parts)


def load_pipeline(folder: Path, device: torch.device) -> FlowPipeline:
    """Loads an exported pipeline for sampling in float32."""
    pipeline: FlowPipeline = FlowPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: FlowPipeline,
    recipe: TrainingRecipe,
    labels: list[int],
    prompts: list[str] | None,
    seed: int,
) -> NDArray[np.uint8]:
    """Returns (N, S, S, 3) uint8 samples."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(labels))]
    precision = getattr(torch, recipe.training.precision)
    enabled = precision != torch.float32
    with torch.autocast(pipeline.device.type, dtype=precision, enabled=enabled):
        images = pipeline(
            class_labels=labels,
            prompt=prompts,
            num_inference_steps=recipe.sampling.steps,
            guidance_scale=recipe.sampling.guidance,
            generator=generators,
            output_type="np",
        ).images
    return (np.nan_to_num(images) * 255).round().astype(np.uint8)  # type: ignore[no-any-return]


def save_sample_grid(material: Material, folder: Path, recipe: TrainingRecipe, path: Path) -> None:
    """Draws eight samples of every class, or of captions of training images, one row each."""
    pipeline = load_pipeline(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    draw = np.random.default_rng(derive_seed(recipe.seed, "grid"))
    total = len(material.images.labels)
    rows = []
    for number in range(min(_ROWS, len(material.images.class_names) or 6)):
        labels, prompts = [number] * _PER_ROW, None
        if not material.images.class_names:
            labels = [-1] * _PER_ROW
            if material.write is not None:
                prompts = [material.write(int(draw.integers(total)), draw)] * _PER_ROW
        rows.append(np.concatenate(list(sample(pipeline, recipe, labels, prompts, 0)), axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)
