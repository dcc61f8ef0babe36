"""What a run's evaluations found, for the report: the table of tiers, and their pictures."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from factory.core.errors import StoreError
from factory.engine.dataset import Dataset
from factory.evaluate import EVALUATIONS
from factory.evaluate.base import EVALUATION, MEDIA, Drawing
from factory.evaluate.everything import Everything, build_tiers, list_rows
from factory.publish.card.facts import find_others, read_evaluations, write_again

TableRow = tuple[str, str, str, str, str]
"""Tier, measure, value, what to read it by, marks."""


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The table of `factory evaluate all`, and pictures as (data URI, what it shows).

    Attributes:
        marks: (result, why, command) of those that do not speak of the images that are there.
        parts: results of single commands that no table holds.
    """

    marks: tuple[tuple[str, str, str], ...]
    parts: tuple[str, ...]
    rows: tuple[TableRow, ...]
    not_measured: tuple[tuple[str, str], ...]
    pictures: tuple[tuple[str, str], ...]


def show_evaluations(dataset: Dataset, with_real: bool) -> Evaluations | None:
    """Returns what `factory evaluate` left in the run folder, or None.

    Args:
        dataset: the run.
        with_real: whether a picture that holds real images may be shown.

    Raises:
        InputError: a result that is no JSON object.
        StoreError: a table that is not readable.
    """
    results = read_evaluations(dataset)
    if not results:
        return None
    others = find_others(dataset, results)
    marks = [(name, why, write_again(dataset, name, results[name])) for name, why in others.items()]
    rows, missing = _read_table(dataset, results.get(Everything.kind))
    pictures = [
        (_embed(dataset, f"{EVALUATION}/{each.place}"), _caption(part, each.text, others))
        for part, each in _list_drawings()
        if (with_real or not each.shows_real) and dataset.files.exists(f"{EVALUATION}/{each.place}")
    ]
    parts = () if Everything.kind in results else tuple(sorted(results))
    for part in parts:
        rows += () if part in others else _list_own(part, results[part])
    return Evaluations(tuple(marks), parts, rows, missing, tuple(pictures))


def _list_own(part: str, result: Mapping[str, Any]) -> tuple[TableRow, ...]:
    """Returns the rows of a result that no table holds; none where it is of another shape."""
    try:
        rows = list_rows(build_tiers({part: result}, {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(row for row in rows if row[2])


def _list_drawings() -> list[tuple[str, Drawing]]:
    working, _ = EVALUATIONS.list_all()
    return [(name, each) for name, kind in working.items() for each in kind.drawings]


def _read_table(
    dataset: Dataset, table: Mapping[str, Any] | None
) -> tuple[tuple[TableRow, ...], tuple[tuple[str, str], ...]]:
    """Returns the rows of the table, and what was not measured with its reason."""
    if table is None:
        return (), ()
    try:
        return tuple(list_rows(table)), tuple(table["not_measured"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{dataset.url}/{EVALUATION}/{Everything.kind}.json: not a table of factory evaluate "
            f"all ({error}): run it again"
        ) from error


def _caption(part: str, text: str, others: Mapping[str, str]) -> str:
    return f"{text}: {others[part]}" if part in others else text


def _embed(dataset: Dataset, name: str) -> str:
    data = base64.b64encode(dataset.files.read(name)).decode()
    return f"data:{MEDIA[PurePosixPath(name).suffix]};base64,{data}"
