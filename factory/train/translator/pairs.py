"""Pairs of embeddings of two domains: read, matched, split, with what was passed over counted."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError, SourceError
from factory.core.hashing import compute_digest, derive_seed, hash_bytes
from factory.core.notes import tell
from factory.data.groups import hash_group
from factory.data.patients import Patients, describe_patients, list_patients
from factory.data.rows import ARRAY, Rows, open_rows
from factory.data.streams import Embedding
from factory.models.session import Session
from factory.recipe.conditions.encoded import EncodedRows
from factory.train.translator.settings import FlowRecipe, PairedData, Side

LEAST = 8
"""Pairs under which nothing is learned."""


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """Pairs of the same tissue in two domains, of which some are held out.

    Attributes:
        held_out: (N,) pairs that are validated on.
        passed: files, rows or images of either side that have no partner.
        digest: of all that they hold.
        patients: whose images these are, or are of.
    """

    held_out: NDArray[np.bool_]
    passed: int
    digest: str
    patients: Patients

    def count(self) -> dict[str, int]:
        """Returns how many there are to learn from, held out, and passed over."""
        held_out = int(self.held_out.sum())
        learnt = len(self.held_out) - held_out
        return {"pairs": learnt, "held_out": held_out, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Pairs(SplitPairs):
    """Embeddings.

    Attributes:
        source: (N, dim) float32.
        target: (N, dim) float32.
    """

    source: NDArray[np.float32]
    target: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.source.shape[1])


@dataclass(frozen=True, slots=True)
class _Side:
    rows: Rows
    names: Sequence[Hashable]
    column: str


def load_pairs(recipe: FlowRecipe, session: Session) -> Pairs:
    """Returns the pairs of a recipe, whose paths are resolved.

    Raises:
        SourceError: rows or images that cannot be read, are not finite, do not match, or too few.
        InputError: an encoder that cannot be had, or a group pattern that is none.
    """
    data = recipe.data
    source, target = (_open(side, data, session) for side in (data.source, data.target))
    matched, passed = _match(source, target)
    if passed:
        tell(f"{passed} rows or images have no partner in the other domain and are passed over")
    found = [(_read(source, a, data), _read(target, b, data)) for a, b in matched]
    shapes = sorted({array.shape for pair in found for array in pair})
    if len(shapes) > 1:
        raise SourceError(
            f"{source.rows.path}, {target.rows.path}: embeddings of {shapes[0]} and {shapes[-1]} "
            "(tokens, dim): make all with one encoder and grid"
        )
    groups = [_find_group(source, row, data) for row, _ in matched]
    patients = _list_patients(recipe, session, groups)
    held = hold_out(groups, data.held_out, recipe.seed)
    tokens = shapes[0][0]
    before, after = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    digest = compute_digest("pairs", [hash_bytes(each.tobytes()) for each in (before, after)])
    return Pairs(np.repeat(held, tokens), passed, digest, patients, before, after)


def _open(side: Side, data: PairedData, session: Session) -> _Side:
    if side.images is None:
        assert side.embeddings is not None
        rows = open_rows(session.resolve(side.embeddings))
        for name in (side.column, side.key, data.group_column if side is data.source else None):
            if name is not None and name not in rows.header:
                has = ", ".join(rows.header)
                raise SourceError(f"{rows.path}: has no column {name!r}: it has {has}")
        names: list[Hashable] = list(range(len(rows)))
        if side.key is not None:
            names = [str(rows.read(row, [side.key])[side.key]) for row in range(len(rows))]
        return _Side(rows, names, side.column)
    root = session.resolve(side.images)
    images = session.images.list(root)
    names = [PurePath(image.key).with_suffix("").as_posix() for image in images]
    encoded = EncodedRows(root, images, session, data.encoder, data.grid)
    return _Side(encoded, names, ARRAY)


def _match(source: _Side, target: _Side) -> tuple[list[tuple[int, int]], int]:
    """Returns (row, row) of each pair, and how many rows have no partner."""
    for side in (source, target):
        name, count = Counter(side.names).most_common(1)[0] if side.names else (None, 0)
        if count > 1:
            raise SourceError(f"{side.rows.path}: {name!r} stands {count} times: name each once")
    is_counted = all(isinstance(name, int) for name in (*source.names, *target.names))
    if is_counted and len(source.names) != len(target.names):
        raise SourceError(
            f"{target.rows.path}: {len(target.names)} rows, but {source.rows.path} has "
            f"{len(source.names)}: rows pair in order, so name a column with key"
        )
    places = {name: row for row, name in enumerate(target.names)}
    matched = [(row, places[n]) for row, n in enumerate(source.names) if n in places]
    if len(matched) < LEAST:
        raise SourceError(
            f"{source.rows.path}, {target.rows.path}: {len(matched)} pairs, {LEAST} wanted: give "
            "both sides of a pair the same name"
        )
    return matched, len(source.names) + len(target.names) - 2 * len(matched)


def _read(side: _Side, row: int, data: PairedData) -> NDArray[np.float32]:
    value: Any = side.rows.read(row, [side.column])[side.column]
    try:
        return Embedding.of(value, data.encoder).array
    except (InputError, TypeError, ValueError) as error:
        raise SourceError(f"{side.rows.place(row)}: {side.column}: {error}") from error


def _find_group(source: _Side, row: int, data: PairedData) -> Hashable:
    """Returns what is held out together with a row of the source."""
    if data.group_column is not None:
        return str(source.rows.read(row, [data.group_column])[data.group_column])
    if data.group_pattern is None:
        return row
    try:
        found = re.search(data.group_pattern, str(source.names[row]))
    except re.error as error:
        raise InputError(f"data.group_pattern: no regular expression ({error})") from error
    if found is None or not found.groups():
        raise SourceError(
            f"{source.rows.place(row)}: data.group_pattern finds no (group) in its path: correct it"
        )
    return found[1]


def _list_patients(recipe: FlowRecipe, session: Session, groups: Sequence[Hashable]) -> Patients:
    """Returns whose pairs these are: as the recipe tells, else as the images of both sides do."""
    data = recipe.data
    if data.group_column is not None or data.group_pattern is not None:
        told = [hash_group(str(group)) for group in groups]
        return describe_patients(told, 2 * len(groups), 0)
    folders = [side.images for side in (data.source, data.target) if side.images is not None]
    images = [each for root in folders for each in session.images.list(session.resolve(root))]
    rows = len(groups) * (2 - len(folders))  # of tables, which tell nobody without a column
    found = list_patients(images)
    return describe_patients(found.groups, found.images + rows, found.unknown + rows)


def hold_out(groups: Sequence[Hashable], share: float, seed: int) -> NDArray[np.bool_]:
    """Returns (N,) which pairs are validated on: whole groups, until the share is reached."""
    sizes = Counter(groups)
    names, wanted, held = sorted(sizes, key=str), share * len(groups), set()
    order = np.random.default_rng(derive_seed(seed, "held-out")).permutation(len(names))
    for number in order[: len(names) - 1]:
        if wanted <= 0:
            break
        held.add(names[number])
        wanted -= sizes[names[number]]
    return np.array([group in held for group in groups])
