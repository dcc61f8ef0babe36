"""What a run's evaluations found, for the report: the table of tiers, and their pictures."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from factory.core.errors import StoreError
from factory.engine.dataset import Dataset
from factory.evaluate.measured import EVALUATION, name_command
from factory.evaluate.results import list_rows
from factory.publish.card.facts import find_others, read_evaluations

TABLE = "tiers"
PICTURES = (
    (
        "fewshot",
        "fewshot/arms.svg",
        "Balanced accuracy of the arms of the few-shot study, 95 % intervals",
    ),
    (
        "fewshot",
        "fewshot/curve.svg",
        "Balanced accuracy against the number of synthetic images",
    ),
)
REAL_PICTURE = (
    "copies",
    "copies.png",
    "The closest pairs of synthetic and training images, side by side",
)
"""Result that a picture belongs to, its file, and what it shows."""
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The table of `factory evaluate all`, and pictures as (data URI, what it shows).

    Attributes:
        marks: (result, why, command) of those that do not speak of the images that are there.
        parts: results of single commands that no table holds.
    """

    marks: tuple[tuple[str, str, str], ...]
    parts: tuple[str, ...]
    rows: tuple[tuple[str, str, str, str, str], ...]
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
    marks = [
        (name, why, name_command(name, results[name], dataset.url)) for name, why in others.items()
    ]
    rows, missing = _read_table(dataset, results.get(TABLE))
    pictures = [
        (_embed(dataset, f"{EVALUATION}/{place}"), _caption(part, text, others))
        for part, place, text in (*PICTURES, *((REAL_PICTURE,) if with_real else ()))
        if dataset.files.exists(f"{EVALUATION}/{place}")
    ]
    parts = () if TABLE in results else tuple(sorted(results))
    return Evaluations(tuple(marks), parts, rows, missing, tuple(pictures))


def _read_table(
    dataset: Dataset, table: Mapping[str, Any] | None
) -> tuple[tuple[tuple[str, str, str, str, str], ...], tuple[tuple[str, str], ...]]:
    """Returns the rows of the table, and what was not measured with its reason."""
    if table is None:
        return (), ()
    try:
        return tuple(list_rows(table)), tuple(table["not_measured"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{dataset.url}/{EVALUATION}/{TABLE}.json: not a table of factory evaluate all "
            f"({error}): run it again"
        ) from error


def _caption(part: str, text: str, others: Mapping[str, str]) -> str:
    return f"{text}: {others[part]}" if part in others else text


def _embed(dataset: Dataset, name: str) -> str:
    data = base64.b64encode(dataset.files.read(name)).decode()
    return f"data:{MEDIA[PurePosixPath(name).suffix]};base64,{data}"
