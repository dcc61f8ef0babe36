"""`Streams`: what the rows of a batch are conditioned on, as tensors of `MultiTransformer`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factory.models.generators.multi_guidance import NAMES

Rows = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Streams:
    """Any subset of the streams for each of N rows; None where no row has one.

    Attributes:
        class_name: (N,) int64 class indices, below 0 for none.
        caption: (N, T, text_dim) features of tokens.
        caption_mask: (N, T) bool, the tokens that count; no token is no caption.
        embedding: (N, E, embedding_dim) tokens of an image encoder.
        embedding_mask: (N, E) bool, likewise.
        vector: (N, V) named values, NaN for those that are not known.
        control: (N, H, W) int64 label map: 0 is nothing, k the k-th label; below 0 no map at all.
        scale: (N,) µm per pixel, NaN for none.
    """

    class_name: torch.Tensor | None = None
    caption: torch.Tensor | None = None
    caption_mask: torch.Tensor | None = None
    embedding: torch.Tensor | None = None
    embedding_mask: torch.Tensor | None = None
    vector: torch.Tensor | None = None
    control: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    def keep(self, names: Collection[str]) -> "Streams":
        """Returns these streams without all others, for every row."""
        others = {name: None for name in NAMES if name not in names}
        return replace(self, **others)

    @property
    def names(self) -> tuple[str, ...]:
        """The streams that at least one row has."""
        return tuple(name for name in NAMES if self.present(name) is not None)

    def present(self, name: str) -> torch.Tensor | None:
        """Returns (N,) bool, the rows that have a stream; None where none has it."""
        value: torch.Tensor | None = getattr(self, name)
        if value is None:
            return None
        found = {
            "class_name": lambda: value >= 0,
            "caption": lambda: _ask(self.caption_mask).any(1),
            "embedding": lambda: _ask(self.embedding_mask).any(1),
            "vector": lambda: ~value.isnan().all(1),
            "control": lambda: (value >= 0).flatten(1).any(1),
            "scale": lambda: ~value.isnan(),
        }[name]()
        return found if bool(found.any()) else None

    def drop(self, name: str, rows: torch.Tensor) -> "Streams":
        """Returns the streams with one left out in the rows where (N,) bool `rows` is true."""
        value: torch.Tensor | None = getattr(self, name)
        if value is None:
            return self
        if name in ("caption", "embedding"):
            mask = _ask(getattr(self, f"{name}_mask")) & ~rows.unsqueeze(1)
            return replace(self, **{f"{name}_mask": mask})
        nothing: float = torch.nan if value.is_floating_point() else -1
        shape = (-1, *[1] * (value.ndim - 1))
        return replace(self, **{name: value.masked_fill(rows.view(shape), nothing)})

    def to(self, device: Any) -> "Streams":
        """Returns them on a device."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        moved = {name: value.to(device) for name, value in found.items() if value is not None}
        return Streams(**moved)


def _ask(mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        raise ValueError("tokens without their mask")
    return mask


def pad_tokens(rows: Sequence[Rows | None], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (N, T, width) float32 and the (N, T) mask of what is there.

    Raises:
        ValueError: tokens of another width.
    """
    arrays = [np.zeros((0, width)) if each is None else np.atleast_2d(each) for each in rows]
    wrong = next((each.shape for each in arrays if each.shape[1:] != (width,)), None)
    if wrong is not None:
        raise ValueError(f"image_embeds must be (tokens, {width}), got {wrong}")
    most = max(1, *(len(each) for each in arrays))
    tokens, mask = torch.zeros(len(arrays), most, width), torch.zeros(len(arrays), most)
    for row, each in enumerate(arrays):
        tokens[row, : len(each)] = torch.from_numpy(np.asarray(each, np.float32))
        mask[row, : len(each)] = 1
    return tokens, mask.bool()


def stack_maps(maps: Sequence[Rows | None], labels: int) -> torch.Tensor:
    """Returns (N, H, W) int64 label maps, -1 everywhere in rows without one.

    Raises:
        ValueError: a label that the model does not have.
    """
    shape = next(np.shape(each) for each in maps if each is not None)
    arrays = [np.full(shape, -1) if each is None else np.asarray(each, np.int64) for each in maps]
    stacked = torch.from_numpy(np.stack(arrays)).long()
    if int(stacked.max()) > labels:
        raise ValueError(f"control_maps have label {int(stacked.max())}, the model has {labels}")
    return stacked
