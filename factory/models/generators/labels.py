"""Classes of a model of class embeddings: name -> index."""

from collections.abc import Mapping
from typing import Any

from factory.catalog.entries import ModelEntry
from factory.core.errors import InputError


def find_labels(
    entry: ModelEntry | None, pipeline: Any, index: Mapping[str, Any]
) -> dict[str, int]:
    """Returns class name -> index of its embedding: the model's own, or the catalog entry's.

    Raises:
        InputError: they disagree, or none is named.
    """
    own = getattr(pipeline, "class_names", None)
    labels = {name: position for position, name in enumerate(own or ())}
    if not labels:
        # DiTPipeline keeps id2label in the index only: it comes back without labels.
        id2label = index.get("id2label") or {}
        labels = {str(name): int(label) for label, name in id2label.items()}
    declared = entry.class_names if entry is not None else None
    if declared is None and not labels:
        raise InputError(
            f"{type(pipeline).__name__}: the model names no classes: give class_names "
            "in a catalog entry, in the order of its embeddings"
        )
    if declared is None:
        return labels
    given = {name: position for position, name in enumerate(declared)}
    if labels and given != labels:
        raise InputError(
            f"catalog class_names {list(given)} differ from the model's own {list(labels)}: "
            "correct the catalog entry"
        )
    return given
