"""How a call samples: its scheduler by name, and its guidance as a number or a schedule."""

import inspect
from collections.abc import Callable
from typing import Any

from factory.errors import InputError
from factory.generators.families import Family
from factory.messages import suggest
from factory.recipe import Guidance


def build_scheduler(name: str | None, current: Any, flow: bool) -> Any:
    """Returns a scheduler that has taken no step yet.

    Args:
        name: diffusers class, with or without `Scheduler`; None keeps the model's own.
        current: the model's scheduler, whose noise schedule is taken over.
        flow: the model predicts flow velocities.

    Raises:
        InputError: no such scheduler, or one that does not fit what the model predicts.
    """
    if name is None:
        return type(current).from_config(current.config)
    scheduler_class = _find_scheduler(name)
    label = scheduler_class.__name__
    parameters = inspect.signature(scheduler_class).parameters
    native = label.startswith("FlowMatch")
    if flow and not native and "use_flow_sigmas" not in parameters:
        raise InputError(
            f"generator.scheduler: {label} does not step flow velocities: take "
            "FlowMatchEulerDiscrete, FlowMatchHeunDiscrete, UniPCMultistep or DPMSolverMultistep"
        )
    if native and not flow:
        raise InputError(
            f"generator.scheduler: {label} is for flow models, and this one predicts noise: take "
            "UniPCMultistep, DPMSolverMultistep, EulerDiscrete or DDIM"
        )
    config = dict(current.config)
    if flow and not native:
        config["flow_shift"] = config.get("shift", config.get("flow_shift", 1.0))
    kept = {
        key: value
        for key, value in config.items()
        if key in parameters or key == "_use_default_values"
    }
    if flow and not native:
        kept |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return scheduler_class.from_config(kept)


def describe_scheduler(scheduler: Any) -> dict[str, Any]:
    """Returns the scheduler's settings as plain data."""
    return {
        key: value
        for key, value in sorted(scheduler.config.items())
        if not key.startswith("_")
        and (value is None or isinstance(value, bool | int | float | str))
    }


def _find_scheduler(name: str) -> Any:
    import diffusers
    from diffusers import SchedulerMixin

    wanted = name if name.endswith("Scheduler") else f"{name}Scheduler"
    known = [
        key
        for key in dir(diffusers)
        if key.endswith("Scheduler") and not key.startswith(("Flax", "_"))
    ]
    found = getattr(diffusers, wanted, None) if wanted in known else None
    if inspect.isclass(found) and issubclass(found, SchedulerMixin):
        return found
    hint = suggest(wanted, known) or "e.g. UniPCMultistep, DPMSolverMultistep, EulerDiscrete, DDIM"
    raise InputError(f"generator.scheduler: {name!r} is no diffusers scheduler: {hint}")


class _HeldScale(float):
    """A guidance scale that counts as > 1 whatever its value.

    diffusers decides at every step whether it guides by `scale > 1`, but doubles the prompts once
    before the first: a schedule that reaches 1 would leave a batch half the size of its prompts.
    """

    def __gt__(self, other: float) -> bool:
        return True


def plan_guidance(
    guidance: float | Guidance, family: Family
) -> tuple[float, Callable[..., dict[str, Any]] | None]:
    """Returns the guidance scale of the first step, and the callback that changes it.

    The guided prediction is `null + scale (conditioned - null)` (Ho & Salimans 2022,
    arXiv 2207.12598, equation 6 with scale = 1 + w). A schedule means this at any scale: 1 is the
    conditioned prediction, 0 the null. A number is passed as is; diffusers pipelines take 1 or
    less for "no guidance". A schedule with equal ends is that number. The change is linear over
    the steps that are run, in image-to-image those that `strength` leaves.

    Raises:
        InputError: a schedule for a family that reads the scale once.
    """
    if not isinstance(guidance, Guidance):
        return guidance, None
    if guidance.scale == guidance.end:
        return guidance.scale, None
    if family.guidance != "step":
        raise InputError(
            f"generator.guidance: {family.class_names[0]} reads it once, so it cannot follow a "
            f"schedule: give one number, e.g. {guidance.scale}"
        )
    start, change = guidance.scale, guidance.end - guidance.scale

    def set_scale(pipeline: Any, step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        last = max(pipeline.num_timesteps - 1, 1)
        pipeline._guidance_scale = _HeldScale(start + change * min(step + 1, last) / last)
        return {}

    return _HeldScale(start), set_scale
