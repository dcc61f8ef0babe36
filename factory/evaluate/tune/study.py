"""The search: drawn configurations over folds of the shots, the best one checked on new folds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from factory.core.duration import format_duration
from factory.core.errors import EvaluationError, InputError
from factory.data.shots import LabelledSet, draw_shots, list_real
from factory.evaluate.base import Context
from factory.evaluate.cells import STUDY, Cell, CellStore
from factory.evaluate.fewshot.settings import check_settings
from factory.evaluate.tune.asking import Base, open_base
from factory.evaluate.tune.bed import Bed, Split, Task, cut_repeats, describe_base
from factory.evaluate.tune.gains import Gain, measure_gain
from factory.evaluate.tune.search import Clock, RaySearcher
from factory.evaluate.tune.settings import TuneSettings
from factory.evaluate.tune.space import Configuration, build_default, read_space
from factory.evaluate.workers import count_workers

MEASURED, STOPPED, FAILED, OPEN = "measured", "stopped early", "failed", "not begun"
"""States of a trial: all folds; fewer, as it fell behind or time was up; none; none yet."""


@dataclass
class Found:
    """One trial.

    Attributes:
        configuration: what was tried.
        cells: of its folds.
        gain: over all folds; None where they are not all there.
        failed: why it could not be measured.
    """

    configuration: Configuration
    cells: dict[Split, Cell]
    gain: Gain | None
    failed: str = ""

    @property
    def state(self) -> str:
        """Of the four."""
        if self.gain is not None:
            return MEASURED
        return FAILED if self.failed else STOPPED if self.cells else OPEN


@dataclass
class Search:
    """A search and what came of it; `run` does it all.

    Attributes:
        settings: of the search.
        recipe: its file.
        context: says lines, runs recipes, opens catalogs.
        failures: configuration in words -> why it could not be measured.
    """

    settings: TuneSettings
    recipe: Path
    context: Context
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Searches, chooses and checks; raises as `tune_recipe`."""
        began = time.monotonic()
        settings, say = self.settings, self.context.say
        seconds = settings.seconds
        check_settings(settings.as_study(None, 0))
        self.base = open_base(self.recipe, settings)
        self.space = (
            build_default(self.base)
            if settings.space is None
            else read_space(settings.space, self.base)
        )
        self.shots = choose_shots(settings, self.base)
        repeats = cut_repeats(self.shots, settings.repeats, settings.folds)
        checks = cut_repeats(self.shots, settings.repeats, settings.folds, repeats[-1][0].seed + 1)
        configurations = self.space.draw(self.base, settings.trials)
        task = Task(settings, self.recipe, self.shots, self.space, settings.folder)
        self._begin()
        self.bed = Bed(task, self.context)
        folds = sum(map(len, repeats))
        say(
            f"{len(configurations)} of {self.space.count(self.base)} configurations, {folds} folds "
            f"each, of {len(self.shots)} shots; at most {format_duration(seconds)}"
        )
        self.configurations, self.began = configurations, began
        clock = Clock(began + seconds, check=sum(map(len, checks)))
        workers = count_workers(settings.workers, settings.device)
        searcher = RaySearcher(task, self.context.run, workers, self._tell)
        try:
            splits = [split for each in repeats for split in each]
            searcher.run(configurations, splits, clock, halves_from=len(repeats[0]))
            self.trials = [self._collect(each, repeats) for each in configurations]
            self.best = choose(self.trials) or self._explain_nothing()
            self.check: Gain | None = None
            if self.best.gain is not None and self.best.gain.gain.mean > 0:
                say(f"checking on {sum(map(len, checks))} other folds: {tell(self.best)}")
                clock.kept = clock.check = 0
                splits = [split for each in checks for split in each]
                searcher.run([self.best.configuration], splits, clock, halves_from=None)
                found = self._collect(self.best.configuration, checks)
                self.check = measure_gain(self.shots, checks, found.cells)
        finally:
            searcher.close()
        self.seconds = time.monotonic() - began

    @property
    def adds_nothing(self) -> bool:
        """Whether nothing is to be added: the check's interval is not above zero, or not there."""
        return self.check is None or not self.check.is_above

    @property
    def is_decided(self) -> bool:
        """Whether nothing gained where it was chosen, or the check had all its repeats."""
        gain = self.best.gain
        if gain is not None and gain.gain.mean <= 0:
            return True
        return self.check is not None and self.check.repeats >= self.settings.repeats

    def describe(self) -> dict[str, Any]:
        """Returns what must stay equal for a search to be continued."""
        settings = self.settings
        return {
            "version": 1,
            "shots": self.shots.digest,
            "space": {name: list(each) for name, each in self.space.choices.items()},
            **describe_base(self.base),
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name in ("heads", "features", "folds", "repeats", "size", "fit")
                for value in (getattr(settings, name),)
            },
        }

    def _begin(self) -> None:
        """Begins the search in its folder, or goes on with it.

        Raises:
            InputError: a file is there that no search wrote.
            MismatchError: the folder holds a search of other settings.
        """
        settings = self.settings
        if settings.out.exists() and not (settings.folder / STUDY).is_file():
            raise InputError(f"{settings.out}: is there, and no search wrote it: give another name")
        CellStore(settings.folder).begin(self.describe())

    def _collect(self, configuration: Configuration, repeats: Sequence[Sequence[Split]]) -> Found:
        """Reads what was measured of a configuration."""
        cells = {}
        for split in (split for each in repeats for split in each):
            cell = self.bed.read(configuration, split)
            if cell is not None:
                cells[split] = cell
        is_whole = len(cells) == sum(map(len, repeats))
        gain = measure_gain(self.shots, repeats, cells) if is_whole else None
        return Found(configuration, cells, gain, self.failures.get(tell_choices(configuration), ""))

    def _tell(
        self, configuration: Configuration, folds: int, gain: float | None, failed: str
    ) -> None:
        """Says what came of a fold."""
        told, number = tell_choices(configuration), self.configurations.index(dict(configuration))
        place = f"[{number + 1}/{len(self.configurations)}]"
        took = format_duration(time.monotonic() - self.began)
        if failed:
            self.failures[told] = failed
            self.context.say(f"{place} FAILED {told}: {failed.splitlines()[0]}")
        elif gain is not None:
            self.context.say(f"{place} {told}: fold {folds}, {gain:+.3f} so far ({took})")

    def _explain_nothing(self) -> NoReturn:
        """Raises that nothing was measured, and what to do.

        Raises:
            InputError: every trial failed.
            EvaluationError: there was no time.
        """
        failed = [each for each in self.trials if each.failed]
        if failed and all(each.failed for each in self.trials):
            raise InputError(f"every configuration failed; the first one: {failed[0].failed}")
        raise EvaluationError(
            f"no configuration was measured on all folds within {self.settings.budget}: run the "
            "same command again to go on, with a larger --budget, fewer images (--space) or "
            "--repeats 1"
        )


