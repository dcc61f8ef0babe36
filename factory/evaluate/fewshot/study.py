"""The study: every arm of every draw trained alike, cell by cell, with leaks refused."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.core.errors import EvaluationError, SourceError
from factory.data.shots import (
    ImageSet,
    PixelReader,
    check_test_classes,
    draw_shots,
)
from factory.evaluate.cells import DECIMALS, Cell, CellStore
from factory.evaluate.fewshot import SHOTS, TEST
from factory.evaluate.fewshot.arms import (
    ArmImages,
    choose_images,
    is_arm_augmented,
    read_training_set,
)
from factory.evaluate.fewshot.filling import Filler
from factory.evaluate.fewshot.labels import Judged, choose_judge, join_images
from factory.evaluate.fewshot.leaks import (
    Leak,
    count_near_copies,
    find_circular,
    find_encoder_leaks,
    find_test_images,
    find_test_leaks,
    refuse_leaks,
)
from factory.evaluate.fewshot.learners import Learner, Say
from factory.evaluate.fewshot.providers import Draw, Provided, Provider
from factory.evaluate.fewshot.settings import StudySettings, check_settings
from factory.evaluate.fewshot.synthetic import SyntheticSet
from factory.evaluate.fewshot.trainers import Trainer
from factory.evaluate.workers import WorkerPool


@dataclass
class Outcome:
    """All that one count of shots gave; lists are in order of the draws.

    Attributes:
        chances: arm -> (N, C) probabilities of the test images.
        curve: synthetic images of each class -> the same, for `real+synthetic`.
        images: arm -> class counts of real and synthetic images.
        left_out: arm -> why it is not measured.
        sources: where the synthetic images of each draw are.
        copies: near-copies of test images among the synthetic ones.
        data: which sets were measured, each once.
        judged: what a classifier of other real images takes the synthetic ones for.
        seconds: arm -> seconds of training.
    """

    shots: int
    steps: int
    chances: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    curve: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    images: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    copies: list[dict[str, Any]] = field(default_factory=list)
    data: list[Mapping[str, Any]] = field(default_factory=list)
    judged: Judged = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Study:
    """A study's inputs and what came of it."""

    settings: StudySettings
    train: ImageSet
    test: ImageSet
    provider: Provider
    cells: CellStore
    say: Say
    catalogs: Catalogs
    build_learner: Callable[[StudySettings, Say, Catalogs], Learner]
    is_split: bool = False
    workers: int = 1
    outcomes: list[Outcome] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    circular: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    learner: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.train.class_names

    def run(self) -> None:
        """Checks, then trains what is not stored yet.

        Raises:
            InputError: settings or images that do not fit; nothing was touched.
        LeakError: leaks that are neither forced nor marked; nothing was touched.
            MismatchError: the folder holds a study of other settings.
            EvaluationError: a training diverged.
        """
        check_settings(self.settings)
        check_test_classes(self.train, self.test)
        self._note_groups()
        draws = [
            Draw(shots, seed, draw_shots(self.train, shots, seed))
            for shots in self.settings.shots
            for seed in self.settings.draw_seeds
        ]
        self._add(find_test_leaks(self.train, self.test))
        found = [self.provider.check(draws)] if self._needs_synthetic() else []
        if self.settings.encoder is not None:
            given = (self.settings.encoder, self.catalogs, self.settings.set_name)
            found.append(find_encoder_leaks(*given))
        for leaks, notes in found:
            self.notes += notes
            self._add(leaks)
        learner = self.build_learner(self.settings, self.say, self.catalogs)
        self.learner = learner.describe()
        self.cells.begin(self.describe())
        self.reader = PixelReader(self.settings.size, self.settings.fit)
        for part in (self.train, self.test):
            self.reader.check(part)
        self.pixels = self.reader.read(self.test)
        trainers = None
        if self.workers > 1:
            train = partial(Trainer, self.settings, self.catalogs, self.pixels)
            trainers = WorkerPool(train, self.workers, self.say)
        self.filler = Filler(
            self.settings,
            learner,
            self.names,
            self.test,
            self.pixels,
            self.reader,
            self.cells,
            trainers,
            self.say,
        )
        try:
            for shots in self.settings.shots:
                mine = [draw for draw in draws if draw.shots == shots]
                self.outcomes.append(self._run_shots(learner, shots, mine))
        finally:
            if trainers is not None:
                trainers.close()
        self.notes = list(dict.fromkeys(self.notes))

    def describe(self) -> dict[str, Any]:
        """Returns what must stay equal for a study to be continued."""
        return {
            "version": 1,
            "training": self.settings.describe_training(),
            "learner": self.learner,
            "real": self.train.digest,
            "test": self.test.digest,
            "per_class": self.settings.per_class,
            "steps": self.settings.steps,
            "force": self.settings.force,
            **({"mark_leaks": True} if self.settings.mark_leaks else {}),
            "set_name": self.settings.set_name,
            "source": self.provider.describe(),
        }

    def _add(self, leaks: Sequence[Leak]) -> None:
        refuse_leaks(leaks, self.settings.force, self.settings.mark_leaks)
        self.leaks = list(dict.fromkeys([*self.leaks, *leaks]))

    def _note_groups(self) -> None:
        images = (*self.train.images, *self.test.images)
        if any(image.group is None for image in images):
            self.notes.append(
                "patients or slides are not known (--group-column, --group-pattern), so that train "
                "and test are not proven to be disjoint in them"
            )

    def _run_shots(self, learner: Learner, shots: int, draws: Sequence[Draw]) -> Outcome:
        """Runs all arms of all draws; an arm that one draw lacks is left out."""
        steps = self.settings.count_steps(shots, len(self.names))
        outcome = Outcome(shots, steps)
        made: dict[str, list[ImageSet]] = {}
        for draw in draws:
            provided = self._provide(draw, outcome)
            arms = {
                arm: self._choose(arm, draw, provided, self.settings.per_class)
                for arm in self.settings.arms
            }
            curve = {
                count: self._choose("real+synthetic", draw, provided, count)
                for count in self.settings.counts
            }
            wanted = [*arms.items(), *(("real+synthetic", each) for each in curve.values())]
            self.filler.train_ahead(draw, wanted, steps)
            for arm, chosen in arms.items():
                if isinstance(chosen, str):
                    outcome.left_out[arm] = chosen
                    self.filler.skip()
                    continue
                cell = self.filler.fill(arm, draw, chosen, steps)
                if arm.startswith("real+synthetic"):
                    made.setdefault(arm.removeprefix("real+"), []).append(chosen.synthetic)
                outcome.chances.setdefault(arm, []).append(cell.chances)
                outcome.images.setdefault(arm, []).append(chosen.count(self.names))
                outcome.seconds[arm] = outcome.seconds.get(arm, 0.0) + cell.seconds
            for count, chosen in curve.items():
                if not isinstance(chosen, str):
                    cell = self.filler.fill("real+synthetic", draw, chosen, steps, count)
                    outcome.curve.setdefault(count, []).append(cell.chances)
        for arm, why in outcome.left_out.items():
            self.say(f"LEFT OUT {arm} ({shots} shots): {why}")
            outcome.chances.pop(arm, None)
        outcome.curve = {
            count: found for count, found in outcome.curve.items() if len(found) == len(draws)
        }
        if not outcome.chances:
            raise EvaluationError(f"{shots} shots: no arm is left: {outcome.left_out}")
        if made and "all_real" in outcome.chances:
            self._judge(learner, outcome, draws, made)
        return outcome

    def _judge(
        self,
        learner: Learner,
        outcome: Outcome,
        draws: Sequence[Draw],
        made: Mapping[str, Sequence[ImageSet]],
    ) -> None:
        """Lets a classifier of all real images but the shots judge the synthetic ones."""
        judge = choose_judge(self.train, [draw.images for draw in draws])
        if isinstance(judge, str):
            self.notes.append(judge)
            return
        shots = join_images([draw.images for draw in draws])
        kinds = {TEST: self.test, SHOTS: shots}
        kinds |= {kind: join_images(sets) for kind, sets in made.items()}
        chosen = ArmImages(judge, self.train.take([]), self.settings.augment == "classical")
        judged = [[kind, each.digest] for kind, each in kinds.items()]
        identity = self.filler.identify(chosen, draws[0], outcome.steps) | {"judged": judged}
        cell = self.cells.read("label-fidelity", identity)
        if cell is None:
            self.say(f"judging the labels of {sum(map(len, kinds.values())) - len(self.test):,}")
            began = time.monotonic()
            pixels = np.concatenate([self.reader.read(each) for each in kinds.values()])
            classes, seed = len(self.names), draws[0].seed
            chances = learner.fit_predict(
                read_training_set(chosen, self.reader, self.names),
                pixels,
                classes,
                outcome.steps,
                seed,
            )
            cell = Cell(np.round(chances, DECIMALS), time.monotonic() - began)
            self.cells.write("label-fidelity", identity, cell)
        ends = np.cumsum([len(each) for each in kinds.values()])[:-1]
        for (kind, each), part in zip(kinds.items(), np.split(cell.chances, ends), strict=True):
            outcome.judged[kind] = (part, each.index_labels(self.names))

    def _needs_synthetic(self) -> bool:
        return bool(self.settings.counts) or any("synthetic" in a for a in self.settings.arms)

    def _provide(self, draw: Draw, outcome: Outcome) -> Provided:
        """Gets the synthetic images of a draw, and compares them with the test images."""
        if not self._needs_synthetic():
            return Provided(None, None)
        provided = self.provider.provide(draw)
        outcome.sources.append({"seed": draw.seed, "folders": [str(r) for r in provided.roots]})
        self.notes += provided.notes
        self._add(provided.leaks)
        if self.settings.encoder is not None:
            described = self.learner["encoder"]
            circles = find_circular(self.settings.encoder, described, provided.roots, self.catalogs)
            self.circular = list(dict.fromkeys([*self.circular, *circles]))
        for made in (provided.synthetic, provided.unfiltered):
            if made is not None:
                outcome.data += [each for each in made.data if each not in outcome.data]
                self._add(find_test_images(made, self.test))
                self._check_classes(made)
        if provided.synthetic is not None:
            used = provided.synthetic.choose(self.settings.per_class, self.names, draw.seed)
            found = count_near_copies(self.reader.read(used), self.pixels)
            outcome.copies.append({"seed": draw.seed, **found})
        return provided

    def _check_classes(self, made: SyntheticSet) -> None:
        """Notes synthetic images of other classes.

        Raises:
            SourceError: none is of a class of the real images.
        """
        unknown = sorted(set(made.class_names) - set(self.names))
        if len(unknown) == len(made.class_names):
            raise SourceError(
                f"{made.images.root}: has the classes {', '.join(unknown)}, but the real images "
                f"have {', '.join(self.names)}: rename its classes"
            )
        if unknown:
            self.notes.append(f"synthetic images of other classes are not used: {unknown}")

    def _choose(
        self, arm: str, draw: Draw, provided: Provided, count: int | None
    ) -> ArmImages | str:
        is_augmented = is_arm_augmented(arm, self.settings)
        chosen = choose_images(arm, draw, provided, count, self.train, is_augmented)
        if not isinstance(chosen, str) and "synthetic" in arm and count != 0:
            lacking = chosen.list_lacking(self.names)
            if lacking:
                self.notes.append(f"{arm}: no synthetic images of {', '.join(lacking)}")
        return chosen
