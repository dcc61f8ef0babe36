"""Measures a configuration on one fold: images made of its training shots alone, heads tuned there.

A fold is a draw of the few-shot study whose test set are the shots that are held out.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from factory.core.errors import InputError, SourceError
from factory.core.hashing import compute_digest
from factory.data.shots import LabelledSet, PixelReader, count_classes
from factory.engine.refilter import refilter_folder
from factory.evaluate.base import Context
from factory.evaluate.cells import DECIMALS, Cell, CellStore
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.generate import RecipeProvider
from factory.evaluate.fewshot.leaks import refuse_leaks
from factory.evaluate.fewshot.making import describe_runs, run_fully
from factory.evaluate.fewshot.providers import Draw, Provided
from factory.evaluate.fewshot.synthetic import read_synthetic
from factory.evaluate.fewshot.tuned import BEST, Bench, TunedOutcome
from factory.evaluate.fewshot.tuners import MIXES, Seen, build_banks, build_tuners
from factory.evaluate.fewshot.tuning import Fold, cut_folds
from factory.evaluate.tune.asking import Base, open_base, write_making
from factory.evaluate.tune.settings import TuneSettings
from factory.evaluate.tune.space import Configuration, Space

ARMS = ("real", "real+synthetic")
HERE = "workers.executor=local"
"""A trial is the unit of work side by side, so that its runs start no workers of their own."""
MOST_CUTS = 200
"""Seeds that are tried for folds in which every class is known and every shot held out."""


@dataclass(frozen=True)
class Split:
    """One fold of one repeat.

    Attributes:
        seed: of the cut, and of the images that are made.
        fold: number within the repeat.
        known: rows of the shots to learn from.
        held: rows of those to predict.
    """

    seed: int
    fold: int
    known: tuple[int, ...]
    held: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """What all trials share; it travels to their processes.

    Attributes:
        settings: of the search.
        recipe: its file.
        shots: all of them.
        space: what is tried.
        work: the folder of the search.
    """

    settings: TuneSettings
    recipe: Path
    shots: LabelledSet
    space: Space
    work: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.shots.class_names


def cut_repeats(shots: LabelledSet, count: int, folds: int, first: int = 0) -> list[list[Split]]:
    """Cuts the shots `count` times, so that each is held out once in every repeat.

    Args:
        shots: patients or slides, where known, are never divided.
        count: repeats.
        folds: of each; fewer where a class has fewer patients.
        first: seed from which on seeds are tried.

    Raises:
        InputError: too few shots or patients of a class.
    """
    names, found = shots.class_names, []
    for seed in range(first, first + MOST_CUTS):
        cut = cut_folds(shots, names, folds, seed)
        if sum(len(held) for _, held in cut) == len(shots):
            found.append([_make_split(seed, number, each) for number, each in enumerate(cut)])
        if len(found) == count:
            return found
    counts = {
        name: len({shots.images[row].group or row for row in shots.list_rows(name)})
        for name in names
    }
    told = ", ".join(f"{name} {number}" for name, number in counts.items())
    raise InputError(
        f"{shots.root}: too few shots or patients to hold each out once (patients, or shots where "
        f"they are not known: {told}): give more, or fewer --folds"
    )


def _make_split(seed: int, number: int, fold: Fold) -> Split:
    known, held = (tuple(sorted(part.tolist())) for part in fold)
    return Split(seed, number, known, held)


class Bed:
    """Measures, and keeps what was measured; one for each process."""

    def __init__(self, task: Task, context: Context) -> None:
        self.task, self.context = task, context
        self.base = open_base(task.recipe, task.settings)
        self.reader = PixelReader(task.settings.size, task.settings.fit)
        self.cells = CellStore(task.work / "folds")
        self._trained = CellStore(task.work / "trained")
        self._banks: dict[str, FeatureBank] | None = None
        self._tuners: dict[str, Any] = {}

    def read(self, configuration: Configuration, split: Split) -> Cell | None:
        """Returns what was measured before, or None."""
        return self.cells.read(*self._identify(configuration, split))

    def measure(self, configuration: Configuration, split: Split) -> Cell:
        """Returns (2, M, C) probabilities of the held-out shots, of both ARMS.

        Raises:
            InputError: the configuration does not suit model or recipe, or a leak.
            RunBrokenError: a run stopped, and can be resumed.
        """
        found = self.read(configuration, split)
        if found is not None:
            return found
        began = time.monotonic()
        shots = self.task.shots
        known, held = (shots.take(rows) for rows in (split.known, split.held))
        least = min(count_classes(known, self.task.names).values())
        draw = Draw(least, split.seed, known)
        provided, why = self._provide(configuration, draw, held)
        outcome = TunedOutcome()
        self._build_bench(configuration, split.seed, held).run(draw, provided, outcome)
        best = outcome.chances[BEST]
        real = best[ARMS[0]][0]
        made = best.get(ARMS[1], [real])[0]  # without images the arm is that of real ones
        told = {
            "chosen": [each for each in outcome.chosen if each.get("taken")],
            "made": describe_runs(provided.roots),
            "missing": why or outcome.left_out.get(ARMS[1], ""),
            "notes": [*provided.notes, *outcome.notes],
        }
        cell = Cell(np.stack([real, made]).round(DECIMALS), time.monotonic() - began, told=told)
        self.cells.write(*self._identify(configuration, split), cell)
        return cell

    def build_provider(
        self, configuration: Configuration, threshold: float | str | None
    ) -> RecipeProvider:
        """Returns what makes the images of a configuration of any shots."""
        task, making = self.task, write_making(configuration, self.base, threshold)
        making = making.model_copy(update={"overrides": (*making.overrides, HERE)})
        most = task.space.most if self.base.is_counted else None
        settings = task.settings.as_study(most, 0)
        run = run_fully(self.context)
        return RecipeProvider(making, settings, task.work / "draws", run, self.context)

    def _provide(
        self, configuration: Configuration, draw: Draw, held: LabelledSet
    ) -> tuple[Provided, str]:
        """Makes the images of a fold; a choice of the filter is decided on what is there.

        Returns:
            The images, and why there are none.
        """
        asked = configuration.get("filter")
        strictest = self.task.space.strictest if asked is not None else None
        provider = self.build_provider(configuration, strictest)
        force = self.task.settings.force
        leaks, notes = provider.check([draw], held)
        refuse_leaks(leaks, force)
        with FileLock(_make_lock(self.task.work, draw)):
            try:
                provided = provider.provide(draw)
            except SourceError as error:  # of a run that accepted nothing
                return Provided(None, None, str(error)), str(error)
            refuse_leaks(provided.leaks, force)
            told = tuple(map(str, leaks))
            provided = replace(provided, notes=(*told, *notes, *provided.notes))
            if asked is None or asked == strictest:
                return provided, ""
            run = self._decide(provided.roots[0], asked)
        try:
            return replace(provided, synthetic=read_synthetic(run), roots=(run,)), ""
        except SourceError as error:
            return replace(provided, synthetic=None, missing=str(error)), str(error)

    def _decide(self, run: Path, choice: float | str) -> Path:
        """Returns a copy of a run decided by another threshold: the same candidates, none made.

        The run was made under the strictest one, so that what a milder one takes is there.
        """
        folder = run.with_name(f"{run.name}-filter-{choice}")
        if folder.is_dir():
            return folder
        build = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(build, ignore_errors=True)
        shutil.copytree(run, build)
        refilter_folder(str(build), self.base.set_filter(choice))
        return build.rename(folder)

    def _build_bench(self, configuration: Configuration, seed: int, held: LabelledSet) -> Bench:
        task = self.task
        settings = task.settings.as_study(configuration.get("per_class"), seed)
        if self._banks is None:
            self._banks = build_banks(settings, self.context.say, self.base.loaded.session.catalogs)
        mix = str(configuration.get("mix", ""))
        if mix not in self._tuners:
            mixes: Sequence[Any] = (mix,) if mix else MIXES
            self._tuners[mix] = build_tuners(settings, self.context.say, self._banks, mixes)
        seen = Seen(self.reader.read(held), held.sha256s)
        given = (self._tuners[mix], self.reader, self._trained, task.names, held, seen)
        return Bench(settings, *given, self.context.say, ARMS)

    def _identify(
        self, configuration: Configuration, split: Split
    ) -> tuple[str, Mapping[str, Any]]:
        shas = self.task.shots.sha256s
        identity = {
            "configuration": dict(sorted(configuration.items())),
            "seed": split.seed,
            "known": compute_digest("fold", [shas[row] for row in split.known]),
            "held": compute_digest("fold", [shas[row] for row in split.held]),
        }
        name = compute_digest("tune configuration", identity["configuration"])[:8]
        return f"{name}-seed{split.seed}-fold{split.fold}", identity


def _make_lock(work: Path, draw: Draw) -> Path:
    """Returns the file that is locked while images of these shots are made."""
    name = compute_digest("tune lock", [draw.seed, draw.images.digest])[:16]
    folder = work / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def describe_base(base: Base) -> dict[str, Any]:
    """Returns the recipe and how what it takes is fitted: what must stay for a search to go on."""
    from factory.recipe.recipe import select_content

    settings, unlabelled = base.settings, base.settings.unlabelled
    return {
        "recipe": select_content(base.recipe),
        "filter_encoder": settings.filter_encoder,
        "guide_encoder": settings.guide_encoder,
        "adapt": settings.adapt,
        "adapt_set": list(settings.adapt_set),
        **({} if unlabelled is None else {"unlabelled": str(Path(unlabelled).absolute())}),
    }
