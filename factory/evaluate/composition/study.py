"""Measures composition: the head, its predictions, and their distances beside the floor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError
from factory.core.hashing import derive_seed
from factory.core.stats.correlation import bootstrap_pearson
from factory.core.stats.intervals import take_percentiles
from factory.core.stats.resampling import number_groups
from factory.evaluate.base import Context
from factory.evaluate.composition import BLIND, Composition
from factory.evaluate.composition.spots import Spots, read_spots
from factory.evaluate.features import encode_set
from factory.evaluate.image_sets import list_set
from factory.evaluate.judge_overlap import find_parts, read_making, write_circle
from factory.models.encoders import load_encoder

ALPHAS = tuple(np.logspace(-1, 5, 13).tolist())
FOLDS = 5
LEAST = 20
"""Synthetic images, held-out spots and spots of training, each, under which nothing is measured."""
DRAWS = 500

Floats = NDArray[np.float64]


def measure(settings: Composition.Settings, context: Context) -> dict[str, Any]:
    """Fits the head, predicts, and measures.

    Raises:
        InputError: spots or an encoder that do not fit.
        SourceError: an image that cannot be read.
        EvaluationError: too few images.
    """
    columns, look = (settings.prefix, settings.group_column), (settings.size, settings.fit)
    spots = read_spots(settings.spots, *columns, settings.held_out, look)
    images = list_set(settings.synthetic, size=settings.size, fit=settings.fit)
    held_out = np.flatnonzero(spots.is_held_out)
    training = len(spots.patients) - len(held_out)
    if min(len(images), len(held_out), training) < LEAST:
        raise EvaluationError(
            f"{len(images)} synthetic images, {len(held_out)} held-out spots and {training} of "
            f"training: {LEAST} of each are the least"
        )
    catalogs = context.open_catalogs(settings.catalogs)
    encoder = load_encoder(settings.encoder, catalogs=catalogs)
    context.say(f"encoding {len(spots.images):,} spots and {len(images):,} synthetic images")
    real = encode_set(spots.images, encoder, settings.cache).values
    made = encode_set(images, encoder, settings.cache).values
    parts = find_parts(
        settings.encoder, encoder.describe(), read_making(images.root, catalogs), catalogs
    )
    context.say("fitting the head on training patients")
    head, alpha = fit_head(real[~spots.is_held_out], spots)
    sides = {"synthetic": predict(head, made), "real": predict(head, real[held_out])}
    sides["others"] = predict_across(head, real[~spots.is_held_out], spots)
    draw = min(len(images), len(held_out) // 2, len(sides["others"]))
    found = {
        name: _measure_type(spots, sides, place, draw, settings.seed)
        for place, name in enumerate(spots.cell_types)
    }
    warnings = [write_circle(settings.encoder, images.name, part) for part in parts]
    warnings += _find_warnings(spots, [name for name, each in found.items() if each["is_blind"]])
    return {
        "data": [images.describe_data(), spots.images.describe_data()],
        "cell_types": found,
        "spots": {
            "train": len(sides["others"]),
            "train_patients": len(set(spots.patients[~spots.is_held_out].tolist())),
            "held_out": len(held_out),
            "held_out_patients": len(set(spots.patients[held_out].tolist())),
        },
        "circular": list(parts),
        "warnings": warnings,
        "settings": {
            "spots": settings.spots.name,
            "encoder": encoder.describe(),
            "size": settings.size,
            "fit": settings.fit,
            "alpha": alpha,
            "draw": draw,
            "draws": DRAWS,
            "seed": settings.seed,
        },
    }


def fit_head(features: NDArray[np.float32], spots: Spots) -> tuple[Any, float]:
    """Fits a ridge regression of standardised features to the proportions of training spots.

    Its penalty is chosen by cross-validation over groups (sections), where there are three.

    Returns:
        The head, and its penalty.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    groups = spots.groups[~spots.is_held_out]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": ALPHAS},
        cv=_choose_folds(groups),
        scoring="r2",
    )
    search.fit(features.astype(np.float64), spots.proportions[~spots.is_held_out], groups=groups)
    return search.best_estimator_, float(search.best_params_["ridge__alpha"])


