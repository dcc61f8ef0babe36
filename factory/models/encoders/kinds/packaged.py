"""What encoders of a library share: how a catalog entry has them loaded, and random weights."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.models.encoders.base import Encoder, EncoderKind

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

Preprocess = Callable[["Image.Image"], "Tensor"]
Forward = Callable[["Tensor"], "Tensor"]
Loaded = tuple["nn.Module", Forward, Preprocess, str | None]
"""Network, images to features, image to tensor, revision."""
RANDOM = "?pretrained=false"


@dataclass(frozen=True)
class Loading:
    """How to load a model, beyond its name.

    Attributes:
        pretrained: False: random weights, for tests and control arms.
        revision: of the Hub repository; None: the newest.
        arguments: of `timm.create_model`.
        pooling: `default` is the library's; `cls` the class token; `cls+mean` that and the mean of
            the patch tokens, one after the other.
        image_size: px; None: the model's own.
        mean: of each channel, in [0, 1]; None: the model's own.
        std: of each channel; None: the model's own.
    """

    pretrained: bool = True
    revision: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "default"
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class LibraryKind(EncoderKind):
    """Models of one library by its names; a subclass builds them."""

    @abstractmethod
    def build(self, name: str, how: Loading) -> Loaded:
        """Builds a model, on the CPU; whatever the library raises is told as an `InputError`."""

    def load(self, device: str) -> Encoder:
        """Returns the encoder.

        Raises:
            InputError: no such model, or its weights cannot be had.
        """
        import torch

        from factory.models.encoders.learned import LearnedEncoder, explain_failure, list_options

        how, name, entry = Loading(), self.name, self.entry
        if entry is not None:
            how = Loading(
                revision=entry.revision,
                arguments=entry.arguments,
                pooling=entry.pooling,
                image_size=entry.image_size,
                mean=entry.mean,
                std=entry.std,
            )
        if name.endswith(RANDOM):
            name, how = name.removesuffix(RANDOM), replace(how, pretrained=False)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module, forward, preprocess, revision = self.build(name, how)
        except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
            raise InputError(explain_failure(self.label, error, entry)) from error
        options = list_options(entry)
        return LearnedEncoder(
            self.label,
            revision,
            module,
            forward,
            preprocess,
            device,
            pooling=how.pooling,
            **options,
        )


def pool_tokens(tokens: "Tensor", pooling: str, prefix: int) -> "Tensor":
    """Returns (N, D) of the class token, or (N, 2 D) with the mean of the patch tokens behind it.

    Args:
        tokens: (N, T, D), the class token first.
        pooling: `cls` or `cls+mean`.
        prefix: how many tokens stand before those of the patches: class and registers.
    """
    import torch

    first = tokens[:, 0]
    if pooling == "cls":
        return first
    return torch.cat((first, tokens[:, prefix:].mean(dim=1)), dim=-1)
