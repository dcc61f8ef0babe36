"""`use_cache`: a cache of diffusers leaves out parts of a network, by the number of the step alone.

What a cache holds is that of one call, row by row, so that an image is the same in any company: a
cache that decides by what a batch shows is refused (`settings.REFUSED_CACHES`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from diffusers import CacheMixin
from diffusers.hooks import (
    HookRegistry,
    ModelHook,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS as _STACKS
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from diffusers.hooks.pyramid_attention_broadcast import _PYRAMID_ATTENTION_BROADCAST_HOOK
from diffusers.hooks.taylorseer_cache import _TAYLORSEER_CACHE_HOOK

from factory.core.errors import InputError
from factory.models.generators.multi_layers import Block
from factory.models.generators.settings import PyramidAttention, TaylorSeer
from factory.models.generators.speed import find_network

Cache = TaylorSeer | PyramidAttention
_CLOCK = "factory_clock"
_HOOKS = (_CLOCK, _TAYLORSEER_CACHE_HOOK, _PYRAMID_ATTENTION_BROADCAST_HOOK)
TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))


@contextmanager
def use_cache(cache: Cache, pipeline: Any) -> Iterator[None]:
    """Around one call of a pipeline: parts of its network are left out in steps between.

    Raises:
        InputError: a network without parts that the cache knows, or a pipeline that takes no steps.
    """
    network, scheduler = find_network(pipeline, "cache"), pipeline.scheduler
    clock = Clock(cache, scheduler)
    step = scheduler.step

    @wraps(step)
    def count(model_output: Any, timestep: Any, *rest: Any, **options: Any) -> Any:
        stepped = step(model_output, timestep, *rest, **options)
        clock.advance(timestep)
        return stepped

    try:
        HookRegistry.check_if_exists_or_initialize(network).register_hook(clock, _CLOCK)
        _put_cache(cache, network, clock)
        scheduler.step = count
        yield
        if clock.step == 0:
            raise _refuse(f"{type(pipeline).__name__} does not step its scheduler")
    finally:
        scheduler.step = step
        _remove_cache(network)


class Clock(ModelHook):  # type: ignore[misc]
    """Knows the step of a call, and tells a cache's hooks which of its predictions is made.

    A prediction is known by the name that the pipeline gives it (`cache_context`), its number among
    those of a step, and its rows. One that was not made at the step before begins anew.

    Args:
        cache: which.
        scheduler: that the pipeline steps.
    """

    _is_stateful = True  # so that `cache_context` tells it names, too

    def __init__(self, cache: Cache, scheduler: Any) -> None:
        super().__init__()
        self.cache, self.scheduler, self.step = cache, scheduler, 0
        self.named = StateManager(BaseState)
        self.timestep = float("inf")  # before the first step
        self._now: list[str] = []  # predictions of this step
        self._last: dict[str, int] = {}  # prediction -> step that it was last made at
        self._begun: dict[str, int] = {}  # prediction -> how often it began

    def advance(self, timestep: Any) -> None:
        """Notes that the scheduler took a step from a timestep."""
        self.step, self._now = self.step + 1, []
        timesteps = self.scheduler.timesteps
        place = getattr(self.scheduler, "step_index", None)  # of the next step, already
        if place is None:
            place = int((timesteps == timestep).nonzero()[0]) + 1
        self.timestep = float(timesteps[min(place, len(timesteps) - 1)])

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the network under the name of the prediction."""
        own: CacheContext | None = None
        with suppress(ValueError):  # that no name is given
            own = self.named.context
        rows = _count_rows((*args, *kwargs.values()))
        names = (f"{own and own.name} {number} {rows}" for number in range(len(self._now) + 1))
        name = next(each for each in names if each not in self._now)
        self._now.append(name)
        if self._last.get(name, -2) < self.step - 1:
            self._begun[name] = self._begun.get(name, 0) + 1
        self._last[name] = self.step
        if isinstance(self.cache, PyramidAttention) and len(self._last) > 1:
            raise _refuse(
                "pyramid_attention keeps one prediction of a step, and this pipeline makes several "
                "apart, or of other rows"
            )
        with CacheMixin.cache_context(module, f"{name} {self._begun[name]}"):
            return self.fn_ref.original_forward(*args, **kwargs)

    def reset_state(self, module: Any) -> Any:
        """Does nothing: a clock is that of one call."""
        return module


