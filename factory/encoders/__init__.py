"""Image encoders by a short text: hand-made features, libraries' models by id, or a local folder.

    color-texture                     the built-in default, no weights
    torchvision:resnet18              torchvision's own weights
    timm:vit_small_patch16_224        also timm:hf-hub:OWNER/NAME@REVISION, timm:local-dir:FOLDER
    open_clip:hf-hub:OWNER/NAME       also open_clip:ARCH/WEIGHTS_TAG, open_clip:local-dir:FOLDER
    transformers:OWNER/NAME@REVISION  also transformers:FOLDER
    FOLDER                            holds encoder.json and encoder.safetensors

A library's name with `?pretrained=false` builds it with random weights of a fixed seed, for tests
and control arms; nothing else does.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from factory.errors import InputError

LIBRARIES = ("torchvision", "timm", "open_clip", "transformers")


class Encoder(Protocol):
    """Turns images into features; each image by itself."""

    dim: int

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, weights_sha256, dim and preprocessing, as plain data."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 features of (N, H, W, 3) uint8 RGB."""
        ...


def load_encoder(spec: str, *, base: Path | None = None, device: str = "auto") -> Encoder:
    """Loads the encoder that `spec` names; see the module's text for what it may say.

    Args:
        spec: the name.
        base: folder that a relative local folder starts from; default: the current one.
        device: `auto`, `cpu`, `cuda`, …; `color-texture` ignores it.

    Raises:
        InputError: nothing of that name, or its weights cannot be had; says what to do.
    """
    if spec == "color-texture":
        from factory.encoders.color_texture import ColorTextureEncoder

        return ColorTextureEncoder()
    library, _, name = spec.partition(":")
    if library in LIBRARIES and name:
        from factory.encoders.learned import load_from_library

        return load_from_library(library, name, device)
    folder = (base or Path()) / spec
    if folder.is_dir():
        from factory.encoders.learned import load_from_folder

        return load_from_folder(folder, device)
    known = ", ".join(["color-texture", *(f"{library}:NAME" for library in LIBRARIES)])
    raise InputError(
        f"encoder {spec!r}: no such folder and no known kind: give {known} or a folder"
    )
