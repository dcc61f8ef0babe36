"""`transformers:OWNER/NAME@REVISION` or `transformers:FOLDER`: image models of transformers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factory.models.encoders.kinds.packaged import (
    LibraryKind,
    Loaded,
    Loading,
    Preprocess,
    pool_tokens,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class TransformersKind(LibraryKind):
    """CLIP's image features, else a pooled token.

    The default takes the pooler's output where its weights were in the checkpoint, else the class
    token: `AutoModel` gives a checkpoint without pooler a random one and only logs it.
    """

    kind = "transformers"
    form = "transformers:NAME"

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds a model from a repository or a folder."""
        import torch
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

        def forward(batch: "Tensor") -> "Tensor":
            if pooling == "default" and hasattr(model, "get_image_features"):
                output: Any = model.get_image_features(pixel_values=batch)
                features: Tensor = (
                    output if isinstance(output, torch.Tensor) else output.pooler_output
                )
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

    def preprocess(image: "Image.Image") -> "Tensor":
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
