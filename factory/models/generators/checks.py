"""What a model does not take: conditions and settings refused before any sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.data.records import Condition
from factory.data.streams import Reference
from factory.models.generators.base import Capabilities
from factory.models.generators.families import Family
from factory.models.generators.settings import GeneratorSettings

NO_EMBEDDING = (
    "needs image embeddings (stream `embedding`), which no condition kind gives yet: "
    "take a text or class model"
)


@dataclass(frozen=True, slots=True)
class ConditionChecks:
    """Checks conditions against one model's capabilities."""

    model: str
    family_name: str
    family: Family
    capabilities: Capabilities
    steps: int

    def check(self, condition: Condition) -> None:
        """Checks that the model takes a condition.

        Raises:
            InputError: it does not; says what it takes.
        """
        self._check_streams({stream.name for stream in condition.streams})
        reference = condition.get(Reference)
        names = self.capabilities.class_names
        name = condition.class_name
        sent = condition.caption is None and name is not None  # next to a caption it is a label
        sent = sent and not (self.family.frees_class and reference is not None)
        if sent and names == ():
            raise InputError(
                f"model {self.model}: has learned no classes, asked for {name!r}: ask by caption "
                "or reference, or adapt it with factory train adapter"
            )
        if sent and names is not None and name not in names:
            raise InputError(f"model {self.model}: no class {name!r}: {advise(str(name), names)}")
        if reference is not None:
            self._check_strength(reference.strength)

    def _check_streams(self, streams: set[str]) -> None:
        required, optional = self.capabilities.required, self.capabilities.optional
        missing = required - streams
        if "embedding" in missing:
            raise InputError(f"model {self.model}: {NO_EMBEDDING}")
        if self.family.input == "text" and "class_name" in streams:
            missing -= {"caption"}  # the prompt template turns the class into one
        if self.family.frees_class and "reference" in streams:
            missing -= {"class_name"}
        wrong = [f"{name} is not supported" for name in sorted(streams - required - optional)]
        wrong += [f"{name} is missing" for name in sorted(missing)]
        if wrong or not streams:
            takes = ", ".join(sorted(required | optional))
            raise InputError(
                f"model {self.model} ({self.family_name}): "
                f"{'; '.join(wrong) or 'the condition is empty'}: it takes {takes}"
            )

    def _check_strength(self, strength: float) -> None:
        # diffusers' get_timesteps runs int(steps * strength); FlowPipeline at least one step.
        if self.family.input == "text" and int(self.steps * strength) < 1:
            raise InputError(
                f"reference strength {strength} of {self.steps} steps leaves no step to run: "
                f"raise strength to {1 / self.steps:.3g} or more, or raise generator.steps"
            )


def check_negative_prompt(
    settings: GeneratorSettings, name: str, family: Family, arguments: Mapping[str, Any]
) -> None:
    """Checks that a negative prompt has an effect.

    Raises:
        InputError: the family takes none, or a distilled model runs without `true_cfg_scale`.
    """
    if settings.negative_prompt is None:
        return
    if family.input != "text":
        raise InputError(f"generator.negative_prompt: {name} has no prompts: leave it out")
    if family.guidance == "distilled" and not arguments.get("true_cfg_scale", 0) > 1:
        raise InputError(
            f"generator.negative_prompt: {name} ignores it without true_cfg_scale > 1 in the "
            "catalog entry's pipeline_arguments: leave it out"
        )
