"""Label fidelity: do synthetic images show their class to a classifier of real ones?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import compute_wilson
from factory.data.shots import LabelledSet
from factory.evaluate.fewshot import SHOTS, TEST
from factory.evaluate.fewshot.scores import measure, resample, to_interval
from factory.evaluate.fewshot.settings import PRIMARY

LEAST = 20
"""Real images of each class that a judge needs besides the shots."""
Judged = dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
"""Kind of images -> (N, C) probabilities, (N,) classes asked for."""


def choose_judge(train: LabelledSet, shots: Sequence[LabelledSet]) -> LabelledSet | str:
    """Returns the real images that a judge learns from, or why there are too few.

    All but the shots of every draw: a judge that knows the image which a synthetic one varies would
    recognise it.
    """
    used = {sha for each in shots for sha in each.sha256s}
    found = train.take([row for row, sha in enumerate(train.sha256s) if sha not in used])
    few = [name for name in train.class_names if len(found.list_rows(name)) < LEAST]
    if few:
        return f"label fidelity needs {LEAST} real images besides the shots of {', '.join(few)}"
    return found


def join_images(sets: Sequence[LabelledSet]) -> LabelledSet:
    """Returns the images of several sets, each once."""
    found: dict[str, tuple[int, int]] = {}
    for number, each in enumerate(sets):
        for row, sha in enumerate(each.sha256s):
            found.setdefault(f"{each.images[row].class_name}/{sha}", (number, row))
    places = found.values()
    return LabelledSet(
        ", ".join(dict.fromkeys(each.root for each in sets)),
        tuple(sets[number].images[row] for number, row in places),
        tuple(sets[number].sha256s[row] for number, row in places),
    )


def describe_judged(judged: Judged, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns kind -> images, share that the judge takes for their class, and that by class.

    The share is the mean over classes, with a 95 % bootstrap interval over images; those of the
    classes have Wilson intervals, which stay honest at 0 and 1.
    """
    described: dict[str, Any] = {}
    for kind, (chances, labels) in judged.items():
        present = np.unique(labels)
        weights = resample(labels, [None] * len(labels), 1).images
        _, by_class = measure(chances, labels, weights)
        recall = by_class["recall"][:, present]
        described[kind] = {
            "images": len(labels),
            PRIMARY: to_interval(recall.mean(axis=1)).to_dict(),
            "recall": {
                class_names[name]: compute_wilson(
                    float(recall[0, place]), int((labels == name).sum())
                ).to_dict()
                for place, name in enumerate(present)
            },
        }
    return described


def explain_shift(described: Mapping[str, Any]) -> str:
    """Says that the test images are of another kind than the shots, or nothing.

    Args:
        described: of `describe_judged`.
    """
    if not {TEST, SHOTS} <= described.keys():
        return ""
    test, shots = (described[kind][PRIMARY] for kind in (TEST, SHOTS))
    if shots["low"] <= test["high"]:
        return ""
    return (
        f"the test images differ from the training set: a classifier of its other images sees the "
        f"class of {shots['mean']:.0%} of the shots and of {test['mean']:.0%} of the test images. "
        "Variations of the shots stay on the shots' side: judge their label fidelity by that of "
        "the shots"
    )
