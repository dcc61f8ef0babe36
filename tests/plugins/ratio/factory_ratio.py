"""Condition kind `ratio`: images of classes, as many of each as its parts say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from factory.core.hashing import compute_digest
from factory.core.yaml.reader import FieldPath
from factory.data.records import Condition, Request
from factory.data.streams import ClassName
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    Planning,
)
from factory.recipe.conditions.series import OneClass

Part = Annotated[int, Field(ge=1, le=1000)]


@dataclass(frozen=True)
class RatioSeries(OneClass):
    """Images of one class. Its key does not know the count: a raised one changes no image."""

    class_name: str
    count: int
    origin = "(ratio)"

    @property
    def key(self) -> str:
        """Identity of the series."""
        content = {"kind": "ratio", "class_name": self.class_name}
        return compute_digest("series", content)[:16]

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: condition and ordinal shape the seed."""
        return Request(self.key, index, Condition(self.class_name), index)


class RatioConditions(ConditionKind):
    """Images of classes, as many of each as its parts say."""

    streams = (ClassName,)

    class Settings(ConditionSettings):
        """Images of classes, as many of each as its parts say."""

        kind: Literal["ratio"]
        per_part: Count = Field(description="accepted images of a part")
        parts: dict[str, Part] = Field(min_length=1, description="class -> its part")

    settings: Settings

    def build_series(self, planning: Planning) -> list[RatioSeries]:
        """Returns a series for each class."""
        parts, count = self.settings.parts, self.settings.per_part
        return [RatioSeries(name, part * count) for name, part in parts.items()]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes classes that the model does not know; returns what the block asks for."""
        names, model = tuple(self.settings.parts), findings.model
        findings.asked.add(names, (*path, "parts"), keyed=True)
        if model is not None and model.class_names is not None:
            place = (*path, "parts")
            findings.check_names(names, model.class_names, place, model.name)
        return [("class", name, "in parts") for name in names]
