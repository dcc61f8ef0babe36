"""How busy a GPU is while something is measured, as its driver tells; nothing without a GPU."""

import threading
from typing import Self

import torch

EVERY = 0.05
"""Seconds between two looks; the driver averages over longer."""


class BusyGpu:
    """Looks at the GPU while it is open.

    Attributes:
        shares: of the time in which a kernel ran, in [0, 1], one of each look; none without a GPU.
    """

    def __init__(self) -> None:
        self.shares: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.utilization()  # says here, and not in the thread, what is not installed
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(EVERY):
            self.shares.append(torch.cuda.utilization() / 100)
