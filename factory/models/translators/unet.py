"""The U-Net of pix2pix, with the names that its weights have."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from factory.models.translators.config import UnetSettings
from factory.models.translators.layers import build_norm, find_norm


class UnetGenerator(nn.Module):
    """Translates (N, in, H, W) in [-1, 1] to (N, out, H, W) in [-1, 1]."""

    def __init__(self, settings: UnetSettings) -> None:
        super().__init__()
        widths = [settings.channels * min(2**level, 8) for level in range(settings.downs)]
        block: Level | None = None
        for outer, inner in zip(widths[-2::-1], widths[:0:-1], strict=True):
            block = Level(outer, inner, block, settings)
        self.model = Level(settings.out_channels, widths[0], block, settings, is_outermost=True)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the translated images."""
        translated: Tensor = self.model(images)
        return translated


class Level(nn.Module):
    """Halves, passes through what lies deeper, doubles; beside it the skip connection."""

    def __init__(
        self,
        outer: int,
        inner: int,
        deeper: "Level | None",
        settings: UnetSettings,
        is_outermost: bool = False,
    ) -> None:
        super().__init__()
        self.is_outermost = is_outermost
        has_bias = settings.norm == "instance"
        taken = settings.in_channels if is_outermost else outer
        down: list[nn.Module] = [nn.Conv2d(taken, inner, 4, 2, 1, bias=has_bias)]
        up_width = inner if deeper is None else 2 * inner
        up: list[nn.Module] = [nn.ReLU(True)]
        if is_outermost:
            up += [nn.ConvTranspose2d(up_width, outer, 4, 2, 1), nn.Tanh()]
        else:
            down.insert(0, nn.LeakyReLU(0.2, True))  # in place: the skip carries it, as published
            down += [] if deeper is None else [build_norm(settings.norm, inner)]
            up.append(nn.ConvTranspose2d(up_width, outer, 4, 2, 1, bias=has_bias))
            up.append(build_norm(settings.norm, outer))
        self.model = nn.Sequential(*down, *([] if deeper is None else [deeper]), *up)

    def forward(self, values: Tensor) -> Tensor:
        """Returns the image at the outermost level, else what comes in beside what comes back."""
        made: Tensor = self.model(values)
        return made if self.is_outermost else torch.cat([values, made], 1)


def read_settings(state: Mapping[str, Tensor]) -> UnetSettings:
    """Returns what network a checkpoint is of, by the names and shapes of its weights.

    Raises:
        KeyError: it has not the first and last convolution of such a network.
    """
    first = state["model.model.0.weight"]
    downs = 1 + max((key.count("model.") - 2 for key in state), default=0)
    return UnetSettings(
        kind="unet",
        in_channels=first.shape[1],
        out_channels=state["model.model.3.weight"].shape[1],
        channels=first.shape[0],
        downs=downs,
        norm=find_norm(state, "model.model.0.bias", "model.model.1.model.2.running_mean"),
    )
