"""What people are told of a result: whether what is varied moves alone, what structure stays."""

from collections.abc import Mapping
from typing import Any

from factory.evaluate.figures import write_metric

WORDS = {
    "yes": "only the varied attribute moves",
    "no": "the varied attribute does not move alone",
    "undecided": "whether only the varied attribute moves is undecided",
}


def list_asked(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the measures of what is varied; of an older result the one that a grid asks for."""
    own = found.get("own") or [found["asked"]]
    return tuple(each for each in own if each is not None)


def write_alone(name: str, found: Mapping[str, Any]) -> str:
    """Returns the verdict on what is varied in words; nothing of an older result."""
    alone = found.get("alone")
    if not alone:
        return ""
    listed = [
        f"{word} {', '.join(alone[key])}"
        for key, word in (
            ("moving", "also moves, beyond the noise:"),
            ("undecided", "undecided:"),
            ("still", "stays within the noise:"),
        )
        if alone[key]
    ]
    return f"{name}: {WORDS[alone['answer']]}; {'; '.join(listed)}"


def write_kept(name: str, found: Mapping[str, Any]) -> str:
    """Returns how much structure the images of a family share; nothing of an older result."""
    kept, by_jpeg = found.get("structure") or {}, found.get("kept_by_jpeg") or {}
    told = [
        f"{measure} {write_metric(each)}, a JPEG of the image {write_metric(by_jpeg[measure])}"
        for measure, each in kept.items()
        if each["mean"] is not None
    ]
    return f"{name}: structure of the first image in the others: {'; '.join(told)}" if told else ""
