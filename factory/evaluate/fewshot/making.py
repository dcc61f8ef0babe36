"""Runs of a study in full, what they cost and left unfilled, and the gap to the test set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import RunBrokenError
from factory.core.hashing import derive_seed
from factory.core.stats.ranking import measure_auroc
from factory.data.shots import LabelledSet, PixelReader
from factory.engine.selection import OVER_GROUP_QUOTA, OVER_QUOTA
from factory.evaluate.base import Context
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.scores import resample, to_interval
from factory.evaluate.judge_overlap import read_own_summary
from factory.train.classifier.heads import fit_head

RunRecipe = Callable[[Path, Sequence[str], Path], str]
"""Runs a recipe with overrides into a folder; returns what is short of it, or nothing."""
OVER = (OVER_QUOTA, OVER_GROUP_QUOTA)
MOST = 500
"""Images of each side of the gap."""
FOLDS, PENALTY = 5, 0.01
"""Most parts that are told apart by a classifier of the others, and its C."""


def run_fully(context: Context) -> RunRecipe:
    """Returns what runs a recipe, and says what is short of it."""

    def fill(recipe: Path, overrides: Sequence[str], to: Path) -> str:
        result = context.run(recipe, overrides, to)
        if result.quarantined:
            raise RunBrokenError(f"{to}: shards failed: run the same command again to make them")
        short = [
            f"{part.label} {part.accepted}/{part.wanted}" for part in result.summary.shortfalls
        ]
        return f"fewer accepted than asked for ({', '.join(short)})" if short else ""

    return fill


def describe_runs(roots: Sequence[Path]) -> dict[str, Any] | None:
    """Returns what the runs of a draw were asked for, gave and took; None where none is known.

    `unfilled` is the share of what was asked for, `largest_share` that of the shot which gives most
    of a class, `over_quota` counts images that a quota of shots or patients held back, and
    `seconds` are those of sampling, judging and encoding.

    Raises:
        SourceError: a damaged record.
    """
    found = [read_own_summary(root) for root in dict.fromkeys(roots)]
    known = [each for each in found if each is not None and not each.judged]
    if not known:
        return None
    parts = [part for each in known for part in each.series]
    shares = [part.references.largest_share for part in parts if part.references]
    asked, accepted = (sum(getattr(part, name) for part in parts) for name in ("asked", "accepted"))
    return {
        "asked": asked,
        "accepted": accepted,
        "unfilled": round(1 - accepted / asked, 4) if asked else 0.0,
        "unfilled_by_class": {part.label: round(part.short / part.wanted, 4) for part in parts},
        "largest_share": max(shares) if shares else None,
        "over_quota": sum(part.rejected.get(name, 0) for part in parts for name in OVER),
        "generated": sum(part.generated for part in parts),
        "seconds": round(sum(sum(each.seconds.values()) for each in known), 1),
    }


def measure_gap(
    train: LabelledSet,
    test: LabelledSet,
    reader: PixelReader,
    bank: FeatureBank,
    encoder: str,
) -> Mapping[str, Any] | None:
    """Measures how well training and test images are told apart, classes in equal parts.

    A logistic regression on their features tells held-out ones apart, patients or slides whole
    where all are known: AUROC .5 where the sets do not differ, 1 where they have nothing in common
    (after the proxy distance of Ben-David et al. 2007). None where there are too few images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(MOST // len(train.class_names), *_count(train), *_count(test))
    sides = [each.thin(count, "gap") for each in (train, test)]
    images = [image for each in sides for image in each.images]
    has_groups = all(image.group is not None for image in images)
    shas = [sha for each in sides for sha in each.sha256s]
    groups = [str(image.group) for image in images] if has_groups else shas
    labels = np.repeat([0, 1], [len(each) for each in sides])
    units = min(len({g for g, y in zip(groups, labels, strict=True) if y == s}) for s in (0, 1))
    folds = min(FOLDS, units)
    if folds < 2:
        return None
    features = np.concatenate(
        [bank.encode(reader.read(each), each.sha256s).astype(np.float64) for each in sides]
    )
    cut = StratifiedGroupKFold(
        folds, shuffle=True, random_state=derive_seed(0, "fewshot", "gap") % 2**32
    )
    logits = np.zeros(len(labels))
    for known, held in cut.split(labels, labels, groups):
        found = fit_head(features[known], labels[known], PENALTY).compute_logits(features[held])
        logits[held] = found[:, 1] - found[:, 0]
    weights = resample(labels, groups if has_groups else [None] * len(labels), 1)
    areas = measure_auroc(logits, labels > 0, weights.images)
    return {
        "encoder": encoder,
        "auroc": to_interval(areas).to_dict(),
        "images": len(labels),
        "resampled": weights.units,
    }


def _count(images: LabelledSet) -> list[int]:
    return [len(images.list_rows(name)) for name in images.class_names]