def choose_shots(settings: TuneSettings, base: Base) -> LabelledSet:
    """Returns the shots: those that the recipe draws by its `shots` and `seed`, or all images.

    Raises:
        SourceError: images that cannot be read, or too few.
    """
    columns = (settings.group_column, settings.group_pattern, settings.image_column)
    real = list_real(settings.real, *columns)
    given = (getattr(block.settings, "shots", None) for block in base.recipe.blocks)
    count = settings.shots or next((each for each in given if each), None)
    return real if count is None else draw_shots(real, count, base.recipe.seed)


def choose(trials: Sequence[Found]) -> Found | None:
    """Returns the trial of the highest gain; of equal ones that of fewest images, then the first.

    None where none was measured on all folds.
    """
    whole = [each for each in trials if each.gain is not None]
    if not whole:
        return None
    return max(whole, key=lambda each: (_read_mean(each), -each.configuration.get("per_class", 0)))


def _read_mean(trial: Found) -> float:
    return -1.0 if trial.gain is None else round(trial.gain.gain.mean, 6)


def tell(trial: Found) -> str:
    """Returns what was tried."""
    return tell_choices(trial.configuration)


def tell_choices(configuration: Mapping[str, Any]) -> str:
    """Returns e.g. `strength 0.5, way guided`."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in configuration.items())
