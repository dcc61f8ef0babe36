"""`open_clip:ARCH/WEIGHTS_TAG`, `open_clip:hf-hub:OWNER/NAME` or `open_clip:local-dir:FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.late import NDArray, np
from factory.models.encoders.kinds.packaged import RANDOM, LibraryKind, Loaded, Loading

CONFIG_NAME = "open_clip_config.json"
BATCH_SIZE = 32
"""Every forward of texts has this shape, padded: features depend on it in their last bits."""
_LOCAL = "local-dir:"


class OpenClipKind(LibraryKind):
    """The image side of contrastive models; `zero_shot` and `alignment` read their text side."""

    kind = "open_clip"
    form = "open_clip:NAME"
    text_forms = (
        "open_clip:hf-hub:OWNER/NAME",
        "open_clip:ARCH/WEIGHTS_TAG",
        "open_clip:local-dir:FOLDER",
    )

    @property
    def folder(self) -> Path | None:
        """The local folder that the spec names, if it does."""
        place = self.name.removeprefix(_LOCAL)
        return None if place == self.name else self.base / Path(place).expanduser()

    @property
    def spec(self) -> str:
        """The spec, with a local folder that any process finds."""
        return self.source if self.folder is None else f"{self.kind}:{_LOCAL}{self.folder}"

    @property
    def placeless(self) -> str:
        """The spec without the place of a local folder."""
        return self.source if self.folder is None else f"{self.kind}:{_LOCAL}".rstrip(":")

    def explain_missing(self) -> str | None:
        """Says that a local folder holds no model of the library, or None."""
        if self.folder is None or (self.folder / CONFIG_NAME).is_file():
            return None
        return (
            f"{self.folder}: no open_clip model there: correct the path, or put {CONFIG_NAME} and "
            "open_clip_model.safetensors there"
        )

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds the image side.

        Raises:
            ValueError: an architecture without weights.
        """
        import open_clip

        architecture, tag = _split(name, how.pretrained)
        model: Any
        if how.pretrained:
            model, preprocess = open_clip.create_model_from_pretrained(architecture, tag)
        else:
            model, _, preprocess = open_clip.create_model_and_transforms(architecture)
        return model, model.encode_image, preprocess, tag

    def load_text(self, device: str = "auto") -> ClipText:
        """Returns the text side; random weights are those that the image side has too.

        Raises:
            InputError: no such model, or its weights cannot be had.
        """
        import open_clip
        import torch

        from factory.models.encoders.learned import explain_failure

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        name, pretrained = self.spec.partition(":")[2], not self.name.endswith(RANDOM)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = self.build(name.removesuffix(RANDOM), Loading(pretrained=pretrained))[0]
            architecture, _ = _split(name.removesuffix(RANDOM), pretrained)
            tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
            raise InputError(explain_failure(self.spec, error)) from error
        return ClipText(model, tokenizer, device)


class ClipText:
    """The text side of an open_clip model, with its own tokenizer, which cuts what is too long.

    Args:
        model: as the library builds it; its image side is dropped.
        tokenizer: texts -> tokens.
        device: `cpu`, `cuda`, …

    Attributes:
        scale: the model's learned inverse temperature, exp(logit_scale) of Radford et al. 2021.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        model.visual = None  # the image side is loaded by itself, where it is needed
        self._model, self._tokenizer, self._device = model.to(device).eval(), tokenizer, device
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


def _split(name: str, pretrained: bool) -> tuple[str, str | None]:
    """Returns architecture and tag of weights; a name of the Hub or a folder has none."""
    architecture, tag = (name, "") if ":" in name else name.partition("/")[::2]
    if pretrained and not tag and ":" not in name:
        raise ValueError(f"{name} names no weights: give {name}/WEIGHTS_TAG")
    return architecture, tag or None
