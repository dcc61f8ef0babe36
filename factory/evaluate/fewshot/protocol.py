"""Presets of published studies: what they fix, and what their papers leave open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Protocol:
    """A preset.

    Attributes:
        source: where it was read.
        stated: what the paper states, in words.
        fixed: field of the settings -> value, of what is stated and of what is left open.
        left_open: what the paper does not state -> what is done here, in words.
    """

    source: str
    stated: tuple[str, ...]
    fixed: Mapping[str, Any]
    left_open: Mapping[str, str]


MUPAD = Protocol(
    source="Xiang et al., A Generative Foundation Model for Multimodal Histopathology (MUPAD)",
    stated=(
        "5 and 10 real images of each class",
        "real images are the conditions of the synthetic ones",
        "ResNet-18, SGD, 50 epochs",
        "mean of 5 seeds",
    ),
    fixed={
        "shots": (5, 10),
        "seeds": 5,
        "model": "resnet18",
        "weights": None,
        "encoder": None,
        "steps": None,
        "epochs": 50,
        "batch_size": 32,
        "learning_rate": 0.01,
        "mix": "pooled",
        "augment": "none",
        "size": 64,
        "arms": (
            "real",
            "real_longer",
            "real+classical",
            "real+synthetic",
            "real+synthetic_unfiltered",
        ),
    },
    left_open={
        "epochs": "of each arm's own images, so that arms with synthetic images take more steps; "
        "real_longer takes as many with the shots alone",
        "learning rate": "0.01 at the first step, cosine to 0, momentum 0.9 (Nesterov), weight "
        "decay 5e-4",
        "batch size": "32, classes in equal parts",
        "start": "random weights, the same for all arms of a draw",
        "image size": "64 px",
        "synthetic images of each class": "per_class of the result; all that the recipe makes "
        "where it is none",
        "mix": "real and synthetic images drawn alike",
        "augmentation of the baseline": "none; real+classical stands beside it",
        "splits": "patients or slides of the test give no shot; shots are drawn anew by each seed",
        "variance": "95 % intervals over draws and over patients, slides or images of the test",
        "filter": "that of the recipe; real+synthetic_unfiltered is without it",
        "generator": "that of the recipe, not MUPAD's: figures are not those of the paper",
    },
)
PROTOCOLS: Mapping[str, Protocol] = {"mupad": MUPAD}


def describe_protocol(settings: Mapping[str, Any], has_groups: bool) -> dict[str, Any] | None:
    """Returns which protocol a study follows, what is open in it, and what was changed.

    Args:
        settings: of the study, by field.
        has_groups: whether the patients or slides of all images are known.
    """
    name = settings["protocol"]
    if name is None:
        return None
    preset = PROTOCOLS[name]
    changed = {
        field: {"preset": _tell(value), "here": _tell(settings[field])}
        for field, value in preset.fixed.items()
        if _tell(settings[field]) != _tell(value)
    }
    if not has_groups:
        changed["patients"] = {"preset": "disjoint", "here": "not known of all images"}
    return {
        "name": name,
        "source": preset.source,
        "stated": list(preset.stated),
        "left_open": dict(preset.left_open),
        "changed": changed,
    }


def tell_changes(told: Mapping[str, Any]) -> str:
    """Returns the protocol's name, and what was changed of it."""
    changes = [
        f"{field} {_join(each['here'])} instead of {_join(each['preset'])}"
        for field, each in told["changed"].items()
    ]
    return f"protocol {told['name']}" + (f", CHANGED: {'; '.join(changes)}" if changes else "")


def _tell(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _join(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
