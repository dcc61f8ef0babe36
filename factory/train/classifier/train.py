"""Fits the classifier of real images that filters use: encoder, head, calibration, report.

factory train classifier --data DIR --out DIR [--encoder ID] [--head auto]
"""

import re
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files.atomic import write_file
from factory.core.files.new_folder import refuse_foreign
from factory.core.hashing import hash_bytes
from factory.data.images import check_fit, list_images
from factory.data.labelled import (
    Fold,
    LabelledImages,
    find_smallest_side,
    read_labelled,
    split_folds,
)
from factory.data.patients import PATIENTS, Patients, list_patients, write_patients
from factory.models.classifiers.heads import compute_softmax
from factory.models.classifiers.model import (
    INFO_NAME,
    Calibration,
    ClassifierInfo,
    EncoderDescription,
    TrainingData,
    save_head,
    save_info,
)
from factory.train.classifier.card import draw_reliability, write_card
from factory.train.classifier.fit import FROM_SCRATCH, Fit, Progress, fit_from_scratch, fit_frozen
from factory.train.classifier.report import find_confused, measure_balanced, measure_predictions
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.temperature import (
    ENOUGH,
    calibrate_across,
    find_thresholds,
    fit_temperature,
)

OWN = rf"README\.md|reliability\.png|(head|encoder)\.(json|safetensors)|{re.escape(PATIENTS)}"
"""Names of files that may be there: a card of a user's own, and what a broken try left."""
SURE = 0.99
"""Of the interval that must lie above chance. Not 0.95: the head is chosen on the same folds, whose
images share models, so that with random labels 95 % intervals lie above chance too often (measured:
8 to 18 % of 60 sets of 40 to 60 images; 0 to 7 % with 99 %)."""


