"""What an image encoder is, and what a kind of encoders is: which specs it loads, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from factory.core.errors import InputError
from factory.core.late import NDArray, np

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs, EncoderEntry


class Encoder(Protocol):
    """Turns images into features; each image by itself."""

    dim: int

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, weights_sha256, dim and preprocessing, as plain data."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 features of (N, H, W, 3) uint8 RGB."""
        ...


class TextEncoder(Protocol):
    """The text side of a contrastive model.

    Attributes:
        scale: its inverse temperature.
    """

    scale: float

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (N, D) float32 features of length 1, in the space of its image features."""
        ...


class EncoderKind(ABC):
    """Encoders whose spec begins with the name of the kind, `KIND:NAME`, or is just that.

    Making one loads nothing.

    Args:
        source: the spec, of a recipe or of a catalog entry.
        entry: the catalog entry, if it has one.
        base: folder that a relative local folder starts from.

    Attributes:
        kind: its name, in specs and as entry point.
        form: how a spec is written, as messages and pages show it.
        is_bare: whether the name of the kind alone is a spec.
        text_forms: how specs of those are written that have a text side; empty: none has.
        name: what stands behind the name of the kind.
        label: what messages and provenance call the encoder.
        catalogs: where it looks up other encoders; None: the shipped ones.
    """

    kind: ClassVar[str]
    form: ClassVar[str]
    is_bare: ClassVar[bool] = False
    text_forms: ClassVar[tuple[str, ...]] = ()
    catalogs: Catalogs | None = None

    def __init__(self, source: str, entry: EncoderEntry | None = None, base: Path = Path()) -> None:
        self.source, self.entry, self.base = source, entry, base
        self.name = source.partition(":")[2]
        self.label = source if entry is None else entry.id

    @abstractmethod
    def load(self, device: str) -> Encoder:
        """Returns the encoder, on a device: `auto`, `cpu`, `cuda`.

        Raises:
            InputError: nothing of that name, or its weights cannot be had; says what to do.
        """

    def load_text(self, device: str = "auto") -> TextEncoder:
        """Returns the text side, if there is one.

        Raises:
            InputError: there is none, or its weights cannot be had.
        """
        raise InputError(f"encoder {self.label!r} reads no text: take another one")

    @property
    def spec(self) -> str:
        """The spec, as it can be opened from anywhere."""
        return self.source

    @property
    def placeless(self) -> str:
        """The spec without the place of a local folder, for those that say where it lies."""
        return self.source

    @property
    def weights(self) -> str:
        """The Hub id, name or folder of its weights, whichever way the spec names them."""
        name = (self.name or self.source).removeprefix("hf-hub:").removeprefix("local-dir:")
        return name.partition("@")[0]

    @property
    def teacher(self) -> str | None:
        """The spec of the encoder that taught it, if it says so."""
        return None

    @property
    def has_gradient(self) -> bool:
        """Whether its features have a gradient in the pixels, so that it can guide."""
        return False

    def explain_missing(self) -> str | None:
        """Says what is missing on this disk, or None; loads nothing and asks no network."""
        return None
