"""Streams: what a condition is a set of; one file for each, which owns all that is particular."""

from factory.data.streams.base import Stream
from factory.data.streams.caption import Caption
from factory.data.streams.class_name import ClassName
from factory.data.streams.control import Control
from factory.data.streams.existing import Existing
from factory.data.streams.reference import Reference
from factory.data.streams.scale import Scale

__all__ = ["Caption", "ClassName", "Control", "Existing", "Reference", "Scale", "Stream"]
