"""`latent`: latent diffusion of the CompVis code (PathLDM, Large-Image-Diffusion), converted."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from factory.catalog.entries import CallArgument
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.data.streams import Embedding
from factory.models.generators import weights
from factory.models.generators.binding import bind_stream
from factory.models.generators.families.base import read_index
from factory.models.generators.families.pipeline import Prompts, TextFamily
from factory.models.generators.labels import find_labels
from factory.models.generators.prompts import CLIP_TOKENS

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel

_EMBEDDING = CallArgument(argument="embeddings", shape="row dim")


class LatentFamily(TextFamily):
    """Folders of `factory models convert`: of captions, classes or embeddings, as each says."""

    kind = "latent"
    pipelines = ("factory.models.generators.latent:LatentPipeline",)
    guidance = "call"
    null_condition = "negative prompt, last class or zeros"
    steps = 50
    scale = 1.5
    sized = False

    def adjust(self) -> None:
        """Reads which stream the folder takes."""
        self.takes = self._read_takes()
        if self.takes == "class_name":
            self.required, self.optional = frozenset({"class_name"}), frozenset({"caption"})
            self.is_indexed = True
        elif self.takes == "embedding":
            self.required = frozenset({"embedding"})
        else:
            self.token_limits = MappingProxyType({"tokenizer": CLIP_TOKENS})

    def _read_takes(self) -> str:
        """Returns the stream that the folder takes; a caption where there is no folder yet."""
        source = self.settings.model if self.entry is None else self.entry.source
        try:
            folder = weights.find_folder(source, self.base)
            index = {} if folder is None else read_index(folder)
        except InputError:  # told where it is loaded
            index = {}
        return str(index.get("takes", "caption"))

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns the texts, where the model takes any."""
        if self.takes != "caption":
            return [None] * len(conditions)
        return super().write_prompts(conditions)

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns prompts, indices of classes, or embeddings."""
        if self.takes == "caption":
            return super().bind(conditions, model)
        if self.takes == "class_name":
            return {"class_labels": [model.class_labels[str(c.class_name)] for c in conditions]}
        found = (each.get(Embedding) for each in conditions)
        streams = [stream for stream in found if stream is not None]
        return bind_stream(_EMBEDDING, streams, (model.width, model.height), model.pipeline)

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
