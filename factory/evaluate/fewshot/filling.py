"""Filling a study's cells: one training each, here or on several workers, stored when done."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import compute_digest
from factory.data.shots import LabelledSet, PixelReader
from factory.evaluate.cells import DECIMALS, Cell, CellStore
from factory.evaluate.fewshot.arms import ArmImages, read_training_set
from factory.evaluate.fewshot.learners import Learner, Say
from factory.evaluate.fewshot.providers import Draw
from factory.evaluate.fewshot.settings import StudySettings
from factory.evaluate.fewshot.trainers import Training
from factory.evaluate.workers import WorkerPool


class Filler:
    """Trains what is not stored, and says how it came out.

    Args:
        settings: of the study.
        learner: trains here.
        names: the classes, in the order of the probabilities.
        test: the images that are predicted.
        pixels: theirs, (M, S, S, 3) uint8 RGB.
        reader: of all images.
        cells: where predictions are kept.
        trainers: workers that train side by side, or None.
        say: called with lines of progress.
    """

    def __init__(
        self,
        settings: StudySettings,
        learner: Learner,
        names: tuple[str, ...],
        test: LabelledSet,
        pixels: NDArray[np.uint8],
        reader: PixelReader,
        cells: CellStore,
        trainers: WorkerPool | None,
        say: Say,
    ) -> None:
        self.settings, self.learner, self.names, self.test = settings, learner, names, test
        self.reader, self.cells, self.trainers, self.say = reader, cells, trainers, say
        self.described = learner.describe()
        self.pixels = pixels
        self._began, self._done, self._fresh = time.monotonic(), 0, 0

    def skip(self) -> None:
        """Counts a cell that cannot be filled."""
        self._done += 1

    def fill(
        self,
        arm: str,
        draw: Draw,
        chosen: ArmImages,
        steps: int,
        count: int | None = None,
    ) -> Cell:
        """Returns the predictions of one arm in one draw, stored or made now."""
        identity = self.identify(chosen, draw.seed, steps)
        label = name_cell(arm, draw)
        cell = self.cells.read(label, identity)
        if cell is None:
            began = time.monotonic()
            material = read_training_set(chosen, self.reader, self.names)
            chances = self.learner.fit_predict(
                material, self.pixels, len(self.names), steps, draw.seed
            )
            cell = Cell(np.round(chances, DECIMALS), time.monotonic() - began)
            self.cells.write(label, identity, cell)
        self._fresh += not cell.was_stored
        self._tell(arm, draw, chosen, cell, count)
        return cell

    def train_ahead(self, draw: Draw, wanted: Sequence[tuple[str, ArmImages | str, int]]) -> None:
        """Trains what is missing of a draw side by side, where there are several workers.

        Args:
            draw: of the shots.
            wanted: arm, its images, and steps.
        """
        if self.trainers is None:
            return
        trainings, places = {}, {}
        for arm, chosen, steps in wanted:
            if isinstance(chosen, str):
                continue
            label, identity = name_cell(arm, draw), self.identify(chosen, draw.seed, steps)
            name = f"{label} ({len(chosen.synthetic)} synthetic, {steps} steps)"
            if name not in places and self.cells.read(label, identity) is None:
                material = read_training_set(chosen, self.reader, self.names)
                trainings[name] = Training(material, len(self.names), steps, draw.seed)
                places[name] = label, identity
        for name, (chances, seconds) in self.trainers.run(trainings):
            self.cells.write(*places[name], Cell(np.round(chances, DECIMALS), seconds))

    def identify(self, chosen: ArmImages, seed: int, steps: int) -> dict[str, Any]:
        """Returns all that shapes the predictions; the order of images shapes the batches."""
        listed = [
            [[str(image.class_name), sha] for image, sha in zip(s.images, s.sha256s, strict=True)]
            for s in (chosen.real, chosen.synthetic)
        ]
        return {
            **self.settings.describe_training(),
            **self.described,
            "classes": list(self.names),
            "images": compute_digest("fewshot images", listed),
            "test": compute_digest("fewshot test", list(self.test.sha256s)),
            "augmented": chosen.is_augmented,
            "steps": steps,
            "seed": seed,
        }

    def _tell(self, arm: str, draw: Draw, chosen: ArmImages, cell: Cell, count: int | None) -> None:
        """Says how one cell came out, and how long the rest may take."""
        settings = self.settings
        self._done += 1
        total = len(settings.shots) * settings.seeds * (len(settings.arms) + len(settings.counts))
        labels = self.test.index_labels(self.names)
        right = cell.chances.argmax(1) == labels
        reached = np.mean([right[labels == name].mean() for name in np.unique(labels)])
        took = "stored" if cell.was_stored else f"{cell.seconds:.1f} s"
        left = ""
        if self._fresh and self._done >= total // len(settings.shots) // settings.seeds:
            each = (time.monotonic() - self._began) / self._done
            left = f", about {each * (total - self._done) / 60:.0f} min left"
        at = "" if count is None else f" at {count} a class"
        self.say(
            f"[{self._done}/{total}] {draw.shots} shots, seed {draw.seed}, {arm}{at}: balanced "
            f"accuracy {reached:.3f} ({len(chosen.real):,} real + {len(chosen.synthetic):,} "
            f"synthetic images, {took}{left})"
        )


def name_cell(arm: str, draw: Draw) -> str:
    """Returns the readable part of a cell's name."""
    shots = "" if arm == "all_real" else f"-{draw.shots}shot"
    return f"{arm}{shots}-seed{draw.seed}"
