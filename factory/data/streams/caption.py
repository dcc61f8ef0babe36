"""The stream `caption`: a text that says what an image is to show."""

from dataclasses import dataclass

from factory.data.streams.class_name import ClassName


@dataclass(frozen=True, slots=True)
class Caption(ClassName):
    """A caption: recorded, shown and restored as a class is, as both are one text."""

    name = "caption"
