"""Augmentation that tissue allows: the eight flips and quarter turns, and mild stain jitter."""

import math

import torch

from factory.core.stains import STAIN_VECTORS

_STAINS = torch.tensor(STAIN_VECTORS, dtype=torch.float32)


def turn_images(batch: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Applies to each image one of the eight symmetries of the square; a section has no up.

    Args:
        batch: (B, C, S, S).
        turns: (B,) in 0..7: quarter turns, from 4 on with a flip.
    """
    turned = torch.empty_like(batch)
    for turn in range(8):
        rows = torch.nonzero(turns == turn).flatten().to(batch.device)
        if len(rows):
            images = torch.rot90(batch[rows], turn % 4, (2, 3))
            turned[rows] = images.flip(3) if turn >= 4 else images
    return turned


def jitter_stains(
    batch: torch.Tensor, sigma: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Scales and shifts each image's stains (HED colour augmentation, Tellez et al. 2018).

    The optical density is separated into haematoxylin, eosin and a rest, each multiplied by
    1 + U(-sigma, sigma) and raised by U(-sigma, sigma) / 4, and mixed again (arXiv 1808.05896,
    section II-C). White stays nearly white.

    Args:
        batch: (B, 3, H, W) in [-1, 1].
        sigma: strength; 0 changes nothing, 0.05 is mild.
        generator: of the draws.
    """
    if sigma == 0:
        return batch
    mix = (_STAINS / _STAINS.norm(dim=1, keepdim=True)).to(batch)
    draws = torch.rand(2, len(batch), 3, 1, 1, generator=generator).to(batch) * 2 - 1
    factor, offset = draws.view(2, len(batch), 1, 3) * sigma
    density = -torch.log10((batch / 2 + 0.5).clamp(min=1 / 256)).flatten(2)
    tissue = (density.mean(1, keepdim=True) / 0.15).clamp(max=1)
    unmix = torch.linalg.inv(mix.float()).to(batch)
    change = unmix * (1 + factor) @ mix  # unmixes, scales and mixes in one, (B, 3, 3)
    shift = (offset / 4 @ mix).transpose(1, 2) * tissue
    mixed = torch.baddbmm(shift, change.transpose(1, 2), density)
    return (torch.exp(-math.log(10) * mixed).clamp(0, 1) * 2 - 1).view_as(batch)
