"""The study: every arm of every draw trained alike, cell by cell, with leaks refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs
from factory.core.errors import EvaluationError, SourceError
from factory.data.shots import LabelledSet, PixelReader, check_test_classes, draw_shots
from factory.evaluate.cells import CellStore
from factory.evaluate.fewshot.arms import ArmImages, choose_images, is_arm_augmented
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.filling import Filler
from factory.evaluate.fewshot.judging import Judging
from factory.evaluate.fewshot.labels import Judged
from factory.evaluate.fewshot.leaks import (
    Leak,
    count_near_copies,
    find_circular,
    find_encoder_leaks,
    find_test_images,
    find_test_leaks,
    refuse_leaks,
)
from factory.evaluate.fewshot.learners import Learner, Say, TrainingSet
from factory.evaluate.fewshot.making import describe_runs, measure_gap
from factory.evaluate.fewshot.outcome import Outcome
from factory.evaluate.fewshot.providers import Draw, Provided, Provider
from factory.evaluate.fewshot.settings import REAL_LONGER, StudySettings, check_settings
from factory.evaluate.fewshot.synthetic import SyntheticSet
from factory.evaluate.fewshot.trainers import Trainer
from factory.evaluate.fewshot.tuned import Bench
from factory.evaluate.fewshot.tuners import HeadTuner, Seen, build_banks, build_tuners
from factory.evaluate.workers import WorkerPool


@dataclass
class Study:
    """A study's inputs and what came of it."""

    settings: StudySettings
    train: LabelledSet
    test: LabelledSet
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
    tuned_circular: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    learner: dict[str, Any] = field(default_factory=dict)
    gap: Mapping[str, Any] | None = None
    bench: Bench | None = None
    banks: dict[str, FeatureBank] = field(default_factory=dict)
    has_groups: bool = True

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
        found = [self.provider.check(draws, self.test)] if self._needs_synthetic() else []
        given = (self.catalogs, self.settings.set_name)
        found += [find_encoder_leaks(spec, *given) for spec in self.encoders]
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
        self._prepare_tuning()
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
            **({"epochs": self.settings.epochs} if self.settings.epochs else {}),
        }

    @property
    def encoders(self) -> tuple[str, ...]:
        """The frozen encoders that evaluate, each once."""
        own = () if self.settings.encoder is None else (self.settings.encoder,)
        return tuple(dict.fromkeys((*own, *self.settings.features)))

    def _prepare_tuning(self) -> None:
        """Sets up what is tuned, and measures how the test set differs from the training set."""
        if not self.settings.tune:
            return
        self.banks = build_banks(self.settings, self.say, self.catalogs)
        seen = Seen(self.pixels, self.test.sha256s)
        tuners = build_tuners(self.settings, self.say, self.banks)
        given = (self.reader, self.cells, self.names, self.test, seen, self.say)
        self.bench = Bench(self.settings, tuners, *given)
        for spec, bank in list(self.banks.items())[:1]:
            self.say("measuring how test images differ from training images")
            self.gap = measure_gap(self.train, self.test, self.reader, bank, spec)

    def _add(self, leaks: Sequence[Leak]) -> None:
        refuse_leaks(leaks, self.settings.force, self.settings.mark_leaks)
        self.leaks = list(dict.fromkeys([*self.leaks, *leaks]))

    def _note_groups(self) -> None:
        images = (*self.train.images, *self.test.images)
        self.has_groups = all(image.group is not None for image in images)
        if not self.has_groups:
            self.notes.append(
                "patients or slides are not known (--group-column, --group-pattern), so that train "
                "and test are not proven to be disjoint in them"
            )

    def _run_shots(self, learner: Learner, shots: int, draws: Sequence[Draw]) -> Outcome:
        """Runs all arms of all draws; an arm that one draw lacks is left out."""
        outcome = Outcome(shots, self.settings.count_steps(shots, len(self.names)))
        made: dict[str, list[LabelledSet]] = {}
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
            steps = {arm: self._count_steps(arm, shots, arms) for arm in arms}
            jobs = [(arm, each, self._steps_for(arm, shots, each, steps)) for arm, each in wanted]
            self.filler.train_ahead(draw, jobs)
            for arm, chosen in arms.items():
                if isinstance(chosen, str):
                    outcome.left_out[arm] = chosen
                    self.filler.skip()
                    continue
                cell = self.filler.fill(arm, draw, chosen, steps[arm])
                if arm.startswith("real+synthetic"):
                    made.setdefault(arm.removeprefix("real+"), []).append(chosen.synthetic)
                outcome.note(arm, cell, chosen.count(self.names), steps[arm])
            for count, chosen in curve.items():
                if not isinstance(chosen, str):
                    own = self._steps_for("real+synthetic", shots, chosen, {})
                    cell = self.filler.fill("real+synthetic", draw, chosen, own, count)
                    outcome.curve.setdefault(count, []).append(cell.chances)
            if self.bench is not None:
                self.bench.run(draw, provided, outcome.tuned)
        self._finish_shots(outcome, draws)
        if made:
            self._judge(learner, outcome, [draw.images for draw in draws], made)
        return outcome

    def _finish_shots(self, outcome: Outcome, draws: Sequence[Draw]) -> None:
        """Leaves out what not every draw has.

        Raises:
            EvaluationError: no arm is left.
        """
        for arm, why in outcome.left_out.items():
            self.say(f"LEFT OUT {arm} ({outcome.shots} shots): {why}")
            outcome.chances.pop(arm, None)
        self.notes += outcome.tuned.finish()
        outcome.curve = {
            count: found for count, found in outcome.curve.items() if len(found) == len(draws)
        }
        if not outcome.chances:
            raise EvaluationError(f"{outcome.shots} shots: no arm is left: {outcome.left_out}")

    def _count_steps(self, arm: str, shots: int, arms: Mapping[str, ArmImages | str]) -> int:
        """Returns the steps of an arm: those of `real+synthetic` for the one that is as long."""
        chosen = arms["real+synthetic" if arm == REAL_LONGER else arm]
        return self._steps_for(arm, shots, chosen, {})

    def _steps_for(
        self, arm: str, shots: int, chosen: ArmImages | str, known: Mapping[str, int]
    ) -> int:
        if arm in known and arm == REAL_LONGER:
            return known[arm]
        total = 0 if isinstance(chosen, str) else len(chosen.real) + len(chosen.synthetic)
        return self.settings.count_arm_steps(shots, len(self.names), total)

    def _judge(
        self,
        learner: Learner,
        outcome: Outcome,
        shots: Sequence[LabelledSet],
        made: Mapping[str, Sequence[LabelledSet]],
    ) -> None:
        """Lets a classifier of all real images but the shots judge the synthetic ones."""
        judging = Judging(self.train, self.test, self.reader, self.cells, self.say)
        names, steps, seed = self.names, outcome.steps, self.settings.first_seed

        def fit(train: TrainingSet, seen: Seen) -> NDArray[np.float64]:
            return learner.fit_predict(train, seen.pixels, len(names), steps, seed)

        found: Judged | str = {}
        if "all_real" in outcome.chances:
            identify = partial(self.filler.identify, seed=seed, steps=steps)
            is_augmented = self.settings.augment == "classical"
            found = judging.run(shots, made, identify, fit, is_augmented)
        elif self.banks:
            spec, bank = next(iter(self.banks.items()))
            found = judging.run_head(HeadTuner("logistic", bank, spec), shots, made)
        if isinstance(found, str):
            self.notes.append(found)
        else:
            outcome.judged = found

    def _needs_synthetic(self) -> bool:
        return bool(self.settings.counts) or any("synthetic" in a for a in self.settings.arms)

    def _provide(self, draw: Draw, outcome: Outcome) -> Provided:
        """Gets the synthetic images of a draw, and compares them with the test images."""
        if not self._needs_synthetic():
            return Provided(None, None)
        provided = self.provider.provide(draw)
        runs, folders = describe_runs(provided.roots), [str(root) for root in provided.roots]
        is_told = any(folders == each["folders"] for each in outcome.sources)
        outcome.making += [] if runs is None or is_told else [{"seed": draw.seed, **runs}]
        outcome.sources.append({"seed": draw.seed, "folders": folders})
        self.notes += provided.notes
        self._add(provided.leaks)
        if self.settings.encoder is not None:
            described = self.learner["encoder"]
            circles = find_circular(self.settings.encoder, described, provided.roots, self.catalogs)
            self.circular = list(dict.fromkeys([*self.circular, *circles]))
        for spec, bank in self.banks.items():
            described = bank.encoder.describe()
            circles = find_circular(spec, described, provided.roots, self.catalogs)
            self.tuned_circular = list(dict.fromkeys([*self.tuned_circular, *circles]))
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
