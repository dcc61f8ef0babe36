"""Settings of a few-shot study: arms, shots, draws, and how every arm is trained alike."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.core import fields
from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.evaluate.fewshot.protocol import PROTOCOLS

Shots = Annotated[int, Field(ge=1, le=10_000)]
NonNegative = Annotated[int, Field(ge=0)]

ARMS = (
    "real",
    "real+classical",
    "real+synthetic",
    "real+synthetic_unfiltered",
    "synthetic",
    "all_real",
)
"""In the order of the tables."""
REAL_LONGER = "real_longer"
"""With --epochs: the shots for as many steps as `real+synthetic` takes; not among the defaults."""
ALL_ARMS = (ARMS[0], REAL_LONGER, *ARMS[1:])

LEARNERS = ("logistic", "prototype", "knn", "sgd", "network")
"""What `--tune` names: three heads without and one with gradient descent on features; --model."""

METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "auroc")
PRIMARY = "balanced_accuracy"
"""The metric of `paired` and of the plots."""

EPOCHS = 50
"""Of the k shots, as in MUPAD; in steps, where that is more than MIN_STEPS."""
MIN_STEPS = 400
"""A few dozen images are gone through 50 times in a few dozen steps: too few for SGD from scratch,
and far too few for arms with hundreds of images."""

MOMENTUM = 0.9
RATES = {"network": 0.02, "linear": 0.05}
DECAYS = {"network": 5e-4, "linear": 1e-2}
TUNE_FOLDS = 5
SYNTHETIC_FIRST = 0.75
"""Share of the steps that `two-stage` gives to synthetic images before the real ones."""

Mix = Literal["pooled", "balanced", "two-stage"]


class StudySettings(fields.Options):
    """What is compared, and how each classifier is trained; None: the stated default."""

    shots: tuple[Shots, ...] = Field((5, 10), description="Of each class.  [default: 5, 10]")
    seeds: fields.Draws = Field(5, description="Draws of shots and weights.")
    first_seed: int = Field(0, ge=0, le=2**31, description="Of the first draw.")
    arms: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        ARMS, description="Comma-separated; default: all."
    )
    per_class: fields.Count | None = Field(
        None, description="Synthetic images of each class; default: all."
    )
    counts: Annotated[tuple[NonNegative, ...], fields.Option(takes="list")] = Field(
        (), description="Comma-separated --per-class for a curve."
    )
    steps: fields.Count | None = Field(
        None, description=f"Of every arm; default: {EPOCHS} epochs, at least {MIN_STEPS}."
    )
    epochs: fields.Count | None = Field(
        None, description="Instead of --steps: of each arm's own images, so that arms differ."
    )
    batch_size: int = Field(32, ge=2, le=100_000, description="Images in one step.")
    learning_rate: fields.Rate | None = Field(None, description="At the first step.")
    mix: Mix = Field(
        "pooled",
        description="Of real and synthetic images of a class: alike, in turns, or first synthetic "
        "ones, then real ones.",
    )
    augment: Literal["none", "classical"] = Field(
        "none", description="Of all arms but `real`; `real+classical` always has it."
    )
    model: str = Field("resnet18", description="Of torchvision.")
    weights: fields.Images | None = Field(
        None, description="Local weights that the model starts from."
    )
    encoder: str | None = Field(
        None, description="Frozen encoder with a linear head, instead of --model."
    )
    tune: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        (),
        description="Comma-separated classifiers, of which each draw chooses by cross-validation "
        f"inside its shots, every arm alike: {', '.join(LEARNERS)}.",
    )
    features: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        (), description="Comma-separated frozen encoders of --tune; default: --encoder."
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description=f"Of --tune; patients stay whole.  [default: {TUNE_FOLDS}]",
    )
    protocol: Literal["mupad"] | None = Field(
        None, description="Preset of a published study; what is changed of it is told."
    )
    size: fields.Pixels = Field(64, description="px of the square.")
    fit: fields.Fitted = "crop"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of --model; auto: bfloat16 where the device computes in it."
    )
    device: fields.Device = "auto"
    set_name: str | None = Field(None, description="What catalog entries call the evaluated set.")
    force: bool = Field(False, description="Go on with any leak, and mark every table.")
    mark_leaks: bool = Field(False, description="The same, but refuse leaks of test images.")

    @property
    def draw_seeds(self) -> tuple[int, ...]:
        """The seeds of the draws."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def head(self) -> str:
        """`linear` with a frozen encoder, else `network`."""
        return "linear" if self.encoder is not None else "network"

    @property
    def rate(self) -> float:
        """Learning rate at the first step."""
        return RATES[self.head] if self.learning_rate is None else self.learning_rate

    @property
    def spaces(self) -> tuple[str, ...]:
        """The encoders whose features heads are tuned on."""
        return self.features or ((self.encoder,) if self.encoder is not None else ())

    @model_validator(mode="before")
    @classmethod
    def _follow_protocol(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("protocol") not in PROTOCOLS:
            return given
        return {**PROTOCOLS[given["protocol"]].fixed, **given}

    def count_arm_steps(self, shots: int, classes: int, images: int) -> int:
        """Returns the steps of an arm of so many images in all."""
        if self.epochs is None:
            return self.count_steps(shots, classes)
        return max(1, -(-self.epochs * images // self.batch_size))

    def count_steps(self, shots: int, classes: int) -> int:
        """Returns the steps of every arm of a study; with `epochs`, those of `real`."""
        if self.epochs is not None:
            return self.count_arm_steps(shots, classes, shots * classes)
        if self.steps is not None:
            return self.steps
        return max(MIN_STEPS, -(-EPOCHS * shots * classes // self.batch_size))

    def describe_training(self) -> dict[str, Any]:
        """Returns what shapes a trained classifier, but for the images, as plain data."""
        return {
            "model": None if self.encoder is not None else self.model,
            "size": self.size,
            "fit": self.fit,
            "optimizer": "SGD, Nesterov, cosine to 0",
            "momentum": MOMENTUM,
            "learning_rate": self.rate,
            "weight_decay": DECAYS[self.head],
            "batch_size": self.batch_size,
            "batches": "classes in equal parts",
            "mix": self.mix,
            "augment": self.augment,
        }


class SourceOptions(fields.Options):
    """The images of a study, but for what makes them."""

    real: fields.Images = Field(description="Real training images with classes.")
    test: fields.Images | None = Field(
        None, description="Real test images; default: a part of --real."
    )
    synthetic: tuple[fields.Images, ...] = Field(
        (), description="Finished run, or images with classes."
    )
    unfiltered: tuple[fields.Images, ...] = Field(
        (), description="Images of no filter; default: the runs' first attempts."
    )
    draws: fields.NewFolder | None = Field(
        None, description="Folder of what is made of shots, for studies to share."
    )
    workers: fields.Workers | None = Field(
        None, description="Trainings side by side, on Ray; default: one for each of several GPUs."
    )
    image_column: fields.ImageColumn = None
    group_column: fields.GroupColumn = None
    group_pattern: fields.GroupPattern = None
    catalogs: fields.CatalogFolders = ()


class ShotOptions(fields.Options):
    """What is fitted on shots, and what of the recipe is other than in its file."""

    filter_encoder: str = Field("he-ssl", description="Of the one that filters.")
    guide_encoder: str = Field("he-ssl", description="Of the one that guides.")
    adapt: Annotated[str | None, fields.Option(metavar="BASE")] = Field(
        None, description="Adapt this model to the shots first."
    )
    adapt_set: Annotated[tuple[str, ...], fields.Option(metavar="A=B")] = Field(
        (), description="Option of train adapter."
    )
    overrides: Annotated[tuple[str, ...], fields.Option("--set", metavar="A.B=C")] = Field(
        (),
        description="Override a field of the recipe, e.g. --set generator.steps=8. Repeatable.",
    )
    catalogs: fields.CatalogFolders = ()


class MakingOptions(ShotOptions):
    """How a recipe's images are made from shots."""

    fit_filter: bool = Field(False, description="Fit the recipe's classifiers on the draw's shots.")


class Making(MakingOptions):
    """How the images of a draw are made.

    The recipe's reference conditions get the draw's shots, and its seed becomes the draw's.
    """

    recipe: Path


class FewshotSources(SourceOptions):
    """The images of a study; `making` says how each draw's shots are made more."""

    making: Making | None = None


def check_settings(settings: StudySettings) -> None:
    """Checks what no option's own type checks.

    Raises:
        InputError: every problem found.
    """
    problems = [
        f"--arms: no arm {arm!r}: {advise(arm, ALL_ARMS)}"
        for arm in settings.arms
        if arm not in ALL_ARMS
    ]
    problems += [
        f"--tune: no classifier {name!r}: {advise(name, LEARNERS)}"
        for name in settings.tune
        if name not in LEARNERS
    ]
    if {*settings.tune} - {"network"} and not settings.spaces:
        problems.append("--tune: heads need --features or --encoder, e.g. --features color-texture")
    for name in ("features", "folds") if not settings.tune else ():
        if getattr(settings, name):
            problems.append(f"--{name}: belong to --tune: give it")
    if settings.epochs is not None and settings.steps is not None:
        preset = f" (--protocol {settings.protocol} gives --epochs)" if settings.protocol else ""
        problems.append(f"--epochs, --steps: give one of them{preset}")
    if REAL_LONGER in settings.arms and (
        settings.epochs is None or "real+synthetic" not in settings.arms
    ):
        problems.append(f"--arms {REAL_LONGER}: needs --epochs, and the arm real+synthetic")
    for name in ("shots", "arms", "counts", "tune", "features"):
        given = getattr(settings, name)
        if len(set(given)) < len(given):
            problems.append(f"--{name}: each once, got {', '.join(map(str, given))}")
    if not settings.shots or not settings.arms:
        problems.append("--shots, --arms: at least one of each")
    if settings.encoder is not None and settings.weights is not None:
        problems.append("--weights: belongs to --model, not to a frozen --encoder: leave one out")
    if problems:
        raise InputError("\n".join(problems))
