"""`DiffusersGenerator`: samples any family of pipelines, as it binds streams to their arguments."""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.errors import CallError, InputError
from factory.data.records import Condition, Job, Sample
from factory.data.streams import Reference, Source
from factory.data.streams.source import Translation
from factory.models.classifiers.model import read_classifier_info
from factory.models.generators.base import Begun, Capabilities, name_model
from factory.models.generators.batches import BatchedGenerator, tell_failure
from factory.models.generators.families.pipeline import PipelineFamily, Prompts
from factory.models.generators.loading import LoadedModel, describe_making, load_model
from factory.models.generators.outputs import lay_on_white, quantise
from factory.models.generators.prompts import count_tokens
from factory.models.generators.sampling import (
    describe_scheduler,
    plan_guidance,
    seed_global_noise,
    seed_steps,
    start_cache,
)
from factory.models.generators.settings import Guidance
from factory.models.generators.starts import Start, find_start, note_start

if TYPE_CHECKING:
    from factory.models.generators.classifier_guidance import ClassifierGuide
    from factory.models.generators.pausing import Pause

ItemT = TypeVar("ItemT")
MadeT = TypeVar("MadeT")
_REFERENCES_KEPT = 128  # fitted images in memory: 100 MB at 512 px


class DiffusersGenerator(BatchedGenerator):
    """Samples with a diffusers pipeline; the weights are loaded at the first need.

    Args:
        family: what is sampled, of a recipe.
        model: the same model as another generator has loaded it; None: it is loaded.

    Raises:
        InputError: settings that contradict each other or the family, or no guiding classifier.
    """

    def __init__(self, family: PipelineFamily, model: LoadedModel | None = None) -> None:
        self._given = model
        self.family, self._settings = family, family.settings
        self.batch_size = 1 if family.runs_alone else self._settings.batch_size
        self._scale, self._callback = plan_guidance(family)
        self._references: OrderedDict[tuple[str, str], Image.Image] = OrderedDict()
        leader = self._settings.classifier_guidance
        if leader is not None:
            read_classifier_info(family.session.find_classifier_folder(leader.model))

    @cached_property
    def capabilities(self) -> Capabilities:
        """What may be asked of it; loads no weights where there is a catalog entry."""
        entry, family = self.family.entry, self.family
        found = family.capabilities
        names = found.class_names
        if names is None and family.is_indexed:
            names = tuple(self.model.class_labels)
        limits = {**family.compute_token_limits(), **(entry.token_limits if entry else {})}
        found = replace(found, class_names=names, token_limits=limits)
        if entry is None:
            model, settings = self.model, self._settings
            width, height = settings.width or model.width, settings.height or model.height
            found = replace(found, width=width, height=height, mpp=model.mpp)
        return found

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Samples one image per job, in order; see `Generator.generate`.

        Jobs are split by how they start (noise, or a reference at one strength) and by what their
        family says of streams that share a call. Each part is padded to the fixed batch shape by
        repeating its last job. When the device runs out of memory the shape is halved for good and
        the part is tried again.

        Raises:
            InputError: a condition that the model does not take.
            OutOfMemoryError: the device cannot hold a single image.
            CallError: the pipeline failed.
        """
        return self._run_parts(jobs, jobs, self._sample_batch)

    def begin(self, jobs: Sequence[Job], until: float) -> list[Begun]:
        """Samples jobs up to a share of their steps; see `Pausable.begin`."""
        return self._run_parts(jobs, jobs, partial(self._begin_batch, until=until))

    def go_on(self, begun: Sequence[Begun], until: float) -> list[Begun]:
        """Samples what was begun up to a later share; see `Pausable.go_on`."""
        make = partial(self._go_on_batch, until=until)
        return self._run_parts([each.job for each in begun], begun, make)

    def finish(self, begun: Sequence[Begun]) -> list[Sample]:
        """Samples what was begun to its end; see `Pausable.finish`."""
        return self._run_parts([each.job for each in begun], begun, self._finish_batch)

    def _run_parts(
        self,
        jobs: Sequence[Job],
        items: Sequence[ItemT],
        make: Callable[..., list[MadeT]],
    ) -> list[MadeT]:
        """Returns what is made of items, one a job; those of one call have a batch together."""
        for job in jobs:
            self.family.check_condition(job.condition, self.capabilities)
        parts: dict[tuple[Start, Any, float | None], list[int]] = {}
        for row, job in enumerate(jobs):
            part = find_start(job.condition), self.family.group(job.condition), job.until
            parts.setdefault(part, []).append(row)
        made: dict[int, MadeT] = {}
        for (start, *_), rows in parts.items():
            found = self.run_batches([items[row] for row in rows], partial(make, start=start))
            made.update(zip(rows, found, strict=True))
        return [made[row] for row in range(len(jobs))]

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance; loads the weights."""
        model, capabilities, family = self.model, self.capabilities, self.family
        guidance = family.guidance_scale
        names = ["diffusers", "torch", "transformers", "numpy", "pillow", "safetensors"]
        names += ["peft"] if model.adapters else []
        return {
            "model": name_model(self._settings, family.entry),
            "model_revision": model.revision,
            "weights_sha256": model.weights_sha256,
            "family": family.kind,
            "pipeline": type(model.pipeline).__name__,
            "scheduler": type(model.scheduler).__name__,
            "scheduler_config": describe_scheduler(model.scheduler),
            "num_inference_steps": family.num_inference_steps,
            "guidance_scale": guidance.model_dump() if isinstance(guidance, Guidance) else guidance,
            **family.describe(),
            **describe_making(capabilities, model.dtype, model.device, names),
            "adapters": list(model.adapters),
            **({} if self._guide is None else {"classifier_guidance": self._guide.describe()}),
            **self._settings.describe_ways(),
        }

    @cached_property
    def _guide(self) -> "ClassifierGuide | None":
        settings = self._settings.classifier_guidance
        if settings is None:
            return None
        from factory.models.generators.classifier_guidance import ClassifierGuide

        return ClassifierGuide(settings, self.family.session, self.model.device)

    @cached_property
    def model(self) -> LoadedModel:
        """The model itself, loaded at the first need: what adapters are trained on."""
        if self.family.lacking is not None:
            raise InputError(f"family {self.family.kind!r}: {self.family.lacking}")
        model = self._given or load_model(self.family)
        size = (self._settings.width or model.width, self._settings.height or model.height)
        if not self.family.sized and size != (model.width, model.height):
            raise InputError(
                f"generator.width, height: {size[0]}x{size[1]} px, but {self._settings.model} only "
                f"makes {model.width}x{model.height} px: leave them out"
            )
        return model

    def _sample_batch(self, jobs: Sequence[Job], start: Start) -> list[Sample]:
        """Samples jobs that share one call, and end alike."""
        until = jobs[0].until
        if until is None:
            return self._call_batch(jobs, start)
        return [each.foreseen for each in self._begin_batch(jobs, start, until)]

    def _begin_batch(self, jobs: Sequence[Job], start: Start, until: float) -> list[Begun]:
        from factory.models.generators.pausing import Pause

        if self._settings.cache is not None:
            raise InputError("generator.cache: what it holds is of one call: none stops part-way")
        pause = Pause(until)
        return pause.tell(jobs, self._call_batch(jobs, start, pause))

    def _go_on_batch(self, begun: Sequence[Begun], start: Start, until: float) -> list[Begun]:
        pause, jobs = self._resume(begun, until), [each.job for each in begun]
        seen = [each.foreseen for each in begun]  # at the same step
        return pause.tell(jobs, self._call_batch(jobs, start, pause) if pause.goes_on else seen)

    def _finish_batch(self, begun: Sequence[Begun], start: Start) -> list[Sample]:
        return self._call_batch([each.job for each in begun], start, self._resume(begun))

    def _resume(self, begun: Sequence[Begun], until: float | None = None) -> "Pause":
        from factory.models.generators.pausing import Pause

        padded = [*begun, *[begun[-1]] * (self.batch_size - len(begun))]
        return Pause(until, [each.state for each in padded])

    def _call_batch(
        self, jobs: Sequence[Job], start: Start, pause: "Pause | None" = None
    ) -> list[Sample]:
        """Samples jobs that share one call, padded to the fixed shape, or a part of their steps."""
        model, family, size = self.model, self.family, self.batch_size
        padded = [*jobs, *[jobs[-1]] * (size - len(jobs))]
        conditions = [job.condition for job in padded]
        arguments, prompts = family.bind(conditions, model), family.write_prompts(conditions)
        pipeline = model.pipeline
        if isinstance(start, Translation) and start.method == "invert":
            if pause is not None:
                raise InputError("an image that is inverted cannot be stopped part-way")
            made = self._invert(conditions, arguments, start)[: len(jobs)]
            return self._build_samples(jobs, made, prompts, note_start(start, self.model))
        if start is not None:
            pipeline = model.image_pipeline
            begun = [each.get(Reference) or each.get(Source) for each in conditions]
            factor = family.find_enlargement(pipeline)
            images = [self._read_reference(each, factor) for each in begun if each is not None]
            strength = start if isinstance(start, float) else start.strength
            arguments |= family.bind_references(images, strength)
            if isinstance(start, Translation) and start.steps is not None:
                arguments["num_inference_steps"] = start.steps
        if self._guide is not None:
            arguments |= self._guide.build_arguments([each.class_name for each in conditions])
        seeds = [job.seed for job in padded]
        made = self.call_pipeline(pipeline, arguments, seeds, pause)[: len(jobs)]
        return self._build_samples(jobs, made, prompts, note_start(start, self.model))

    def _invert(
        self, conditions: Sequence[Condition], arguments: dict[str, Any], way: Translation
    ) -> NDArray[np.float32]:
        """Returns what sources become by inversion; raises as `call_pipeline`."""
        from factory.models.generators.inversion import invert_images

        family, model = self.family, self.model
        sources = [source for each in conditions if (source := each.get(Source)) is not None]
        told = family.bind([family.tell_source(each, model) for each in sources], model)
        fixed, guidance = family.fixed_arguments, family.guidance_argument
        target = {**fixed, **arguments}
        if guidance is not None:
            target[guidance] = self._scale
        if self._callback is not None:
            target["callback_on_step_end"] = self._callback
        images = [self._read_reference(each) for each in sources]
        steps = way.steps or family.num_inference_steps
        with self._tell_failure(len(images)):
            return invert_images(family, model, images, way, ({**fixed, **told}, target), steps)

    def _build_samples(
        self,
        jobs: Sequence[Job],
        made: NDArray[np.float32],
        prompts: Prompts,
        notes: Mapping[str, Any],
    ) -> list[Sample]:
        """Returns the samples of (N, H, W, 3) images, one a job; raises CallError for no images."""
        model, family = self.model, self.family
        pixels, nonfinite = quantise(made)
        tokens = self._count_tokens(prompts[: len(jobs)])
        return [
            Sample(
                pixels=pixels[row],
                nonfinite_fraction=float(nonfinite[row]),
                prompt=prompts[row],
                tokens=tokens[row],
                batch_size=self.batch_size,
                notes={**family.note(jobs[row].condition, model), **notes},
            )
            for row in range(len(jobs))
        ]

    def call_pipeline(
        self,
        pipeline: Any,
        arguments: dict[str, Any],
        seeds: list[int],
        pause: "Pause | None" = None,
    ) -> NDArray[np.float32]:
        """Runs a pipeline on a fresh scheduler; returns (N, H, W, 3) float32 in [0, 1] or NaN.

        One that pauses gives the images foreseen where it stops.

        Raises:
            OutOfMemoryError: the device cannot hold the batch.
            CallError: the pipeline failed.
        """
        import torch

        family, takes = self.family, inspect.signature(pipeline.__call__).parameters
        call = {**family.fixed_arguments, **arguments}
        if family.guidance_argument is not None:
            call[family.guidance_argument] = self._scale
        if "num_inference_steps" in takes and "num_inference_steps" not in call:
            call["num_inference_steps"] = family.num_inference_steps
        call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if pause is not None:
            if pause.begun:
                call["generator"] = [each.copy_generator() for each in pause.begun]
            pause.generators, call["pause"] = call["generator"], pause
        if self._callback is not None:
            call["callback_on_step_end"] = self._callback
        width, height = self.capabilities.width, self.capabilities.height
        if "height" in takes:
            call |= {"width": width, "height": height}
        for name, scheduler in self.model.schedulers.items():
            fresh = copy.deepcopy(scheduler)
            seed_steps(fresh, call["generator"])
            setattr(pipeline, name, fresh)
        call = family.adapt_call(call, len(seeds))
        noise = seed_global_noise(seeds[0], self.model.device)
        with self._tell_failure(len(seeds)), noise, start_cache(family, pipeline):
            made = pipeline(**call, output_type="np")
            named = "images" if hasattr(made, "images") else "image"  # so by Kandinsky 5 alone
            images = lay_on_white(np.asarray(getattr(made, named)))
        where = f"model {self._settings.model}: {type(pipeline).__name__}"
        if images.shape != (len(seeds), height, width, 3):
            raise CallError(
                f"{where} returned {images.shape}, expected ({len(seeds)}, {height}, {width}, 3): "
                "give a width and height that it can make"
            )
        return images

    def _tell_failure(self, count: int) -> AbstractContextManager[None]:
        """Says what of a pipeline's call failed; raises as `call_pipeline`."""
        where = f"model {self._settings.model}: {type(self.model.pipeline).__name__}"
        return tell_failure(where, count, self.capabilities.width, self.capabilities.height)

    def _read_reference(self, reference: Reference | Source, factor: int = 1) -> Image.Image:
        key = (reference.sha256, reference.fit)
        if key not in self._references:
            size = self.capabilities.width // factor, self.capabilities.height // factor
            self._references[key] = Image.fromarray(reference.load(*size))
            if len(self._references) > _REFERENCES_KEPT:
                self._references.popitem(last=False)
        self._references.move_to_end(key)
        return self._references[key]

    def _count_tokens(self, prompts: Prompts) -> list[dict[str, tuple[int, int]]]:
        limits = self.family.compute_token_limits()
        components = self.model.pipeline.components
        tokenizers = {n: components[n] for n in limits if components.get(n) is not None}
        texts = [prompt for prompt in prompts if prompt is not None]
        sent = [text.lower().strip() for text in texts] if self.family.lowercases else texts
        counts = iter(count_tokens(sent, tokenizers, limits) if sent else ())
        return [{} if prompt is None else next(counts) for prompt in prompts]
