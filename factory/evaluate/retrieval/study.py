"""A retrieval study: every arm tuned and searched for every seed, resumable, then summed up."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.errors import EvaluationError, InputError
from factory.core.hashing import derive_seed
from factory.data.images.image import Wanted
from factory.evaluate.base import Context, Say
from factory.evaluate.cells import CellStore
from factory.evaluate.retrieval import Retrieval
from factory.evaluate.retrieval.description import (
    describe_pairs,
    describe_set,
    describe_study,
    warn_circle,
)
from factory.evaluate.retrieval.gallery import Gallery, build_gallery
from factory.evaluate.retrieval.model import (
    Start,
    count_alike,
    embed_captions,
    embed_images,
    find_start,
    load_clip,
)
from factory.evaluate.retrieval.packing import pack_pairs
from factory.evaluate.retrieval.pairs import Pair, PairSet, drop_leaks, pick_pairs, read_pairs
from factory.evaluate.retrieval.settings import RetrievalSettings
from factory.evaluate.retrieval.summary import summarise_arms, write_notes
from factory.evaluate.retrieval.tuning import tune_clip
from factory.evaluate.workers import WorkerPool, count_workers


@dataclass(frozen=True, slots=True)
class _Study:
    """All that an arm needs."""

    rate: float
    settings: RetrievalSettings
    start: Start
    gallery: Gallery
    training: Mapping[str, tuple[Pair, ...]]
    folder: Path


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """What a study of retrieval reads beside its two sets, and where it keeps what is done.

    Attributes:
        real: pairs of the arm `real`.
        columns: of captions in all sets, and of patients or slides in real and held-out ones.
        on_leak: what to do where training knows held-out images or captions.
        out: folder that keeps each arm and seed as it ends; the same call goes on from there.
        workers: arms and seeds tuned side by side, on as many Ray actors; 1: one after the other.
    """

    real: Path | None = None
    columns: Wanted = field(default_factory=Wanted)
    on_leak: Literal["drop", "refuse"] = "drop"
    out: Path | None = None
    workers: int = 1


def measure(settings: Retrieval.Settings, context: Context) -> dict[str, Any]:
    """Tunes on each arm's pairs, and searches the held-out pairs."""
    options = RetrievalOptions(
        settings.real,
        Wanted(
            settings.image_column,
            caption=settings.caption_column,
            group=settings.group_column,
            pattern=settings.group_pattern,
        ),
        settings.on_leak,
        settings.out,
        count_workers(settings.workers, settings.device),
    )
    sets, catalogs = (settings.synthetic, settings.held_out), context.session.catalogs
    return evaluate_retrieval(*sets, settings, options, context.say, catalogs)


