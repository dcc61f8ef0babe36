"""The ResNet generator of CUT, CycleGAN and AI-FFPE, with the names that their weights have."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad

from factory.models.translators.config import Norm, ResnetSettings
from factory.models.translators.layers import build_norm, find_norm

_ATTENTION, _BESIDE = "model.4.", "SAB."


class ResnetGenerator(nn.Module):
    """Translates (N, in, H, W) in [-1, 1] to (N, out, H, W) in [-1, 1]; H and W multiples of 4."""

    def __init__(self, settings: ResnetSettings) -> None:
        super().__init__()
        width, norm, has_bias = settings.channels, settings.norm, settings.norm == "instance"
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(settings.in_channels, width, 7, bias=has_bias),
            build_norm(norm, width),
            nn.ReLU(True),
        ]
        if settings.attention:
            layers.append(SpatialAttention(width))
        for _ in range(2):
            stride = 1 if settings.antialias_down else 2
            layers.append(nn.Conv2d(width, 2 * width, 3, stride, 1, bias=has_bias))
            width *= 2
            layers += [build_norm(norm, width), nn.ReLU(True)]
            layers += [BlurDown(width)] if settings.antialias_down else []
        layers += [
            ResidualBlock(width, norm, has_bias, settings.dropout) for _ in range(settings.blocks)
        ]
        for _ in range(2):
            if settings.antialias_up:
                layers += [BlurUp(width), nn.Conv2d(width, width // 2, 3, 1, 1, bias=has_bias)]
            else:
                layers.append(nn.ConvTranspose2d(width, width // 2, 3, 2, 1, 1, bias=has_bias))
            width //= 2
            layers += [build_norm(norm, width), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, settings.out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the translated images."""
        translated: Tensor = self.model(images)
        return translated

    def list_features(self, images: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Returns what comes out of layers of the network, by their numbers, in order."""
        found, values = [], images
        for number, layer in enumerate(self.model[: max(layers) + 1]):
            values = layer(values)
            if number in layers:
                found.append(values)
        return found


class ResidualBlock(nn.Module):
    """Two convolutions beside what they change; the dropout of the training keeps its place."""

    def __init__(self, width: int, norm: Norm, has_bias: bool, dropout: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=has_bias),
            build_norm(norm, width),
            nn.ReLU(True),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=has_bias),
            build_norm(norm, width),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Returns the values with what the block adds."""
        changed: Tensor = self.conv_block(values)
        return values + changed


class BlurDown(nn.Module):
    """Halves images behind a 3 x 3 binomial filter (Zhang 2019, arXiv 1904.11486)."""

    filt: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("filt", _build_filter((1.0, 2.0, 1.0), width))

    def forward(self, values: Tensor) -> Tensor:
        """Returns (N, C, H / 2, W / 2)."""
        padded = pad(values, (1, 1, 1, 1), mode="reflect")
        return conv2d(padded, self.filt, stride=2, groups=values.shape[1])


class BlurUp(nn.Module):
    """Doubles images by a 4 x 4 binomial filter."""

    filt: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("filt", 4.0 * _build_filter((1.0, 3.0, 3.0, 1.0), width))

    def forward(self, values: Tensor) -> Tensor:
        """Returns (N, C, 2 H, 2 W)."""
        padded = pad(values, (1, 1, 1, 1), mode="replicate")
        grown = conv_transpose2d(padded, self.filt, stride=2, padding=2, groups=values.shape[1])
        return grown[..., 1:-1, 1:-1]


class SpatialAttention(nn.Module):
    """The attention of AI-FFPE, as its code has it: products of maps of square images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4, 1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 1, bias=False)
        self.conv3 = nn.Conv2d(4, width, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Returns the (N, C, S, S) values with what the attention adds."""
        maps = nn.functional.max_pool2d(self.conv1(values), 4)
        weights = self.conv2(torch.relu(maps @ maps)).softmax(1)
        added: Tensor = self.conv3(weights @ maps)
        return values + interpolate(added, scale_factor=4)


def adapt(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Leaves out the second name under which AI-FFPE's code keeps its attention.

    Raises:
        ValueError: the two differ.
    """
    twins = [key for key in state if key.startswith(_BESIDE)]
    for key in twins:
        first = state.get(_ATTENTION + key.removeprefix(_BESIDE))
        if first is None or not first.equal(state[key]):
            raise ValueError(f"{key}: is not what {_ATTENTION}* holds: not of AI-FFPE's code")
    return {key: value for key, value in state.items() if key not in twins}, twins


def read_settings(state: Mapping[str, Tensor]) -> ResnetSettings:
    """Returns what network a checkpoint is of, by the names and shapes of its weights.

    Raises:
        KeyError: it has not the first or last convolution of such a network.
    """
    first = state["model.1.weight"]
    attention = int("model.4.conv1.weight" in state)
    blocks = {key.split(".")[1] for key in state if ".conv_block." in key}
    filters = {int(key.split(".")[1]) for key in state if key.endswith(".filt")}
    middle = min((int(number) for number in blocks), default=0)
    last = max(int(key.split(".")[1]) for key in state)
    return ResnetSettings(
        kind="resnet",
        in_channels=first.shape[1],
        out_channels=state[f"model.{last}.weight"].shape[0],
        channels=first.shape[0],
        blocks=len(blocks),
        norm=find_norm(state, "model.1.bias", "model.2.running_mean"),
        dropout=f"model.{middle}.conv_block.6.weight" in state,
        antialias_down=7 + attention in filters,
        antialias_up=any(number > middle for number in filters),
        attention=bool(attention),
    )


def _build_filter(taps: tuple[float, ...], width: int) -> Tensor:
    """Returns (width, 1, n, n): the outer product of the taps with themselves, of sum 1."""
    line = torch.tensor(taps)
    square = line[:, None] * line[None, :]
    return (square / square.sum())[None, None].repeat(width, 1, 1, 1)
