"""`DiffusersGenerator`: samples any family of the table through its diffusers pipelines."""

import copy
import importlib.metadata
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.catalog.catalog import ModelEntry
from factory.core.errors import GenerationError, InputError, OutOfMemoryError
from factory.data.records import Condition, Job, Sample
from factory.data.streams import Reference
from factory.models.classifiers.model import read_classifier_info
from factory.models.generators import weights
from factory.models.generators.base import Capabilities, name_model
from factory.models.generators.checks import NO_EMBEDDING, ConditionChecks, check_negative_prompt
from factory.models.generators.families import choose_family, detect_family, get_family
from factory.models.generators.loading import LoadedModel, load_model, name_device
from factory.models.generators.outputs import is_out_of_memory, quantise
from factory.models.generators.prompts import choose_wording, count_tokens, write_prompt
from factory.models.generators.sampling import describe_scheduler, plan_guidance, seed_steps
from factory.models.generators.settings import ClassifierGuidance, GeneratorSettings, Guidance
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.models.generators.classifier_guidance import ClassifierGuide

PIPELINE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a pipeline that fails raises; anything else is a defect of ours and is not wrapped."""

Prompts = list[str | None]
"""Texts as sent, None where a condition has none."""

_REFERENCES_KEPT = 128  # fitted images in memory: 100 MB at 512 px


class DiffusersGenerator:
    """Samples with a diffusers pipeline; the weights are loaded at the first need.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, if it has one; its `source` is a Hub id or a folder,
            absolute or relative to `base`.
        base: the recipe's folder, against which relative paths resolve.

    Raises:
        InputError: settings that contradict each other or the family.
        GenerationError: a Hub model without catalog entry that cannot be reached.
    """

    def __init__(self, settings: GeneratorSettings, entry: ModelEntry | None, base: Path) -> None:
        self._settings = settings
        self._entry = entry
        self._base = base
        self._family_name = choose_family(settings, entry) or _detect(settings, base)
        self._family = get_family(self._family_name)
        self._batch_size = settings.batch_size
        self._template, self._class_prompts = choose_wording(settings, entry)
        self._steps = settings.steps or (entry.steps if entry else self._family.steps)
        own = entry.guidance if entry else self._family.scale
        self._guidance: float | Guidance = own if settings.guidance is None else settings.guidance
        self._scale, self._callback = plan_guidance(self._guidance, self._family)
        self._fixed = dict(entry.pipeline_arguments) if entry else {}
        self._references: OrderedDict[tuple[str, str], Image.Image] = OrderedDict()
        self._leader: tuple[ClassifierGuidance, Session] | None = None
        check_negative_prompt(settings, self._family_name, self._family, self._fixed)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What may be asked of it; loads no weights where there is a catalog entry."""
        entry, settings, family = self._entry, self._settings, self._family
        required, optional = family.required, family.optional
        if entry is not None and (entry.required or entry.optional):
            supported = required | optional
            required = required | frozenset(entry.required)
            optional = (supported & frozenset(entry.optional)) - required
        limits = entry.token_limits if entry is not None else {}
        names = entry.class_names if entry is not None else None
        if names is None and family.input in ("class", "mixed"):
            names = tuple(self._model.class_labels)
        size: Any = entry if entry is not None else self._model
        return Capabilities(
            required=required,
            optional=optional,
            class_names=names,
            width=settings.width or size.width,
            height=settings.height or size.height,
            mpp=size.mpp,
            token_limits={**family.compute_token_limits(self._fixed), **limits},
        )

    @property
    def batch_size(self) -> int:
        """The fixed number of images in one forward pass; halved when the device was full."""
        return self._batch_size

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Samples one image per job, in order; see `Generator.generate`.

        Jobs are split by how they start (noise, or a reference at one strength). Each part is
        padded to the fixed batch shape by repeating its last job. When the device runs out of
        memory the shape is halved for good and the part is tried again.

        Raises:
            InputError: a condition that the model does not take.
            OutOfMemoryError: the device cannot hold a single image.
            GenerationError: the pipeline failed.
        """
        for job in jobs:
            self._checks.check(job.condition)
        parts: dict[float | None, list[int]] = {}
        for row, job in enumerate(jobs):
            reference = job.condition.get(Reference)
            parts.setdefault(reference.strength if reference else None, []).append(row)
        samples: dict[int, Sample] = {}
        for strength, rows in parts.items():
            done = 0
            while done < len(rows):
                part = rows[done : done + self._batch_size]
                try:
                    made = self._sample_batch([jobs[row] for row in part], strength)
                except OutOfMemoryError:
                    if self._batch_size == 1:
                        raise
                else:
                    samples.update(zip(part, made, strict=True))
                    done += len(part)
                    continue
                self.halve_batch()  # not in the handler: the error's frames still hold tensors
        return [samples[row] for row in range(len(jobs))]

    @property
    def model(self) -> LoadedModel:
        """The model itself, loaded at the first need: what adapters are trained on."""
        return self._model

    def halve_batch(self) -> None:
        """Halves the fixed batch shape, not below 1, and frees the device's cached memory."""
        import torch

        self._batch_size = max(1, self._batch_size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance; loads the weights."""
        model, capabilities = self._model, self.capabilities
        guidance = self._guidance
        names = ["diffusers", "torch", "transformers", "numpy", "pillow", "safetensors"]
        names += ["peft"] if model.adapters else []
        return {
            "model": name_model(self._settings, self._entry),
            "model_revision": model.revision,
            "weights_sha256": model.weights_sha256,
            "family": self._family_name,
            "pipeline": type(model.pipeline).__name__,
            "scheduler": type(model.scheduler).__name__,
            "scheduler_config": describe_scheduler(model.scheduler),
            "num_inference_steps": self._steps,
            "guidance_scale": guidance.model_dump() if isinstance(guidance, Guidance) else guidance,
            "null_condition": self._family.null_condition,
            "negative_prompt": self._settings.negative_prompt,
            "prompt_template": self._template if self._family.input == "text" else None,
            "class_prompts": dict(self._class_prompts),
            "arguments": {**self._family.call_arguments, **self._fixed},
            "width": capabilities.width,
            "height": capabilities.height,
            "mpp": capabilities.mpp,
            "dtype": model.dtype,
            "device": model.device.partition(":")[0],
            "device_name": name_device(model.device),
            "adapters": list(model.adapters),
            **({} if self._guide is None else {"classifier_guidance": self._guide.describe()}),
            "libraries": {name: importlib.metadata.version(name) for name in names},
        }

    def lead(self, settings: ClassifierGuidance, session: Session) -> None:
        """Lets a classifier guide the sampling; it is loaded with the weights.

        Raises:
            InputError: a family that cannot be guided, or no classifier there.
        """
        if not self._family.guidable:
            raise InputError(
                f"generator.classifier_guidance: family {self._family_name!r} cannot be guided: "
                "remove it, or take a model of family 'flow', e.g. nano-he-base"
            )
        read_classifier_info(session.find_classifier_folder(settings.model))
        self._leader = settings, session

    @cached_property
    def _guide(self) -> "ClassifierGuide | None":
        if self._leader is None:
            return None
        from factory.models.generators.classifier_guidance import ClassifierGuide

        return ClassifierGuide(*self._leader, self._model.device)

    @cached_property
    def _checks(self) -> ConditionChecks:
        return ConditionChecks(
            self._settings.model, self._family_name, self._family, self.capabilities, self._steps
        )

    @cached_property
    def _model(self) -> LoadedModel:
        if self._family.input == "embedding":
            raise InputError(f"family {self._family_name!r}: {NO_EMBEDDING}")
        model = load_model(self._settings, self._entry, self._base, self._family)
        size = (self._settings.width or model.width, self._settings.height or model.height)
        if not self._family.sized and size != (model.width, model.height):
            raise InputError(
                f"generator.width, height: {size[0]}x{size[1]} px, but {self._settings.model} only "
                f"makes {model.width}x{model.height} px: leave them out"
            )
        return model

    def _sample_batch(self, jobs: list[Job], strength: float | None) -> list[Sample]:
        """Samples jobs that share one call, padded to the fixed shape."""
        model, size = self._model, self._batch_size
        padded = jobs + [jobs[-1]] * (size - len(jobs))
        conditions = [job.condition for job in padded]
        arguments, prompts = self._map_streams(conditions)
        pipeline = model.pipeline
        if strength is not None:
            pipeline = model.image_pipeline
            references = [condition.get(Reference) for condition in conditions]
            arguments["image"] = [self._read_reference(r) for r in references if r is not None]
            arguments["strength"] = strength
        if self._guide is not None:
            arguments |= self._guide.build_arguments([each.class_name for each in conditions])
        images = self.call_pipeline(pipeline, arguments, [job.seed for job in padded])[: len(jobs)]
        pixels, nonfinite = quantise(images)
        tokens = self._count_tokens(prompts[: len(jobs)])
        return [
            Sample(
                pixels=pixels[row],
                nonfinite_fraction=float(nonfinite[row]),
                prompt=prompts[row],
                tokens=tokens[row],
                batch_size=size,
                notes=self._note_null_class(conditions[row]),
            )
            for row in range(len(jobs))
        ]

    def _note_null_class(self, condition: Condition) -> dict[str, Any]:
        is_sent = self._family.input != "text" and condition.class_name is not None
        is_known = condition.class_name in self._model.class_labels
        return {"class_sent": "null class"} if is_sent and not is_known else {}

    def _map_streams(self, conditions: list[Condition]) -> tuple[dict[str, Any], Prompts]:
        """Returns the pipeline arguments of the text or class streams, and the prompts sent."""
        if self._family.input in ("class", "mixed"):
            labels = self._model.class_labels  # checked; what is not in it goes as the null class
            null = len(labels)
            found = [labels.get(str(c.class_name), null) for c in conditions]
            captions: Prompts = [c.caption or None for c in conditions]
            arguments: dict[str, Any] = {"class_labels": found}
            if self._family.input == "mixed" and any(captions):
                arguments["prompt"] = [caption or "" for caption in captions]
            return arguments, captions if self._family.input == "mixed" else [None] * len(found)
        words = self._class_prompts
        prompts: Prompts = [write_prompt(each, self._template, words) for each in conditions]
        arguments = {"prompt": prompts}
        if self._settings.negative_prompt is not None:
            arguments["negative_prompt"] = [self._settings.negative_prompt] * len(prompts)
        return arguments, prompts

    def call_pipeline(
        self, pipeline: Any, arguments: dict[str, Any], seeds: list[int]
    ) -> NDArray[np.float32]:
        """Runs a pipeline on a fresh scheduler; returns (N, H, W, 3) float32 in [0, 1] or NaN.

        Raises:
            OutOfMemoryError: the device cannot hold the batch.
            GenerationError: the pipeline failed.
        """
        import torch

        call = {**self._family.call_arguments, **self._fixed, **arguments}
        call |= {"num_inference_steps": self._steps, "guidance_scale": self._scale}
        call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if self._callback is not None:
            call["callback_on_step_end"] = self._callback
        width, height = self.capabilities.width, self.capabilities.height
        if "height" in inspect.signature(pipeline.__call__).parameters:
            call |= {"width": width, "height": height}
        pipeline.scheduler = copy.deepcopy(self._model.scheduler)
        seed_steps(pipeline.scheduler, call["generator"])
        where = f"model {self._settings.model}: {type(pipeline).__name__}"
        try:
            images: NDArray[np.float32] = pipeline(**call, output_type="np").images
        except PIPELINE_ERRORS as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"{where}: out of memory with {len(seeds)} images of {width}x{height} px: "
                    "lower generator.batch_size"
                ) from error
            raise GenerationError(f"{where} failed: {type(error).__name__}: {error}") from error
        if images.shape != (len(seeds), height, width, 3):
            raise GenerationError(
                f"{where} returned {images.shape}, expected ({len(seeds)}, {height}, {width}, 3): "
                "give a width and height that it can make"
            )
        return images

    def _read_reference(self, reference: Reference) -> Image.Image:
        key = (reference.sha256, reference.fit)
        if key not in self._references:
            size = self.capabilities.width, self.capabilities.height
            self._references[key] = Image.fromarray(reference.load(*size))
            if len(self._references) > _REFERENCES_KEPT:
                self._references.popitem(last=False)
        self._references.move_to_end(key)
        return self._references[key]

    def _count_tokens(self, prompts: Prompts) -> list[dict[str, tuple[int, int]]]:
        limits = self._family.compute_token_limits(self._fixed)
        components = self._model.pipeline.components
        tokenizers = {n: components[n] for n in limits if components.get(n) is not None}
        texts = [prompt or "" for prompt in prompts]
        sent = [text.lower().strip() for text in texts] if self._family.lowercases else texts
        counts = count_tokens(sent, tokenizers, limits)
        return [{} if p is None else count for p, count in zip(prompts, counts, strict=True)]


def _detect(settings: GeneratorSettings, base: Path) -> str:
    folder = weights.find_folder(settings.model, base)
    if folder is None:
        folder = weights.fetch_index(settings.model, settings.revision)
    return detect_family(folder)