def train_classifier(
    data: Path,
    out: Path,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits a classifier on a folder of real images and writes it to `out`.

    A frozen encoder gets a standardised head in which classes weigh alike; the head, its strength
    and the temperature come from cross-validation that keeps the images of a patient or slide
    together. The encoder `small-resnet` is trained from scratch on four fifths of the images
    instead, and the held-out fifth gives the temperature and the report.

    Nothing is written, unless forced, where the 99 % interval of the held-out balanced accuracy
    does not lie above chance: the report's `refused` then says so.

    Args:
        data: real images with classes; see `factory.data.images.list_images` for the forms.
        out: folder to write; must hold no classifier yet.
        settings: how; default: the usual ones.
        progress: callback.

    Returns:
        The report, which `classifier.json` holds too.

    Raises:
        SourceError: images that cannot be read, fewer than two classes, a class with fewer than two
            images, or test classes that `data` does not have.
        InputError: `out` holds a classifier or something else, the encoder cannot be loaded, or it
            has another head.
    """
    say, settings = progress or (lambda line: None), settings or ClassifierSettings()
    _check(out, settings)
    real, tested, patients = _read(data, settings, say)
    warnings: list[str] = []
    folds = split_folds(real, settings.seed, warnings)
    if settings.encoder == FROM_SCRATCH:
        fitted = fit_from_scratch(real, folds, settings.seed, settings.epochs, say)
    else:
        fitted = fit_frozen(real, folds, settings.encoder, settings.head, say)
    temperature = fit_temperature(fitted.logits, real.labels[fitted.held_out])
    report = _write_report(real, fitted, folds, warnings)
    if tested is not None:
        logits = fitted.head.compute_logits(fitted.encoder.encode(tested.pixels))
        chances = compute_softmax(logits / temperature)
        report["test"] = measure_predictions(chances, tested.labels, real.class_names)
        _compare(report)
    if report["refused"] is not None and not settings.force:
        return report
    report["forced"] = report["refused"] is not None
    write_patients(patients, out)
    _save(_describe(real, fitted, temperature, report, settings), fitted, out)
    return report


def _check(out: Path, settings: ClassifierSettings) -> None:
    if (out / INFO_NAME).exists():
        raise InputError(f"{out}: holds a classifier already: give another --out")
    refuse_foreign(out, OWN)
    if settings.encoder == FROM_SCRATCH and settings.head not in ("auto", "logistic"):
        raise InputError(
            f"{FROM_SCRATCH} is trained with its own linear head, not {settings.head}: leave it"
        )


def _read(
    data: Path, settings: ClassifierSettings, say: Progress
) -> tuple[LabelledImages, LabelledImages | None, Patients]:
    """Returns the images to fit on, those to report on besides, and whose the former are."""
    list_columns = partial(
        list_images, image_column=settings.image_column, label_column=settings.label_column
    )
    listed = list_columns(
        data, group_column=settings.group_column, group_pattern=settings.group_pattern
    )
    size, fit = settings.image_size or find_smallest_side(listed), settings.fit
    check_fit(listed, size, size, fit, data)
    real = read_labelled(data, listed, size, fit)
    say(f"{len(real.labels)} images of {len(real.class_names)} classes at {size} px")
    patients = list_patients(listed)
    if settings.test is None:
        return real, None, patients
    others = list_columns(settings.test)
    check_fit(others, size, size, fit, settings.test)
    return real, read_labelled(settings.test, others, size, fit, real.class_names), patients


def _describe(
    real: LabelledImages,
    fitted: Fit,
    temperature: float,
    report: dict[str, Any],
    settings: ClassifierSettings,
) -> ClassifierInfo:
    held, is_calibrated = real.labels[fitted.held_out], report["calibrated"]
    chances = compute_softmax(fitted.logits / temperature)
    return ClassifierInfo(
        class_names=real.class_names,
        encoder="." if fitted.files else settings.encoder,
        encoder_description=EncoderDescription(**fitted.encoder.describe()),
        image_size=real.pixels.shape[1],
        fit=settings.fit,
        calibration=Calibration(
            temperature=temperature,
            fitted_on=f"held-out predictions of {len(held)} images",
            calibrated=is_calibrated,
        ),
        head_sha256=hash_bytes(fitted.head.to_bytes()),
        data=_describe_data(real),
        report=report,
        libraries={name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch")},
        head=fitted.info,
        thresholds=find_thresholds(chances, held, real.class_names, settings.precisions)
        if is_calibrated
        else None,
    )


def _save(info: ClassifierInfo, fitted: Fit, out: Path) -> None:
    """Writes the folder; `classifier.json`, which makes it a classifier, last."""
    for name, content in fitted.files.items():
        write_file(out / name, content)
    save_head(fitted.head, out)
    write_file(out / "reliability.png", draw_reliability(info.report["held_out"]))
    write_card(info, out)
    save_info(info, out)


def _write_report(
    real: LabelledImages, fitted: Fit, folds: Sequence[Fold], warnings: list[str]
) -> dict[str, Any]:
    """Measures the held-out predictions and says what they do not bear out."""
    held, names = real.labels[fitted.held_out], real.class_names
    grouped = not warnings
    groups = real.groups[fitted.held_out] if grouped and real.groups is not None else None
    chances = calibrate_across(fitted.logits, held, fitted.parts)
    measured = measure_predictions(chances, held, names, groups)
    fewest, chance = int(np.bincount(held, minlength=len(names)).min()), 1 / len(names)
    if fewest < ENOUGH:
        warnings.append(
            f"NOT CALIBRATED: {fewest} held-out images of the smallest class, fewer than {ENOUGH}; "
            "probabilities only rank, and no thresholds by precision are tabled"
        )
    confused = find_confused(fitted.logits, held, names, groups)
    for pair in confused:
        first, second = pair["classes"]
        warnings.append(
            f"NOT TOLD APART: {first} and {second} (balanced accuracy between the two "
            f"{pair['balanced_accuracy']:.2f}, 95 % interval {pair['interval'][0]:.2f} to "
            f"{pair['interval'][1]:.2f})"
        )
    (low, high), _ = measure_balanced(chances.argmax(axis=1) == held, held, groups, SURE)
    refused = None
    if low <= chance:
        refused = (
            f"THE CLASSES CANNOT BE TOLD APART: held-out balanced accuracy "
            f"{measured['balanced_accuracy']:.2f}, 99 % interval {low:.2f} to {high:.2f}; guessing "
            f"gives {chance:.2f}. Check the labels, add images or patients, or take another "
            "encoder (--encoder) or size"
        )
    return {
        **fitted.report,
        "folds": len(folds),
        "grouped": grouped,
        "warnings": warnings,
        "chance": round(chance, 4),
        "refused": refused,
        "forced": False,
        "calibrated": fewest >= ENOUGH,
        "temperature_of_held_out": "other folds" if len(fitted.parts) > 1 else "same images",
        "not_told_apart": confused,
        "held_out": measured,
        "test": None,
    }


def _compare(report: dict[str, Any]) -> None:
    """Warns where the test images are clearly harder than the held-out ones."""
    held, test = report["held_out"], report["test"]
    if test["balanced_accuracy_interval"][1] < held["balanced_accuracy_interval"][0]:
        report["warnings"].append(
            f"HELD OUT IS OPTIMISTIC: balanced accuracy {held['balanced_accuracy']:.2f} there, "
            f"{test['balanced_accuracy']:.2f} on the test images; probabilities and thresholds by "
            "precision come from the held-out ones"
        )


def _describe_data(real: LabelledImages) -> TrainingData:
    count = np.bincount(real.labels, minlength=len(real.class_names)).tolist()
    return TrainingData(
        sha256=real.sha256,
        images=len(real.labels),
        per_class=dict(zip(real.class_names, count, strict=True)),
        groups=None if real.groups is None else len(np.unique(real.groups)),
    )
