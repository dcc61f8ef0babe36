"""Learned encoders: models of torchvision, timm, open_clip and transformers, or a local folder."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from factory.encoders.small_resnet import SmallResNet
from factory.errors import InputError
from factory.fingerprint import compute_digest, hash_bytes

Preprocess = Callable[[Image.Image], Tensor]
Forward = Callable[[Tensor], Tensor]

BATCH_SIZE = 16
"""Every forward has this shape, padded: features depend on it in their last bits."""
_PRETRAINED = "?pretrained=false"


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
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._spec, self._revision = spec, revision
        self._module = module.to(device).eval()
        self._forward, self._preprocess, self._device = forward, preprocess, device
        self._weights_sha256: str | None = None
        self.dim = self.encode(np.zeros((1, 64, 64, 3), np.uint8)).shape[1]

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, the hash of all weights, dim and preprocessing."""
        if self._weights_sha256 is None:
            self._weights_sha256 = hash_weights(self._module)
        return {
            "id": self._spec,
            "revision": self._revision,
            "weights_sha256": self._weights_sha256,
            "dim": self.dim,
            "preprocessing": re.sub(r"\s+", " ", _name(self._preprocess)),
        }

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 features of (N, H, W, 3) uint8 RGB."""
        rows = [np.zeros((0, getattr(self, "dim", 0)), np.float32)] if len(images) == 0 else []
        for start in range(0, len(images), BATCH_SIZE):
            block = images[start : start + BATCH_SIZE]
            batch = torch.stack([self._preprocess(Image.fromarray(image)) for image in block])
            batch = pad(batch, (0, 0) * 3 + (0, BATCH_SIZE - len(block)))
            features = self._forward(batch.to(self._device))[: len(block)]
            rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)


def hash_weights(module: nn.Module) -> str:
    """Returns one sha256 over names, shapes, types and values of all weights and buffers."""
    described = []
    for name, value in sorted(module.state_dict().items()):
        data = value.detach().cpu().contiguous()
        raw = data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b""
        described.append([name, list(data.shape), str(data.dtype), hash_bytes(raw)])
    return compute_digest("weights", described)


def load_from_library(library: str, name: str, device: str) -> LearnedEncoder:
    """Loads a model of one of `factory.encoders.LIBRARIES`.

    Raises:
        InputError: no such model, or its weights cannot be had.
    """
    spec = f"{library}:{name}"
    pretrained = not name.endswith(_PRETRAINED)
    name = name.removesuffix(_PRETRAINED)
    load = {
        "torchvision": _load_torchvision,
        "timm": _load_timm,
        "open_clip": _load_open_clip,
        "transformers": _load_transformers,
    }[library]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, forward, preprocess, revision = load(name, pretrained)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise InputError(explain_failure(spec, error)) from error
    return LearnedEncoder(spec, revision, module, forward, preprocess, device)


def explain_failure(spec: str, error: BaseException) -> str:
    """Says why a library could not load a model, and what to do about it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = f"{type(error).__name__}: {lines[0]}"
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        do = "its weights are gated: accept the terms on its page, then set HF_TOKEN"
    elif any(word in text for word in ("connect", "resolve", "offline", "cache", "urlopen")):
        do = "its weights could not be fetched: check the connection, or give a local folder"
    else:
        do = "check the name and the connection, or give a local folder"
    return f"encoder {spec!r}: {told}: {do}"


def load_from_folder(folder: Path, device: str) -> LearnedEncoder:
    """Loads `encoder.json` (architecture, and its channels) and `encoder.safetensors`.

    The architecture is `small-resnet`, or `torchvision:NAME` for weights of the user's own.

    Raises:
        InputError: a file that is missing or does not fit.
    """
    path = folder / "encoder.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        architecture = described["architecture"]
        if architecture == "small-resnet":
            module: nn.Module = SmallResNet(tuple(described["channels"]))
            preprocess: Preprocess = _to_pixels
        else:
            library, _, name = architecture.partition(":")
            if library != "torchvision":
                raise ValueError(
                    f"architecture {architecture!r} is not small-resnet or torchvision:"
                )
            module, _, preprocess, _ = _load_torchvision(name, False)
        load_weights(module, folder / "encoder.safetensors")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a usable encoder ({type(error).__name__}: {error})"
        ) from error
    return LearnedEncoder(architecture, None, module, module, preprocess, device)


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


Loaded = tuple[nn.Module, Forward, Preprocess, str | None]


def _load_torchvision(name: str, pretrained: bool) -> Loaded:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    module = models.get_model(name, weights=weights if pretrained else None)
    for head in ("fc", "classifier", "heads", "head"):
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
            break
    return module, module, weights.transforms(), str(weights) if pretrained else None


def _load_timm(name: str, pretrained: bool) -> Loaded:
    import timm

    module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    config = timm.data.resolve_model_data_config(module)
    preprocess = timm.data.create_transform(**config, is_training=False)
    revision = name.partition("@")[2] or module.pretrained_cfg.get("tag")
    return module, module, preprocess, revision or None


def _load_open_clip(name: str, pretrained: bool) -> Loaded:
    import open_clip

    architecture, tag = name, ""
    if ":" not in name:
        architecture, _, tag = name.partition("/")
    if pretrained and not tag and ":" not in name:
        raise ValueError(f"{name} names no weights: give {name}/WEIGHTS_TAG")
    model: Any
    if pretrained:
        model, preprocess = open_clip.create_model_from_pretrained(architecture, tag or None)
    else:
        model, _, preprocess = open_clip.create_model_and_transforms(architecture)
    return model, model.encode_image, preprocess, tag or None


def _load_transformers(name: str, pretrained: bool) -> Loaded:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    source, _, revision = name.partition("@")
    options = {"revision": revision} if revision else {}
    processor = AutoImageProcessor.from_pretrained(source, **options)
    if pretrained:
        model = AutoModel.from_pretrained(source, use_safetensors=True, **options)
    else:
        model = AutoModel.from_config(AutoConfig.from_pretrained(source, **options))

    def forward(batch: Tensor) -> Tensor:
        if hasattr(model, "get_image_features"):
            output: Any = model.get_image_features(pixel_values=batch)
            features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
            return features
        output = model(pixel_values=batch)
        pooled = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[:, 0] if pooled is None else pooled
        return features.flatten(1)

    def preprocess(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    preprocess.__doc__ = str(processor)
    return (
        model,
        forward,
        preprocess,
        getattr(model.config, "_commit_hash", None) or revision or None,
    )


def _to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 255]; the network normalises."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)


def _name(preprocess: Preprocess) -> str:
    described = getattr(preprocess, "__name__", None)
    return str(preprocess) if described is None else str(preprocess.__doc__)
