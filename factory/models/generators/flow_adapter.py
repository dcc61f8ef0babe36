"""Adapters of our own pipelines: low-rank updates of the network, embeddings of their classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from factory.core.errors import InputError
from factory.models.generators.straight import StraightPipeline

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def write_adapter(
    pipeline: StraightPipeline,
    path: Path,
    layers: Mapping[str, torch.Tensor],
    class_names: Sequence[str],
    embeddings: torch.Tensor,
) -> None:
    """Writes an adapter as safetensors.

    Args:
        pipeline: that it was trained on.
        path: file.
        layers: of its network: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.
        class_names: the classes that it brings, which may be classes of the base too.
        embeddings: (classes, dim), one row for each.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{pipeline.network_name}.{name}": value.detach().cpu().contiguous()
        for name, value in layers.items()
    }
    tensors[f"{pipeline.classes_name}.weight"] = embeddings.detach().cpu().contiguous()
    # One entry only: of several, safetensors shuffles the order, and with it the file's hash.
    save_file(tensors, path, {"class_names": json.dumps(list(class_names))})


def merge_adapter(pipeline: StraightPipeline, path: Path, scale: float) -> None:
    """Merges an adapter: W + scale B A for each layer (Hu et al. 2022, arXiv 2106.09685), classes.

    Raises:
        InputError: a file of another kind of model.
    """
    names, embeddings, tensors = _read_adapter(path, f"{pipeline.classes_name}.weight")
    prefix = f"{pipeline.network_name}."
    layers = dict(getattr(pipeline, pipeline.network_name).named_modules())
    changes = []
    stems = {key.removesuffix(_DOWN).removesuffix(_UP) for key in tensors}
    for stem in sorted(stems):
        name = stem.removeprefix(prefix)
        weight: Any = getattr(layers.get(name), "weight", None)
        up, down = tensors.get(f"{stem}{_UP}"), tensors.get(f"{stem}{_DOWN}")
        try:
            change = None if up is None or down is None else _multiply(up, down)
        except (IndexError, RuntimeError):  # shapes that do not go together
            change = None
        if weight is None or change is None or weight.shape != change.shape:
            raise InputError(f"{path}: trained on another model: layer {name!r} does not fit")
        changes.append((weight, change))
    try:
        set_classes(pipeline, names, embeddings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with torch.no_grad():
        for weight, change in changes:
            weight.add_(scale * change.to(weight))


def _read_adapter(
    path: Path, classes: str
) -> tuple[list[str], torch.Tensor, dict[str, torch.Tensor]]:
    """Returns an adapter's classes, their embeddings, and its low-rank layers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {}).get("class_names", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an adapter: {error}") from error
    embeddings = tensors.pop(classes, None)
    if names is None or embeddings is None:
        raise InputError(f"{path}: no adapter of a flow model: it has no class embeddings")
    return names, embeddings, tensors


def set_classes(pipeline: StraightPipeline, names: Sequence[str], embeddings: torch.Tensor) -> None:
    """Gives a pipeline classes: known ones get a new embedding, others are added at the end.

    Raises:
        InputError: a name with a comma, or embeddings of another width.
    """
    width, own = pipeline.class_width, pipeline.class_table
    if embeddings.shape != (len(names), width):
        raise InputError(
            f"class embeddings of shape {tuple(embeddings.shape)} for {len(names)} classes of "
            f"{width} numbers: the adapter was trained on another model"
        )
    commas = [name for name in names if "," in name]
    if commas:
        raise InputError(f"class {commas[0]!r}: rename it without a comma")
    like = next(getattr(pipeline, pipeline.network_name).parameters())
    known = list(pipeline.class_names)
    rows = [] if own is None else [*own.weight.data]
    fixed = known[: len(known) - len(rows)]  # trained otherwise than by a table that can grow
    taken = [name for name in names if name in fixed]
    if taken:
        raise InputError(f"class {taken[0]!r}: the model was trained with it: give it another name")
    for name, row in zip(names, embeddings.to(like), strict=True):
        if name in known:
            rows[known.index(name) - len(fixed)] = row
        else:
            known.append(name)
            rows.append(row)
    table = torch.nn.Embedding(len(rows), width)
    table.weight = torch.nn.Parameter(torch.stack(rows), requires_grad=False)
    pipeline.put_classes(known, table)


def _multiply(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Returns B A as a layer's weight: of a linear layer, or of a convolution (B is 1 x 1)."""
    if up.ndim == 2:
        return up.float() @ down.float()
    return torch.einsum("or,rihw->oihw", up.float().flatten(1), down.float())
