"""What each arm trains on: shots, all real images, synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.data.shots import LabelledSet, PixelReader, count_classes
from factory.evaluate.fewshot.learners import TrainingSet
from factory.evaluate.fewshot.providers import Draw, Provided
from factory.evaluate.fewshot.settings import StudySettings


@dataclass(frozen=True)
class ArmImages:
    """Real images, then synthetic ones, and whether they get classical augmentation."""

    real: LabelledSet
    synthetic: LabelledSet
    is_augmented: bool

    def count(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns class -> images, of real and of synthetic ones."""
        return {
            "real": dict(count_classes(self.real, class_names)),
            "synthetic": dict(count_classes(self.synthetic, class_names)),
        }

    def list_lacking(self, class_names: Sequence[str]) -> list[str]:
        """Returns the classes without synthetic images."""
        return [name for name, n in count_classes(self.synthetic, class_names).items() if not n]


def is_arm_augmented(arm: str, settings: StudySettings) -> bool:
    """Tells whether an arm gets classical augmentation."""
    return arm == "real+classical" or (settings.augment == "classical" and arm != "real")


def choose_images(
    arm: str,
    draw: Draw,
    provided: Provided,
    count: int | None,
    train: LabelledSet,
    is_augmented: bool,
) -> ArmImages | str:
    """Returns what an arm trains on, or why there is nothing.

    Args:
        arm: of ARMS.
        draw: the shots.
        provided: the synthetic images of the draw.
        count: synthetic images of each class; None: all.
        train: all real training images.
        is_augmented: whether the arm gets classical augmentation.
    """
    nothing, names = train.take([]), train.class_names
    if "synthetic" not in arm:
        real = train if arm == "all_real" else draw.images
        return ArmImages(real, nothing, is_augmented)
    is_filtered = not arm.endswith("unfiltered")
    source = provided.synthetic if is_filtered else provided.unfiltered
    if source is None:
        return provided.missing if is_filtered else provided.missing_unfiltered
    real = nothing if arm == "synthetic" else draw.images
    chosen = ArmImages(real, source.choose(count, names, draw.seed), is_augmented)
    lacking = chosen.list_lacking(names)
    if count != 0 and lacking and (arm == "synthetic" or len(lacking) == len(names)):
        return f"{draw.name} has no synthetic images of {', '.join(lacking)}"
    return chosen


def read_training_set(
    chosen: ArmImages, reader: PixelReader, class_names: Sequence[str]
) -> TrainingSet:
    """Reads the images of an arm.

    Raises:
        SourceError: an image that cannot be decoded.
    """
    sets = (chosen.real, chosen.synthetic)
    return TrainingSet(
        np.concatenate([reader.read(each) for each in sets]),
        np.concatenate([each.index_labels(class_names) for each in sets]),
        np.repeat([False, True], [len(each) for each in sets]),
        tuple(sha for each in sets for sha in each.sha256s),
        chosen.is_augmented,
    )
