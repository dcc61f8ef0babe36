"""Exporting bags: one file of patches or features for each slide of a cohort, and their labels.

As slide-level models take them (CLAM, Lu et al. 2021; TRIDENT): a file named by the slide with
`features` and `coords`, and a table of cases, slides and labels.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files.new_folder import build_folder
from factory.core.images import decode_image
from factory.core.notes import tell
from factory.core.plain import write_json
from factory.data.streams.bag import BACKGROUND, COLUMNS
from factory.engine.dataset import DATA, REJECTED, Dataset
from factory.models.session import Session
from factory.publish.export import check_folder_name, iterate_splits

NEEDED = (*COLUMNS, "bag_split")
TABLE, BAGS, ABOUT = "slides.csv", "bags", "bags.json"


@dataclass(frozen=True, slots=True)
class _Patch:
    place: tuple[int, int]
    shows: str
    sample_id: str
    pixels: Any


def export_bags(
    dataset: Dataset, out: Path, encoder: str | None, session: Session
) -> dict[str, dict[str, int]]:
    """Writes `OUT/bags/SLIDE.npz`, `OUT/slides.csv` and what the numbers are, `OUT/bags.json`.

    A file holds, for the N accepted patches of a slide by row and column, `features` (N, dim)
    float32 of an encoder or `images` (N, H, W, 3) uint8 RGB, `coords` (N, 2) int32, px of their
    left upper corners, `patch_labels` (N,) and `sample_ids` (N,). Left out, and counted, are rows
    of no slide, and slides that lost every patch, or all that show their label: it would not be
    true.

    Args:
        dataset: what to export; its accepted rows.
        out: new folder.
        encoder: image encoder of the features; None: the patches themselves.
        session: that loads it.

    Returns:
        Split of the patients -> label -> slides.

    Raises:
        InputError: no row is of a slide, a slide of several patients, labels or splits, two patches
            of one place, or `out` is in use.
        StoreError: a damaged file.
    """
    sizes, shown, apart, empty = _count_patches(dataset)
    loaded = None if encoder is None else session.encoders.load(encoder, session.base)
    counts: dict[str, Counter[str]] = {}
    lost: list[str] = []
    with build_folder(out) as build:
        (build / BAGS).mkdir()
        with (build / TABLE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["case_id", "slide_id", "label", "split", "patches", "positive"])
            for head, patches in _iterate_slides(dataset, sizes):
                positive = sum(each.shows != BACKGROUND for each in patches)
                if not positive and head["bag_label"] in shown:
                    lost.append(head["slide"])
                    continue
                _write_slide(build / BAGS, head["slide"], patches, loaded)
                told = (head["patient"], head["slide"], head["bag_label"], head["bag_split"])
                table.writerow([*told, len(patches), positive])
                counts.setdefault(head["bag_split"], Counter())[head["bag_label"]] += 1
        about: dict[str, Any] = {"encoder": None, "dim": None}
        if loaded is not None:
            about = {"encoder": loaded.describe(), "dim": loaded.dim}
        (build / ABOUT).write_text(write_json(about), encoding="utf-8")
    _tell_left_out(apart, empty, lost)
    return {split: dict(found) for split, found in counts.items()}


def _write_slide(folder: Path, slide: str, patches: list[_Patch], encoder: Any) -> None:
    check_folder_name(slide)
    arrays = _stack(slide, patches)
    if encoder is not None:
        arrays["features"] = encoder.encode(arrays.pop("images"))
    np.savez(folder / f"{slide}.npz", **arrays)


def _tell_left_out(apart: int, empty: int, lost: list[str]) -> None:
    if apart:
        tell(f"{apart:,} rows are of no slide: left out")
    if empty:
        tell(f"{empty:,} slides have no accepted patch: they have no bag")
    if lost:
        tell(
            f"{len(lost):,} slides lost all patches that show their label ({lost[0]}): left out; "
            "raise budget.attempts with --extend to fill them"
        )


def _count_patches(dataset: Dataset) -> tuple[Counter[str], frozenset[str | None], int, int]:
    """Counts the rows of slides.

    Returns:
        Slide -> accepted patches, labels that patches were to show, rows of no slide, and slides of
        which all patches were rejected.
    """
    sizes: Counter[str] = Counter()
    shown: set[str | None] = set()
    tried: set[str | None] = set()
    apart = 0
    for name in dataset.list_tables(DATA):
        has = set(dataset.read_schema(name).names)
        if not has >= set(NEEDED):
            apart += sum(1 for _ in dataset.iterate_rows(name, ["sample_id"]))
            continue
        for row in dataset.iterate_rows(name, ["slide", "patch_label"]):
            slide = row.values["slide"]
            apart += slide is None
            if slide is not None:
                sizes[slide] += 1
                shown.add(row.values["patch_label"])
    for name in dataset.list_tables(REJECTED):
        if "patch_label" in dataset.read_schema(name).names:
            for row in dataset.iterate_rows(name, ["slide", "patch_label"]):
                tried.add(row.values["slide"])
                shown.add(row.values["patch_label"])
    if not sizes:
        raise InputError(
            f"{dataset.url}: no row is of a slide: make the images by conditions of kind cohort, "
            "or take another --to"
        )
    empty = len(tried - {None} - sizes.keys())
    return sizes, frozenset(shown - {BACKGROUND, None}), apart, empty


def _iterate_slides(
    dataset: Dataset, sizes: Mapping[str, int]
) -> Iterator[tuple[dict[str, str], list[_Patch]]]:
    """Yields each slide once all its patches were read: (what its rows share, patches)."""
    heads: dict[str, dict[str, str]] = {}
    open_slides: dict[str, list[_Patch]] = {}
    people: dict[str, tuple[str, str]] = {}
    for _, row in iterate_splits(dataset):
        slide = row.get("slide")
        if slide is None:
            continue
        head = {name: str(row[name]) for name in ("patient", "slide", "bag_label", "bag_split")}
        if heads.setdefault(slide, head) != head:
            raise InputError(f"{dataset.url}: slide {slide}: its rows differ in patient or label")
        in_split = people.setdefault(head["patient"], (head["bag_split"], slide))
        if in_split[0] != head["bag_split"]:
            raise InputError(
                f"{dataset.url}: patient {head['patient']} is in {in_split[0]} and "
                f"{head['bag_split']}: sets of one cohort with other splits: export them apart"
            )
        pixels = decode_image(row["image"]["bytes"], str(row["image"]["path"]))
        place = int(row["patch_row"]), int(row["patch_column"])
        patch = _Patch(place, str(row["patch_label"]), str(row["sample_id"]), pixels)
        patches = open_slides.setdefault(slide, [])
        patches.append(patch)
        if len(patches) == sizes[slide]:
            yield head, open_slides.pop(slide)


def _stack(slide: str, patches: list[_Patch]) -> dict[str, Any]:
    """Returns the arrays of a slide, its patches by row and column."""
    patches.sort(key=lambda each: each.place)
    places = [each.place for each in patches]
    if len(set(places)) < len(places):
        raise InputError(f"slide {slide}: two patches are of one place: export its sets apart")
    height, width = patches[0].pixels.shape[:2]
    coords = np.array([(column * width, row * height) for row, column in places], np.int32)
    return {
        "images": np.stack([each.pixels for each in patches]),
        "coords": coords,
        "patch_labels": np.array([each.shows for each in patches]),
        "sample_ids": np.array([each.sample_id for each in patches]),
    }
