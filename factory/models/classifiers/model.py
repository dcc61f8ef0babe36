"""A fitted classifier folder: what it says of itself, and calibrated class probabilities from it.

    classifier.json         checked on load; all that `validate` reads, without torch
    head.safetensors        numbers of the head: see factory.models.classifiers.heads
    encoder.json, encoder.safetensors    only with an encoder that was trained along

Nothing is pickled, and the head is computed with numpy: scikit-learn is needed for fitting only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factory.core.errors import InputError, Problem, RecipeError
from factory.core.files.atomic import write_file
from factory.core.hashing import hash_bytes
from factory.core.late import NDArray, np
from factory.core.plain import write_json
from factory.data.images import fit_image
from factory.data.records import SCORE_DECIMALS
from factory.models.classifiers.heads import (
    Head,
    NeighbourHead,
    check_head,
    compute_softmax,
    parse_head,
)
from factory.models.encoders import Encoder, load_encoder
from factory.models.encoders.pool import EncoderPool

HeadT = TypeVar("HeadT")
INFO_NAME = "classifier.json"
HEAD_NAME = "head.safetensors"
ENCODER_NAMES = ("encoder.json", "encoder.safetensors")


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True
    )


class EncoderDescription(_Strict):
    """What `Encoder.describe` said when the head was fitted."""

    id: str
    revision: str | None
    weights_sha256: str | None
    dim: int = Field(ge=1)
    preprocessing: str
    pooling: str | None = None
    dtype: str | None = None


class Calibration(_Strict):
    """Temperature scaling (Guo et al. 2017, arXiv 1706.04599): softmax(logits / temperature)."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0.0)
    fitted_on: str
    calibrated: bool = Field(True, description="false: too few images to say so; it only ranks")


class HeadInfo(_Strict):
    """Which head turns features into logits, and its one whole number."""

    kind: Literal["logistic", "prototype", "knn"]
    neighbours: int | None = Field(None, ge=1, description="k of knn")


class Threshold(_Strict):
    """The least probability at which a class's images are right as often as wished.

    Measured on held-out real images with all classes weighing alike; `low` and `high` are the 95 %
    Wilson interval of `reached`.
    """

    precision: float = Field(gt=0.0, lt=1.0, description="wished")
    probability: float = Field(ge=0.0, le=1.0)
    reached: float
    low: float
    high: float
    recall: float = Field(description="share of the class's images that pass")
    images: int = Field(description="held-out images that pass")


class TrainingData(_Strict):
    """The real images that the head was fitted on."""

    sha256: str
    images: int
    per_class: dict[str, int]
    groups: int | None = Field(None, description="patients or slides; None: not known")


class ClassifierInfo(_Strict):
    """`classifier.json`: everything but the numbers."""

    format: Literal[1] = 1
    class_names: tuple[str, ...] = Field(min_length=2)
    encoder: str = Field(min_length=1, description="spec, or `.` for the one in this folder")
    encoder_description: EncoderDescription
    image_size: int = Field(ge=8, description="px; images are brought to this square")
    fit: Literal["crop", "resize"]
    calibration: Calibration
    head_sha256: str
    data: TrainingData
    report: dict[str, Any]
    libraries: dict[str, str]
    head: HeadInfo | None = Field(None, description="None, in older files: logistic")
    thresholds: dict[str, tuple[Threshold, ...]] | None = Field(
        None, description="class -> precisions that are reached; None: none were measured"
    )

    def find_precision(self, class_name: str, probability: float) -> float:
        """Returns the highest tabled precision whose threshold is reached; 0 where none is.

        NaN where the class has no table, so that nothing is known.
        """
        rows = (self.thresholds or {}).get(class_name)
        if not rows:
            return math.nan
        rounded = round(probability, SCORE_DECIMALS)
        return max((row.precision for row in rows if rounded >= row.probability), default=0.0)

    @model_validator(mode="after")
    def _check_distinct(self) -> ClassifierInfo:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names: each name once")
        return self


