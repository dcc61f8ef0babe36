"""How far real images may be trusted to set thresholds: they must not be what filters learnt."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from factory.evaluate.calibrate.real import RealChoice
from factory.evaluate.calibrate.scored import Scored
from factory.filters.base import Filter
from factory.models.classifiers.model import read_classifier_info

ADVICE = "give held-out real images with --real"


def note_fitted(filters: Sequence[Filter], digests: Collection[str]) -> list[str]:
    """Returns a warning for every classifier that was fitted on the very set.

    Only the whole set can be recognised, not a part of it.
    """
    notes = []
    for judge in filters:
        for model in judge.classifiers:
            folder = judge.context.find_classifier_folder(model)
            if read_classifier_info(folder).data.sha256 in digests:
                notes.append(
                    f"OPTIMISTIC: {judge.name} {model} was fitted on these real images and "
                    "finds them easier than new ones, so that its threshold comes out too strict: "
                    f"{ADVICE}"
                )
    return notes


def leave_out_known(
    filters: Sequence[Filter], real: RealChoice, rows: Sequence[Scored]
) -> tuple[list[Scored], list[str]]:
    """Makes scores not applicable where a filter compares a real image with itself.

    Args:
        filters: the recipe's; their `real_images` are what they compare with.
        real: the real images, in the order of `rows`.
        rows: scores of all of them, once or more often.

    Returns:
        The rows, and a note for every filter concerned.

    Raises:
        SourceError: a set that cannot be read.
    """
    kept, notes = list(rows), []
    for judge in filters:
        session = judge.context
        used = (each for real in judge.real_images for each in real.list(session))
        known = set(map(session.images.hash_bytes, used))
        overlap = {number for number, each in enumerate(real.images) if each.sha256 in known}
        blank = dict.fromkeys(judge.score_names, math.nan)
        for number, row in enumerate(kept):
            if number % len(real.images) in overlap:
                kept[number] = replace(row, scores={**row.scores, **blank})
        if overlap:
            notes.append(
                f"{len(overlap)} of {len(real.images)} real images are among those that "
                f"{judge.name} compares with; they say nothing of its threshold: {ADVICE}"
            )
    return kept, notes
