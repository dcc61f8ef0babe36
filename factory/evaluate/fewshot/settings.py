"""Settings of a few-shot study: arms, shots, draws, and how every arm is trained alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.core.errors import InputError
from factory.core.yaml.messages import advise

ARMS = (
    "real",
    "real+classical",
    "real+synthetic",
    "real+synthetic_unfiltered",
    "synthetic",
    "all_real",
)
"""In the order of the tables."""

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
SYNTHETIC_FIRST = 0.75
"""Share of the steps that `two-stage` gives to synthetic images before the real ones."""

Mix = Literal["pooled", "balanced", "two-stage"]


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What is compared, and how each classifier is trained; None: the stated default.

    Attributes:
        shots: real images of each class, one study for each count.
        seeds: draws of shots and initialisation; they are numbered from `first_seed`.
        arms: of ARMS.
        per_class: synthetic images of each class; None: all there are.
        counts: synthetic images of each class at which `real+synthetic` is measured for the curve.
        steps: optimisation steps of every arm; None: 50 epochs of the shots, at least MIN_STEPS.
        mix: `pooled` draws real and synthetic images of a class alike, `balanced` in turns,
            `two-stage` first synthetic ones, then real ones.
        augment: `classical` augments every arm but `real`, so that the difference to
            `real+classical` is the synthetic images alone.
        model: of torchvision, trained whole; not used with `encoder`.
        weights: folder or safetensors file that the model starts from; None: from scratch.
        encoder: frozen, with a linear head trained on its features; None: `model`.
        size: px of the square that all images are brought to.
        fit: `crop` (keeps µm per pixel) or `resize`.
        set_name: what catalog entries call the evaluated set; None: not told.
        force: go on where labels or test images leak, and mark every table.
        mark_leaks: the same, but refuse where test images leak.
    """

    shots: tuple[int, ...] = (5, 10)
    seeds: int = 5
    first_seed: int = 0
    arms: tuple[str, ...] = ARMS
    per_class: int | None = None
    counts: tuple[int, ...] = ()
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    mix: Mix = "pooled"
    augment: Literal["none", "classical"] = "none"
    model: str = "resnet18"
    weights: Path | None = None
    encoder: str | None = None
    size: int = 64
    fit: Literal["crop", "resize"] = "crop"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    set_name: str | None = None
    force: bool = False
    mark_leaks: bool = False

    @property
    def draws(self) -> tuple[int, ...]:
        """The seeds of the draws."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def kind(self) -> str:
        """`linear` with a frozen encoder, else `network`."""
        return "linear" if self.encoder is not None else "network"

    @property
    def rate(self) -> float:
        """Learning rate at the first step."""
        return RATES[self.kind] if self.learning_rate is None else self.learning_rate

    def count_steps(self, shots: int, classes: int) -> int:
        """Returns the steps of every arm of a study of `shots` images of each class."""
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
            "weight_decay": DECAYS[self.kind],
            "batch_size": self.batch_size,
            "batches": "classes in equal parts",
            "mix": self.mix,
            "augment": self.augment,
        }


def check_settings(settings: StudySettings) -> None:
    """Checks what no option's own type checks.

    Raises:
        InputError: every problem found.
    """
    problems = [
        f"--arms: no arm {arm!r}: {advise(arm, ARMS)}" for arm in settings.arms if arm not in ARMS
    ]
    problems += [f"--shots: want 1 or more, got {each}" for each in settings.shots if each < 1]
    problems += [f"--counts: want 0 or more, got {each}" for each in settings.counts if each < 0]
    for name in ("shots", "arms", "counts"):
        given = getattr(settings, name)
        if len(set(given)) < len(given):
            problems.append(f"--{name}: each once, got {', '.join(map(str, given))}")
    if not settings.shots or not settings.arms:
        problems.append("--shots, --arms: at least one of each")
    for name, least in (("seeds", 1), ("batch_size", 2), ("size", 8), ("per_class", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            problems.append(f"--{name.replace('_', '-')}: want {least} or more, got {value}")
    if settings.steps is not None and settings.steps < 1:
        problems.append(f"--steps: want 1 or more, got {settings.steps}")
    if settings.encoder is not None and settings.weights is not None:
        problems.append("--weights: belongs to --model, not to a frozen --encoder: leave one out")
    if problems:
        raise InputError("\n".join(problems))
