"""Image encoders of torchvision, timm, open_clip and transformers, as their cards load them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

Preprocess = Callable[[Image.Image], Tensor]
Forward = Callable[[Tensor], Tensor]
Loaded = tuple[nn.Module, Forward, Preprocess, str | None]
"""Network, images to features, image to tensor, revision."""


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


def load_torchvision(name: str, how: Loading) -> Loaded:
    """Loads `resnet18`, ...: its features before the classes, its weights' own preprocessing."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    module = models.get_model(name, weights=weights if how.pretrained else None)
    for head in ("fc", "classifier", "heads", "head"):
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
            break
    return module, module, weights.transforms(), str(weights) if how.pretrained else None


def load_timm(name: str, how: Loading) -> Loaded:
    """Loads any timm architecture, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`."""
    import timm

    if how.revision is not None:
        name = f"{name.partition('@')[0]}@{how.revision}"
    given = {key: _name_layer(value) for key, value in how.arguments.items()}
    module = timm.create_model(name, pretrained=how.pretrained, **{"num_classes": 0, **given})
    config = timm.data.resolve_model_data_config(module)
    if how.image_size is not None:
        config |= {"input_size": (3, how.image_size, how.image_size), "crop_pct": 1.0}
    config |= {key: each for key, each in (("mean", how.mean), ("std", how.std)) if each}
    preprocess = timm.data.create_transform(**config, is_training=False)
    forward: Forward = module
    if how.pooling != "default":

        def forward(batch: Tensor) -> Tensor:
            return pool_tokens(
                module.forward_features(batch), how.pooling, module.num_prefix_tokens
            )

    revision = name.partition("@")[2] or module.pretrained_cfg.get("tag")
    return module, forward, preprocess, revision or None


def load_open_clip(name: str, how: Loading) -> Loaded:
    """Loads the image side of `ARCH/WEIGHTS_TAG`, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`."""
    import open_clip

    architecture, tag = name, ""
    if ":" not in name:
        architecture, _, tag = name.partition("/")
    if how.pretrained and not tag and ":" not in name:
        raise ValueError(f"{name} names no weights: give {name}/WEIGHTS_TAG")
    model: Any
    if how.pretrained:
        model, preprocess = open_clip.create_model_from_pretrained(architecture, tag or None)
    else:
        model, _, preprocess = open_clip.create_model_and_transforms(architecture)
    return model, model.encode_image, preprocess, tag or None


def load_transformers(name: str, how: Loading) -> Loaded:
    """Loads `OWNER/NAME@REVISION` or a folder: CLIP's image features, else a pooled token.

    The default takes the pooler's output where its weights were in the checkpoint, else the class
    token: `AutoModel` gives a checkpoint without pooler a random one and only logs it.
    """
    from transformers import AutoConfig, AutoModel

    source, _, revision = name.partition("@")
    revision = how.revision or revision
    options: dict[str, Any] = {"revision": revision} if revision else {}
    preprocess = _read_processor(source, options) if how.mean is None else _write_transform(how)
    missing: list[str] = []
    if how.pretrained:
        model, info = AutoModel.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **options
        )
        missing = [*info["missing_keys"]]
    else:
        model = AutoModel.from_config(AutoConfig.from_pretrained(source, **options))
    random_pooler = any("pooler" in each for each in missing)
    pooling = "cls" if how.pooling == "default" and random_pooler else how.pooling

    def forward(batch: Tensor) -> Tensor:
        if pooling == "default" and hasattr(model, "get_image_features"):
            output: Any = model.get_image_features(pixel_values=batch)
            features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
            return features
        output = model(pixel_values=batch)
        pooled = getattr(output, "pooler_output", None)
        if pooling == "default" and pooled is not None:
            return torch.flatten(pooled, 1)
        chosen = "cls" if pooling == "default" else pooling
        extra = int(getattr(model.config, "num_register_tokens", 0))
        return pool_tokens(output.last_hidden_state, chosen, 1 + extra)

    found = getattr(model.config, "_commit_hash", None) or revision or None
    return model, forward, preprocess, found


def _read_processor(source: str, options: Mapping[str, Any]) -> Preprocess:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(source, **options)

    def preprocess(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    preprocess.__doc__ = str(processor)
    return preprocess


def _write_transform(how: Loading) -> Preprocess:
    """For repositories whose preprocessing stands in the card's text only."""
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    size = how.image_size or 224
    found: Preprocess = Compose(
        [Resize(size), CenterCrop(size), ToTensor(), Normalize(how.mean, how.std)]
    )
    return found


def pool_tokens(tokens: Tensor, pooling: str, prefix: int) -> Tensor:
    """Returns (N, D) of the class token, or (N, 2 D) with the mean of the patch tokens behind it.

    Args:
        tokens: (N, T, D), the class token first.
        pooling: `cls` or `cls+mean`.
        prefix: how many tokens stand before those of the patches: class and registers.
    """
    first = tokens[:, 0]
    if pooling == "cls":
        return first
    return torch.cat((first, tokens[:, prefix:].mean(dim=1)), dim=-1)


def _name_layer(value: Any) -> Any:
    """Returns the layer class that cards pass in code, where a catalog can only write its name."""
    import timm.layers

    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
    return layers.get(value, value) if isinstance(value, str) else value


LOADERS: dict[str, Callable[[str, Loading], Loaded]] = {
    "torchvision": load_torchvision,
    "timm": load_timm,
    "open_clip": load_open_clip,
    "transformers": load_transformers,
}
