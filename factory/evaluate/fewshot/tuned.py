"""The tuned part of a study: every arm of every draw by classifiers tuned inside its shots."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import compute_digest
from factory.data.shots import LabelledSet, PixelReader
from factory.evaluate.cells import DECIMALS, Cell, CellStore
from factory.evaluate.fewshot.arms import ArmImages, read_training_set
from factory.evaluate.fewshot.learners import Say
from factory.evaluate.fewshot.providers import Draw, Provided
from factory.evaluate.fewshot.settings import TUNE_FOLDS, StudySettings
from factory.evaluate.fewshot.tuners import Options, Plan, Seen, Tuner
from factory.evaluate.fewshot.tuning import Choice, Tuning, cut_folds, find_shots

TUNED_ARMS = ("real", "real+classical", "real+synthetic", "real+synthetic+classical")
"""`+classical`: augmentation is among what is chosen from; `none` is one of its options."""
BASELINE = "real+classical"
"""The best of all classifiers of real images alone, as chosen inside the shots."""
BEST = "chosen"
"""Which of the classifiers is taken: the one of least held-out log loss in its draw."""

Arms = dict[str, list[NDArray[np.float64]]]
"""Arm -> for each draw (N, C) probabilities of the test images."""


@dataclass
class TunedOutcome:
    """What one count of shots gave.

    Attributes:
        chances: classifier, BEST among them -> its arms.
        chosen: what each draw chose, an entry for each classifier and arm.
        left_out: arm -> why it is not measured.
        notes: what a reader must know.
    """

    chances: dict[str, Arms] = field(default_factory=dict)
    chosen: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def finish(self) -> list[str]:
        """Leaves out arms that one draw lacks; returns the notes."""
        for arms in self.chances.values():
            for arm in self.left_out:
                arms.pop(arm, None)
        return [*self.notes, *(f"tuned {arm}: {why}" for arm, why in self.left_out.items())]


@dataclass(frozen=True)
class Bench:
    """What all tuned trainings of a study share."""

    settings: StudySettings
    tuners: Sequence[Tuner]
    reader: PixelReader
    cells: CellStore
    names: tuple[str, ...]
    test: LabelledSet
    seen: Seen
    say: Say
    arms: Sequence[str] = TUNED_ARMS

    def run(self, draw: Draw, provided: Provided, outcome: TunedOutcome) -> None:
        """Tunes and trains all arms of a draw, or reads them where they are stored."""
        count = self.settings.folds or TUNE_FOLDS
        folds = cut_folds(draw.images, self.names, count, draw.seed)
        if not folds:
            text = f"{draw.name}: too few shots or patients to tune: the plainest options are taken"
            outcome.notes.append(text)
        for made in (False, True):
            chosen = self._choose(draw, provided, made, outcome)
            if chosen is None:
                continue
            shot_of, plan = self._relate(draw, provided, chosen, outcome)
            material = read_training_set(chosen, self.reader, self.names)
            tuning = Tuning(material, shot_of, folds, plan)
            for arm in self.arms:
                if ("synthetic" in arm) == made:
                    self._fill(arm, draw, chosen, tuning, outcome)

    def _choose(
        self, draw: Draw, provided: Provided, made: bool, outcome: TunedOutcome
    ) -> ArmImages | None:
        """Returns the shots, with synthetic images if those are `made`; None where there are none.

        An arm that one draw lacks is left out.
        """
        nothing = draw.images.take([])
        if not made:
            return ArmImages(draw.images, nothing, False)
        why = provided.missing
        if provided.synthetic is not None:
            found = provided.synthetic.choose(self.settings.per_class, self.names, draw.seed)
            if len(found):
                return ArmImages(draw.images, found, False)
            why = f"{draw.name} has no synthetic images"
        outcome.left_out |= {arm: why for arm in self.arms if "synthetic" in arm}
        return None

    def _relate(
        self, draw: Draw, provided: Provided, chosen: ArmImages, outcome: TunedOutcome
    ) -> tuple[NDArray[np.int64], Plan]:
        """Returns the shots that each image is or comes from, and how long is trained."""
        found = np.zeros((0, 1), np.int64)
        if provided.synthetic is not None and len(chosen.synthetic):
            made = provided.synthetic
            varied = dict(zip(made.images.sha256s, made.references, strict=True))
            found = find_shots(chosen.synthetic, varied, draw.images)
            if (found < 0).all(1).any():
                outcome.notes.append(
                    "tuning: synthetic images that vary no shot of their draw stay in all folds; "
                    "what made them may know the shots that are held out"
                )
        own = np.full((len(chosen.real), found.shape[1]), -1)
        own[:, 0] = np.arange(len(own))
        total, classes = len(own) + len(found), len(self.names)
        steps = self.settings.count_arm_steps(draw.shots, classes, total)
        return np.concatenate([own, found]), Plan(classes, steps, draw.seed)

    def _fill(
        self, arm: str, draw: Draw, chosen: ArmImages, tuning: Tuning, outcome: TunedOutcome
    ) -> None:
        """Trains one arm by every classifier, and takes the one of least held-out loss."""
        best: tuple[float, Cell] | None = None
        for tuner in self.tuners:
            cell = self._train(tuner, arm, draw, chosen, tuning)
            outcome.chances.setdefault(tuner.name, {}).setdefault(arm, []).append(cell.chances)
            told = {"seed": draw.seed, "arm": arm, "classifier": tuner.name, **cell.told}
            outcome.chosen.append(told)
            loss = cell.told["held_out_log_loss"] or 0.0
            if best is None or loss < best[0]:
                best = loss, cell
                taken = told
        assert best is not None
        taken["taken"] = True
        outcome.chances.setdefault(BEST, {}).setdefault(arm, []).append(best[1].chances)
        how = f"{taken['classifier']}, augmentation {taken['augment']}"
        self.say(f"{draw.shots} shots, seed {draw.seed}, {arm} tuned: {how}")

    def _train(self, tuner: Tuner, arm: str, draw: Draw, chosen: ArmImages, tuning: Tuning) -> Cell:
        """Returns the predictions of one classifier with the options that it chose."""
        identity = self._identify(tuner, arm, chosen, tuning)
        label = re.sub(
            r"[^\w.+-]+", "-", f"tuned-{arm}-{tuner.name}-{draw.shots}shot-seed{draw.seed}"
        )
        cell = self.cells.read(label, identity)
        if cell is None:
            began = time.monotonic()
            choice: Choice = tuning.choose(tuner, arm.endswith("classical"))
            chances = self._predict(tuner, choice.options, tuning)
            seconds = time.monotonic() - began
            cell = Cell(np.round(chances, DECIMALS), seconds, told=choice.describe())
            self.cells.write(label, identity, cell)
        return cell

    def _predict(self, tuner: Tuner, options: Options, tuning: Tuning) -> NDArray[np.float64]:
        return tuner.fit_predict(tuning.train, options, self.seen, tuning.plan)

    def _identify(
        self, tuner: Tuner, arm: str, chosen: ArmImages, tuning: Tuning
    ) -> Mapping[str, Any]:
        """Returns all that shapes the choice and the predictions."""
        listed = [
            [[str(image.class_name), sha] for image, sha in zip(s.images, s.sha256s, strict=True)]
            for s in (chosen.real, chosen.synthetic)
        ]
        options = tuner.list_options(arm.endswith("classical"), len(chosen.synthetic) > 0)
        folds = [[each.tolist() for each in fold] for fold in tuning.folds]
        return {
            "tuned": tuner.describe(),
            "fit": self.settings.fit,
            "size": self.settings.size,
            "classes": list(self.names),
            "options": [each.describe() for each in options],
            "folds": compute_digest("fewshot folds", [folds, tuning.shot_of.tolist()]),
            "images": compute_digest("fewshot images", listed),
            "test": compute_digest("fewshot test", list(self.test.sha256s)),
            "steps": tuning.plan.steps,
            "seed": tuning.plan.seed,
        }
