"""`SmallResNet`: a residual network of well under a million weights, to be trained from scratch."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

CHANNELS = (24, 48, 96, 192)
Readout = Literal["last", "stages"]


class Block(nn.Module):
    """Two 3x3 convolutions around a skip (He et al. 2016).

    Where it strides, the skip is average-pooled (ResNet-D, He et al. 2019).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),  # odd sides too, as the convolution
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        hidden = relu(self.first_norm(self.first(images)))
        return relu(self.skip(images) + self.second_norm(self.second(hidden)))


class SmallResNet(nn.Module):
    """One block per stage on a strided stem, and features of one stage or of all.

    Normalises (N, 3, H, W) values in [0, 255] itself, so that no preprocessing can be forgotten.

    Args:
        channels: per stage.
        readout: `last`, the mean of the last stage; or `stages`, mean and standard deviation over
            the places of every stage: colour and texture stand in the early ones, and a
            deviation tells how unlike the places are, as hand-made descriptors do.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, readout: Readout = "last") -> None:
        super().__init__()
        self.readout = readout
        self.dim = channels[-1] if readout == "last" else 2 * sum(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 5, 2, 2, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        steps = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.body = nn.Sequential(
            *(Block(a, b, stride=1 if i == 0 else 2) for i, (a, b) in enumerate(steps))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N, 3, H, W) float in [0, 255] to (N, dim) features."""
        if self.readout == "last":
            return torch.mean(self.map_features(images), dim=(2, 3))
        hidden, found = self.stem(images / 64.0 - 2.0), []
        for block in self.body:
            hidden = block(hidden)
            places = hidden.float()
            mean = places.mean((2, 3))
            spread = (places - mean[..., None, None]).square().mean((2, 3))
            found += [mean, torch.sqrt(spread + 1e-6)]
        return torch.cat(found, 1)

    def map_features(self, images: Tensor) -> Tensor:
        """Maps (N, 3, H, W) float in [0, 255] to the last stage, (N, channels, H / 16, W / 16)."""
        features: Tensor = self.body(self.stem(images / 64.0 - 2.0))
        return features
