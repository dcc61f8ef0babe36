"""Text features of open_clip models, for zero-shot classes and captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.core.errors import InputError

LIBRARY = "open_clip:"
LOCAL = "open_clip:local-dir:"
CONFIG_NAME = "open_clip_config.json"
BATCH_SIZE = 32
"""Every forward has this shape, padded: features depend on it in their last bits."""
_RANDOM = "?pretrained=false"


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Texts as a contrastive model sees them.

    Attributes:
        features: (N, D) float32, each of length 1, in the space of the model's image features.
        scale: the model's learned inverse temperature, exp(logit_scale) of Radford et al. 2021.
    """

    features: NDArray[np.float32]
    scale: float


def resolve_clip(spec: str, base: Path, catalogs: Catalogs) -> str:
    """Returns a spec of open_clip, of a catalog id too, that can be opened from anywhere.

    Raises:
        InputError: not a spec of open_clip, or a local folder that holds no model of it.
    """
    entry = catalogs.get_encoder(spec)
    if entry is not None and entry.reads_text:
        spec = entry.source
    if not spec.startswith(LIBRARY):
        raise InputError(
            f"encoder {spec!r} reads no text: give open_clip:hf-hub:OWNER/NAME, "
            "open_clip:ARCH/WEIGHTS_TAG or open_clip:local-dir:FOLDER"
        )
    if not spec.startswith(LOCAL):
        return spec
    folder = base / Path(spec.removeprefix(LOCAL)).expanduser()
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(
            f"{folder}: no open_clip model there: correct the path, or put {CONFIG_NAME} and "
            "open_clip_model.safetensors there"
        )
    return f"{LOCAL}{folder}"


class ClipText:
    """The text side of an open_clip model, with its own tokenizer, which cuts what is too long.

    Args:
        spec: `open_clip:...` as `factory.models.encoders` reads it.
        device: `auto`, `cpu`, `cuda`, …

    Raises:
        InputError: no such model, or its weights cannot be had.
    """

    def __init__(self, spec: str, device: str = "auto") -> None:
        import torch

        from factory.models.encoders.learned import explain_failure

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model, self._tokenizer = _load_clip(spec.removeprefix(LIBRARY))
        except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
            raise InputError(explain_failure(spec, error)) from error
        model.visual = None  # the image side is loaded by itself, where it is needed
        self._model, self._device = model.to(device).eval(), device
        self.scale = float(model.logit_scale.detach().exp())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (N, D) float32 features of length 1 of N texts; each by itself."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_SIZE):
                block = list(texts[start : start + BATCH_SIZE])
                padded = block + [""] * (BATCH_SIZE - len(block))
                tokens = self._tokenizer(padded).to(self._device)
                features = self._model.encode_text(tokens, normalize=True)[: len(block)]
                rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)


def embed_texts(spec: str, texts: Sequence[str], device: str = "auto") -> TextFeatures:
    """Embeds N texts with a model that is loaded for them alone; see `ClipText`.

    Raises:
        InputError: no such model, or its weights cannot be had.
    """
    model = ClipText(spec, device)
    return TextFeatures(model.embed(texts), model.scale)


def _load_clip(name: str) -> tuple[Any, Any]:
    """Returns model and tokenizer; random weights are those that the image encoder has too."""
    import open_clip
    import torch

    pretrained, name = not name.endswith(_RANDOM), name.removesuffix(_RANDOM)
    architecture, tag = (name, "") if ":" in name else name.partition("/")[::2]
    if pretrained and not tag and ":" not in name:
        raise ValueError(f"{name} names no weights: give {name}/WEIGHTS_TAG")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if pretrained:
            model, _ = open_clip.create_model_from_pretrained(architecture, tag or None)
        else:
            model, _, _ = open_clip.create_model_and_transforms(architecture)
    return model, open_clip.get_tokenizer(architecture)
