"""Teaches the caption encoder of a trained model to say what its reference encoder sees.

A denoiser that was trained from scratch heeds references long before it heeds captions: an image
tells more, and its encoder gets more of the gradient. So captions are taught to stand for the mean
reference of the images that they describe, as the prior of unCLIP does (Ramesh et al. 2022, arXiv
2204.06125, section 2.2; here by regression). The denoiser follows them without learning anew.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.train.batches import cut_references, draw_rows, tokenize
from factory.train.generator.network import Denoiser
from factory.train.generator.settings import TrainingRecipe
from factory.train.generator.setup import Material

BATCH = 128
RATE = 1e-3


def teach_reading(recipe: TrainingRecipe, material: Material, network: Denoiser) -> float:
    """Fits caption encoder and projection, and nothing else, for `training.reading_steps` steps.

    Args:
        recipe: with captions, and with references in the network.
        material: what is learned from.
        network: whose caption encoder learns, from its own reference encoder.

    Returns:
        The share of the references' variance that captions explain, over the last 50 steps.

    Raises:
        InputError: no captions, or no references to learn from.
    """
    steps = recipe.training.reading_steps
    if material.write is None or not recipe.network.reference_dim:
        raise InputError(
            "training.reading_steps: needs captions and network.reference_dim: set them, or "
            "remove it"
        )
    projection: nn.Linear = network.conditioner.text_projection  # type: ignore[assignment]

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        target, tokens, mask = _draw(recipe, material, network, step)
        return projection(network.encode_text(tokens, mask)), target

    return fit_reading([*network.text_encoder.parameters(), projection.weight], read, steps)


def fit_reading(
    learning: Sequence[torch.Tensor],
    read: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    steps: int,
) -> float:
    """Fits parameters by the squared error of what `read` tells of a step against its target.

    Args:
        learning: what is fitted.
        read: step -> (B, D) of captions and (B, D) of what they shall stand for.
        steps: of Adam; the rate rises over 50 and falls over the last third.

    Returns:
        The share of the targets' variance that captions explain, over the last 50 steps.
    """
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learning, lr=RATE)
    explained: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50, 3 * (steps - step) / steps)
        told, target = read(step)
        loss = mse_loss(told, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        explained.append(1.0 - loss.item() / float(target.var(0, correction=0).mean()))
    return float(np.mean(explained[-50:]))


@torch.no_grad()
def _draw(
    recipe: TrainingRecipe, material: Material, network: Denoiser, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns projected references (BATCH, dim) of random views, and their captions' tokens."""
    images, write, conditioner = material.images, material.write, network.conditioner
    assert write is not None and conditioner.reference_projection is not None
    device = conditioner.reference_projection.weight.device
    draw = np.random.default_rng(derive_seed(recipe.seed, "reading", step))
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "reading views", step))
    rows = np.sort(draw_rows(recipe.data, images, BATCH, draw))
    pixels = torch.from_numpy(images.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    seen = conditioner.encode_reference(cut_references(pixels, generator).to(device))
    captions = [write(int(row), draw) for row in rows]
    tokens, mask = tokenize(material.tokenizer, captions)
    return conditioner.reference_projection(seen), tokens.to(device), mask.to(device)
