"""How a call samples: its scheduler by name, and its guidance as a number or a schedule."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from factory.catalog.vocabulary import SCHEDULERS, Scheduler
from factory.core.errors import InputError
from factory.core.plain import to_plain
from factory.core.yaml.messages import advise
from factory.models.generators.families.base import Family
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.settings import Guidance


def check_scheduler(name: str, family: Family | None, steps: int | None) -> str:
    """Returns the diffusers class of a scheduler, which is not imported.

    Args:
        name: as a recipe or catalog says it, with or without `Scheduler`.
        family: what is sampled; None: not known yet.
        steps: `num_inference_steps`; None: the model's own.

    Raises:
        InputError: no such scheduler, one that cannot step what the family predicts, a package that
            is missing, or too few steps; the text starts behind the field.
    """
    short = name.removesuffix("Scheduler")
    if short not in SCHEDULERS:
        raise InputError(
            f"no scheduler of diffusers that makes images, got {name!r}: "
            f"{advise(name, tuple(SCHEDULERS), 30)}"
        )
    known = SCHEDULERS[short]
    if not known.steps:
        raise InputError(
            f"{short} is for {known.made_for}, which no family samples: take UniPCMultistep"
        )
    if family is not None and family.predicts not in (None, *known.steps):
        wanted = "flow velocities" if family.predicts == "flow" else "noise"
        fitting = [each for each, kind in SCHEDULERS.items() if _fits(kind, family)]
        raise InputError(
            f"{short} steps {' and '.join(sorted(known.steps))}, and {family.title} "
            f"predicts {wanted}: take {', '.join(fitting)}"
        )
    if family is not None and not _fits(known, family):
        raise InputError(
            f"{short} takes no sigmas and shift, which {family.title} gives it: "
            "take FlowMatchEulerDiscrete, UniPCMultistep or DPMSolverMultistep"
        )
    if known.package is not None and find_spec(known.package) is None:
        raise InputError(
            f"{short} needs the package {known.package}, which is not installed: "
            f"pip install {known.package}, or take another scheduler"
        )
    if steps is not None and steps < known.min_steps:
        raise InputError(
            f"{short} needs {known.min_steps} steps or more, got {steps}: raise generator.steps"
        )
    return f"{short}Scheduler"


def _fits(known: Scheduler, family: Family) -> bool:
    return family.predicts in (None, *known.steps) and (known.shifts or not family.shifts)


def build_scheduler(
    name: str | None, current: Any, family: Family, steps: int | None = None
) -> Any:
    """Returns a scheduler that has taken no step yet.

    Args:
        name: diffusers class, with or without `Scheduler`; None keeps the model's own.
        current: the model's scheduler, whose noise schedule is taken over.
        family: what is sampled.
        steps: `num_inference_steps`.

    Raises:
        InputError: no such scheduler, or one that does not fit what the model predicts.
    """
    if name is None:
        return type(current).from_config(current.config)
    try:
        label = check_scheduler(name, family, steps)
    except InputError as error:
        raise InputError(f"generator.scheduler: {error}") from error
    import diffusers

    scheduler_class = getattr(diffusers, label)
    parameters = inspect.signature(scheduler_class).parameters
    takes_over = family.predicts == "flow" and not label.startswith("FlowMatch")
    config = dict(current.config)
    if takes_over:
        config["flow_shift"] = config.get("shift", config.get("flow_shift", 1.0))
    kept = {
        key: value
        for key, value in config.items()
        if key in parameters or key == "_use_default_values"
    }
    if takes_over:
        kept |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    try:
        return scheduler_class.from_config(kept)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"generator.scheduler: {label} does not take the model's noise schedule: {error}"
        ) from error


def describe_scheduler(scheduler: Any) -> dict[str, Any]:
    """Returns the scheduler's settings as plain data, without those that are empty lists."""
    return {
        key: to_plain(value)
        for key, value in sorted(scheduler.config.items())
        if not key.startswith("_") and not (isinstance(value, list | tuple) and not value)
    }


def seed_steps(scheduler: Any, generators: Sequence[Any]) -> None:
    """Makes a scheduler that adds noise draw it from the images' own generators.

    Not every pipeline hands them to `step`, which then draws from torch's global stream: the same
    seed would give other pixels. A pipeline that doubles its samples for guidance (DiT) keeps the
    first half; the other half draws from copies.

    Args:
        scheduler: a fresh copy, changed in place.
        generators: one `torch.Generator` per image.
    """
    import torch

    if hasattr(scheduler, "noise_sampler_seed"):  # DPMSolverSDE: a Brownian tree for each image
        scheduler.noise_sampler_seed = [each.initial_seed() for each in generators]
    step = scheduler.step
    if "generator" not in inspect.signature(step).parameters:
        return
    twins = [torch.Generator("cpu").manual_seed(each.initial_seed()) for each in generators]

    @functools.wraps(step)
    def seeded(model_output: Any, timestep: Any, sample: Any, *rest: Any, **options: Any) -> Any:
        options["generator"] = [*generators, *twins][: len(sample)]
        return step(model_output, timestep, sample, *rest, **options)

    scheduler.step = seeded


@contextmanager
def seed_global_noise(seed: int, device: str) -> Iterator[None]:
    """Makes what a pipeline draws from torch's global stream follow a seed; restores the stream.

    Some pipelines sample the latents of a mask or image without the generators that they were
    given: a row would never come out twice.
    """
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        if device == "cpu":  # else every batch queues calls for other devices, with tracebacks
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


class _HeldScale(float):
    """A guidance scale that counts as > 1 whatever its value.

    diffusers decides at every step whether it guides by `scale > 1`, but doubles the prompts once
    before the first: a schedule that reaches 1 would leave a batch half the size of its prompts.
    """

    def __gt__(self, other: float) -> bool:
        return True


def start_cache(family: PipelineFamily, pipeline: Any) -> AbstractContextManager[None]:
    """Around a pipeline's call: its network runs with the cache that is asked for, if any.

    Raises:
        InputError: a diffusers without such caches: what is taken of it is new, or private.
    """
    cache = family.settings.cache
    if cache is None:
        return nullcontext()
    try:
        from factory.models.generators.step_cache import use_cache
    except ImportError as error:
        raise InputError(
            f"generator.cache: {error}: remove it, or install another diffusers (0.41 and 0.42 fit)"
        ) from error
    return use_cache(cache, pipeline)


def plan_guidance(
    family: PipelineFamily,
) -> tuple[float, Callable[..., dict[str, Any]] | None]:
    """Returns the guidance scale of the first step, and the callback that changes it.

    The guided prediction is `null + scale (conditioned - null)` (Ho & Salimans 2022,
    arXiv 2207.12598, equation 6 with scale = 1 + w). A schedule means this at any scale: 1 is the
    conditioned prediction, 0 the null. A number is passed as is; diffusers pipelines take 1 or
    less for "no guidance". A schedule with equal ends is that number. The change is linear over
    the steps that are run, in image-to-image those that `strength` leaves. Families that read the
    scale once were refused a schedule before.
    """
    guidance = family.guidance_scale
    if not isinstance(guidance, Guidance):
        return guidance, None
    if guidance.scale == guidance.end:
        return guidance.scale, None
    start, change = guidance.scale, guidance.end - guidance.scale

    def set_scale(pipeline: Any, step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        last = max(pipeline.num_timesteps - 1, 1)
        pipeline._guidance_scale = _HeldScale(start + change * min(step + 1, last) / last)
        return {}

    return _HeldScale(start), set_scale
