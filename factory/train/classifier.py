"""Fits the classifier of real images that filters use: encoder, logistic head, calibration, report.

factory train classifier --data DIR --out DIR [--encoder ID]
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory.encoders import Encoder, load_encoder
from factory.errors import InputError
from factory.filters.classifier_model import (
    INFO_NAME,
    Calibration,
    ClassifierInfo,
    EncoderDescription,
    TrainingData,
    save_head,
    save_info,
    write_file,
)
from factory.filters.heads import Head, compute_softmax
from factory.sources import list_images
from factory.train.classifier_report import measure_predictions, weigh_classes
from factory.train.labelled import (
    Fold,
    LabelledImages,
    find_smallest_side,
    read_labelled,
    split_folds,
)

Progress = Callable[[str], None]
"""Called with one line on what has been done."""

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of C, the inverse strength of the ridge penalty, from which cross-validation picks."""
FROM_SCRATCH = "small-resnet"


@dataclass(frozen=True, slots=True)
class Fit:
    """An encoder, its head, and logits of images that were held out from fitting."""

    encoder: Encoder
    head: Head
    held_out: NDArray[np.int64]
    logits: NDArray[np.float64]
    report: dict[str, Any]


def train_classifier(
    data: Path,
    out: Path,
    *,
    encoder: str = "color-texture",
    image_size: int | None = None,
    fit: Literal["crop", "resize"] = "crop",
    seed: int = 0,
    group_column: str | None = None,
    group_pattern: str | None = None,
    image_column: str = "image",
    label_column: str | None = None,
    test: Path | None = None,
    epochs: int = 40,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits a classifier on a folder of real images and writes it to `out`.

    A frozen encoder gets a standardised logistic head (classes weighing alike); C and the
    temperature come from cross-validation that keeps the images of a patient or slide together.
    The encoder `small-resnet` is trained from scratch on four fifths of the images instead, and the
    held-out fifth gives the temperature and the report.

    Args:
        data: real images with classes; see `factory.sources.list_images` for the forms.
        out: folder to write; must hold no classifier yet.
        encoder: see `factory.encoders`; or `small-resnet`.
        image_size: px of the square that images are brought to; default: the smallest side found.
        fit: centre `crop` (keeps mpp) or `resize`.
        seed: of folds and of training from scratch.
        group_column: column with the patient or slide (of parquet and the like, or of metadata).
        group_pattern: regular expression on file names; its first group is the patient or slide.
        image_column: column of the image in parquet and arrow.
        label_column: column of the class.
        test: images to report on besides, never fitted on.
        epochs: of training from scratch.
        progress: callback.

    Returns:
        The report, which `classifier.json` holds too.

    Raises:
        SourceError: images that cannot be read, fewer than two classes, a class with fewer than two
            images, or test classes that `data` does not have.
        InputError: `out` holds a classifier, or the encoder cannot be loaded.
    """
    say = progress or (lambda line: None)
    if (out / INFO_NAME).exists():
        raise InputError(f"{out}: holds a classifier already: give another --out")
    listed = list_images(
        data,
        group_column=group_column,
        group_pattern=group_pattern,
        image_column=image_column,
        label_column=label_column,
    )
    size = image_size or find_smallest_side(listed)
    real = read_labelled(data, listed, size, fit)
    say(f"{len(real.labels)} images of {len(real.class_names)} classes at {size} px")
    tested = None
    if test is not None:
        others = list_images(test, image_column=image_column, label_column=label_column)
        tested = read_labelled(test, others, size, fit, real.class_names)
    warnings: list[str] = []
    folds = split_folds(real, seed, warnings)
    if encoder == FROM_SCRATCH:
        fitted = _fit_from_scratch(real, folds, out, seed, epochs, say)
    else:
        fitted = _fit_head(real, folds, _open_encoder(encoder, out), say)
    held = real.labels[fitted.held_out]
    temperature = fit_temperature(fitted.logits, held)
    report: dict[str, Any] = {
        **fitted.report,
        "folds": len(folds),
        "grouped": not warnings,
        "warnings": warnings,
        "held_out": _measure(real.class_names, fitted.logits, held, temperature),
        "test": None,
    }
    if tested is not None:
        logits = fitted.head.compute_logits(fitted.encoder.encode(tested.pixels))
        report["test"] = _measure(real.class_names, logits, tested.labels, temperature)
    info = ClassifierInfo(
        class_names=real.class_names,
        encoder="." if (out / "encoder.json").exists() else encoder,
        encoder_description=EncoderDescription(**fitted.encoder.describe()),
        image_size=size,
        fit=fit,
        calibration=Calibration(
            temperature=temperature, fitted_on=f"held-out predictions of {len(held)} images"
        ),
        head_sha256=save_head(fitted.head, out),
        data=_describe_data(real),
        report=report,
        libraries={name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch")},
    )
    save_info(info, out)
    return report


def _open_encoder(spec: str, out: Path) -> Encoder:
    """Loads an encoder; a local folder is copied into `out`, so that `out` can be moved."""
    encoder = load_encoder(spec)
    if (Path(spec) / "encoder.json").is_file():
        for name in ("encoder.safetensors", "encoder.json"):
            write_file(out / name, (Path(spec) / name).read_bytes())
    return encoder


def _measure(
    class_names: tuple[str, ...],
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    temperature: float,
) -> dict[str, Any]:
    return measure_predictions(compute_softmax(logits / temperature), labels, class_names)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Returns the temperature in [0.05, 20] of least log loss on held-out logits (N, C).

    The target of the true class is (n + 1) / (n + C) with n images of it, not 1, as in Platt 1999,
    so that a few perfectly separated shots do not end in probabilities of 0 and 1.
    """
    from scipy.optimize import minimize_scalar

    classes = logits.shape[1]
    weights = weigh_classes(labels, classes)
    size = np.bincount(labels, minlength=classes)[labels]
    targets = np.repeat(1.0 / (size + classes)[:, None], classes, axis=1)
    targets[np.arange(len(labels)), labels] *= size + 1

    def measure_loss(power: float) -> float:
        chances = np.maximum(compute_softmax(logits / np.exp(power)), 1e-300)
        return float(-(weights * (targets * np.log(chances)).sum(axis=1)).sum())

    found = minimize_scalar(measure_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def fit_head(
    features: NDArray[np.floating[Any]], labels: NDArray[np.int64], strength: float
) -> Head:
    """Fits a standardised logistic regression in which classes weigh alike.

    Args:
        features: (N, D).
        labels: (N,) class indices 0 .. C - 1, each present.
        strength: C, the inverse of the ridge penalty.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
    model.fit(scaler.transform(features.astype(np.float64)), labels)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # two classes: scikit-learn keeps the second one's logit only
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    return Head(scaler.mean_, scaler.scale_, coef, intercept)


def _fit_head(real: LabelledImages, folds: list[Fold], encoder: Encoder, say: Progress) -> Fit:
    """Picks C by the log loss of calibrated held-out predictions, then fits on all images."""
    features = encoder.encode(real.pixels)
    say(f"{features.shape[1]} features an image")
    tried: dict[float, tuple[float, NDArray[np.float64]]] = {}
    for strength in STRENGTHS:
        logits = np.zeros((len(features), len(real.class_names)))
        for rows, held in folds:
            head = fit_head(features[rows], real.labels[rows], strength)
            logits[held] = head.compute_logits(features[held])
        probabilities = compute_softmax(logits / fit_temperature(logits, real.labels))
        loss = measure_predictions(probabilities, real.labels, real.class_names)["log_loss"]
        tried[strength] = loss, logits
        say(f"C {strength:g}: log loss {loss:.4f}")
        if loss > 1.05 * min(best for best, _ in tried.values()):
            break  # the loss has one minimum in C, and larger C only cost more time
    chosen = min(tried, key=lambda strength: tried[strength][0])
    report = {
        "held_out_by": "cross-validation",
        "C": chosen,
        "log_loss_by_C": {f"{strength:g}": loss for strength, (loss, _) in tried.items()},
    }
    head = fit_head(features, real.labels, chosen)
    return Fit(encoder, head, np.arange(len(features)), tried[chosen][1], report)


def _fit_from_scratch(
    real: LabelledImages, folds: list[Fold], out: Path, seed: int, epochs: int, say: Progress
) -> Fit:
    """Trains `small-resnet` on all but the first fold and writes it to `out`."""
    from safetensors.torch import save

    from factory.encoders.learned import load_from_folder
    from factory.encoders.small_resnet import CHANNELS
    from factory.train.encoder import train_encoder

    rows, held = folds[0]
    network, linear = train_encoder(
        real.pixels[rows],
        real.labels[rows],
        len(real.class_names),
        epochs=epochs,
        seed=seed,
        report=lambda epoch, of, loss: say(f"epoch {epoch}/{of}: loss {loss:.4f}"),
    )
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    write_file(out / "encoder.safetensors", save(state))
    described = {"architecture": FROM_SCRATCH, "channels": CHANNELS}
    write_file(out / "encoder.json", (json.dumps(described) + "\n").encode())
    encoder = load_from_folder(out, "auto")
    head = Head(
        np.zeros(network.dim),
        np.ones(network.dim),
        linear.weight.detach().double().numpy(),
        linear.bias.detach().double().numpy(),
    )
    logits = head.compute_logits(encoder.encode(real.pixels[held]))
    report = {"held_out_by": "one fold", "epochs": epochs, "fitted_images": len(rows)}
    return Fit(encoder, head, held, logits, report)


def _describe_data(real: LabelledImages) -> TrainingData:
    count = np.bincount(real.labels, minlength=len(real.class_names)).tolist()
    return TrainingData(
        sha256=real.sha256,
        images=len(real.labels),
        per_class=dict(zip(real.class_names, count, strict=True)),
        groups=None if real.groups is None else len(np.unique(real.groups)),
    )
