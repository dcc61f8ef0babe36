"""Real spots with cell-type proportions: what their CSV says, and their images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import InputError
from factory.core.text_rows import read_table
from factory.data.images import SourceImage
from factory.evaluate.image_sets import Fit, ImageSet

SPLITS = ("train", "test")
"""Values of the column split; those of test are held out."""


@dataclass(frozen=True, slots=True)
class Spots:
    """Spots of patients.

    Attributes:
        images: their images.
        proportions: (N, K) in [0, 1].
        cell_types: (K,) names.
        groups: (N,) what hangs together, such as a section.
        is_held_out: (N,) of patients that no head is fitted on.
        patients: (N,).
    """

    images: ImageSet
    proportions: NDArray[np.float64]
    cell_types: tuple[str, ...]
    groups: NDArray[np.str_]
    is_held_out: NDArray[np.bool_]
    patients: NDArray[np.str_]


def read_spots(
    path: Path, prefix: str, group_column: str, held_out: Sequence[str], look: tuple[int, Fit]
) -> Spots:
    """Reads the CSV.

    Args:
        path: of the CSV; images are relative to its folder.
        prefix: of the columns of proportions.
        group_column: what hangs together; `patient` where there is no such column.
        held_out: patients; none: those of split `test`.
        look: size, px, and fit of the images.

    Raises:
        SourceError: a CSV that cannot be read, or a row with more or fewer fields than the header.
        InputError: columns that are missing, a cell that tells nothing, a patient on both sides.
    """
    numbered = read_table(path)
    rows = [row for _, row in numbered]
    header = list(rows[0])
    columns = [name for name in header if name.startswith(prefix)]
    needed = ["image", "patient", *([] if held_out else ["split"])]
    missing = [name for name in needed if name not in header]
    if missing or len(columns) < 2:
        lacks = missing[0] if missing else f"{prefix}..., two at least"
        raise InputError(f"{path}: has no column {lacks}: it has {', '.join(header)}")
    name = group_column if group_column in header else "patient"
    for line, row in numbered:
        _check_cells(row, ("image", "patient", name), not held_out, f"{path}:{line}")
    values = [
        [_read_share(row[name], f"{path}:{line}: {name}") for name in columns]
        for line, row in numbered
    ]
    patients = np.array([row["patient"] for row in rows])
    if held_out:
        unknown = sorted(set(held_out) - set(patients.tolist()))
        if unknown:
            raise InputError(f"--held-out: {path} has no patient {unknown[0]!r}")
        is_held_out = np.isin(patients, held_out)
    else:
        is_held_out = np.array([row["split"] == "test" for row in rows])
    both = set(patients[is_held_out].tolist()) & set(patients[~is_held_out].tolist())
    if both or is_held_out.all() or not is_held_out.any():
        why = f"patient {min(both)!r} is on both sides" if both else "one side has no spots"
        raise InputError(f"{path}: {why}: name patients with --held-out")
    images = tuple(
        SourceImage(row["image"], None, row["patient"], path.parent / row["image"]) for row in rows
    )
    nothing = (None,) * len(rows)
    size, fit = look
    files = (path, *(image.path for image in images))
    return Spots(
        ImageSet(path, images, len(rows), size, fit, nothing, nothing, files),
        np.array(values),
        tuple(column.removeprefix(prefix) for column in columns),
        np.array([row[name] for row in rows]),
        is_held_out,
        patients,
    )


def _check_cells(
    row: Mapping[str, str], columns: Sequence[str], has_split: bool, where: str
) -> None:
    for column in columns:
        if not row[column].strip():
            raise InputError(f"{where}: {column}: is empty: fill it in")
    if has_split and row["split"] not in SPLITS:
        raise InputError(f"{where}: split: must be {' or '.join(SPLITS)}, got {row['split']!r}")


def _read_share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"{where}: must be a proportion, 0 to 1, got {text!r}")
    return value
