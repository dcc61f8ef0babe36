"""`multi`: transformers of parallel streams, asked by any subset of what they were trained with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.core.late import NDArray, np
from factory.core.yaml.messages import advise
from factory.data.records import Condition
from factory.data.streams import Control, Domain, Embedding, Reference, Scale, Vector
from factory.models.generators.families.flow import FlowFamily
from factory.models.generators.multi_guidance import NAMES

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel


class MultiFamily(FlowFamily):
    """Class, caption, reference, embedding, vector, control and scale, each where it is given.

    A reference is where the path starts; without an embedding of its own its features, by the
    encoder that the model was trained with, are the embedding, too.
    """

    kind = "multi"
    pipelines = ("factory.models.generators.multi:MultiPipeline",)
    image_pipelines = pipelines
    optional = frozenset({*NAMES, "reference", "source", "domain"})
    sized = True
    guides_streams = True
    caches = frozenset({"taylorseer"})
    objective = "factory.train.generator.objectives.multi:MultiObjective"

    def group(self, condition: Condition) -> Any:
        """Conditions of as many embedding tokens share a call: padding would touch last bits."""
        embedding = condition.get(Embedding)
        return 1 if embedding is None else len(embedding.array)

    def bind(self, conditions: Sequence[Condition], model: LoadedModel) -> dict[str, Any]:
        """Returns the streams as arguments; those that no condition has are left out.

        Raises:
            InputError: a stream that the model was not trained with, or one of other values.
            SourceError: a reference or mask that cannot be read.
        """
        arguments = super().bind(conditions, model)
        scales = [each.get(Scale) for each in conditions]
        found: dict[str, list[Any]] = {
            "mpp": [None if each is None else each.mpp for each in scales],
            "image_embeds": [self._embed(each, model) for each in conditions],
            "vector": [_take_values(each, model) for each in conditions],
            "control_maps": [self._draw_map(each, model) for each in conditions],
        }
        for name, values in found.items():
            if any(each is not None for each in values):
                arguments[name] = values
        if "vector" in arguments:
            unknown = np.full(len(model.pipeline.vector_names), np.nan, np.float32)
            rows = [unknown if each is None else each for each in arguments["vector"]]
            arguments["vector"] = np.stack(rows)
        own = self.settings.stream_guidance
        if own:
            arguments["stream_guidance"] = {name: each.model_dump() for name, each in own.items()}
        return arguments

    def bind_looks(self, conditions: Sequence[Condition], model: LoadedModel) -> dict[str, Any]:
        """Domains are embeddings here."""
        return {}

    def encode_look(self, pixels: NDArray[np.uint8], model: LoadedModel) -> NDArray[np.float32]:
        """Returns the (1, dim) mean features of images by the model's encoder.

        Raises:
            InputError: a model that was trained without one.
        """
        encoder = model.pipeline.config.encoder
        if not encoder:
            raise InputError(f"domain: {self.settings.model} was trained without an image encoder")
        found = self.session.encoders.load(encoder, self.base).encode(pixels)
        return np.asarray(found.mean(0, keepdims=True), np.float32)

    def list_faults(self) -> Iterator[tuple[str, str]]:
        """Adds guidance of streams that the model does not take."""
        yield from super().list_faults()
        required, optional = self.streams
        known = (required | (optional or frozenset())) - {"reference", "source", "domain"}
        for name in self.settings.stream_guidance or {}:
            if name not in known:
                advice = advise(name, tuple(sorted(known)))
                yield f"stream_guidance.{name}", f"no stream of the model: {advice}"

    def describe(self) -> dict[str, Any]:
        """Adds the guidance of streams to the arguments of a call, which shape the pixels."""
        described, own = super().describe(), self.settings.stream_guidance
        if own:
            told = {name: each.model_dump() for name, each in sorted(own.items())}
            described["arguments"] = {**described["arguments"], "stream_guidance": told}
        return described

    @property
    def _size(self) -> tuple[int, int] | None:
        settings = self.settings
        return (settings.width, settings.height) if settings.width and settings.height else None

    def _embed(self, condition: Condition, model: LoadedModel) -> NDArray[np.float32] | None:
        """Returns the (tokens, dim) features of an embedding, else of the reference."""
        embedding, encoder = condition.get(Embedding), model.pipeline.config.encoder
        if embedding is not None:
            width = model.pipeline.transformer.config.embedding_dim
            if not width or embedding.encoder != encoder or embedding.array.shape[1] != width:
                raise InputError(
                    f"embedding: {self.settings.model} takes {width} numbers of "
                    f"{encoder or 'no encoder'}, got {embedding.array.shape[1]} of "
                    f"{embedding.encoder}"
                )
            return embedding.array
        domain = condition.get(Domain)
        if domain is not None:
            seen: NDArray[np.float32] = self.see_domain(domain, model)
            return seen
        reference = condition.get(Reference)
        if reference is None or not encoder:
            return None
        pixels = reference.load(*(self._size or (model.width, model.height)))
        return self.session.encoders.load(encoder, self.base).encode(pixels[None])

    def _draw_map(self, condition: Condition, model: LoadedModel) -> NDArray[np.uint8] | None:
        """Returns the label map of a mask in the model's own labels."""
        control = condition.get(Control)
        if control is None:
            return None
        labels = model.pipeline.control_labels
        if not labels:
            raise InputError(f"control: {self.settings.model} was trained without masks")
        wanted = {name: number for number, name in enumerate(labels, 1)}
        return control.load_as(wanted, *(self._size or (model.width, model.height)))


def _take_values(condition: Condition, model: LoadedModel) -> NDArray[np.float32] | None:
    """Returns the values of a vector in the model's order, NaN where one is not known."""
    vector, names = condition.get(Vector), model.pipeline.vector_names
    if vector is None:
        return None
    unknown = [name for name in vector.names if name not in names]
    if unknown:
        raise InputError(f"vector: no value {unknown[0]!r}: {advise(unknown[0], names)}")
    values = {name: value for name, value in vector.values if name not in vector.missing}
    return np.array([values.get(name, np.nan) for name in names], np.float32)
