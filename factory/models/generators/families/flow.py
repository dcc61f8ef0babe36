"""`flow`: the models that `factory train generator` makes, asked by class, caption, reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.core.late import NDArray, np
from factory.data.records import Condition
from factory.data.streams import Domain, Source
from factory.models.generators.families.pipeline import ClassFamily, Prompts

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel


class FlowFamily(ClassFamily):
    """Flow matching under any subset of the streams.

    Beside a reference, a class that the model does not know, or none, is sent as the null class:
    the reference alone carries the content.
    """

    kind = "flow"
    pipelines = ("factory.models.generators.flow:FlowPipeline",)
    image_pipelines = pipelines
    required = frozenset()
    optional = frozenset({"class_name", "caption", "reference", "source", "domain"})
    null_condition = "no streams"
    steps = 12
    scale = 1.0
    predicts = "flow"
    guidable = True
    inverts = True
    sees_domains = True
    sized = False
    pauses = True
    caches = frozenset()
    takes_guider = True
    token_limits = MappingProxyType({"tokenizer": 64})  # factory.models.generators.flow.TEXT_TOKENS
    lowercases = True
    objective = "factory.train.generator.objectives.flow:FlowObjective"

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns the captions."""
        return [each.caption or None for each in conditions]

    def bind(self, conditions: Sequence[Condition], model: LoadedModel) -> dict[str, Any]:
        """Returns the indices of classes, and captions where there are any."""
        captions = self.write_prompts(conditions)
        arguments = super().bind(conditions, model)
        if any(captions):
            arguments["prompt"] = [caption or "" for caption in captions]
        if self.settings.guider is not None:
            arguments["guider"] = self.settings.guider
        return arguments | self.bind_looks(conditions, model)

    def describe(self) -> dict[str, Any]:
        """Adds the guider to the arguments of a call, which shape the pixels."""
        described, guider = super().describe(), self.settings.guider
        if guider is not None:
            told = {**described["arguments"], "guider": guider.model_dump()}
            described["arguments"] = told
        return described

    def bind_looks(self, conditions: Sequence[Condition], model: LoadedModel) -> dict[str, Any]:
        """Returns the features of domains, where sources are translated: their own are no target.

        Raises:
            SourceError: an image of a domain that cannot be read.
        """
        if not any(each.get(Source) or each.get(Domain) for each in conditions):
            return {}
        domains = (each.get(Domain) for each in conditions)
        seen = [None if each is None else self.see_domain(each, model) for each in domains]
        return {"features": seen}

    def see_domain(self, domain: Domain, model: LoadedModel) -> Any:
        """Returns the features of a domain, once for all that is made of it; raises as above."""
        if domain.digest not in self._seen:
            pixels = domain.load(*self._choose_size(model))
            features = self.encode_look(pixels, model)
            if len(domain.images) == 1:  # a source, of which each row has another
                return features
            self._seen[domain.digest] = features
        return self._seen[domain.digest]

    def encode_look(self, pixels: NDArray[np.uint8], model: LoadedModel) -> Any:
        """Returns the mean features of (N, H, W, 3) images, as the pipeline takes them.

        Raises:
            InputError: a model that was trained without references.
        """
        if not model.pipeline.sees_looks:
            advice = "ask by class or caption"
            name = self.settings.model
            raise InputError(f"domain: {name} was trained without references: {advice}")
        return model.pipeline.encode_look(pixels)

    def tell_source(self, source: Source, model: LoadedModel) -> Condition:
        """Adds its own look, where the model sees any."""
        told = super().tell_source(source, model)
        if not model.pipeline.sees_looks:
            return told
        own = Domain((source.image,), (source.sha256,), source.fit)
        return Condition(None, None, *told.streams, own)

    @cached_property
    def _seen(self) -> dict[str, Any]:
        return {}

    def _choose_size(self, model: LoadedModel) -> tuple[int, int]:
        return self.settings.width or model.width, self.settings.height or model.height

    def find_labels(self, pipeline: Any, index: Mapping[str, Any]) -> dict[str, int]:
        """Returns the classes; a model may have learned none.

        Raises:
            InputError: model and catalog entry disagree.
        """
        declared = self.entry.class_names if self.entry is not None else None
        if not declared and not pipeline.class_names:
            return {}
        return super().find_labels(pipeline, index)

    def replace(self, streams: frozenset[str]) -> frozenset[str]:
        """A reference stands for the class, and so does a domain."""
        return frozenset({"class_name"} if streams & {"reference", "domain"} else ())

    def describe_index(
        self, index: Mapping[str, Any]
    ) -> tuple[tuple[str, ...] | None, frozenset[str]]:
        """Returns its classes; captions are missing without a text encoder."""
        labels = index.get("class_names")
        names = None
        if isinstance(labels, str):
            names = tuple(name for name in labels.split(",") if name)
        return names, frozenset(() if any(index.get("text_encoder") or ()) else {"caption"})
