"""Families of diffusers pipelines: how condition streams become arguments of a pipeline's call."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from factory.catalog.vocabulary import SCHEDULERS
from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.data.records import Condition
from factory.data.streams import Reference, Source
from factory.models.generators import weights
from factory.models.generators.base import Capabilities
from factory.models.generators.families.translating import TranslatingFamily
from factory.models.generators.labels import find_labels
from factory.models.generators.prompts import choose_wording, write_prompt
from factory.models.generators.settings import Guidance

if TYPE_CHECKING:
    from factory.models.generators.diffusers import DiffusersGenerator
    from factory.models.generators.loading import LoadedModel

Prompts = list[str | None]
"""Texts as sent, None where a condition has none."""
NONE: Mapping[str, Any] = MappingProxyType({})


class PipelineFamily(TranslatingFamily):
    """Models that a diffusers pipeline samples; a subclass binds streams to its arguments.

    Attributes:
        pipelines: `module:Class` of the pipelines that start from noise; the `_class_name` of a
            model's index says which one a model uses.
        image_pipelines: `module:Class` of the image-to-image pipeline for each of `pipelines`;
            empty where there is none.
        guidance: `step` reads the scale at every step, so it may follow a schedule; `call` reads it
            once; `distilled` feeds it to the network as a number, without a null condition.
        null_condition: what the unguided half of the batch is conditioned on.
        token_limits: tokenizer component -> tokens kept; None is `max_sequence_length`.
        lowercases: the pipeline lowers the prompt before it is tokenized.
        load_arguments: fixed arguments of `from_pretrained`.
        call_arguments: fixed arguments of every call.
        steps: default `num_inference_steps`, where neither recipe nor catalog tells.
        scale: default guidance scale, likewise.
        is_indexed: classes are indices of embeddings, which the model names.
        lacking: why none of its models can be sampled yet.
    """

    pipelines: tuple[str, ...]
    image_pipelines: tuple[str, ...] = ()
    guidance: Literal["step", "call", "distilled"] = "step"
    null_condition: str
    steps: int = 50
    scale: float
    predicts: Literal["noise", "flow"] | None = "noise"
    runs_fast = True
    caches = frozenset({"taylorseer", "pyramid_attention"})
    token_limits: Mapping[str, int | None] = NONE
    lowercases: bool = False
    load_arguments: Mapping[str, Any] = NONE
    call_arguments: Mapping[str, Any] = NONE
    is_indexed: bool = False
    lacking: str | None = None

    def load(self) -> "DiffusersGenerator":
        """Returns the generator that calls the pipeline.

        Raises:
            InputError: a template of prompts without a class.
        """
        from factory.models.generators.diffusers import DiffusersGenerator

        _ = self.wording
        return DiffusersGenerator(self)

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Tells whether an index names one of the pipelines."""
        paths = (*cls.pipelines, *cls.image_pipelines)
        return str(index.get("_class_name")) in {path.partition(":")[2] for path in paths}

    @property
    def title(self) -> str:
        """The pipeline's class."""
        return self.pipelines[0].partition(":")[2]

    @property
    def guidance_argument(self) -> str | None:
        """The argument of the guidance scale; None: the pipeline has none."""
        return "guidance_scale"

    @property
    def runs_alone(self) -> bool:
        """Whether each image has a call of its own, as images of one call would mix."""
        return False

    # --- what a call is given --------------------------------------------------------------------

    def group(self, condition: Condition) -> Any:
        """Returns what conditions that share a call have in common, besides how they start."""
        return None

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns the texts that are sent, as rows tell them."""
        return [None] * len(conditions)

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns the arguments of the call that streams other than a reference become.

        Args:
            conditions: one for each image; checked.
            model: as loaded.
        """
        return {}

    def bind_references(self, images: Sequence[Any], strength: float) -> dict[str, Any]:
        """Returns the arguments of the image-to-image call that PIL images of its size become."""
        return {"image": list(images), "strength": strength}

    def adapt_call(self, arguments: dict[str, Any], rows: int) -> dict[str, Any]:
        """Returns the arguments of a call of some rows, as its pipeline wants them."""
        return arguments

    def find_enlargement(self, pipeline: Any) -> int:
        """Returns how many times as wide as a reference the image is that is made of it."""
        return 1

    def note(self, condition: Condition, model: "LoadedModel") -> dict[str, Any]:
        """Returns what a row notes of how its condition was sent."""
        return {}

    @cached_property
    def wording(self) -> tuple[str, Mapping[str, str]]:
        """The template of prompts, and words for classes; raises InputError for one without."""
        return choose_wording(self.settings, self.entry)

    @property
    def fixed_arguments(self) -> dict[str, Any]:
        """Arguments of every call, by the family and by the catalog entry."""
        return {**self.call_arguments, **(self.entry.pipeline_arguments if self.entry else {})}

    @property
    def num_inference_steps(self) -> int:
        """As recipe, catalog or family say, the first that does."""
        return self.settings.steps or (self.entry.steps if self.entry else self.steps)

    @property
    def guidance_scale(self) -> float | Guidance:
        """Likewise."""
        if self.settings.guidance is not None:
            return self.settings.guidance
        return self.entry.guidance if self.entry else self.scale

    def compute_token_limits(self) -> dict[str, int]:
        """Returns tokenizer component -> tokens kept, for the call's arguments."""
        arguments = self.fixed_arguments
        return {
            name: int(arguments["max_sequence_length"]) if limit is None else limit
            for name, limit in self.token_limits.items()
        }

    def describe(self) -> dict[str, Any]:
        """Returns what it adds to the provenance of a generator."""
        return {
            "null_condition": self.null_condition,
            "negative_prompt": self.settings.negative_prompt,
            "prompt_template": None,
            "class_prompts": dict(self.wording[1]),
            "arguments": self.fixed_arguments,
        }

    # --- what is loaded --------------------------------------------------------------------------

    def find_parts(self, folder: Path) -> dict[str, Path]:
        """Returns component -> folder of what the model's own `folder` lacks.

        Raises:
            InputError: it is not on this disk.
        """
        return {}

    def prepare(self, pipeline: Any) -> None:
        """Changes the loaded pipeline, once, where it needs it.

        Raises:
            InputError: a model that the pipeline cannot sample.
        """

    def find_labels(self, pipeline: Any, index: Mapping[str, Any]) -> dict[str, int]:
        """Returns class name -> index of its embedding; empty where classes are words.

        Raises:
            InputError: model and catalog entry disagree, or neither names a class.
        """
        return {}

    def explain_missing(self) -> str | None:
        """Says whether a package, the weights, or consent to a model's own code is missing."""
        entry = self.entry
        if entry is None:
            return None
        own_code = entry.custom_pipeline is not None or entry.remote_code
        scheduler = SCHEDULERS.get((entry.scheduler or "").removesuffix("Scheduler"))
        package = None if scheduler is None else scheduler.package
        if package is not None and find_spec(package) is None:
            return f"needs the package {package}"
        if Path(entry.source).is_absolute():
            is_here = (Path(entry.source) / "model_index.json").is_file()
            return None if is_here else "its weights are missing"
        if weights.find_cached(entry.source, entry.revision) is None:
            gate = "gated, not downloaded" if entry.licence.gated else "not downloaded"
            return f"{gate}, runs its own code" if own_code else gate
        return "runs its own code: generator.trust_remote_code" if own_code else None

    # --- what is refused -------------------------------------------------------------------------

    def list_faults(self) -> Iterator[tuple[str, str]]:
        """Adds a negative prompt, and a schedule of guidance, that are not read."""
        yield from super().list_faults()
        asked = self.settings.negative_prompt is not None
        ignored = self.explain_no_negative() if asked else None
        if ignored is not None:
            yield "negative_prompt", f"{self.kind} {ignored}: remove it"
        guidance = self.settings.guidance
        is_changed = isinstance(guidance, Guidance) and guidance.scale != guidance.end
        if isinstance(guidance, Guidance) and is_changed and self.guidance != "step":
            once = f"{self.title} reads it once, so it cannot follow a schedule"
            yield "guidance", f"{once}: give one number, e.g. {guidance.scale}"

    def explain_no_negative(self) -> str | None:
        """Says why a negative prompt has no effect, if it has none."""
        reads_text = self.optional is not None and "caption" in self.optional
        return "takes no negative prompt" if reads_text else "takes no text"

    def check_condition(self, condition: Condition, capabilities: Capabilities) -> None:
        """Checks that the model takes a condition.

        Raises:
            InputError: it does not; says what it takes.
        """
        model, streams = self.settings.model, condition.shown
        if self.lacking is not None:
            raise InputError(f"model {model}: {self.lacking}")
        required, optional = capabilities.required, capabilities.optional
        missing = required - streams - self.replace(streams)
        wrong = [f"{name} is not supported" for name in sorted(streams - required - optional)]
        wrong += [f"{name} is missing" for name in sorted(missing)]
        if wrong or not streams:
            takes = ", ".join(sorted(required | optional))
            raise InputError(
                f"model {model} ({self.kind}): "
                f"{'; '.join(wrong) or 'the condition is empty'}: it takes {takes}"
            )
        self.check_streams(condition)
        # A class next to a caption is a label.
        names, name = capabilities.class_names, condition.class_name
        if (
            condition.caption is None
            and name is not None
            and "class_name" not in self.replace(streams)
        ):
            # Where none was learned, so it is next to whatever else says what to draw.
            if names == () and not streams - {"class_name", "scale", "source"}:
                raise InputError(
                    f"model {model}: has learned no classes, asked for {name!r}: ask by caption "
                    "or reference, or adapt it with factory train adapter"
                )
            if names and name not in names:
                raise InputError(f"model {model}: no class {name!r}: {advise(name, names)}")


