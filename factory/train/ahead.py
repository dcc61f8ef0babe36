"""Batches drawn ahead: a GPU does not wait for what the CPU draws of the next passes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

BatchT = TypeVar("BatchT")
AHEAD = 3
"""Passes that are drawn while one is learned from, each in a thread of its own."""


class Ahead(Generic[BatchT]):
    """Draws the batches of passes; on a CPU, which would only wait for itself, when asked.

    Args:
        draw: (step, turn) -> a batch, which depends on these alone, so that any order draws the
            same.
        accumulate: turns of a step.
        device: that learns.
    """

    def __init__(
        self, draw: Callable[[int, int], BatchT], accumulate: int, device: torch.device
    ) -> None:
        self._draw, self._accumulate = draw, accumulate
        self._pool = None if device.type == "cpu" else ThreadPoolExecutor(AHEAD, "batches")
        self._drawn: dict[tuple[int, int], Future[BatchT]] = {}

    def take(self, step: int, turn: int) -> BatchT:
        """Returns the batch of a pass; what could not be drawn is raised here."""
        if self._pool is None:
            return self._draw(step, turn)
        wanted = step * self._accumulate + turn
        keys = [divmod(wanted + more, self._accumulate) for more in range(AHEAD + 1)]
        for key in keys:
            if key not in self._drawn:
                self._drawn[key] = self._pool.submit(self._draw, *key)
        for key in self._drawn.keys() - set(keys):
            self._drawn.pop(key).cancel()
        return self._drawn.pop(keys[0]).result()
