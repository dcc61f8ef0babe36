"""How an image begins: at noise, at a reference with a strength, or at a source."""

from typing import TYPE_CHECKING, Any

from factory.data.records import Condition
from factory.data.streams import Reference, Source
from factory.data.streams.source import Translation

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel

Start = float | Translation | None
"""None: at noise; a number: at a reference, with this strength; else at a source."""


def find_start(condition: Condition) -> Start:
    """Returns how the image of a condition begins."""
    source, reference = condition.get(Source), condition.get(Reference)
    if source is not None:
        return source.translation
    return None if reference is None else reference.strength


def note_start(start: Start, model: "LoadedModel") -> dict[str, Any]:
    """Returns how a source is sampled, where that is not as the generator describes itself."""
    if not isinstance(start, Translation):
        return {}
    noted: dict[str, Any] = {}
    if start.steps is not None:
        noted["num_inference_steps"] = start.steps
    if start.method == "invert":
        from factory.models.generators.inversion import name_steps

        noted["scheduler"] = name_steps(model)
    return noted
