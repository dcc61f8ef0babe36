"""The U-Net of HistoPlexer (channels of proteins from H&E), with the names that its weights have.

Every second level on the way down sees the image again, made smaller. Images that are four times
as fine as the channels pass two more levels first; here a value fills its 4 x 4 pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, relu

from factory.models.translators.config import HistoplexerSettings

_FINER = 4  # of the image's sides over those of the channels
_EXTRA = "feature_integration."


class HistoplexerUnet(nn.Module):
    """Maps (N, in, H, W) in [0, 1] to (N, out, H, W) from 0 upwards."""

    def __init__(self, settings: HistoplexerSettings) -> None:
        super().__init__()
        width, levels = settings.channels, settings.depth - 1
        inner = [width * min(2**level, 8) for level in range(levels)]
        down = [width // 4, width // 2, *inner] if settings.is_finer else inner
        self.seen = settings.in_channels if settings.is_multiscale else 0
        self.is_finer = settings.is_finer
        self.encoder = nn.ModuleList()
        taken = settings.in_channels
        for level, made in enumerate(down):
            again = self.seen if self._sees(level) else 0
            self.encoder.append(Block(taken + again, made, stride=2))
            taken = made
        self.center_block = nn.ModuleList(
            [Block(taken, taken, stride=2), Block(taken, taken, stride=1)]
        )
        self.decoder = nn.ModuleList(
            Block(2 * outer, made, stride=1)
            for outer, made in zip(inner[:0:-1], inner[-2::-1], strict=True)
        )
        self.decoder.append(Block(2 * width, settings.out_channels, stride=1, is_last=True))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the channels; a finer image's are spread over its pixels."""
        values, passed = images, []
        for level, block in enumerate(self.encoder):
            if self._sees(level) and self.seen:
                size = values.shape[-2:]
                seen = interpolate(images, size=size, mode="bilinear", align_corners=False)
                values = torch.cat([values, seen], 1)
            values = block(values)
            passed.append(values)
        for block in self.center_block:
            values = block(values)
        for block, skip in zip(self.decoder, reversed(passed), strict=False):
            values = block(torch.cat([skip, values], 1))
        return interpolate(values, scale_factor=float(_FINER)) if self.is_finer else values

    @staticmethod
    def _sees(level: int) -> bool:
        """Says whether a level of the encoder is one that sees the image again."""
        return level > 0 and level % 2 == 0


class Block(nn.Module):
    """A 3 x 3 convolution that halves, or doubles before it; norm and leaky ReLU, or ReLU last."""

    def __init__(self, taken: int, made: int, stride: int, is_last: bool = False) -> None:
        super().__init__()
        self.doubles = stride == 1
        self.conv1 = nn.Conv2d(taken, made, 3, stride, 1, padding_mode="reflect")
        self.bn1 = None if is_last else nn.ModuleDict({"bn": nn.BatchNorm2d(made)})

    def forward(self, values: Tensor) -> Tensor:
        """Returns (N, made, H / 2, W / 2), or (N, made, 2 H, 2 W)."""
        taken = interpolate(values, scale_factor=2.0) if self.doubles else values
        made: Tensor = self.conv1(taken)
        return relu(made) if self.bn1 is None else leaky_relu(self.bn1["bn"](made), 0.2)


def adapt(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the weights without the outputs of smaller size, which the training alone looks at.

    Raises:
        ValueError: a model that takes the features of another one, too.
    """
    if any(key.startswith(_EXTRA) for key in state):
        raise ValueError(f"{_EXTRA}*: it takes features of another model, too")
    idle = [key for key in state if key.startswith("to_imc.")]
    return {key: value for key, value in state.items() if key not in idle}, idle


def read_settings(state: Mapping[str, Tensor]) -> HistoplexerSettings:
    """Returns what network a checkpoint is of, by the names and shapes of its weights.

    Raises:
        KeyError: it has not the first or last convolution of such a network.
    """
    first, again = state["encoder.0.conv1.weight"], state["encoder.2.conv1.weight"]
    depth = 1 + len({key.split(".")[1] for key in state if key.startswith("decoder.")})
    last = state[f"decoder.{depth - 2}.conv1.weight"]
    width = last.shape[1] // 2
    return HistoplexerSettings(
        kind="histoplexer",
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        channels=width,
        depth=depth,
        is_finer=first.shape[0] != width,
        is_multiscale=again.shape[1] != state["encoder.1.conv1.weight"].shape[0],
    )