class Classifier:
    """Calibrated class probabilities of images."""

    def __init__(
        self, info: ClassifierInfo, encoder: Encoder, head: Head | NeighbourHead, revision: str
    ) -> None:
        self.info, self.encoder, self.head = info, encoder, head
        self.class_names = info.class_names
        self.revision = revision
        """sha256 of `classifier.json`, which holds the hashes of all weights."""

    def predict_probabilities(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Returns (N, C) float64 probabilities, in the order of `class_names`.

        Args:
            images: N images (H, W, 3) uint8 RGB of any sizes; brought to `image_size` first.
        """
        if len(images) == 0:
            return np.zeros((0, len(self.class_names)))
        size = self.info.image_size
        fitted = np.stack([fit_image(image, size, size, self.info.fit) for image in images])
        logits = self.head.compute_logits(self.encoder.encode(fitted))
        return compute_softmax(logits / self.info.calibration.temperature)


def read_classifier_info(folder: Path) -> ClassifierInfo:
    """Reads and checks `classifier.json` alone: class names and report, without any weights.

    Raises:
        InputError: no classifier there, or a file that is not one.
    """
    return _parse_info(folder, _read(folder / INFO_NAME))


def check_classifier(folder: Path) -> ClassifierInfo:
    """Checks a classifier folder without loading torch: `classifier.json`, the head, the files.

    Raises:
        InputError: something is missing or damaged.
    """
    info = read_classifier_info(folder)
    _read_head(folder, info, check_head)
    if info.encoder == ".":
        for name in ENCODER_NAMES:
            if not (folder / name).is_file():
                raise InputError(f"{folder / name}: missing: copy the whole classifier folder")
    return info


def load_classifier(
    folder: Path,
    device: str | None = None,
    encoders: EncoderPool | None = None,
) -> Classifier:
    """Loads a classifier folder and checks every hash in it.

    Args:
        folder: what `factory train classifier` wrote.
        device: where its encoder runs; None: where it can.
        encoders: shared ones; None: one of its own, which the shipped catalogs have.

    Raises:
        InputError: a file is missing, damaged or from another encoder version.
    """
    data = _read(folder / INFO_NAME)
    info = _parse_info(folder, data)
    head = _read_head(folder, info, parse_head)
    encoder: Encoder
    if encoders is None:
        encoder = load_encoder(info.encoder, base=folder, device=device or "auto")
    else:
        encoder = encoders.load(info.encoder, folder, device)
    found, expected = encoder.describe(), info.encoder_description
    for field in ("id", "weights_sha256", "dim"):
        if found[field] != getattr(expected, field):
            raise InputError(
                f"{folder}: fitted on encoder {field} {getattr(expected, field)!r}, found "
                f"{found[field]!r}: fit the classifier again"
            )
    if expected.weights_sha256 is None and found["revision"] != expected.revision:
        raise InputError(
            f"{folder}: fitted on {expected.id} revision {expected.revision!r}, this version has "
            f"{found['revision']!r}: fit the classifier again"
        )
    return Classifier(info, encoder, head, hash_bytes(data))


def save_head(head: Head | NeighbourHead, folder: Path) -> str:
    """Writes `head.safetensors` and returns the sha256 of the file."""
    data = head.to_bytes()
    write_file(folder / HEAD_NAME, data)
    return hash_bytes(data)


def save_info(info: ClassifierInfo, folder: Path) -> None:
    """Writes `classifier.json`; last, as it makes the folder a classifier."""
    text = write_json(info.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_file(folder / INFO_NAME, (text + "\n").encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: not a classifier folder ({error.strerror}): "
            "make one with `factory train classifier`"
        ) from error


def _parse_info(folder: Path, data: bytes) -> ClassifierInfo:
    path = str(folder / INFO_NAME)
    try:
        return ClassifierInfo.model_validate_json(data)
    except ValidationError as error:
        problems = tuple(
            Problem(".".join(str(part) for part in item["loc"]), item["msg"], path)
            for item in error.errors()
        )
        raise RecipeError(problems) from error


def _read_head(
    folder: Path,
    info: ClassifierInfo,
    parse: Callable[[bytes, int, int, int | None], HeadT],
) -> HeadT:
    path = folder / HEAD_NAME
    data = _read(path)
    if hash_bytes(data) != info.head_sha256:
        raise InputError(f"{path}: damaged or of another fit (sha256 differs from {INFO_NAME})")
    classes, dim = len(info.class_names), info.encoder_description.dim
    neighbours = None if info.head is None else info.head.neighbours
    try:
        return parse(data, classes, dim, neighbours)
    except ValueError as error:
        raise InputError(f"{path}: not a classifier head ({error})") from error
