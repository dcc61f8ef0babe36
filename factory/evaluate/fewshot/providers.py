"""Where the synthetic images of a draw come from: folders here, a recipe in `generate`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from factory.catalog.catalog import Catalogs
from factory.data.shots import LabelledSet, count_classes
from factory.evaluate.fewshot.leaks import (
    Leak,
    find_label_leaks,
    find_other_shots,
    find_test_sources,
)
from factory.evaluate.fewshot.stopped import find_run_stops
from factory.evaluate.fewshot.synthetic import (
    SyntheticSet,
    join_sets,
    read_first_attempts,
    read_synthetic,
)

OpenCatalogs = Callable[[Iterable[Path]], Catalogs]


@dataclass(frozen=True)
class Draw:
    """The shots of one draw; `shots` of each class, or more of some where a part is held out."""

    shots: int
    seed: int
    images: LabelledSet

    @property
    def name(self) -> str:
        """For messages."""
        return f"the draw of {self.shots} shots with seed {self.seed}"

    @property
    def is_even(self) -> bool:
        """Whether every class has as many."""
        return {*count_classes(self.images, self.images.class_names).values()} == {self.shots}


@dataclass(frozen=True)
class Provided:
    """Synthetic images of one draw; None where there are none, and `missing` says why."""

    synthetic: SyntheticSet | None
    unfiltered: SyntheticSet | None
    missing: str = "no synthetic images are given: --synthetic or --generator"
    missing_unfiltered: str = "no synthetic images are given"
    leaks: tuple[Leak, ...] = ()
    notes: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()


class Provider(Protocol):
    """Gives the synthetic images of each draw."""

    def describe(self) -> dict[str, Any]:
        """Returns what must stay equal for a study to be continued."""
        ...

    def check(
        self, draws: Sequence[Draw], test: LabelledSet | None = None
    ) -> tuple[list[Leak], list[str]]:
        """Finds leaks, and what to note, before anything is trained; `test` where it is known."""
        ...

    def provide(self, draw: Draw) -> Provided:
        """Returns the images of a draw; may take long."""
        ...


class FolderProvider:
    """Images that are there: finished runs, or any sets with classes.

    A run that varies real images counts for the draws whose shots those are; every other set counts
    for all draws.

    Args:
        roots: of `--synthetic`.
        unfiltered: of `--unfiltered`; without any, the first attempts of the runs.
        open_catalogs: returns the catalogs of a recipe's folders, behind those of the user.
        set_name: what catalogs call the evaluated set.

    Raises:
        SourceError: images that cannot be read.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        unfiltered: Sequence[Path],
        open_catalogs: OpenCatalogs,
        set_name: str | None = None,
    ) -> None:
        self.open_catalogs, self.set_name = open_catalogs, set_name
        self.sets = [read_synthetic(root) for root in roots]
        self.unfiltered = [read_synthetic(root) for root in unfiltered]
        self.has_own = bool(unfiltered)
        self.why = "no synthetic images are given"
        if not unfiltered:
            for root in roots:
                found = read_first_attempts(root)
                if isinstance(found, str):
                    self.why, self.unfiltered = f"{found}; give --unfiltered", []
                    break
                self.unfiltered.append(found)

    def describe(self) -> dict[str, Any]:
        """Returns the identity of all images."""
        return {
            "synthetic": [each.images.digest for each in self.sets],
            "unfiltered": [each.images.digest for each in self.unfiltered],
        }

    def check(
        self, draws: Sequence[Draw], test: LabelledSet | None = None
    ) -> tuple[list[Leak], list[str]]:
        """Finds the leaks of all draws, and test images that rows are made of or ended by."""
        found = [self.provide(draw) for draw in draws]
        leaks = [leak for each in found for leak in each.leaks]
        notes = [note for each in found for note in each.notes]
        if test is not None:
            for each in (*self.sets, *self.unfiltered):
                leaks += find_test_sources(each, test)
            for root in dict.fromkeys(each.images.root for each in (*self.sets, *self.unfiltered)):
                shared, told = find_run_stops(Path(root), test)
                leaks, notes = leaks + shared, notes + told
        return leaks, notes

    def provide(self, draw: Draw) -> Provided:
        """Returns the sets that count for a draw."""
        leaks: list[Leak] = []
        notes: list[str] = []
        chosen = self._choose(self.sets, draw, leaks)
        others = self._choose(self.unfiltered, draw, leaks)
        for each in chosen:
            self._judge_origins(each, draw, leaks, notes)
        if self.has_own:
            before = len(leaks)
            for each in others:
                self._judge_origins(each, draw, leaks, notes)
            leaks[before:] = [replace(leak, unfiltered=True) for leak in leaks[before:]]
        return Provided(
            join_sets(chosen) if chosen else None,
            join_sets(others) if others else None,
            missing_unfiltered=self.why,
            leaks=tuple(dict.fromkeys(leaks)),
            notes=tuple(dict.fromkeys(notes)),
            roots=tuple(Path(each.images.root) for each in (*chosen, *others)),
        )

    def _judge_origins(
        self, images: SyntheticSet, draw: Draw, leaks: list[Leak], notes: list[str]
    ) -> None:
        for origin in images.origins:
            catalogs = self.open_catalogs(filter(Path.is_dir, origin.catalogs))
            found, told = find_label_leaks(origin, draw.images, catalogs, self.set_name)
            leaks += found
            notes += told

    def _choose(
        self, sets: Sequence[SyntheticSet], draw: Draw, leaks: list[Leak]
    ) -> list[SyntheticSet]:
        """Returns the sets of a draw; with none of its own, all of them, and the leaks."""
        found = [(each, find_other_shots(each, draw.images, draw.name)) for each in sets]
        fitting = [each for each, foreign in found if not foreign]
        varying = [each for each in fitting if any(each.references)]
        if any(foreign for _, foreign in found) and not varying:
            leaks += [leak for _, foreign in found for leak in foreign]
            return [each for each, _ in found]
        return fitting
