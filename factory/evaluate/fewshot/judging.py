"""Who judges labels: a classifier of all real images but the shots, and what it is shown."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import compute_digest
from factory.data.shots import LabelledSet, PixelReader
from factory.evaluate.cells import DECIMALS, Cell, CellStore
from factory.evaluate.fewshot import SHOTS, TEST
from factory.evaluate.fewshot.arms import ArmImages, read_training_set
from factory.evaluate.fewshot.labels import Judged, choose_judge, join_images
from factory.evaluate.fewshot.learners import Say, TrainingSet
from factory.evaluate.fewshot.tuners import Options, Plan, Seen, Tuner

JUDGE = Options("none", "pooled", 0.01)
"""Of a head that judges where no arm learns from all real images."""
MOST = 1000
"""Real images of each class that such a head learns from."""

Fit = Callable[[TrainingSet, Seen], NDArray[np.float64]]
"""Returns what a classifier of the first makes of the second."""


@dataclass(frozen=True)
class Judging:
    """Lets a classifier of real images judge synthetic ones, the shots and test images."""

    train: LabelledSet
    test: LabelledSet
    reader: PixelReader
    cells: CellStore
    say: Say

    def run(
        self,
        shots: Sequence[LabelledSet],
        made: Mapping[str, Sequence[LabelledSet]],
        identify: Callable[[ArmImages], Mapping[str, Any]],
        fit: Fit,
        is_augmented: bool = False,
        most: int | None = None,
    ) -> Judged | str:
        """Returns what the judge says of each kind of images, or why there is none.

        Args:
            shots: of each draw; the judge has seen none of them.
            made: kind -> synthetic images of each draw.
            identify: of its training, for the cell.
            fit: trains it and predicts.
            is_augmented: whether it has classical augmentation.
            most: real images of each class that it learns from; None: all.
        """
        judge = choose_judge(self.train, shots)
        if isinstance(judge, str):
            return judge
        if most is not None:
            judge = judge.thin(most, "judge")
        kinds = {TEST: self.test, SHOTS: join_images(shots)}
        kinds |= {kind: join_images(sets) for kind, sets in made.items()}
        chosen = ArmImages(judge, self.train.take([]), is_augmented)
        told = [[kind, each.digest] for kind, each in kinds.items()]
        identity = {**identify(chosen), "judged": told}
        names = self.train.class_names
        cell = self.cells.read("label-fidelity", identity)
        if cell is None:
            self.say(f"judging the labels of {sum(map(len, kinds.values())) - len(self.test):,}")
            began = time.monotonic()
            pixels = np.concatenate([self.reader.read(each) for each in kinds.values()])
            seen = Seen(pixels, tuple(sha for each in kinds.values() for sha in each.sha256s))
            chances = fit(read_training_set(chosen, self.reader, names), seen)
            cell = Cell(np.round(chances, DECIMALS), time.monotonic() - began)
            self.cells.write("label-fidelity", identity, cell)
        ends = np.cumsum([len(each) for each in kinds.values()])[:-1]
        parts = zip(kinds.items(), np.split(cell.chances, ends), strict=True)
        return {kind: (part, each.index_labels(names)) for (kind, each), part in parts}

    def run_head(
        self,
        tuner: Tuner,
        shots: Sequence[LabelledSet],
        made: Mapping[str, Sequence[LabelledSet]],
    ) -> Judged | str:
        """Judges by a head of fixed options, where no arm learns from all real images."""
        plan = Plan(len(self.train.class_names), 1, 0)

        def identify(chosen: ArmImages) -> dict[str, Any]:
            told = {"judge": tuner.describe(), **JUDGE.describe(), "size": self.reader.size}
            test = compute_digest("fewshot test", list(self.test.sha256s))
            return {**told, "fit": self.reader.fit, "real": chosen.real.digest, "test": test}

        def fit(train: TrainingSet, seen: Seen) -> NDArray[np.float64]:
            return tuner.fit_predict(train, JUDGE, seen, plan)

        return self.run(shots, made, identify, fit, most=MOST)
