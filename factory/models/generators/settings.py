"""Settings of a generator: which model samples, and how; and the catalog entry of that model."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.catalog.catalog import Catalogs
from factory.catalog.entries import Adapter, ModelEntry, RuntimeEnv, Stream, Strict
from factory.models.generators.guiders import Guider


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


class TaylorSeer(Strict):
    """Blocks of a transformer run at some steps; between, a series foretells (arXiv 2503.06923)."""

    kind: Literal["taylorseer"]
    interval: int = Field(2, ge=2, le=100, description="from one whole step to the next")
    order: int = Field(1, ge=0, le=4, description="of the series; 0 repeats the last whole step")
    start: int = Field(2, ge=1, le=1000, description="first steps, all whole")


class PyramidAttention(Strict):
    """Attention is computed at some steps and repeated between them (arXiv 2408.12588)."""

    kind: Literal["pyramid_attention"]
    interval: int = Field(2, ge=2, le=100, description="from one attention computed to the next")
    low: float = Field(
        0.1, ge=0.0, le=1.0, description="least timestep, as a share; elsewhere all is computed"
    )
    high: float = Field(0.8, ge=0.0, le=1.0, description="greatest timestep, as a share")

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"high must be above low ({self.low:g}), got {self.high:g}")
        return self


class Speed(Strict):
    """How the network runs on its device. Each changes last bits, so a recipe says it."""

    channels_last: bool = Field(
        False, description="convolutions of network and decoder keep channels last in memory"
    )
    attention: Literal["math", "flash", "efficient", "cudnn"] | None = Field(
        None, description="torch's kernel for attention of the network; default: torch chooses"
    )
    compile: bool = Field(False, description="torch.compile of the network, for each batch shape")


Cache = Annotated[TaylorSeer | PyramidAttention, Field(discriminator="kind")]
_BY_BATCH = (
    "decides by what all images of a batch show whether a step is left out, so that an image would "
    "depend on its company: take taylorseer, which leaves out steps by their number"
)
REFUSED_CACHES = {
    "firstblock": _BY_BATCH,
    "sea": _BY_BATCH,
    "tea": _BY_BATCH,
    "mag": "needs ratios measured for a model, its scheduler and number of steps, which no model "
    "here has: take taylorseer",
    "faster": "tells the unguided half of a batch by argument names of pipelines of films: take "
    "taylorseer, or stream_guidance between two shares of noise",
    "textkv": "knows a prompt by where it lies in memory, for one network (NucleusMoEImage): take "
    "taylorseer",
}
"""Caches of diffusers by name, without `_` and `cache`, and why they are none here."""


def _add_bare_kinds(schema: dict[str, Any]) -> None:
    """Adds the bare names of kinds to the JSON Schema."""
    kinds = list(schema["anyOf"][0]["discriminator"]["mapping"])
    schema["anyOf"].insert(0, {"enum": kinds, "type": "string"})


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
    guider: Guider | None = Field(
        None,
        description="how guidance makes one prediction of two: a kind, or its settings; of the "
        "families flow and multi",
        json_schema_extra=_add_bare_kinds,
    )
    classifier_guidance: ClassifierGuidance | None = Field(
        None, description="leads models of family flow to the class; needs no training of theirs"
    )
    cache: Cache | None = Field(
        None,
        description="parts of the network that some steps leave out: a kind, or its settings",
        json_schema_extra=_add_bare_kinds,
    )
    speed: Speed | None = Field(
        None, description="how the network runs on its device; `factory plan --speed` measures it"
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

    @field_validator("cache", "guider", mode="before")
    @classmethod
    def _read_kind(cls, given: Any) -> Any:
        """Reads a bare name as its kind."""
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("cache", mode="before")
    @classmethod
    def _refuse_cache(cls, cache: Any) -> Any:
        """Says why a cache of diffusers is none here."""
        kind = cache.get("kind") if isinstance(cache, dict) else cache
        name = re.sub(r"[_\W]", "", str(kind).lower()).removesuffix("cache")
        if name in REFUSED_CACHES:
            raise ValueError(f"{kind} {REFUSED_CACHES[name]}")
        return cache

    @field_validator("speed")
    @classmethod
    def _drop_idle_speed(cls, speed: Speed | None) -> Speed | None:
        """Reads one that switches nothing on as none: the images are the same."""
        return None if speed == Speed() else speed

    def describe_ways(self) -> dict[str, Any]:
        """Returns cache and speed, of those that are asked for, for provenance."""
        asked = {"cache": self.cache, "speed": self.speed}
        return {name: each.model_dump() for name, each in asked.items() if each is not None}


def find_entry(settings: GeneratorSettings, catalogs: Catalogs) -> ModelEntry | None:
    """Returns the catalog entry of a recipe's model, by id or Hub id; None for a bare folder or id.

    Raises:
        RecipeError: a catalog file is wrong.
    """
    model = settings.model
    if model in catalogs.list_ids("models"):
        return catalogs.find_model(model)
    return catalogs.find_model_of_source(model)
