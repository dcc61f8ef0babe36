"""The image-text model that is tuned: any of open_clip, or a tiny one that ships with factory."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.core.images import decode_image
from factory.data.images import SourceImage
from factory.models.encoders.kinds.open_clip import CONFIG_NAME
from factory.models.encoders.learned import explain_failure, hash_weights

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny"
"""Holds `open_clip_config.json`: a ResNet for 64 px, a text transformer, 2 million parameters."""

RANDOM = "none"
_LIBRARY, _LOCAL, _HUB = "open_clip:", "local-dir:", "hf-hub:"
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Start:
    """Where every arm starts from.

    Attributes:
        name: as open_clip reads it.
        weights: tag or file; None where the name itself leads to them, or they are random.
        is_random: weights are drawn by the seed of the repetition.
    """

    name: str
    weights: str | None
    is_random: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """A model with its own tokenizer and transforms.

    Attributes:
        module: of open_clip.
        tokenize: texts to (N, T) tokens, cut at the model's context length.
        augment: the transform of training.
        preprocess: the transform of evaluation.
        device: where the module is.
        autocast: bfloat16 where True.
    """

    module: Any
    tokenize: Callable[[Sequence[str]], torch.Tensor]
    augment: Callable[[Image.Image], torch.Tensor]
    preprocess: Callable[[Image.Image], torch.Tensor]
    device: torch.device
    autocast: bool


def find_start(model: str, pretrained: str | None) -> Start:
    """Reads what `--model` and `--pretrained` say.

    Raises:
        InputError: no weights named, or a folder that holds no model.
    """
    name = model.removeprefix(_LIBRARY)
    if name == TINY:
        if pretrained not in (None, RANDOM):
            raise InputError(f"--pretrained {pretrained}: tiny has random weights: leave it out")
        return Start(f"{_LOCAL}{TINY_FOLDER}", None, True)
    if name.startswith(_LOCAL):
        folder = Path(name.removeprefix(_LOCAL)).expanduser()
        if not (folder / CONFIG_NAME).is_file():
            raise InputError(f"{folder}: no open_clip model there: it needs {CONFIG_NAME}")
        name = f"{_LOCAL}{folder.resolve()}"
    if name.startswith((_LOCAL, _HUB)):
        if pretrained not in (None, RANDOM):
            raise InputError(f"--pretrained {pretrained}: {model} has weights of its own")
        return Start(name, None, pretrained == RANDOM)
    architecture, _, tag = name.partition("/")
    weights = pretrained or tag or None
    if weights is None:
        raise InputError(
            f"--model {model} names no weights: give --pretrained TAG or FILE, or --pretrained "
            f"{RANDOM} for random ones"
        )
    return Start(architecture, None if weights == RANDOM else weights, weights == RANDOM)


def load_clip(start: Start, seed: int, device: str, precision: str) -> Clip:
    """Loads the model; random weights are those of the seed.

    Raises:
        InputError: no such model, or its weights cannot be had.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with torch.random.fork_rng(devices=[]), _silence_warnings(start.is_random):
            torch.manual_seed(derive_seed(seed, "retrieval-weights"))
            module = open_clip.create_model(
                start.name,
                start.weights,
                load_weights=not start.is_random,
                pretrained_text=not start.is_random,
                require_pretrained=not start.is_random,
            )
        tokenize = open_clip.get_tokenizer(start.name)
        module = module.to(device)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise InputError(explain_failure(start.name, error)) from error
    config = PreprocessCfg(**module.visual.preprocess_cfg)
    return Clip(
        module,
        tokenize,
        image_transform_v2(config, is_train=True),
        image_transform_v2(config, is_train=False),
        torch.device(device),
        precision == "bf16" or (precision == "auto" and device.startswith("cuda")),
    )


def describe_clip(start: Start, clip: Clip, model: str) -> dict[str, Any]:
    """Returns id, weights (hash, where they are not random), size and transforms."""
    module: nn.Module = clip.module
    return {
        "model": model,
        "pretrained": start.weights,
        "weights": "random, of the seed" if start.is_random else "pretrained",
        "weights_sha256": None if start.is_random else hash_weights(module),
        "parameters": sum(each.numel() for each in module.parameters()),
        "augmentation": _describe(clip.augment),
        "preprocessing": _describe(clip.preprocess),
        "tokenizer": type(clip.tokenize).__name__,
        "context_length": getattr(clip.tokenize, "context_length", None),
    }


@torch.inference_mode()
def embed_images(clip: Clip, images: Sequence[SourceImage]) -> NDArray[np.float32]:
    """Returns (N, D) float32 features of length 1."""
    clip.module.eval()
    found = []
    for start in range(0, len(images), _BATCH):
        pixels = [
            clip.preprocess(Image.fromarray(decode_image(image.read_bytes(), image.place)))
            for image in images[start : start + _BATCH]
        ]
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=clip.autocast):
            features = clip.module.encode_image(torch.stack(pixels).to(clip.device), normalize=True)
        found.append(features.float().cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def embed_captions(clip: Clip, captions: Sequence[str]) -> NDArray[np.float32]:
    """Returns (N, D) float32 features of length 1."""
    clip.module.eval()
    found = []
    for start in range(0, len(captions), _BATCH):
        tokens = clip.tokenize(list(captions[start : start + _BATCH])).to(clip.device)
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=clip.autocast):
            features = clip.module.encode_text(tokens, normalize=True)
        found.append(features.float().cpu().numpy())
    return np.concatenate(found)


def count_alike(clip: Clip, captions: Sequence[str]) -> int:
    """Returns how many captions have the very tokens of another: cut off where they differ."""
    tokens = clip.tokenize(list(captions)).numpy()
    digests = [hashlib.sha256(row.tobytes()).digest() for row in tokens]
    return len(digests) - len(set(digests))


@contextmanager
def _silence_warnings(is_random: bool) -> Iterator[None]:
    """Has open_clip not warn of random weights where they are asked for."""
    root = logging.getLogger()
    before = root.level
    try:
        if is_random:
            root.setLevel(logging.ERROR)
        yield
    finally:
        root.setLevel(before)


def _describe(transform: Any) -> str:
    return " ".join(str(transform).split())