def predict_across(head: Any, features: NDArray[np.float32], spots: Spots) -> Floats:
    """Returns what heads predict of the training spots that they were not fitted on, (N, K)."""
    from sklearn.model_selection import cross_val_predict

    values, groups = spots.proportions[~spots.is_held_out], spots.groups[~spots.is_held_out]
    folds = _choose_folds(groups)
    raw = cross_val_predict(head, features.astype(np.float64), values, groups=groups, cv=folds)
    return _normalise(raw)


def _choose_folds(groups: NDArray[np.str_]) -> Any:
    from sklearn.model_selection import GroupKFold, KFold

    count = len(set(groups.tolist()))
    return GroupKFold(min(FOLDS, count)) if count >= 3 else KFold(FOLDS)


def predict(head: Any, features: NDArray[np.float32]) -> Floats:
    """Returns (N, K) proportions: what is below 0 is 0, and each row adds up to 1."""
    return _normalise(head.predict(features.astype(np.float64)))


def _normalise(raw: Floats) -> Floats:
    found = np.clip(raw, 0.0, None)
    total = found.sum(1, keepdims=True)
    return np.asarray(np.where(total > 0, found / np.maximum(total, 1e-12), 1 / found.shape[1]))


def _measure_type(
    spots: Spots, sides: dict[str, Floats], place: int, draw: int, seed: int
) -> dict[str, Any]:
    """Returns the figures of a cell type.

    Distances grow where fewer images are drawn, so all are of as many images, drawn without
    replacement, against held-out spots: of synthetic images, of other held-out spots, and of the
    training patients' spots, each by a head that was not fitted on its section.
    """
    from scipy.stats import rankdata, wasserstein_distance

    given = spots.proportions[spots.is_held_out, place]
    made, real = sides["synthetic"][:, place], sides["real"][:, place]
    chance = np.random.default_rng(derive_seed(seed, "composition", place))
    others = sides["others"][:, place]
    distances, floors, apart = [], [], []
    for _ in range(DRAWS):
        order = chance.permutation(len(real))
        one, other = real[order[:draw]], real[order[draw : 2 * draw]]
        some = made[chance.permutation(len(made))[:draw]]
        distances.append(wasserstein_distance(some, one))
        floors.append(wasserstein_distance(other, one))
        real_others = others[chance.permutation(len(others))[:draw]]
        apart.append(wasserstein_distance(real_others, one))
    groups = number_groups(list(spots.patients[spots.is_held_out]))
    if groups is None:  # too few patients to draw: what hangs together within them
        groups = number_groups(list(spots.groups[spots.is_held_out]))
    rho = bootstrap_pearson(rankdata(real), rankdata(given), groups, seed)
    head_rho: dict[str, Any] = {"value": None, "refused": "all alike"}
    if rho is not None:
        head_rho = {"value": rho.mean, "low": rho.low, "high": rho.high}
    return {
        "distance": _interval(distances),
        "floor": _interval(floors),
        "other_patients": _interval(apart),
        "exceeds_floor": bool(np.quantile(distances, 0.025) > np.quantile(floors, 0.975)),
        "head_rho": head_rho,
        "is_blind": rho is None or rho.low <= 0,
        "means": {
            "synthetic": float(made.mean()),
            "real": float(real.mean()),
            "given": float(given.mean()),
        },
    }


def _interval(values: list[float]) -> dict[str, float]:
    found = take_percentiles(float(np.mean(values)), values)
    return {"value": found.mean, "low": found.low, "high": found.high}


def _find_warnings(spots: Spots, blind: Sequence[str]) -> list[str]:
    held_out = set(spots.patients[spots.is_held_out].tolist())
    found = []
    if blind:
        found.append(f"{BLIND}: {', '.join(blind)}: their distances say nothing of cells")
    if len(held_out) < 4:
        found.append(
            f"{len(held_out)} patients are held out: the floor is of images of the same patients, "
            "so it is too low, and intervals, which are of draws of images, too narrow"
        )
    if len(set(spots.groups[~spots.is_held_out].tolist())) < 3:
        found.append("fewer than 3 groups of training spots: the head's penalty is optimistic")
    return found
