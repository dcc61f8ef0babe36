"""Image encoders by a short text: a catalog id, a library's model by its name, or a local folder.

    he-ssl                            a catalog's entry: `factory models list --kind encoders`
    color-texture                     hand-made features, no weights
    torchvision:resnet18              torchvision's own weights
    timm:vit_small_patch16_224        also timm:hf-hub:OWNER/NAME@REVISION, timm:local-dir:FOLDER
    open_clip:hf-hub:OWNER/NAME       also open_clip:ARCH/WEIGHTS_TAG, open_clip:local-dir:FOLDER
    transformers:OWNER/NAME@REVISION  also transformers:FOLDER
    FOLDER                            holds encoder.json and encoder.safetensors

A library's name with `?pretrained=false` builds it with random weights of a fixed seed, for tests
and control arms; nothing else does.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError
from factory.core.yaml.messages import advise

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs, EncoderEntry

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


def load_encoder(
    spec: str,
    *,
    base: Path | None = None,
    device: str = "auto",
    catalogs: "Catalogs | None" = None,
) -> Encoder:
    """Loads the encoder that `spec` names; see the module's text for what it may say.

    Args:
        spec: the name.
        base: folder that a relative local folder starts from; default: the current one.
        device: `auto`, `cpu`, `cuda`, …; `color-texture` ignores it.
        catalogs: where ids are looked up; default: the shipped ones.

    Raises:
        InputError: nothing of that name, or its weights cannot be had; says what to do.
    """
    catalogs = catalogs or _open_shipped()
    entry = catalogs.get_encoder(spec)
    if spec == "color-texture" or (entry is not None and entry.source == "color-texture"):
        from factory.models.encoders.color_texture import ColorTextureEncoder

        return ColorTextureEncoder()
    if entry is not None:
        from factory.models.encoders.learned import load_entry

        return load_entry(entry, device)
    library, _, name = spec.partition(":")
    if library in LIBRARIES and name:
        from factory.models.encoders.learned import load_from_library

        return load_from_library(library, name, device)
    folder = (base or Path()) / Path(spec).expanduser()
    if folder.is_dir():
        from factory.models.encoders.learned import load_from_folder

        return load_from_folder(folder, device)
    raise InputError(
        f"encoder {spec!r}: no such folder and no known id: {advise(spec, list_specs(catalogs))}, "
        "or give a folder"
    )


def list_specs(catalogs: "Catalogs") -> tuple[str, ...]:
    """Returns what a spec may be: the catalogs' ids, and the form of each library's names."""
    return (*catalogs.list_ids("encoders"), *(f"{library}:NAME" for library in LIBRARIES))


def find_weights(spec: str, catalogs: "Catalogs") -> str:
    """Returns the Hub id or name of an encoder's weights, whichever way `spec` names them.

    `uni2-h`, `timm:hf-hub:MahmoodLab/UNI2-h` and `timm:hf-hub:MahmoodLab/UNI2-h@main` are one.
    """
    entry = catalogs.get_encoder(spec)
    return find_source(spec if entry is None else entry.source)


def find_source(spec: str) -> str:
    """Returns the Hub id, name or folder in a spec that names a library."""
    library, _, rest = spec.partition(":")
    name = rest if library in LIBRARIES and rest else spec
    return name.removeprefix("hf-hub:").removeprefix("local-dir:").partition("@")[0]


def describe_gate(entry: "EncoderEntry") -> str:
    """Says how to get gated weights."""
    return (
        f"{entry.id} is gated: accept its terms on {entry.licence.url}, then set HF_TOKEN or run "
        "`hf auth login`; or take another encoder"
    )


def has_access(source: str) -> bool:
    """Whether a gated Hub repository may be readable here: a token is set, or a copy is stored."""
    from huggingface_hub import get_token, try_to_load_from_cache

    stored = (try_to_load_from_cache(source, name) for name in ("config.json", "README.md"))
    return get_token() is not None or any(isinstance(each, str) for each in stored)


@cache
def _open_shipped() -> "Catalogs":
    from factory.catalog.catalog import load_catalogs

    return load_catalogs()
