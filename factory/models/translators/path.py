"""The path from noise to an image of channels, beside the source that it is an image of."""

from typing import Any

import torch
from torch import Tensor


def join_channels(source: Tensor, between: Tensor, times: Tensor) -> Tensor:
    """Returns what enters the network: (N, 3 + C + 1, H, W), channel by channel side by side.

    Concatenation as in Palette (Saharia et al. 2022, arXiv 2111.05826); the time is a plane.

    Args:
        source: (N, 3, H, W), normalised.
        between: (N, C, H, W) on the straight way from noise (time 0) to the image (time 1).
        times: (N,).
    """
    plane = times[:, None, None, None].to(between).expand(-1, 1, *between.shape[2:])
    return torch.cat([source, between, plane], 1)


def mix(noise: Tensor, image: Tensor, times: Tensor) -> Tensor:
    """Returns where the straight way is at a time (rectified flow, Liu et al. 2022, 2209.03003)."""
    share = times[:, None, None, None].to(image)
    return share * image + (1.0 - share) * noise


def follow(network: Any, source: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Returns (N, C, H, W): the end of the path, by Euler steps to the image that is foreseen."""
    between = noise
    for step in range(steps):
        times = torch.full((len(noise),), step / steps, device=noise.device)
        foreseen = network(join_channels(source, between, times))
        between = between + (foreseen - between) / (steps - step)
    return between
