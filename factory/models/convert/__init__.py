"""Turns checkpoints of other code into folders that `factory run` samples: one file a format."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import FOREIGN_ERRORS, InputError
from factory.core.files.atomic import write_file
from factory.core.yaml.messages import advise
from factory.models.generators.weights import PICKLES, hash_file

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = {
    "compvis": "compvis",
    **dict.fromkeys(
        ("cut", "cyclegan", "unet", "unetpp", "gigatime-flash", "histoplexer"), "translators"
    ),
}
"""Kind of checkpoint -> module of this package with `convert(state, options)`."""
RECORD = "conversion.json"
HOLDERS = ("state_dict", "trans_ema_state_dict")
"""Under which training code keeps the weights; the second is HistoPlexer's running average."""
UNREADABLE = (
    *FOREIGN_ERRORS,
    AssertionError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What `torch.load` raises of bytes that are no checkpoint: it interprets them."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a checkpoint does not say.

    Attributes:
        out: folder that is written.
        config: file of the code that it was trained by; None: none.
        text_encoder: folder with the tokenizer and `config.json` of the text encoder; None: none.
        class_names: the classes in the order of their embeddings, or the channels of a translator
            that makes no RGB images.
        mpp: µm per pixel of the training images.
        kind: of `FORMATS`.
    """

    out: Path
    config: Path | None = None
    text_encoder: Path | None = None
    class_names: tuple[str, ...] = ()
    mpp: float | None = None
    kind: str = "compvis"


def convert_checkpoint(
    checkpoint: Path, options: Options, allow_pickle: bool = False
) -> dict[str, Any]:
    """Converts a checkpoint and returns what was written, as `conversion.json` keeps it.

    Args:
        checkpoint: safetensors; .ckpt, .pt or .pth only if `allow_pickle`.
        options: what it does not say.
        allow_pickle: the user trusts the file; only tensors and plain data are read of it.

    Raises:
        InputError: an unknown kind, a file that cannot be read or that does not hold what the
            kind has, or an output folder that is there.
    """
    kind = options.kind
    if kind not in FORMATS:
        raise InputError(f"--kind: no kind {kind!r}: {advise(kind, tuple(FORMATS))}")
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out}: is there and not empty: give another --out")
    state = read_state(checkpoint, allow_pickle)
    module = import_module(f"{__name__}.{FORMATS[kind]}")
    told: dict[str, Any] = module.convert(state, options)
    record = {"format": kind, "checkpoint_sha256": hash_file(checkpoint), **told}
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    write_file(options.out / RECORD, text.encode())
    return record


def read_state(path: Path, allow_pickle: bool) -> "Mapping[str, Tensor]":
    """Reads the tensors of a checkpoint; those of training code stand under one of `HOLDERS`.

    Raises:
        InputError: no such file, a pickle that nobody allowed, or one that holds more than data.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file: correct the path")
    if path.suffix == ".safetensors":
        try:
            read: Mapping[str, Tensor] = load_file(path)
            return read
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error}): get it again") from error
    if path.suffix not in PICKLES:
        raise InputError(f"{path}: is no checkpoint: give .safetensors, {', '.join(PICKLES)}")
    if not allow_pickle:
        raise InputError(
            f"{path}: pickle runs code when it is loaded: give --allow-pickle if you trust it"
        )
    damaged = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (damaged, *UNREADABLE) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{path}: not read, as it is damaged or holds more than tensors ({said}): have its "
            "state_dict saved as safetensors where its own code runs"
        ) from error
    whole = loaded if isinstance(loaded, dict) else {}
    holder = next((name for name in HOLDERS if isinstance(whole.get(name), dict)), None)
    state = whole if holder is None else whole[holder]
    found = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise InputError(f"{path}: holds no named tensors: give the whole checkpoint")
    return found
