"""The steps of an inversion: schedulers that lead to noise, and back by the same steps."""

import functools
from collections.abc import Iterable
from typing import Any

from factory.core.errors import InputError
from factory.models.generators.injection import Injector


def build_schedulers(current: Any, count: int) -> tuple[Any, Any]:
    """Returns what leads to noise and from it, in the first or last `count` steps of the path.

    Models of a noise schedule get DDIM and its inverse, those of a flow Euler steps on the sigmas
    of their own scheduler; neither draws anything.

    Args:
        current: the model's own scheduler.
        count: steps each way, not more than a call is asked for.

    Raises:
        InputError: a schedule that neither of them steps.
    """
    if is_flow(current):
        return _build_euler(current, count)
    name, config = type(current).__name__, dict(current.config)
    is_other = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if is_other or not hasattr(current, "alphas_cumprod"):
        raise InputError(
            f"method invert: neither DDIM nor Euler steps the schedule of {name}: take "
            "method image_to_image"
        )
    return _build_ddim(config, count)


def is_flow(scheduler: Any) -> bool:
    """Tells whether a scheduler steps the velocity of a flow along sigmas from 1 to 0."""
    config = scheduler.config
    if type(scheduler).__name__.startswith("FlowMatch"):
        return not config.get("invert_sigmas")
    return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == (
        "flow_prediction"
    )


def tell_steps(scheduler: Any, injector: Injector, steps: Iterable[int]) -> None:
    """Makes a scheduler tell an injector the step that follows each of its own."""
    left, step = iter(steps), scheduler.step
    injector.step = next(left)

    @functools.wraps(step)
    def step_once(*arguments: Any, **options: Any) -> Any:
        found = step(*arguments, **options)
        injector.step = next(left, injector.step)
        return found

    scheduler.step = step_once


def _build_ddim(config: dict[str, Any], count: int) -> tuple[Any, Any]:
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    exact = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading"}
    config = {**config, **exact, "rescale_betas_zero_snr": False}
    up = DDIMInverseScheduler.from_config(config)
    down = DDIMScheduler.from_config(config)
    _cut(up, slice(0, count))
    _cut(down, slice(-count, None))
    return up, down


def _cut(scheduler: Any, part: slice) -> None:
    """Makes a scheduler take a part of its timesteps; their distance is that of all."""

    def cut() -> None:
        scheduler.timesteps = scheduler.timesteps[part]

    _follow(scheduler, cut)


def _build_euler(current: Any, count: int) -> tuple[Any, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = {**dict(current.config), "stochastic_sampling": False}
    if "flow_shift" in config:  # of a solver of several kinds of schedules, which calls it so
        config["shift"] = config["flow_shift"]
    found = []
    for is_up in (True, False):
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        _follow(scheduler, functools.partial(_turn, scheduler, count, is_up))
        found.append(scheduler)
    return found[0], found[1]


def _turn(scheduler: Any, count: int, is_up: bool) -> None:
    """Keeps the last sigmas, upwards or downwards; velocities are asked for where a step starts."""
    sigmas = scheduler.sigmas[-count - 1 :]
    scheduler.sigmas = sigmas.flip(0) if is_up else sigmas
    scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps


def _follow(scheduler: Any, change: Any) -> None:
    """Makes a scheduler call `change` whenever its timesteps are set."""
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def set_some(*arguments: Any, **options: Any) -> None:
        set_timesteps(*arguments, **options)
        change()

    scheduler.set_timesteps = set_some
