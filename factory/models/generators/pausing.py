"""Pausing: a call of a pipeline stops part-way, and its images go on later, in other batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from factory.data.records import STOPPED, Job, Sample
from factory.models.generators.base import Begun

_KEPT_OUT = frozenset({"_internal_dict", "step"})
"""Of a scheduler: its configuration, and the step that `seed_steps` wrapped."""


@dataclass(frozen=True, slots=True)
class Paused:
    """One image part-way: all that its remaining steps depend on, besides its condition.

    Attributes:
        step: scheduler steps taken.
        count: of all.
        sample: (C, h, w), where it is on the path.
        state: attribute of the scheduler -> what it holds of this image, such as earlier
            predictions; what is the same for all images as it is.
        generator: of its noise, as far as it was drawn.
    """

    step: int
    count: int
    sample: torch.Tensor
    state: Mapping[str, Any]
    generator: torch.Generator

    def copy_generator(self) -> torch.Generator:
        """Returns a generator of its own for a call: what is begun may be finished again."""
        copied = torch.Generator("cpu")
        copied.set_state(self.generator.get_state())
        return copied


class Pause:
    """Where a call stops, or from where it goes on; the pipeline asks it on its way.

    Args:
        until: share of the steps after which it stops; None: at the end.
        begun: where each image goes on; empty: at the beginning.
        generators: of the call's noise, one for each image.

    Attributes:
        held: once it has stopped, where each image is.
    """

    def __init__(
        self,
        until: float | None = None,
        begun: Sequence[Paused] = (),
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.until, self.begun, self.generators = until, begun, generators
        self.held = [*begun]

    @property
    def goes_on(self) -> bool:
        """Whether steps are left until it stops, of one that was begun."""
        return len(self.find_steps(self.begun[0].count)) > 0

    def find_steps(self, count: int) -> range:
        """Returns which of so many scheduler steps are to be taken: one at least to stop after."""
        first = self.begun[0].step if self.begun else 0
        return range(first, count if self.until is None else max(1, round(self.until * count)))

    def tell(self, jobs: Sequence[Job], foreseen: Sequence[Sample]) -> list[Begun]:
        """Returns what of a call is left to be finished: each noted as stopped here."""
        return [
            Begun(job, replace(sample, notes={**sample.notes, STOPPED: self.until}), held)
            for job, sample, held in zip(jobs, foreseen, self.held, strict=False)
        ]

    def restore(self, scheduler: Any) -> torch.Tensor:
        """Puts a scheduler where it stopped; returns the (N, C, h, w) images on the path."""
        for name in self.begun[0].state:
            setattr(scheduler, name, _join([each.state[name] for each in self.begun]))
        return torch.stack([each.sample for each in self.begun])

    def hold(self, scheduler: Any, sample: torch.Tensor, step: int, count: int) -> None:
        """Keeps where each of (N, C, h, w) images is after so many steps of all."""
        known = {name: each for name, each in vars(scheduler).items() if name not in _KEPT_OUT}
        self.held = [
            Paused(
                step,
                count,
                sample[row].clone(),
                {name: _take(each, row, sample.shape) for name, each in known.items()},
                generator,
            )
            for row, generator in enumerate(self.generators)
        ]


def _take(value: Any, row: int, shape: torch.Size) -> Any:
    """Returns what a scheduler's value holds of one image: a row of what is shaped like them."""
    if isinstance(value, torch.Tensor):
        return value[row].clone() if value.shape == shape else _Shared(value)
    if type(value) in (list, tuple):
        return type(value)(_take(each, row, shape) for each in value)
    return _Shared(value)


def _join(values: Sequence[Any]) -> Any:
    """Returns the value of a scheduler that holds these of its images."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(values))
    if type(first) in (list, tuple):
        return type(first)(_join(each) for each in zip(*values, strict=True))
    return first.value


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a scheduler holds once for all images of a call."""

    value: Any
