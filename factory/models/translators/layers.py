"""Layers that the networks of translators share."""

from collections.abc import Mapping

from torch import Tensor, nn

from factory.models.translators.config import Norm


def build_norm(norm: Norm, width: int) -> nn.Module:
    """Returns a normalisation: of each image, by the statistics of the training, or none."""
    if norm == "instance":
        return nn.InstanceNorm2d(width)
    return nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()


def find_norm(state: Mapping[str, Tensor], bias: str, statistics: str) -> Norm:
    """Returns the normalisation behind a convolution, by the names of its bias and statistics.

    Only before an instance norm do the convolutions have a bias.
    """
    if bias in state:
        return "instance"
    return "batch" if statistics in state else "none"
