"""Batches of one fixed shape, which is halved for good where the device is full."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from factory.core.errors import FOREIGN_ERRORS, CallError, OutOfMemoryError
from factory.models.generators.outputs import is_out_of_memory

ItemT = TypeVar("ItemT")
MadeT = TypeVar("MadeT")


class BatchedGenerator:
    """A generator that makes its images in batches.

    Attributes:
        batch_size: the fixed number of images in one forward pass; halved when the device was full.
    """

    batch_size: int

    def run_batches(
        self, jobs: Sequence[ItemT], sample: Callable[[Sequence[ItemT]], list[MadeT]]
    ) -> list[MadeT]:
        """Returns what is made of each job, in order; `sample` pads a batch of them to the shape.

        Raises:
            OutOfMemoryError: the device cannot hold a single image.
        """
        samples: list[MadeT] = []
        while len(samples) < len(jobs):
            try:
                samples += sample(jobs[len(samples) : len(samples) + self.batch_size])
                continue
            except OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            self.halve_batch()  # not in the handler: the error's frames still hold tensors
        return samples

    def halve_batch(self) -> None:
        """Halves the fixed shape, not below 1, and frees the device's cached memory."""
        import torch

        self.batch_size = max(1, self.batch_size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def tell_failure(where: str, count: int, width: int, height: int) -> Iterator[None]:
    """Around a forward pass of so many images: says what failed of it.

    Raises:
        OutOfMemoryError: the device cannot hold the batch.
        CallError: anything else.
    """
    try:
        yield
    except FOREIGN_ERRORS as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"{where}: out of memory with {count} images of {width}x{height} px: lower "
                "generator.batch_size"
            ) from error
        raise CallError(f"{where} failed: {type(error).__name__}: {error}") from error
