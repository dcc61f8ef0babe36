"""Facts of the objects that a mask asked for: whether, how many, how much, where, in which box."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.words import WordsEntry
from factory.core.stains import segment_nuclei
from factory.data.label_maps import list_ids
from factory.data.provenance import read_provenance
from factory.data.streams.control import Control
from factory.filters.mask_agreement import compute_dice
from factory.publish.annotations.marked import Marked, read_marked
from factory.publish.words.known import Fact, Known

ELSEWHERE = "nuclei of the mask and of the image disagree"
SPECKS = "the mask marks specks alone"
NO_LARGEST = "no object is clearly the largest"
MIDDLE = "too near to the middle to be told a side"
_MIDDLE = 0.05
"""Share of a side from the middle within which no part of the image is named."""
LAYOUT = "layout"
"""In the identity of a mask that a layout drew."""
PLACES = ("upper left", "upper right", "lower left", "lower right")
"""Parts of an image."""


def read_object_facts(
    row: Mapping[str, Any],
    split: str,
    entry: WordsEntry,
    pixels: NDArray[np.uint8] | None,
    known: Known,
) -> None:
    """Reads what the mask of a row asks for, name by name of its palette.

    Args:
        row: with a mask.
        split: of the row.
        entry: what is said.
        pixels: (H, W, 3) uint8 RGB of the image, that nuclei are looked for in; None: it is no
            H&E, and nothing is compared.
        known: of the row, where the facts are added.

    Raises:
        SourceError: the mask cannot be read.
        DamageError: it does not fit the image.
    """
    marked = read_marked(split, row)
    is_drawn = LAYOUT in read_provenance(row).condition[Control.name]
    nuclei = entry.nuclei
    dice = None if pixels is None else _compare(marked, nuclei, pixels)
    for identifier, name in marked.palette:
        is_compared = name in nuclei and dice is not None
        if is_compared and dice is not None and dice < entry.min_dice:
            known.leave(name, ELSEWHERE)
            continue
        told = f"; mask_dice {dice:.2f} >= {entry.min_dice:g}" if is_compared else ""
        more = {"of": name, "instances": marked.has_instances}
        more |= {"drawn": True} if is_drawn else {}
        told = told or "; not compared with the image"
        _add(known, marked, (identifier, more), entry, told)


def _compare(marked: Marked, nuclei: Sequence[str], pixels: NDArray[np.uint8]) -> float | None:
    """Returns Dice of the nuclei of mask and image, as filter `mask_agreement`; None: no nuclei."""
    ids = [identifier for identifier, name in marked.palette if name in nuclei]
    if not ids:
        return None
    labels = list_ids(marked.labels) if marked.has_instances else marked.labels
    return round(compute_dice(np.isin(labels, ids), segment_nuclei(pixels[None])[0]), 4)


def _add(
    known: Known, marked: Marked, named: tuple[int, dict[str, Any]], entry: WordsEntry, told: str
) -> None:
    identifier, more = named
    name = more["of"]
    objects = marked.objects
    mine = np.flatnonzero(objects.ids == identifier)
    large = mine[objects.areas[mine] >= entry.least_px]
    height, width = marked.labels.shape
    rule = f"of the mask, {entry.least_px} px or more{told}"
    if len(mine) and not len(large):
        known.leave(name, SPECKS)
        return
    is_there = "yes" if len(large) else "no"
    known.add(Fact(f"present:{name}", is_there, "asked", rule, "", more))
    known.add(Fact(f"count:{name}", len(large), "asked", rule, "", more))
    if not len(large):
        return
    area = int(objects.areas[mine].sum())
    share = round(100 * area / (height * width))
    covered = {**more, "number": round(area / (height * width), 4)}
    known.add(Fact(f"area:{name}", share, "asked", f"{area} px of the mask{told}", "%", covered))
    order = sorted(large.tolist(), key=lambda each: -objects.areas[each])
    areas = [int(objects.areas[each]) for each in order[:2]]
    if len(areas) > 1 and areas[0] < entry.largest_by * areas[1]:
        known.leave(name, NO_LARGEST)
        return
    largest = f"the object of {areas[0]} px" + (
        f", the next has {areas[1]} px" if areas[1:] else ""
    )
    rows, columns = objects.boxes[order[0]]
    box = [columns.start, rows.start, columns.stop, rows.stop]
    sized = {**more, "size": [width, height]}
    told_box = f"x0, y0, x1, y1 of {largest}{told}"
    known.add(Fact(f"box:{name}", box, "asked", told_box, "px", sized))
    x, y = (objects.centres[order[0]] + 0.5) / (width, height)
    away = round(min(abs(x - 0.5), abs(y - 0.5)), 4)
    if away < _MIDDLE:
        known.leave(name, MIDDLE)
        return
    place = PLACES[2 * int(y > 0.5) + int(x > 0.5)]
    centred = {**more, "margin": _MIDDLE, "distance": away}
    known.add(Fact(f"place:{name}", place, "asked", f"centre of {largest}{told}", "", centred))
