"""What a run's evaluations found, for the report: the table of tiers, and their pictures."""

import base64
import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from factory.errors import StoreError
from factory.evaluate.tiers import list_rows
from factory.store.run_folder import RunFolder

FOLDER = "evaluation"
PICTURES = (
    ("fewshot/arms.svg", "Balanced accuracy of the arms of the few-shot study, 95 % intervals"),
    ("fewshot/curve.svg", "Balanced accuracy against the number of synthetic images"),
)
REAL_PICTURE = ("copies.png", "The closest pairs of synthetic and training images, side by side")
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The table of `factory evaluate all`, and pictures as (data URI, what it shows)."""

    rows: tuple[tuple[str, str, str, str, str], ...]
    not_measured: tuple[tuple[str, str], ...]
    pictures: tuple[tuple[str, str], ...]


def read_evaluations(folder: RunFolder, with_real: bool) -> Evaluations | None:
    """Returns what `factory evaluate all` left in the run folder, or None.

    Args:
        folder: the run.
        with_real: whether a picture that holds real images may be shown.

    Raises:
        StoreError: a result that is not readable.
    """
    name = f"{FOLDER}/tiers.json"
    if not folder.files.exists(name):
        return None
    try:
        table = json.loads(folder.files.read(name))
        rows, missing = list_rows(table), table["not_measured"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder.url}/{name}: not a table of factory evaluate all ({error}): run it again"
        ) from error
    pictures = [
        (_embed(folder, f"{FOLDER}/{place}"), text)
        for place, text in (*PICTURES, *((REAL_PICTURE,) if with_real else ()))
        if folder.files.exists(f"{FOLDER}/{place}")
    ]
    return Evaluations(tuple(rows), tuple(missing), tuple(pictures))


def _embed(folder: RunFolder, name: str) -> str:
    data = base64.b64encode(folder.files.read(name)).decode()
    return f"data:{MEDIA[PurePosixPath(name).suffix]};base64,{data}"
