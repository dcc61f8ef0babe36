"""Condition kind `stain_target`: images of asked stain amounts, of a CSV file's rows."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from factory.catalog.entries import LicenceTerms
from factory.catalog.licences.terms import Term
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage
from factory.data.records import Condition, Request
from factory.data.streams import ClassName, Stream
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    Planning,
)


@dataclass(frozen=True, slots=True)
class StainTarget(Stream):
    """How much of each stain, by name, sorted; `group_sha256` is the hash of their patient."""

    name = "stain_target"
    values: tuple[tuple[str, float], ...]
    group_sha256: str | None = None

    def identity(self) -> dict[str, float]:
        """Returns name -> value."""
        return dict(self.values)

    def load(self, width: int, height: int) -> np.ndarray[Any, Any]:
        """Returns (dim,) float32."""
        return np.array([value for _, value in self.values], np.float32)

    @classmethod
    def restore(
        cls, identity: Any, images: Mapping[str, SourceImage], row: Mapping[str, Any]
    ) -> Self:
        """Returns the values of a row."""
        return cls(tuple(sorted(identity.items())))

    @classmethod
    def fields(cls) -> dict[str, pa.DataType]:
        """Returns its column."""
        return {"stain_target": pa.string()}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns the values as JSON."""
        return {"stain_target": json.dumps(identity, sort_keys=True)}

    def record(self) -> dict[str, Any]:
        """Returns the hash of the patient."""
        return {"stain_target_group_sha256": self.group_sha256}

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of the patient."""
        return () if self.group_sha256 is None else (self.group_sha256,)


@dataclass(frozen=True)
class StainTargetSeries:
    """The rows of a file in turn, then again with the next ordinal."""

    label: str
    conditions: tuple[Condition, ...]
    count: int

    @property
    def key(self) -> str:
        """Identity: the rows in order."""
        rows = [condition.describe() for condition in self.conditions]
        return compute_digest("series", {"kind": "stain_target", "rows": rows})[:16]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the rows."""
        return tuple(dict.fromkeys(filter(None, (each.class_name for each in self.conditions))))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request."""
        cycle, row = divmod(index, len(self.conditions))
        return Request(self.key, index, self.conditions[row], cycle)


class StainTargetConditions(ConditionKind):
    """Images of asked stain amounts."""

    streams = (StainTarget, ClassName)

    class Settings(ConditionSettings):
        """Images of asked stain amounts: one row of a CSV file each."""

        kind: Literal["stain_target"]
        targets: Path = Field(description="CSV file; columns class_name and patient may be there")
        count: Count = Field(description="accepted images over all rows")
        licence: LicenceTerms | None = Field(None, description="terms of the amounts")

    settings: Settings

    def build_series(self, planning: Planning) -> list[StainTargetSeries]:
        """Returns the one series of the file."""
        conditions = self._read(planning.base)
        return [StainTargetSeries(self.settings.targets.stem, conditions, self.settings.count)]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes a file that is missing or holds no numbers."""
        if findings.check_files:
            try:
                names = [condition.class_name for condition in self._read(findings.loaded.base)]
            except SourceError as error:
                findings.add((*path, "targets"), str(error))
            else:
                asked = tuple(dict.fromkeys(name for name in names if name))
                findings.asked.add(asked, (*path, "targets"))
        return [("targets", str(self.settings.targets))]

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of the amounts."""
        licence = self.settings.licence
        plain = None if licence is None else licence.model_dump(mode="json")
        return (Term("targets", self.settings.targets.name, plain),)

    def _read(self, base: Path) -> tuple[Condition, ...]:
        path = base / self.settings.targets
        try:
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
            return tuple(_make_condition(row) for row in rows)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: cannot be read as amounts ({error})") from error


def _make_condition(row: Mapping[str, str]) -> Condition:
    values = {name: text for name, text in row.items() if name not in ("class_name", "patient")}
    found = tuple(sorted((name, float(text)) for name, text in values.items()))
    patient = row.get("patient")
    target = StainTarget(found, None if patient is None else hash_bytes(patient.encode()))
    return Condition(row.get("class_name"), None, target)
