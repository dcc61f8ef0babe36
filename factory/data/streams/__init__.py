"""Streams: what a condition is a set of; one file for each, which owns all that is particular."""

from factory.data.streams.base import Stream
from factory.data.streams.caption import Caption
from factory.data.streams.class_name import ClassName
from factory.data.streams.control import Control
from factory.data.streams.domain import Domain
from factory.data.streams.embedding import Embedding
from factory.data.streams.existing import Existing
from factory.data.streams.recolour import Recolour
from factory.data.streams.reference import Reference
from factory.data.streams.scale import Scale
from factory.data.streams.source import Source
from factory.data.streams.vector import Vector

__all__ = [
    "STREAMS",
    "Caption",
    "ClassName",
    "Control",
    "Domain",
    "Embedding",
    "Existing",
    "Recolour",
    "Reference",
    "Scale",
    "Source",
    "Stream",
    "Vector",
]

STREAMS: tuple[type[Stream], ...] = (
    Caption,
    ClassName,
    Control,
    Domain,
    Embedding,
    Existing,
    Recolour,
    Reference,
    Scale,
    Source,
    Vector,
)
"""All of this project: kinds give them, or columns of a table beside those of a kind."""
