"""`latent`: latent diffusion of the CompVis code (PathLDM, ZoomLDM and others), converted."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from factory.catalog.entries import CallArgument
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.data.streams import Embedding, Scale
from factory.models.generators import weights
from factory.models.generators.binding import bind_stream
from factory.models.generators.families.base import read_index
from factory.models.generators.families.pipeline import Prompts, TextFamily
from factory.models.generators.labels import find_labels
from factory.models.generators.prompts import CLIP_TOKENS

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel

_EMBEDDING = CallArgument(argument="embeddings", shape="row dim")
_GRID = CallArgument(argument="embeddings", shape="row token dim")
_FINEST = 0.5
"""µm per pixel of scale 0 where the folder does not say (20x)."""


class LatentFamily(TextFamily):
    """Folders of `factory models convert`: of captions, classes or embeddings, as each says."""

    kind = "latent"
    pipelines = ("factory.models.generators.latent:LatentPipeline",)
    guidance = "call"
    null_condition = "negative prompt, last class or zeros"
    scale = 1.5
    sized = False
    caches = frozenset({"pyramid_attention"})

    def adjust(self) -> None:
        """Reads which stream the folder takes."""
        index = self._read_index()
        self.takes = str(index.get("takes", "caption"))
        self.is_grid = "GridConditioner" in (index.get("conditioner") or ())
        if self.takes == "class_name":
            self.required, self.optional = frozenset({"class_name"}), frozenset({"caption"})
            self.is_indexed = True
        elif self.takes == "embedding":
            self.required = frozenset({"embedding"})
            if self.is_grid:
                self.optional = frozenset({"class_name", "caption", "scale"})
        else:
            tokens = CLIP_TOKENS * int(index.get("windows", 1))
            self.token_limits = MappingProxyType({"tokenizer": tokens})

    def _read_index(self) -> Mapping[str, Any]:
        """Returns what the folder says of itself; nothing where there is no folder yet."""
        source = self.settings.model if self.entry is None else self.entry.source
        try:
            folder = weights.find_folder(source, self.base)
            return {} if folder is None else read_index(folder)
        except InputError:  # told where it is loaded
            return {}

    def group(self, condition: Condition) -> Any:
        """Grids of one size share a call."""
        embedding = condition.get(Embedding) if self.is_grid else None
        return None if embedding is None else len(embedding.array)

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns the texts, where the model takes any."""
        if self.takes != "caption":
            return [None] * len(conditions)
        return super().write_prompts(conditions)

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns prompts, indices of classes, or embeddings and their scales.

        Raises:
            InputError: embeddings of another shape, or a scale that the model does not have.
        """
        if self.takes == "caption":
            return super().bind(conditions, model)
        if self.takes == "class_name":
            return {"class_labels": [model.class_labels[str(c.class_name)] for c in conditions]}
        found = (each.get(Embedding) for each in conditions)
        streams = [stream for stream in found if stream is not None]
        spec, size = _GRID if self.is_grid else _EMBEDDING, (model.width, model.height)
        arguments = bind_stream(spec, streams, size, model.pipeline)
        if not self.is_grid:
            return arguments
        from factory.models.generators.latent_grid import GRIDS

        tokens = arguments["embeddings"].shape[1]
        if tokens not in GRIDS:
            known = ", ".join(map(str, GRIDS))
            raise InputError(f"embedding: the model takes {known} tokens an image, got {tokens}")
        scales = [_find_scale(each.get(Scale), tokens, model) for each in conditions]
        return {**arguments, "scales": scales}

    def find_labels(self, pipeline: Any, index: Mapping[str, Any]) -> dict[str, int]:
        """Returns the classes of a model of classes.

        Raises:
            InputError: model and catalog entry disagree, or neither names a class.
        """
        return find_labels(self.entry, pipeline, index) if self.is_indexed else {}

    def replace(self, streams: frozenset[str]) -> frozenset[str]:
        """A class stands for a caption, where the model takes captions."""
        return super().replace(streams) if self.takes == "caption" else frozenset()

    def explain_no_negative(self) -> str | None:
        """Only texts have a negative one."""
        return None if self.takes == "caption" else "takes no text"

    def describe_index(
        self, index: Mapping[str, Any]
    ) -> tuple[tuple[str, ...] | None, frozenset[str]]:
        """Returns its classes; nothing is missing of what it takes."""
        names = tuple(name for name in str(index.get("class_names") or "").split(",") if name)
        return (names if index.get("takes") == "class_name" else None), frozenset()


def _find_scale(scale: Scale | None, tokens: int, model: "LoadedModel") -> int:
    """Returns the number of a scale, each twice as coarse; without one, by the grid.

    Raises:
        InputError: none that the model has.
    """
    if scale is None:
        from factory.models.generators.latent_grid import find_scale

        return find_scale(tokens)
    config = model.pipeline.config
    finest = config.mpp or _FINEST
    count = model.pipeline.conditioner.config.scales
    found = math.log2(scale.mpp / finest)
    if not math.isclose(found, round(found), abs_tol=0.01) or not 0 <= round(found) < count:
        known = ", ".join(f"{finest * 2**number:g}" for number in range(count))
        raise InputError(f"scale: the model has {known} µm per pixel, got {scale.mpp:g}")
    return round(found)
