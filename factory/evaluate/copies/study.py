"""Compares synthetic images with training images: AuthPct, C_T, distances, similarity, pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import __version__
from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.errors import EvaluationError
from factory.core.files.atomic import write_file
from factory.core.files.temporary import make_temporary
from factory.core.metrics import find_nearest
from factory.data.varied import find_varied
from factory.evaluate.base import Context, Say
from factory.evaluate.copies import Copies, CopySettings
from factory.evaluate.copies.gallery import draw_gallery
from factory.evaluate.copies.leaks import find_copy_warnings
from factory.evaluate.copies.measures import (
    Distances,
    describe_authenticity,
    describe_copy_test,
    describe_distances,
    describe_own,
    describe_similarity,
    measure_distances,
)
from factory.evaluate.copies.similarity import CopySearch, Similar
from factory.evaluate.features import FeatureFile, ScaledRows, fit_scaling, iterate_encoded
from factory.evaluate.image_sets import ImageSet, list_set, read_columns
from factory.evaluate.judge_overlap import find_parts, read_making, write_circle
from factory.models.encoders import load_encoder

PAIRS = 12
"""Closest pairs told, by each measure."""


@dataclass(frozen=True, slots=True)
class CopyStudy:
    """What was measured, as plain data, and the sets that a gallery shows."""

    result: dict[str, Any]
    train: ImageSet
    synthetic: ImageSet


@dataclass(frozen=True, slots=True)
class _Sets:
    train: ImageSet
    synthetic: ImageSet
    held_out: ImageSet | None

    def items(self) -> list[tuple[str, ImageSet]]:
        both = [("train", self.train), ("synthetic", self.synthetic)]
        return both if self.held_out is None else [*both, ("held_out", self.held_out)]


def measure(settings: Copies.Settings, context: Context) -> dict[str, Any]:
    """Compares the sets, and draws the gallery where one is asked for."""
    sets = settings.real, settings.synthetic, settings.held_out
    study = study_copies(*sets, settings, context.say, context.session.catalogs)
    if settings.gallery is not None:
        write_file(settings.gallery, draw_gallery(study.result, study.train, study.synthetic))
    return study.result


def study_copies(
    real: Path,
    synthetic: Path,
    held_out: Path | None,
    settings: CopySettings,
    say: Say = lambda line: None,
    catalogs: Catalogs | None = None,
) -> CopyStudy:
    """Compares synthetic images with the images that they may have been learned from.

    Args:
        real: the training images, any source that `factory.data.images.list_images` reads.
        synthetic: the images in question.
        held_out: real images of the same kind that no training used; without them there is no C_T,
            and the training images themselves, left out one by one, say what is usual.
        settings: encoder, size, thresholds.
        say: is told what is being done.
        catalogs: where encoders and models are looked up; default: the shipped ones.

    Raises:
        SourceError: a set that cannot be read.
        InputError: an encoder that cannot be had, or does not take the images.
        EvaluationError: too few training images or twins among them, or an encoder that failed.
        StoreError: the cache or a temporary file cannot be written.
    """
    catalogs = catalogs or load_catalogs()
    sets = _list_sets(real, synthetic, held_out, settings)
    train, made = sets.train, sets.synthetic
    with make_temporary("copies") as below:
        described, near, hashes = _measure_features(sets, settings, say, catalogs, Path(below))
    say(f"similarity, as of the filter training_copy, to {len(train):,} images")
    search = CopySearch(train.images)
    similar = search.search_images(made.images)
    usual = None if sets.held_out is None else search.search_set(sets.held_out)
    spec, encoder = settings.encoder, described["encoder"]
    parts = find_parts(spec, encoder, read_making(made.root, catalogs), catalogs)
    warnings = [write_circle(spec, made.name, part) for part in parts]
    warnings += find_copy_warnings(train, made, sets.held_out, hashes, catalogs)
    result = {
        "factory_version": __version__,
        "data": [made.describe_data()],
        "scope": f"checked against reference set {train.name} only",
        **{name: {"name": each.name, **each.describe()} for name, each in sets.items()},
        **described,
        "similarity": _describe_similar(similar, usual, settings.max_similarity),
        "own_reference": _compare_references(sets, search, similar, settings.max_similarity),
        "circular": list(parts),
        "warnings": warnings,
        "pairs": {
            "by_similarity": _list_pairs(
                sets, similar, near, -similar.similarity, similar.position
            ),
            "by_distance": _list_pairs(sets, similar, near, near.ratio, near.position),
        },
    }
    return CopyStudy(result, train, made)


def _describe_similar(
    similar: Similar, usual: Similar | None, max_similarity: float
) -> dict[str, Any]:
    both = {"synthetic": similar} | ({} if usual is None else {"held_out": usual})
    found = {name: describe_similarity(each, max_similarity) for name, each in both.items()}
    return {"max_similarity": max_similarity, **found}


def _list_sets(real: Path, synthetic: Path, held_out: Path | None, settings: CopySettings) -> _Sets:
    made = list_set(synthetic, size=settings.size, fit=settings.fit)
    options: dict[str, Any] = {"size": made.size, "fit": settings.fit}
    options["columns"] = read_columns(settings)
    train = list_set(real, **options)
    if len(train) < 2:
        raise EvaluationError(f"{real}: a single training image: two are the least")
    return _Sets(train, made, None if held_out is None else list_set(held_out, **options))


def _measure_features(
    sets: _Sets, settings: CopySettings, say: Say, catalogs: Catalogs, below: Path
) -> tuple[dict[str, Any], Distances, dict[str, list[str]]]:
    """Returns what hangs on the encoder, the distances, and the hashes of all pixels.

    Features lie in files below a folder, and memory holds blocks of them.
    """
    encoder = load_encoder(settings.encoder, device=settings.device, catalogs=catalogs)
    found: dict[str, FeatureFile] = {}
    hashes: dict[str, list[str]] = {}
    for name, images in sets.items():
        say(f"{settings.encoder}: {len(images):,} images of {images.name}")
        found[name], hashes[name] = FeatureFile(below / name, encoder.dim), []
        for named, values in iterate_encoded(images, encoder, settings.cache):
            found[name].add(values)
            hashes[name] += named
    scaling = fit_scaling(found["train"], encoder.describe())
    scaled = {name: ScaledRows(each, scaling) for name, each in found.items()}
    say("nearest neighbours")
    train, held_out, seed = scaled["train"], scaled.get("held_out"), settings.seed
    own = find_nearest(train, train, is_same=True)[1]
    near = measure_distances(train, scaled["synthetic"], own)
    usual = measure_distances(train, held_out, own)
    described = {
        "encoder": {"spec": settings.encoder, **encoder.describe(), "scaling": scaling.name},
        "settings": _describe_settings(settings, sets.train),
        "usual": "training images, left out one by one" if held_out is None else "held-out images",
        "authpct": {
            "synthetic": describe_authenticity(near, seed),
            "usual": describe_authenticity(usual, seed),
        },
        "c_t": describe_copy_test(train, held_out, scaled["synthetic"], settings.cells, seed),
        "distance": describe_distances(near, usual, seed),
    }
    return described, near, hashes


def _compare_references(
    sets: _Sets, search: CopySearch, similar: Similar, max_similarity: float
) -> dict[str, Any] | None:
    """Compares variations with the real images that they vary; None where rows name none."""
    made = sets.synthetic
    named = [(row, each.sha256) for row, each in enumerate(made.references) if each is not None]
    if not named:
        return None
    known = find_varied(made.references, sets.train.images)
    places = {image: place for place, image in enumerate(sets.train.images)}
    rows = [row for row, sha256 in named if sha256 in known]
    positions = [places[known[sha256]] for _, sha256 in named if sha256 in known]
    own = search.compare_own([made.images[row] for row in rows], positions)
    is_nearest = own >= similar.similarity[rows]
    return describe_own(own, len(named), is_nearest, max_similarity)


def _list_pairs(
    sets: _Sets,
    similar: Similar,
    near: Distances,
    rank: NDArray[np.float64],
    positions: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Returns the pairs of lowest rank: a synthetic image and a training image."""
    made, train = sets.synthetic, sets.train
    return [
        {
            "row": int(row),
            "synthetic": made.sample_ids[row] or made.images[row].key,
            "position": int(positions[row]),
            "real": train.images[positions[row]].key,
            "fit": similar.fits[row] if positions is similar.position else made.fit,
            "similarity": float(similar.similarity[row]),
            "distance_ratio": float(near.ratio[row]),
            "blank": bool(similar.is_blank[row]),
        }
        for row in np.argsort(rank, kind="stable")[:PAIRS]
    ]


def _describe_settings(settings: CopySettings, train: ImageSet) -> dict[str, Any]:
    return {
        "encoder": settings.encoder,
        "size": train.size,
        "fit": settings.fit,
        "max_similarity": settings.max_similarity,
        "cells": settings.cells,
        "seed": settings.seed,
        "intervals": "95 %, over images, with the training images fixed; of shares by Wilson",
    }
