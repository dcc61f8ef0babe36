"""The family table: how our condition streams map to the arguments of each diffusers pipeline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from factory.catalog.catalog import ModelEntry
from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.models.generators.settings import GeneratorSettings


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of pipeline: its classes, and what its call takes.

    Attributes:
        pipelines: `module:Class` of the pipelines that start from noise; the `_class_name` of a
            model's index says which one a model uses.
        image_pipelines: `module:Class` of the image-to-image pipeline for each of `pipelines`;
            empty where there is none, so that `reference` is not supported.
        input: the stream that the network was trained on. `text` takes a caption, or a class
            through the prompt template; `class` takes class indices; `mixed` class indices and
            captions, each where there is one; `embedding` a stream that no condition kind gives
            yet.
        guidance: `step` reads the scale at every step, so it may follow a schedule; `call` reads it
            once; `distilled` feeds it to the network as a number, without a null condition.
        null_condition: what the unguided half of the batch is conditioned on.
        frees_class: beside a reference, a class that the model does not know, or none, is sent as
            the null class: the reference alone carries the content.
        flow: predicts flow velocities, so that only flow schedulers fit.
        shifts: the pipeline gives `set_timesteps` its own sigmas and a shift.
        guidable: the call takes a `guide`, which leads it by a classifier.
        sized: the call takes `height` and `width`; otherwise the network fixes them.
        token_limits: tokenizer component -> tokens kept; None is `max_sequence_length`.
        lowercases: the pipeline lowers the prompt before it is tokenized.
        prepare: `module:function` called once with the loaded pipeline.
        load_arguments: fixed arguments of `from_pretrained`.
        call_arguments: fixed arguments of every call.
        steps: default `num_inference_steps`, where neither recipe nor catalog tells.
        scale: default guidance scale, likewise.
    """

    pipelines: tuple[str, ...]
    image_pipelines: tuple[str, ...]
    input: Literal["text", "class", "mixed", "embedding"]
    guidance: Literal["step", "call", "distilled"]
    null_condition: str
    steps: int
    scale: float
    frees_class: bool = False
    flow: bool = False
    shifts: bool = False
    guidable: bool = False
    sized: bool = True
    token_limits: Mapping[str, int | None] = field(default_factory=dict)
    lowercases: bool = False
    prepare: str | None = None
    load_arguments: Mapping[str, Any] = field(default_factory=dict)
    call_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The pipeline classes as a model's index names them."""
        return tuple(path.partition(":")[2] for path in (*self.pipelines, *self.image_pipelines))

    @property
    def required(self) -> frozenset[str]:
        """Streams that a condition must have."""
        streams = {"class": ("class_name",), "embedding": ("embedding",)}
        return frozenset(streams.get(self.input, ()))

    @property
    def optional(self) -> frozenset[str]:
        """Streams that a condition may have."""
        text = ("class_name", "caption") if self.input in ("text", "mixed") else ()
        image = ("reference",) if self.image_pipelines else ()
        return frozenset((*text, *image))

    def compute_token_limits(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """Returns tokenizer component -> tokens kept, for the call's arguments."""
        merged = {**self.call_arguments, **arguments}
        return {
            name: int(merged["max_sequence_length"]) if limit is None else limit
            for name, limit in self.token_limits.items()
        }


_CLIP = 77  # max_position_embeddings of the CLIP text encoders (Radford et al. 2021)

_PIXART = Family(
    pipelines=("diffusers:PixArtAlphaPipeline",),
    image_pipelines=(),
    input="text",
    guidance="call",
    null_condition="negative prompt",
    steps=20,
    scale=4.5,
    token_limits={"tokenizer": None},
    lowercases=True,
    call_arguments={
        "max_sequence_length": 120,
        "use_resolution_binning": False,
        "clean_caption": False,
    },
)

FAMILIES: dict[str, Family] = {
    "stable-diffusion": Family(
        pipelines=("diffusers:StableDiffusionPipeline",),
        image_pipelines=("diffusers:StableDiffusionImg2ImgPipeline",),
        input="text",
        guidance="step",
        null_condition="negative prompt",
        steps=50,
        scale=7.5,
        token_limits={"tokenizer": _CLIP},
        # The safety checker blackens what it takes for nudity: tissue is a frequent false alarm.
        load_arguments={
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        },
    ),
    "stable-diffusion-xl": Family(
        pipelines=("diffusers:StableDiffusionXLPipeline",),
        image_pipelines=("diffusers:StableDiffusionXLImg2ImgPipeline",),
        input="text",
        guidance="step",
        null_condition="negative prompt",
        steps=50,
        scale=5.0,
        token_limits={"tokenizer": _CLIP, "tokenizer_2": _CLIP},
        # By default a watermark is added only where its package happens to be installed.
        load_arguments={"add_watermarker": False},
    ),
    "stable-diffusion-3": Family(
        pipelines=("diffusers:StableDiffusion3Pipeline",),
        image_pipelines=("diffusers:StableDiffusion3Img2ImgPipeline",),
        input="text",
        guidance="step",
        null_condition="negative prompt",
        steps=28,
        scale=7.0,
        flow=True,
        token_limits={"tokenizer": _CLIP, "tokenizer_2": _CLIP, "tokenizer_3": None},
        call_arguments={"max_sequence_length": 256},
    ),
    "pixart-alpha": _PIXART,
    "pixart-sigma": replace(
        _PIXART,
        pipelines=("diffusers:PixArtSigmaPipeline",),
        call_arguments={**_PIXART.call_arguments, "max_sequence_length": 300},
    ),
    "flux": Family(
        pipelines=("diffusers:FluxPipeline",),
        image_pipelines=("diffusers:FluxImg2ImgPipeline",),
        input="text",
        guidance="distilled",
        null_condition="none",
        steps=28,
        scale=3.5,
        flow=True,
        shifts=True,
        token_limits={"tokenizer": _CLIP, "tokenizer_2": None},
        call_arguments={"max_sequence_length": 512},
    ),
    "dit": Family(
        pipelines=("diffusers:DiTPipeline",),
        image_pipelines=(),
        input="class",
        guidance="call",
        null_condition="extra class embedding",
        steps=50,
        scale=4.0,
        sized=False,
        prepare="factory.models.generators.dit:correct_null_class",
    ),
    "flow": Family(
        pipelines=("factory.models.generators.flow:FlowPipeline",),
        image_pipelines=("factory.models.generators.flow:FlowPipeline",),
        input="mixed",
        guidance="step",
        null_condition="no streams",
        frees_class=True,
        steps=12,
        scale=1.0,
        flow=True,
        guidable=True,
        sized=False,
        token_limits={"tokenizer": 64},  # flow.TEXT_TOKENS
        lowercases=True,
    ),
    # Declared, not sampled: it needs UNI2-h embeddings, which no condition kind gives yet.
    "pixcell": Family(
        pipelines=("diffusers:DiffusionPipeline",),
        image_pipelines=(),
        input="embedding",
        guidance="call",
        null_condition="learned embedding",
        steps=20,
        scale=2.0,
    ),
}


UNSUPPORTED = "unsupported"
"""Family of catalog entries that are on record for their terms and training data only."""


def get_family(name: str) -> Family:
    """Looks a family up.

    Raises:
        InputError: no such family, names the nearest; or a model that is on record only.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if name == UNSUPPORTED:
        raise InputError(
            "this model is on record only, for its terms and training data: no pipeline family "
            "samples it yet: take another model"
        )
    raise InputError(f"no pipeline family {name!r}: {advise(name, list(FAMILIES))}")


def detect_family(folder: Path) -> str:
    """Reads the family of a pipeline folder off `_class_name` in its model_index.json.

    Raises:
        InputError: no readable index, or a pipeline class that no family covers.
    """
    class_name = read_index(folder).get("_class_name")
    for name, family in FAMILIES.items():
        if class_name in family.class_names and class_name != "DiffusionPipeline":
            return name
    raise InputError(
        f"{folder / 'model_index.json'}: _class_name {class_name!r} belongs to no family "
        f"({', '.join(FAMILIES)}): set generator.family"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """Reads a pipeline folder's model_index.json.

    Raises:
        InputError: missing or not a JSON object.
    """
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give a diffusers pipeline") from error
    if not isinstance(index, dict):
        raise InputError(f"{path}: must hold an object, got {type(index).__name__}")
    return index


def choose_family(settings: GeneratorSettings, entry: ModelEntry | None) -> str | None:
    """Returns the family that recipe or catalog tell, or None where neither does.

    Raises:
        InputError: an unknown family, or recipe and catalog that disagree.
    """
    if entry is not None and settings.family not in (None, entry.family):
        raise InputError(
            f"generator.family: {settings.family!r}, but the catalog says {entry.family!r} "
            f"for {entry.id}: leave it out"
        )
    return entry.family if entry is not None else settings.family
