"""How much memory making an image takes: of the device on CUDA, of the whole process on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

LOOK_EVERY = 0.005
"""Seconds between two looks at the process."""
GIB = 2**30


@dataclass
class Peak:
    """What was found.

    Attributes:
        gb: at most, in GiB; None where this device is not told.
        told: what it is of.
    """

    gb: float | None = None
    told: str = ""


@contextmanager
def watch_memory(device: str) -> Iterator[Peak]:
    """Yields what holds the peak afterwards.

    Args:
        device: torch device that the model is on.
    """
    peak = Peak()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.gb, peak.told = torch.cuda.max_memory_allocated() / GIB, f"allocated on {device}"
    elif device == "cpu":
        yield from _watch_process(peak)
    else:
        yield peak


def _watch_process(peak: Peak) -> Iterator[Peak]:
    import psutil

    process, ended = psutil.Process(), Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not ended.wait(LOOK_EVERY):
            seen[0] = max(seen[0], process.memory_info().rss)

    looking = Thread(target=look, daemon=True)
    looking.start()
    try:
        yield peak
    finally:
        ended.set()
        looking.join()
    peak.gb = max(seen[0], process.memory_info().rss) / GIB
    peak.told = "resident, of the whole process with its libraries"
