"""Cells of a study: what one arm in one draw gave, stored when done and reused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import StoreError
from factory.core.files.new_folder import claim_folder
from factory.core.files.store import FileStore
from factory.core.hashing import compute_digest
from factory.core.plain import write_json

DECIMALS = 6
STUDY = "study.json"


@dataclass(frozen=True)
class Cell:
    """Predictions of the test images.

    Attributes:
        chances: (N, C) probabilities, rounded.
        seconds: that training and predicting took.
        was_stored: whether it was read back.
        told: what else is kept of it, as plain data.
    """

    chances: NDArray[np.float64]
    seconds: float
    was_stored: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", round(self.seconds, 2))  # as when it is read back


class CellStore:
    """Stores cells below a folder; without one they are remembered by the process alone."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._files = None if out is None else FileStore(str(out))
        self._made: dict[str, Cell] = {}

    def begin(self, study: Mapping[str, Any], own: str = "") -> None:
        """Begins a study in the folder, or makes sure that it is the one begun there.

        Args:
            study: all that shapes its results.
            own: pattern of what else it may leave in the folder.

        Raises:
            MismatchError: another one, with a diff.
            InputError: the folder holds something else.
        """
        if self.out is not None:
            claim_folder(self.out, STUDY, study, own)

    def has(self, name: str) -> bool:
        """Whether a file is stored."""
        return self._files is not None and self._files.exists(name)

    def read_json(self, name: str) -> dict[str, Any]:
        """Returns what a stored file holds.

        Raises:
            StoreError: it is damaged, or not there.
        """
        assert self._files is not None
        try:
            content = json.loads(self._files.read(name))
        except ValueError as error:
            raise StoreError(f"{self.out}/{name}: damaged ({error}): remove it") from error
        if not isinstance(content, dict):
            raise StoreError(f"{self.out}/{name}: damaged: remove it")
        return content

    def write_file(self, name: str, data: bytes) -> None:
        """Writes a file, where there is a folder."""
        if self._files is not None:
            self._files.write(name, data)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a file on one line, where there is a folder."""
        self.write_file(name, write_json(content, indent=None).encode())

    def read(self, label: str, identity: Mapping[str, Any]) -> Cell | None:
        """Returns a stored cell, or None.

        Raises:
            StoreError: it is damaged.
        """
        name = _name_cell(label, identity)
        if name in self._made or not self.has(name):
            return self._made.get(name)
        content = self.read_json(name)
        try:
            chances = np.asarray(content["probabilities"], np.float64)
            seconds = float(content["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.out}/{name}: damaged ({error!r}): remove it") from error
        return Cell(chances, seconds, was_stored=True, told=content.get("told") or {})

    def write(self, label: str, identity: Mapping[str, Any], cell: Cell) -> None:
        """Stores a cell, and remembers it."""
        name = _name_cell(label, identity)
        self._made[name] = cell
        content = {"identity": identity, "seconds": cell.seconds}
        content |= {"told": dict(cell.told)} if cell.told else {}
        self.write_json(name, {**content, "probabilities": cell.chances.tolist()})


def _name_cell(label: str, identity: Mapping[str, Any]) -> str:
    """Returns a name for the reader, made unique by the identity."""
    return f"cells/{label}-{compute_digest('fewshot cell', identity)[:12]}.json"
