"""What stands beside the weights of a one-pass translator: its network, and how pixels enter it."""

from math import log2
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import ImageChannel, ImageChannels, Strict
from factory.core.yaml.model import parse_model, read_document

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIGNED = (0.5, 0.5, 0.5)
"""Mean and standard deviation that bring pixels from [0, 1] to [-1, 1]."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB pixels in [0, 1], as torchvision states them."""

RGB = 3
Norm = Literal["instance", "batch", "none"]


def count_entering(made: int) -> int:
    """Returns the channels that enter a network on a path: source, noisy image and time."""
    return RGB + made + 1


class _Network(Strict):
    in_channels: int = Field(3, ge=1)
    out_channels: int = Field(3, ge=1)

    @property
    def multiple(self) -> int:
        """Sides of its images are multiples of it, px."""
        raise NotImplementedError

    @property
    def is_square(self) -> bool:
        """Takes square images only."""
        return False


class ResnetSettings(_Network):
    """The generator of CUT, CycleGAN and AI-FFPE (Johnson et al. 2016, arXiv 1603.08155).

    Two levels down, residual blocks, two levels up, each with blurred (antialiased) resampling or
    with strided convolutions; AI-FFPE has an attention behind the first convolution.
    """

    kind: Literal["resnet"]
    channels: int = Field(64, ge=1, description="behind the first convolution")
    blocks: int = Field(9, ge=1)
    norm: Norm = "instance"
    dropout: bool = Field(False, description="in the blocks, of the training; none here")
    antialias_down: bool = True
    antialias_up: bool = True
    attention: bool = Field(False, description="of AI-FFPE; its images are square")

    @property
    def multiple(self) -> int:
        """Two levels of halving."""
        return 4

    @property
    def is_square(self) -> bool:
        """The attention multiplies maps as matrices."""
        return self.attention


class UnetSettings(_Network):
    """The U-Net of pix2pix (Isola et al. 2017, arXiv 1611.07004)."""

    kind: Literal["unet"]
    channels: int = Field(64, ge=1, description="of the outermost level")
    downs: int = Field(8, ge=5, le=12, description="levels of halving")
    norm: Norm = "batch"

    @property
    def multiple(self) -> int:
        """The innermost level has a pixel."""
        return int(2**self.downs)


class UnetppSettings(_Network):
    """U-Net++ (Zhou et al. 2018, arXiv 1807.10165) with VGG blocks, as GigaTIME has it."""

    kind: Literal["unetpp"]
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=2)
    deep_supervision: bool = Field(False, description="a last layer for each depth; the deepest's")

    @property
    def multiple(self) -> int:
        """A halving between two widths."""
        return int(2 ** (len(self.widths) - 1))


class HistoplexerSettings(_Network):
    """The U-Net of HistoPlexer (Andani et al. 2025, Nature Machine Intelligence)."""

    kind: Literal["histoplexer"]
    channels: int = Field(32, ge=4, multiple_of=4, description="of the outermost level")
    depth: int = Field(6, ge=3, le=10, description="levels, the innermost among them")
    is_finer: bool = Field(True, description="images have 4 x 4 pixels for a value of its channels")
    is_multiscale: bool = Field(True, description="every second level sees the image again")

    @property
    def multiple(self) -> int:
        """A halving a level, and two before them of finer images."""
        return int(2 ** (self.depth + (2 if self.is_finer else 0)))


class VitSettings(_Network):
    """GigaTIME-Flash: a vision transformer of 12 blocks with a convolutional decoder."""

    kind: Literal["vit"]
    width: int = Field(384, ge=64, multiple_of=64)
    patch: Literal[16] = Field(16, description="px; the decoder doubles four times")
    grid: int = Field(14, ge=1, description="patches a side that places are known of")
    hidden: int = Field(2048, ge=2, multiple_of=2, description="of the gated layers, twofold")

    @property
    def multiple(self) -> int:
        """A patch."""
        return self.patch

    @property
    def is_square(self) -> bool:
        """Its tokens are laid out as a square."""
        return True


NetworkSettings = Annotated[
    ResnetSettings | UnetSettings | UnetppSettings | HistoplexerSettings | VitSettings,
    Field(discriminator="kind"),
]


class TranslatorConfig(Strict):
    """The `config.json` of a translator's folder."""

    network: NetworkSettings
    mean: tuple[float, ...] = Field(SIGNED, description="of pixels in [0, 1], by channel")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(SIGNED, description="likewise")
    output: Literal["signed", "logits", "unit"] = Field(
        "signed", description="what the last layer gives: [-1, 1], logits of [0, 1], or [0, 1]"
    )
    channel_names: tuple[str, ...] = Field((), description="of outputs that are no RGB image")
    path_steps: int | None = Field(
        None, ge=1, le=1000, description="from noise beside the source; none: one pass, no noise"
    )
    width: int = Field(256, ge=8, description="px that it was trained on")
    height: int = Field(256, ge=8, description="px")
    mpp: float | None = Field(None, gt=0, description="µm per pixel of its training images")

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        taken, made = self.network.in_channels, self.network.out_channels
        wanted = RGB if self.path_steps is None else count_entering(made)
        if taken != wanted:
            raise ValueError(f"network.in_channels: must be {wanted}, got {taken}")
        if self.path_steps is not None and self.output != "signed":
            raise ValueError(f"output: must be signed where path_steps is given, got {self.output}")
        if (len(self.mean), len(self.std)) != (RGB, RGB):
            raise ValueError(f"mean and std: must have {RGB} values each")
        if self.channel_names and len(set(self.channel_names)) != made:
            raise ValueError(f"channel_names: must be {made} different names")
        if made != 3 and not self.channel_names:
            raise ValueError(f"channel_names: name the {made} channels: they are no RGB image")
        return self

    @property
    def channels(self) -> ImageChannels | None:
        """Its outputs as an entry declares them: float32 in [0, 1]; None: an RGB image."""
        unit = "probability" if self.output == "logits" else ""
        named = [
            ImageChannel(name=name, unit=unit, window=(0.0, 1.0)) for name in self.channel_names
        ]
        return ImageChannels(named=tuple(named)) if named else None

    def find_unfit(self, width: int, height: int) -> str | None:
        """Says why no images of this size, px, can be made; None: they can."""
        multiple = self.network.multiple
        if width % multiple or height % multiple:
            halvings = round(log2(multiple))
            return (
                f"{width}x{height} px, but its network halves images {halvings} times: take "
                f"multiples of {multiple}"
            )
        if self.network.is_square and width != height:
            return f"{width}x{height} px, but its attention reads square images: take {width} twice"
        return None


def read_config(folder: Path) -> TranslatorConfig:
    """Returns the configuration of a translator's folder.

    Raises:
        RecipeError: no such file, or a field that is wrong; with file, line and field.
    """
    return parse_model(read_document(folder / CONFIG), TranslatorConfig)