def evaluate_retrieval(
    synthetic: Path,
    held_out: Path,
    settings: RetrievalSettings,
    options: RetrievalOptions | None = None,
    say: Say = lambda line: None,
    catalogs: Catalogs | None = None,
) -> dict[str, Any]:
    """Tunes a model on each arm's pairs and searches the held-out pairs in both directions.

    Args:
        synthetic: pairs of a finished run, or anything that `list_images` reads.
        held_out: pairs to search.
        settings: how to tune; the same for all arms.
        options: what else is read, and where what is done is kept.
        say: takes lines of progress.
        catalogs: where models are looked up; default: the shipped ones.

    Returns:
        `arms` (arm -> metric -> mean, low, high), `paired` ("A - B" -> the same),
        `chance`, `by_seed`, `gallery`, `dropped`, `notes` and `settings`, as plain data.

    Raises:
        InputError: pairs or settings that do not do, or leaks to refuse.
        SourceError: images that cannot be read.
        MismatchError: `out` holds another study, or something else (InputError).
        EvaluationError: too little is left to search.
        TrainingError: a tuning diverged.
        RunBrokenError: an actor died.
    """
    options = options or RetrievalOptions()
    real, columns = options.real, options.columns
    arms = settings.choose_arms(real is not None)
    start = find_start(settings.model, settings.pretrained)
    say("reading pairs")
    sets = _read_sets(synthetic, real, columns)
    asked = read_pairs(held_out, columns)
    gallery, dropped = _open_gallery(asked, sets, options.on_leak)
    training = _pick_training(sets, settings)
    clip = load_clip(start, 0, settings.device, settings.precision)
    described = describe_study(settings, start, clip, training, gallery)
    with ExitStack() as stack:
        folder = (options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        cells = CellStore(folder)
        cells.begin(described, "arms|tars")
        study = _Study(described["learning_rate"], settings, start, gallery, training, folder)
        results = _fill(study, cells, arms, say, options.workers)
    report = {
        "data": [describe_pairs(sets["synthetic"])],
        **summarise_arms(results, gallery),
        "gallery": described["gallery"],
        "dropped": dropped,
        "settings": _describe_settings(settings, described, asked, sets, results),
    }
    notes = write_notes(report, start.is_random, count_alike(clip, gallery.captions))
    return {
        **report,
        "notes": [*warn_circle(asked, start, described, catalogs or load_catalogs()), *notes],
    }


def _describe_settings(
    settings: RetrievalSettings,
    described: Mapping[str, Any],
    asked: PairSet,
    sets: Mapping[str, PairSet],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    return {
        **described,
        "seeds": settings.seeds,
        "arms": list(results),
        "steps": {arm: found[0]["steps"] for arm, found in results.items()},
        "held_out": describe_set(asked),
        "real": None,
        **{name: describe_set(each) for name, each in sets.items()},
    }


# --- data ----------------------------------------------------------------------------------------


def _read_sets(synthetic: Path, real: Path | None, columns: Wanted) -> dict[str, PairSet]:
    sets = {"synthetic": read_pairs(synthetic, Wanted(columns.image, caption=columns.caption))}
    if real is not None:
        sets["real"] = read_pairs(real, columns)
    return sets


def _open_gallery(
    asked: PairSet, sets: Mapping[str, PairSet], on_leak: str
) -> tuple[Gallery, dict[str, int]]:
    """Returns what is left to search, and how many pairs were dropped for which reason.

    Raises:
        InputError: leaks to refuse.
        EvaluationError: fewer than two images or captions are left.
    """
    kept, dropped = drop_leaks(asked, tuple(sets.values()))
    count = sum(dropped.values())
    if on_leak == "refuse" and count > 0:
        raise InputError(
            f"{asked.root}: {count} of {len(asked.pairs)} held-out pairs are known "
            f"from training ({_list_dropped(dropped)}): remove them there, or take --on-leak drop"
        )
    gallery = build_gallery(kept)
    if min(len(gallery.images), len(gallery.captions)) < 2:
        raise EvaluationError(
            f"{asked.root}: {len(gallery.images)} images and {len(gallery.captions)} captions are "
            f"left to search, of {len(asked.pairs)} pairs ({_list_dropped(dropped)}): hold out "
            "images and captions that are not in training"
        )
    return gallery, dropped


def _list_dropped(dropped: Mapping[str, int]) -> str:
    told = (f"{name.replace('_', ' ')} {count}" for name, count in dropped.items() if count)
    return ", ".join(told) or "none dropped"


def _pick_training(
    sets: Mapping[str, PairSet], settings: RetrievalSettings
) -> dict[str, tuple[Pair, ...]]:
    """Returns as many pairs of every set."""
    counts = {name: len(each.pairs) for name, each in sets.items()}
    count = min([*counts.values(), *([settings.pairs] if settings.pairs else [])])
    if count // max(1, settings.loaders) < settings.batch_size:
        has = ", ".join(f"{name} has {number}" for name, number in counts.items())
        each = f" in each of {settings.loaders} loaders" if settings.loaders else ""
        raise InputError(
            f"{count} pairs to train on ({has}) fill no batch of {settings.batch_size}{each}: give "
            "more, or lower --batch-size or --loaders"
        )
    return {name: pick_pairs(each.pairs, count) for name, each in sets.items()}


def shuffle_captions(captions: Sequence[str], seed: int) -> list[str]:
    """Returns the captions so that each image gets the one of another row."""
    order = np.random.default_rng(derive_seed(seed, "retrieval-shuffle")).permutation(len(captions))
    shuffled = list(captions)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        shuffled[here] = captions[there]
    return shuffled


# --- arms ----------------------------------------------------------------------------------------


def _list_seeds(study: _Study, arm: str) -> range:
    """Lists the repetitions; pretrained weights that nothing tunes need only one."""
    return range(1 if arm == "untuned" and not study.start.is_random else study.settings.seeds)


def _fill(
    study: _Study, cells: CellStore, arms: Sequence[str], say: Say, workers: int
) -> dict[str, list[dict[str, Any]]]:
    """Runs and stores what is not stored yet; returns the results of each arm, by seed."""
    tasks = {
        f"arms/{arm}-{seed}.json": (arm, seed) for arm in arms for seed in _list_seeds(study, arm)
    }
    missing = {name: task for name, task in tasks.items() if not cells.has(name)}
    for arm, seed in (task for name, task in tasks.items() if name not in missing):
        say(f"{arm}, seed {seed}: done before")
    pool = WorkerPool(partial(_Runner, study), workers, say) if workers > 1 else None
    try:
        alone = ((name, _run_arm(study, *task, say)) for name, task in missing.items())
        ended = alone if pool is None else pool.run(missing)
        for name, result in ended:
            cells.write_json(name, result)
            found = ", ".join(f"{metric} {np.mean(v):.3f}" for metric, v in result["hits"].items())
            say(f"{result['arm']}, seed {result['seed']}: {found}")
    finally:
        if pool is not None:
            pool.close()
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for name, (arm, _) in tasks.items():
        results[arm].append(cells.read_json(name))
    return results


@dataclass(frozen=True, slots=True)
class _Runner:
    """What an actor does: an arm with a seed."""

    study: _Study

    def __call__(self, task: tuple[str, int]) -> dict[str, Any]:
        return _run_arm(self.study, *task, lambda line: None)


def _run_arm(study: _Study, arm: str, seed: int, say: Say) -> dict[str, Any]:
    began, settings = time.perf_counter(), study.settings
    clip = load_clip(study.start, seed, settings.device, settings.precision)
    result: dict[str, Any] = {"arm": arm, "seed": seed, "steps": 0, "loss": None}
    if arm != "untuned":
        pairs = study.training["real" if arm == "real" else "synthetic"]
        captions = [pair.caption for pair in pairs]
        if arm == "shuffled":
            captions = shuffle_captions(captions, seed)
        folder = study.folder / "tars" / f"{arm}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        tars = pack_pairs(pairs, captions, folder, max(1, settings.loaders))

        def tell(line: str) -> None:
            say(f"{arm}, seed {seed}: {line}")

        tuned = tune_clip(clip, tars, len(pairs), settings, study.rate, seed, tell)
        shutil.rmtree(folder)
        result |= {"steps": tuned.steps, "loss": round(tuned.loss, 4)}
    hits = study.gallery.score(
        embed_images(clip, [pair.source for pair in study.gallery.images]),
        embed_captions(clip, study.gallery.captions),
    )
    result["hits"] = {name: np.round(values, 6).tolist() for name, values in hits.items()}
    result["seconds"] = round(time.perf_counter() - began, 1)
    return result
