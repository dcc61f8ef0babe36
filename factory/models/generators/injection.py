"""Queries and keys of self-attention: held while a source is inverted, put back on the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch

from factory.core.errors import InputError
from factory.data.streams.source import Injection

_HELD = (("to_q", "to_k"), ("to_qkv",))


class Injector:
    """Holds what chosen layers ask and offer at each step, and puts it back at the same step.

    Structure lies in the queries and keys of self-attention (Tumanyan et al. 2023, plug-and-play
    diffusion features, arXiv 2211.12572; MUPAD does the same). Whatever computes the attention, its
    projections are replaced, so any model whose layers have `to_q` and `to_k`, or `to_qkv`, will
    do. Guidance that doubles a batch gets them in both halves.

    Args:
        network: UNet or transformer.
        asked: layers and share of steps; None: nothing is held.
        steps: of each way.

    Raises:
        InputError: no self-attention layer of such a name.
    """

    def __init__(self, network: torch.nn.Module, asked: Injection | None, steps: int) -> None:
        self._layers: dict[str, torch.nn.Module] = {}
        self._held: dict[tuple[int, str], torch.Tensor] = {}
        self._mode: Literal["off", "hold", "put"] = "off"
        self._first, self.step = steps, 0
        if asked is None:
            return
        self._first = steps - max(1, round(steps * asked.share))
        known = dict(find_self_attention(network))
        for name, layer in known.items():
            if any(fnmatchcase(name, pattern) for pattern in asked.layers):
                self._layers |= {
                    f"{name}.{each}": getattr(layer, each) for each in list_held(layer)
                }
        if not self._layers:
            names = ", ".join(known) or "none that can be injected"
            raise InputError(f"inject.layers: no layer {', '.join(asked.layers)}: it has {names}")

    @contextmanager
    def run(self, mode: Literal["hold", "put"]) -> Iterator[None]:
        """Holds, or puts back, what the layers project meanwhile; `step` says where."""
        handles = [
            layer.register_forward_hook(self._build_hook(name))
            for name, layer in self._layers.items()
        ]
        self._mode = mode
        try:
            yield
        finally:
            self._mode = "off"
            for handle in handles:
                handle.remove()

    def _build_hook(self, name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> Any:
            if self.step < self._first:
                return None
            kept = output.shape[-1] * 2 // 3 if name.endswith("to_qkv") else output.shape[-1]
            if self._mode == "hold":
                self._held[self.step, name] = output[..., :kept].to("cpu", copy=True)
                return None
            held = self._held[self.step, name].to(output)
            held = held.repeat(len(output) // len(held), *[1] * (held.ndim - 1))
            return torch.cat([held, output[..., kept:]], -1)

        return hook


def list_held(layer: Any) -> tuple[str, ...]:
    """Returns the projections of a layer that give queries and keys."""
    return next((each for each in _HELD if all(hasattr(layer, name) for name in each)), ())


def find_self_attention(network: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields name and module of the layers of self-attention."""
    for name, module in network.named_modules():
        is_cross = getattr(module, "is_cross_attention", False) or name.endswith("attn2")
        if list_held(module) and not is_cross:
            yield name, module