class TextFamily(PipelineFamily):
    """Models of a text, which a class becomes through the prompt template."""

    optional: frozenset[str] | None = frozenset({"class_name", "caption"})
    null_condition = "negative prompt"

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns captions, and classes in the template."""
        return [write_prompt(each, *self.wording) for each in conditions]

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns the prompts, and a negative one for each."""
        arguments: dict[str, Any] = {"prompt": self.write_prompts(conditions)}
        if self.settings.negative_prompt is not None:
            arguments["negative_prompt"] = [self.settings.negative_prompt] * len(conditions)
        return arguments

    def describe(self) -> dict[str, Any]:
        """Adds the template."""
        return {**super().describe(), "prompt_template": self.wording[0]}

    def explain_no_negative(self) -> str | None:
        """A distilled model ignores it without `true_cfg_scale`."""
        if self.guidance != "distilled" or self.fixed_arguments.get("true_cfg_scale", 0) > 1:
            return None
        wanted = "true_cfg_scale > 1 in the catalog entry's pipeline_arguments"
        return f"ignores it without {wanted}"

    def replace(self, streams: frozenset[str]) -> frozenset[str]:
        """A class stands for the caption that the template makes of it."""
        return frozenset({"caption"} if "class_name" in streams else ())

    def check_condition(self, condition: Condition, capabilities: Capabilities) -> None:
        """Checks that a reference leaves a step to run, too.

        Raises:
            InputError: a condition that the model does not take.
        """
        super().check_condition(condition, capabilities)
        reference, steps = condition.get(Reference), self.num_inference_steps
        strength = None if reference is None else reference.strength
        if (source := condition.get(Source)) is not None:
            steps, strength = source.translation.steps or steps, source.translation.strength
        # diffusers' get_timesteps runs int(steps * strength).
        if strength is not None and int(steps * strength) < 1:
            raise InputError(
                f"reference strength {strength} of {steps} steps leaves no step to run: "
                f"raise strength to {1 / steps:.3g} or more, or raise generator.steps"
            )


class ClassFamily(PipelineFamily):
    """Models of class embeddings, asked by their index."""

    required = frozenset({"class_name"})
    is_indexed = True

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns the indices; what was checked and has none goes as the null class."""
        labels = model.class_labels
        found = [labels.get(str(each.class_name), len(labels)) for each in conditions]
        return {"class_labels": found}

    def note(self, condition: Condition, model: "LoadedModel") -> dict[str, Any]:
        """Notes a class that was sent as the null class."""
        name = condition.class_name
        is_unknown = name is not None and name not in model.class_labels
        return {"class_sent": "null class"} if is_unknown else {}

    def find_labels(self, pipeline: Any, index: Mapping[str, Any]) -> dict[str, int]:
        """Returns the classes of the model's own, or of the catalog entry.

        Raises:
            InputError: they disagree, or none is named.
        """
        return find_labels(self.entry, pipeline, index)