def _put_cache(cache: Cache, network: Any, clock: Clock) -> None:
    if isinstance(cache, TaylorSeer):
        skipped, foretold = _choose_parts(network)
        apply, config = apply_taylorseer_cache, TaylorSeerCacheConfig(
            cache_interval=cache.interval,
            disable_cache_before_step=cache.start,
            max_order=cache.order,
            taylor_factors_dtype=torch.float32,
            skip_predict_identifiers=[re.escape(name) for name in skipped],
            cache_identifiers=[re.escape(foretold)],
        )  # fmt: skip
    else:
        most = getattr(clock.scheduler.config, "num_train_timesteps", None) or 1000
        within = cache.low * most, cache.high * most
        apply, config = apply_pyramid_attention_broadcast, PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=cache.interval,
            cross_attention_block_skip_range=cache.interval,
            spatial_attention_timestep_skip_range=within,
            cross_attention_timestep_skip_range=within,
            current_timestep_callback=lambda: clock.timestep,
        )  # fmt: skip
    if isinstance(network, CacheMixin):
        network.enable_cache(config)
    else:
        apply(network, config)
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.invalidate_child_registries_cache()
    if not any(set(each.hooks) - {_CLOCK} for each in _list_registries(network)):
        raise _refuse(f"{type(network).__name__} has no attention that it knows")


def _choose_parts(network: Any) -> tuple[list[str], str]:
    """Returns names of modules that steps between leave out, and of the one that is foretold.

    Those are the blocks that diffusers' registry knows: all that they give is what the last gives.
    """
    stacks = {
        f"{name}.{number}": block
        for name, stack in network.named_children()
        if name in _STACKS and isinstance(stack, torch.nn.ModuleList)
        for number, block in enumerate(stack)
    }
    for block in stacks.values():
        try:
            TransformerBlockRegistry.get(type(block))
        except ValueError as error:
            message = f"{type(block).__name__} is no block that diffusers' caches know"
            raise _refuse(message) from error
    if not stacks:
        message = f"{type(network).__name__} has no stack of transformer blocks"
        raise _refuse(f"{message} (a U-Net's attention: pyramid_attention)")
    *skipped, last = stacks
    if getattr(stacks[last], "context_pre_only", False):  # gives no text, which a cache cannot hold
        inner = [each for each, _ in stacks[last].named_children() if "norm" not in each]
        return [*skipped, *(f"{last}.{each}" for each in inner)], "norm_out"
    return skipped, last


def _remove_cache(network: Any) -> None:
    if isinstance(network, CacheMixin) and network.is_cache_enabled:
        network.disable_cache()
    for registry in _list_registries(network):
        for name in _HOOKS:
            registry.remove_hook(name, recurse=False)
    for module in network.modules():  # diffusers leaves each its own method as an attribute
        if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
            del module.forward
    HookRegistry.check_if_exists_or_initialize(network).invalidate_child_registries_cache()


def _list_registries(network: Any) -> list[HookRegistry]:
    found = (getattr(each, "_diffusers_hook", None) for each in network.modules())
    return [each for each in found if each is not None]


def _count_rows(given: Sequence[Any]) -> int:
    """Returns the rows of the first argument that has any."""
    is_rows = (isinstance(x, list) or (isinstance(x, torch.Tensor) and x.ndim > 0) for x in given)
    return next((len(x) for x, has_rows in zip(given, is_rows, strict=True) if has_rows), 0)


def _refuse(message: str) -> InputError:
    return InputError(f"generator.cache: {message}: remove it, or take another")
