"""What a study says of itself: all that shapes its results, and whose part its model had."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from factory import __version__
from factory.catalog.catalog import Catalogs
from factory.core.hashing import compute_digest
from factory.evaluate.judge_overlap import find_parts, read_making
from factory.evaluate.measured import describe_data
from factory.evaluate.retrieval.gallery import Gallery
from factory.evaluate.retrieval.loader import describe_loader
from factory.evaluate.retrieval.model import Clip, Start, describe_clip
from factory.evaluate.retrieval.pairs import Pair, PairSet, hash_pairs
from factory.evaluate.retrieval.settings import RetrievalSettings
from factory.evaluate.retrieval.tuning import choose_rate


def describe_set(pairs: PairSet) -> dict[str, Any]:
    """Returns where pairs lie, and how many there are."""
    return {
        "path": str(pairs.root),
        "pairs": len(pairs.pairs),
        "without_caption": pairs.without_caption,
    }


def describe_pairs(pairs: PairSet) -> dict[str, Any]:
    """Returns which images these are: name, digest and number, those without a caption too."""
    return describe_data(pairs.root, pairs.files, len(pairs.pairs) + pairs.without_caption)


def describe_study(
    settings: RetrievalSettings,
    start: Start,
    clip: Clip,
    training: Mapping[str, tuple[Pair, ...]],
    gallery: Gallery,
) -> dict[str, Any]:
    """Returns all that shapes the result of an arm and a seed."""
    count = len(next(iter(training.values())))
    return {
        **describe_clip(start, clip, settings.model),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "pairs": count,
        "optimizer": "AdamW (0.9, 0.98), 1e-6",
        "learning_rate": choose_rate(settings, start.is_random),
        "weight_decay": settings.weight_decay,
        "warmup": settings.warmup,
        "loss": "open_clip.ClipLoss",
        "data_path": describe_loader(),
        "workers": settings.loaders,
        "device": clip.device.type,
        "precision": "bf16" if clip.autocast else "fp32",
        "training_sha256": {name: hash_pairs(pairs) for name, pairs in training.items()},
        "gallery": {"images": len(gallery.images), "captions": len(gallery.captions)},
        "gallery_sha256": compute_digest(
            "gallery", [[pair.image for pair in gallery.images], gallery.captions]
        ),
        "versions": {
            "factory": __version__,
            **{name: importlib.metadata.version(name) for name in ("open_clip_torch", "torch")},
        },
    }


def warn_circle(
    asked: PairSet, start: Start, described: Mapping[str, Any], catalogs: Catalogs
) -> list[str]:
    """Warns where the model to be tuned had a part in making the held-out set.

    Raises:
        SourceError: a damaged record of a run.
    """
    if start.is_random:
        return []
    spec = f"open_clip:{start.name}" + (f"/{start.weights}" if start.weights else "")
    itself = {"id": described["model"], "weights_sha256": described["weights_sha256"]}
    parts = find_parts(spec, itself, read_making(asked.root, catalogs), catalogs)
    return [
        f"CIRCULAR: {described['model']} had a part in {asked.root}: {part}. It finds these images "
        "better than others of their kind, most of all untuned: search real pairs"
        for part in parts
    ]
