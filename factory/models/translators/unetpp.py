"""U-Net++ with VGG blocks (GigaTIME and others), with the names that its weights have."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from factory.models.translators.config import UnetppSettings


class UnetPlusPlus(nn.Module):
    """Maps (N, in, H, W) to (N, out, H, W): `conv{level}_{step}` sees all steps of its level."""

    def __init__(self, settings: UnetppSettings) -> None:
        super().__init__()
        widths, self.depth = settings.widths, len(settings.widths)
        for level, width in enumerate(widths):
            above = settings.in_channels if level == 0 else widths[level - 1]
            for step in range(self.depth - level):
                taken = above if step == 0 else step * width + widths[level + 1]
                self.add_module(f"conv{level}_{step}", VggBlock(taken, width))
        heads = [f"final{step}" for step in range(1, self.depth)]
        self.heads = heads if settings.deep_supervision else ["final"]
        for name in self.heads:
            self.add_module(name, nn.Conv2d(widths[0], settings.out_channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns what the last layer gives at the deepest step."""
        made: dict[tuple[int, int], Tensor] = {}
        for total in range(self.depth):
            for step in range(total + 1):
                level = total - step
                if step == 0:
                    taken = images if level == 0 else max_pool2d(made[level - 1, 0], 2)
                else:
                    below = made[level + 1, step - 1]
                    grown = interpolate(below, scale_factor=2, mode="bilinear", align_corners=True)
                    taken = torch.cat([*(made[level, k] for k in range(step)), grown], 1)
                made[level, step] = self.get_submodule(f"conv{level}_{step}")(taken)
        last: Tensor = self.get_submodule(self.heads[-1])(made[0, self.depth - 1])
        return last


class VggBlock(nn.Module):
    """Two convolutions, each with batch norm and ReLU."""

    def __init__(self, taken: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, values: Tensor) -> Tensor:
        """Returns (N, width, H, W)."""
        first = torch.relu(self.bn1(self.conv1(values)))
        return torch.relu(self.bn2(self.conv2(first)))


def read_settings(state: Mapping[str, Tensor]) -> UnetppSettings:
    """Returns what network a checkpoint is of, by the names and shapes of its weights.

    Raises:
        KeyError: it has not the first and last convolution of such a network.
    """
    levels = {int(found[1]) for key in state if (found := re.match(r"conv(\d+)_0\.", key))}
    deep = "final.weight" not in state
    last = state[f"final{max(levels, default=0)}.weight" if deep else "final.weight"]
    widths = tuple(state[f"conv{level}_0.conv1.weight"].shape[0] for level in sorted(levels))
    return UnetppSettings(
        kind="unetpp",
        in_channels=state["conv0_0.conv1.weight"].shape[1],
        out_channels=last.shape[0],
        widths=widths,
        deep_supervision=deep,
    )
