"""Fits what a classifier is made of: a head on a frozen encoder, or a network from scratch."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.files.atomic import write_file
from factory.data.labelled import Fold, LabelledImages
from factory.models.classifiers.heads import Head, NeighbourHead
from factory.models.classifiers.model import ENCODER_NAMES, HeadInfo
from factory.models.encoders import Encoder, load_encoder
from factory.train.classifier.heads import choose_head
from factory.train.classifier.settings import HeadKind

Progress = Callable[[str], None]
"""Called with one line on what has been done."""

FROM_SCRATCH = "small-resnet"


@dataclass(frozen=True, slots=True)
class Fit:
    """An encoder, its head, and logits of images that were held out from fitting.

    `parts` are the folds, as rows of `held_out`; `files` are what the encoder needs beside the
    head.
    """

    encoder: Encoder
    head: Head | NeighbourHead
    info: HeadInfo
    held_out: NDArray[np.int64]
    logits: NDArray[np.float64]
    parts: Sequence[NDArray[np.int64]]
    report: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


def fit_frozen(
    real: LabelledImages, folds: list[Fold], spec: str, kind: HeadKind, say: Progress
) -> Fit:
    """Fits a head on a frozen encoder; a local one is copied, so that `out` can be moved."""
    encoder, files = load_encoder(spec), {}
    if (Path(spec) / ENCODER_NAMES[0]).is_file():
        files = {name: (Path(spec) / name).read_bytes() for name in ENCODER_NAMES}
    features = encoder.encode(real.pixels)
    say(f"{features.shape[1]} features an image")
    found = choose_head(kind, features, real.labels, len(real.class_names), folds, say)
    rows, parts = np.arange(len(features)), [held for _, held in folds]
    return Fit(encoder, found.head, found.info, rows, found.logits, parts, found.report, files)


def fit_from_scratch(
    real: LabelledImages, folds: list[Fold], seed: int, epochs: int, say: Progress
) -> Fit:
    """Trains `small-resnet` on all but the first fold."""
    from safetensors.torch import save

    from factory.models.encoders.learned import load_from_folder
    from factory.models.encoders.small_resnet import CHANNELS
    from factory.train.encoder.train import train_encoder

    rows, held = folds[0]
    network, linear = train_encoder(
        real.pixels[rows],
        real.labels[rows],
        len(real.class_names),
        epochs=epochs,
        seed=seed,
        report=lambda epoch, of, loss: say(f"epoch {epoch}/{of}: loss {loss['loss']:.4f}"),
    )
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    described = {"architecture": FROM_SCRATCH, "channels": CHANNELS}
    contents = ((json.dumps(described) + "\n").encode(), save(state))
    files = dict(zip(ENCODER_NAMES, contents, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            write_file(Path(folder) / name, content)
        encoder = load_from_folder(Path(folder), "auto")
    head = Head(
        np.zeros(network.dim),
        np.ones(network.dim),
        linear.weight.detach().double().numpy(),
        linear.bias.detach().double().numpy(),
    )
    logits = head.compute_logits(encoder.encode(real.pixels[held]))
    info = HeadInfo(kind="logistic")
    told = {"kind": info.kind, "asked": "auto", "why": f"trained with {FROM_SCRATCH}"}
    report = {
        "held_out_by": "one fold",
        "epochs": epochs,
        "fitted_images": len(rows),
        "head": told,
    }
    return Fit(encoder, head, info, held, logits, [np.arange(len(held))], report, files)
