"""How far real images may be trusted to set thresholds: they must not be what filters learnt."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from factory.catalog.catalog import Catalogs
from factory.core.files.paths import resolve_path
from factory.core.hashing import hash_bytes
from factory.data.images import list_images
from factory.evaluate.calibrate.real import RealSet
from factory.evaluate.calibrate.scored import Scored
from factory.filters.base import Filter
from factory.filters.settings import FilterSettings
from factory.models.classifiers.model import read_classifier_info

ADVICE = "give held-out real images with --real"


def note_fitted(
    filters: Sequence[FilterSettings], base: Path, catalogs: Catalogs, digests: Collection[str]
) -> list[str]:
    """Returns a warning for every classifier that was fitted on the very set.

    Only the whole set can be recognised, not a part of it.
    """
    notes = []
    for settings in filters:
        if "classifier" not in settings.kind and "agreement" not in settings.kind:
            continue
        models = getattr(settings, "models", None) or (getattr(settings, "model", ""),)
        for model in models:
            folder = catalogs.find_classifier_folder(model) or resolve_path(base, model)
            if read_classifier_info(folder).data.sha256 in digests:
                notes.append(
                    f"OPTIMISTIC: {settings.kind} {model} was fitted on these real images and "
                    "finds them easier than new ones, so that its threshold comes out too strict: "
                    f"{ADVICE}"
                )
    return notes


def leave_out_known(
    filters: Sequence[Filter],
    settings: Sequence[FilterSettings],
    base: Path,
    real: RealSet,
    rows: Sequence[Scored],
) -> tuple[list[Scored], list[str]]:
    """Makes scores not applicable where a filter compares a real image with itself.

    Args:
        filters: the recipe's.
        settings: theirs; `images` and `held_out` name sets that a filter compares with.
        base: folder of the recipe.
        real: the real images, in the order of `rows`.
        rows: scores of all of them, once or more often.

    Returns:
        The rows, and a note for every filter concerned.

    Raises:
        SourceError: a set that cannot be read.
    """
    kept, notes = list(rows), []
    for judge, described in zip(filters, settings, strict=True):
        known = _hash_compared(described, base)
        overlap = {number for number, each in enumerate(real.images) if each.sha256 in known}
        blank = dict.fromkeys(judge.score_names, math.nan)
        for number, row in enumerate(kept):
            if number % len(real.images) in overlap:
                kept[number] = replace(row, scores={**row.scores, **blank})
        if overlap:
            notes.append(
                f"{len(overlap)} of {len(real.images)} real images are among those that "
                f"{judge.kind} compares with; they say nothing of its threshold: {ADVICE}"
            )
    return kept, notes


def _hash_compared(settings: FilterSettings, base: Path) -> set[str]:
    """Returns the hashes of the real images that a filter compares with."""
    roots = [getattr(settings, name, None) for name in ("images", "held_out")]
    return {
        hash_bytes(image.read_bytes())
        for root in roots
        if root is not None
        for image in list_images(
            resolve_path(base, root), image_column=getattr(settings, "image_column", None)
        )
    }
