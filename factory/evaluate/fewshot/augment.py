"""Classical augmentation of a study: flips, quarter turns, HED jitter and RandAugment."""

from typing import Literal

import torch

from factory.train.augment import jitter_stains, turn_images

STAIN_SIGMA = 0.05
OPERATIONS, MAGNITUDE = 2, 9
"""N and M of RandAugment (Cubuk et al. 2020, arXiv 1909.13719), torchvision's defaults."""

DESCRIPTION = (
    f"eight flips and quarter turns; HED jitter {STAIN_SIGMA}; RandAugment N={OPERATIONS}, "
    f"M={MAGNITUDE}"
)


Strength = Literal["none", "turns", "classical"]
STRENGTHS: tuple[Strength, ...] = ("none", "turns", "classical")
"""What tuning chooses from: as they are, flips and quarter turns alone, or all of DESCRIPTION."""


def augment_images(
    batch: torch.Tensor, seed: int, strength: Strength = "classical"
) -> torch.Tensor:
    """Augments each image of a batch by its own draw.

    Args:
        batch: (B, 3, S, S) uint8.
        seed: of all draws; the global random state stays as it was.
        strength: how.

    Returns:
        (B, 3, S, S) uint8.
    """
    if strength == "none":
        return batch
    if strength == "turns":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return turn_images(batch, torch.randint(8, (len(batch),)))
    from torchvision.transforms.v2 import RandAugment

    # White, the background of a slide, where a geometric operation leaves nothing.
    transform = RandAugment(OPERATIONS, MAGNITUDE, fill=255)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        varied = torch.stack([transform(image) for image in batch])
        turned = turn_images(varied, torch.randint(8, (len(batch),)))
        scaled = turned.float() / 127.5 - 1.0
        jittered = jitter_stains(scaled, STAIN_SIGMA)
    return ((jittered + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
