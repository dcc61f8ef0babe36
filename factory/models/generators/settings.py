"""Settings of a generator: which model samples, and how; and the catalog entry of that model."""

from typing import Any, Literal

from pydantic import Field

from factory.catalog.catalog import Catalogs
from factory.catalog.entries import Adapter, ModelEntry, RuntimeEnv, Stream, Strict


class Guidance(Strict):
    """Classifier-free guidance that changes linearly from `scale` at the first step to `end`."""

    scale: float = Field(ge=0.0, le=100.0, description="guidance at the first step")
    end: float = Field(ge=0.0, le=100.0, description="guidance at the last step")


class StreamGuidance(Strict):
    """Classifier-free guidance of one stream, in an interval of the path (arXiv 2404.07724)."""

    scale: float = Field(ge=0.0, le=100.0, description="1 follows the stream as it is")
    low: float = Field(0.0, ge=0.0, le=1.0, description="least share of noise; elsewhere 1")
    high: float = Field(1.0, ge=0.0, le=1.0, description="most share of noise")


class ClassifierGuidance(Strict):
    """Sampling follows what a classifier sees: each image is led towards the class asked for."""

    model: str = Field(
        min_length=1,
        description="catalog id of a classifier, or its folder; on an encoder of ours, e.g. he-ssl",
    )
    scale: float = Field(
        100.0, gt=0.0, le=10_000.0, description="how strongly; 1 is Bayes' rule, too weak to see"
    )


def _list_families(schema: dict[str, Any]) -> None:
    """Writes the families that are installed into the JSON Schema."""
    from factory.models.generators.families import FAMILIES

    schema["anyOf"][0]["enum"] = list(FAMILIES.names)


class GeneratorSettings(Strict):
    """Which model samples, and how."""

    model: str = Field(min_length=1, description="catalog id, Hub id, or folder")
    revision: str | None = Field(None, description="Hub revision; overrides the catalog's")
    variant: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]+$", description="of the weight files, e.g. fp16"
    )
    family: str | None = Field(
        None,
        description="generator family, where no catalog entry tells",
        json_schema_extra=_list_families,
    )
    steps: int | None = Field(None, ge=1, le=1000, description="num_inference_steps")
    guidance: float | Guidance | None = Field(None, description="guidance_scale, or a schedule")
    stream_guidance: dict[Stream, StreamGuidance] | None = Field(
        None, description="of single streams, for models of family multi; others take `guidance`"
    )
    classifier_guidance: ClassifierGuidance | None = Field(
        None, description="leads models of family flow to the class; needs no training of theirs"
    )
    scheduler: str | None = Field(None, description="diffusers scheduler, e.g. UniPCMultistep")
    negative_prompt: str | None = None
    prompt_template: str | None = Field(
        None,
        description="text for a class condition on a text model, with {class_name}",
    )
    width: int | None = Field(None, ge=8, le=4096, multiple_of=8, description="px")
    height: int | None = Field(None, ge=8, le=4096, multiple_of=8, description="px")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: int = Field(16, ge=1, le=4096, description="images in one fixed forward shape")
    adapters: tuple[Adapter, ...] = ()
    trust_remote_code: bool = Field(False, description="needs the catalog entry's consent too")
    allow_pickle: bool = Field(False, description="load weights that are not safetensors")
    runtime_env: RuntimeEnv | None = Field(
        None, description="library versions of its Ray workers; overrides the catalog's"
    )
    approval: str | None = Field(
        None,
        min_length=3,
        description="who approved in writing, and when, where terms forbid making data sets",
    )


def find_entry(settings: GeneratorSettings, catalogs: Catalogs) -> ModelEntry | None:
    """Returns the catalog entry of a recipe's model, by id or Hub id; None for a bare folder or id.

    Raises:
        RecipeError: a catalog file is wrong.
    """
    model = settings.model
    if model in catalogs.list_ids("models"):
        return catalogs.find_model(model)
    return catalogs.find_model_of_source(model)
