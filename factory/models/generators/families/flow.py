"""`flow`: the models that `factory train generator` makes, asked by class, caption, reference."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from factory.data.records import Condition
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
    optional = frozenset({"class_name", "caption", "reference"})
    null_condition = "no streams"
    steps = 12
    scale = 1.0
    predicts = "flow"
    guidable = True
    sized = False
    token_limits = MappingProxyType({"tokenizer": 64})  # factory.models.generators.flow.TEXT_TOKENS
    lowercases = True
    trainee = "factory.train.generator.objectives.flow:FlowTrainee"

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns the captions."""
        return [each.caption or None for each in conditions]

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns the indices of classes, and captions where there are any."""
        captions = self.write_prompts(conditions)
        arguments = super().bind(conditions, model)
        if any(captions):
            arguments["prompt"] = [caption or "" for caption in captions]
        return arguments

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
        """A reference stands for the class."""
        return frozenset({"class_name"} if "reference" in streams else ())

    def describe_index(
        self, index: Mapping[str, Any]
    ) -> tuple[tuple[str, ...] | None, frozenset[str]]:
        """Returns its classes; captions are missing without a text encoder."""
        labels = index.get("class_names")
        names = None
        if isinstance(labels, str):
            names = tuple(name for name in labels.split(",") if name)
        return names, frozenset(() if any(index.get("text_encoder") or ()) else {"caption"})
