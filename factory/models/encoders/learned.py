"""Learned encoders: a network on a device, of a library or of a local folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from factory.catalog.entries import EncoderEntry
from factory.core.errors import InputError
from factory.core.hashing import compute_digest, hash_bytes
from factory.models.encoders.kinds.packaged import Forward, Loading, Preprocess
from factory.models.encoders.kinds.torchvision import TorchvisionKind
from factory.models.encoders.small_resnet import SmallResNet

BATCH_SIZE = 16
"""Every forward has this shape, padded: features depend on it in their last bits."""


class LearnedEncoder:
    """A torch module in evaluation mode, with its own preprocessing."""

    dim: int

    def __init__(
        self,
        spec: str,
        revision: str | None,
        module: nn.Module,
        forward: Forward,
        preprocess: Preprocess,
        device: str,
        *,
        batch_size: int = BATCH_SIZE,
        dtype: torch.dtype = torch.float32,
        pooling: str = "default",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._spec, self._revision, self._pooling = spec, revision, pooling
        self._batch_size, self._dtype = batch_size, dtype
        self._module = module.to(device, dtype).eval().requires_grad_(False)
        self._forward, self._preprocess, self._device = forward, preprocess, device
        self._weights_sha256: str | None = None
        self.dim = self.encode(np.zeros((1, 64, 64, 3), np.uint8)).shape[1]

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, the hash of all weights, dim, preprocessing; others than usual."""
        if self._weights_sha256 is None:
            self._weights_sha256 = hash_weights(self._module)
        special = {"pooling": self._pooling} if self._pooling != "default" else {}
        if self._dtype != torch.float32:
            special["dtype"] = str(self._dtype).removeprefix("torch.")
        return {
            "id": self._spec,
            "revision": self._revision,
            "weights_sha256": self._weights_sha256,
            "dim": self.dim,
            "preprocessing": re.sub(r"\s+", " ", _name(self._preprocess)),
            **special,
        }

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 features of (N, H, W, 3) uint8 RGB."""
        rows = [np.zeros((0, getattr(self, "dim", 0)), np.float32)] if len(images) == 0 else []
        for start in range(0, len(images), self._batch_size):
            block = images[start : start + self._batch_size]
            batch = torch.stack([self._preprocess(Image.fromarray(image)) for image in block])
            batch = pad(batch, (0, 0) * 3 + (0, self._batch_size - len(block)))
            features = self._forward(batch.to(self._device, self._dtype))[: len(block)]
            rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)

    def embed(self, pixels: Tensor) -> Tensor:
        """Returns (N, dim) features of (N, 3, H, W) pixels in [0, 255], with their gradient.

        Raises:
            InputError: an encoder that reads images by a library's own preprocessing.
        """
        if self._preprocess is not _to_pixels:
            raise InputError(
                f"encoder {self._spec!r}: its gradient cannot be had: take a classifier on an "
                "encoder of `factory train encoder`, such as he-ssl"
            )
        features: Tensor = self._forward(pixels.to(self._device, self._dtype))
        return features.float()

    def map_features(self, pixels: Tensor) -> Tensor:
        """Returns (N, dim, h, w) features of places, of (N, 3, H, W) pixels in [0, 255].

        Raises:
            InputError: a network that is no small-resnet.
        """
        if not isinstance(self._module, SmallResNet):
            raise InputError(
                f"encoder {self._spec!r}: features of places are known of an encoder of "
                "`factory train encoder` only, such as he-ssl"
            )
        return self._module.map_features(pixels.to(self._device, self._dtype)).float()


def hash_weights(module: nn.Module) -> str:
    """Returns one sha256 over names, shapes, types and values of all weights and buffers."""
    described = []
    for name, value in sorted(module.state_dict().items()):
        data = value.detach().cpu().contiguous()
        raw = data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b""
        described.append([name, list(data.shape), str(data.dtype), hash_bytes(raw)])
    return compute_digest("weights", described)


def list_options(entry: EncoderEntry | None) -> dict[str, Any]:
    """Returns what a catalog entry says of batches and the type of the weights."""
    if entry is None:
        return {}
    return {"batch_size": entry.batch_size, "dtype": getattr(torch, entry.dtype)}


def explain_failure(spec: str, error: BaseException, entry: EncoderEntry | None = None) -> str:
    """Says why a library could not load a model, and what to do about it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = f"{type(error).__name__}: {lines[0]}"
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        page = "its page" if entry is None else entry.licence.url
        do = f"its weights are gated: accept the terms on {page}, then set HF_TOKEN"
    elif any(word in text for word in ("connect", "resolve", "offline", "cache", "urlopen")):
        do = "its weights could not be fetched: check the connection, or give a local folder"
    else:
        do = "check the name and the connection, or give a local folder"
    return f"encoder {spec!r}: {told}: {do}"


def load_from_folder(
    folder: Path, device: str, *, name: str | None = None, **options: Any
) -> LearnedEncoder:
    """Loads `encoder.json` (architecture, its channels and readout) and `encoder.safetensors`.

    The architecture is `small-resnet`, or `torchvision:NAME` for weights of the user's own.

    Raises:
        InputError: a file that is missing or does not fit.
    """
    path = folder / "encoder.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        architecture = described["architecture"]
        if architecture == "small-resnet":
            readout = described.get("readout", "last")
            module: nn.Module = SmallResNet(tuple(described["channels"]), readout)
            preprocess: Preprocess = _to_pixels
            options |= {"pooling": readout} if readout != "last" else {}
        else:
            kind = TorchvisionKind(architecture)
            if not architecture.startswith(f"{kind.kind}:"):
                raise ValueError(
                    f"architecture {architecture!r} is not small-resnet or torchvision:"
                )
            module, _, preprocess, _ = kind.build(kind.name, Loading(pretrained=False))
        load_weights(module, folder / "encoder.safetensors")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a usable encoder ({type(error).__name__}: {error})"
        ) from error
    return LearnedEncoder(name or architecture, None, module, module, preprocess, device, **options)


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads a state dict from safetensors, every name required.

    Raises:
        OSError: no such file.
        ValueError: not a safetensors file.
        RuntimeError: names or shapes that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    module.load_state_dict(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in state.items()
        }
    )


def _to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 255]; the network normalises."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)


def _name(preprocess: Preprocess) -> str:
    described = getattr(preprocess, "__name__", None)
    return str(preprocess) if described is None else str(preprocess.__doc__)
