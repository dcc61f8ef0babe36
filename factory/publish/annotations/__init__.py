"""Exporting what masks show: images with their objects, for detection and segmentation.

Rows are read one after another, and what a format lists is written as it comes, so that memory is
that of a few rows, however many there are.
"""

import csv
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from factory import __version__
from factory.core.errors import InputError
from factory.core.files.new_folder import build_folder
from factory.core.notes import tell
from factory.core.plain import write_json
from factory.engine.dataset import Dataset
from factory.publish.annotations.coco import Coco
from factory.publish.annotations.marked import Writer, list_names, read_marked
from factory.publish.annotations.ome import OmeLabels
from factory.publish.annotations.yolo import Yolo
from factory.publish.export import iterate_splits

FORMATS: dict[str, type[Writer]] = {"coco": Coco, "yolo": Yolo, "ome-labels": OmeLabels}
COUNTS, PROVENANCE = "counts.csv", "provenance.json"
INSTANCES = {
    True: "instances of the mask",
    False: "connected parts of each id (edges and corners): what touches counts as one",
}
"""What an object is, by whether the mask tells objects apart."""


def export_annotations(dataset: Dataset, out: Path, form: str) -> dict[str, dict[str, Any]]:
    """Writes images, byte for byte, with the objects of their masks, `counts.csv`, and origin.

    Rows without a mask are left out, and counted: to a detector, their images would show nothing.

    Args:
        dataset: what to export; its accepted rows.
        out: new folder.
        form: of FORMATS.

    Returns:
        Split -> `images`, and `objects`: name -> count.

    Raises:
        InputError: no row has a mask, `out` is in use, or a package is not installed.
        SourceError: a mask with an id that its palette does not name.
        StoreError: a damaged file.
    """
    images: Counter[str] = Counter()
    objects: dict[str, Counter[str]] = {}
    without: Counter[str] = Counter()
    recipes: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    names = list_names(dataset)
    with build_folder(out) as build, ExitStack() as stack:
        if not names:
            raise InputError(
                f"{dataset.url}: no row has a mask, so there are no objects to export: make the "
                "images by conditions of kind mask or layout, or take another --to"
            )
        writer = FORMATS[form](build, names, stack)
        listed = (build / COUNTS).open("w", newline="", encoding="utf-8")
        table = csv.writer(stack.enter_context(listed), lineterminator="\n")
        table.writerow(
            ["file_name", "split", "sample_id", "class_name", "name", "count", "area_px"]
        )
        for split, row in iterate_splits(dataset):
            if not (row.get("mask") or {}).get("bytes"):
                without[split] += 1
                continue
            marked = read_marked(split, row)
            images[split] += 1
            path = build / writer.place(marked)
            if path.exists():
                raise InputError(f"{dataset.url}: holds two images {marked.file_name}: merge anew")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(marked.data)
            writer.add(marked)
            file_name = path.relative_to(build).as_posix()
            start = [file_name, split, marked.sample_id, row.get("class_name")]
            table.writerows([*start, *counted] for counted in marked.count())
            objects.setdefault(split, Counter()).update(marked.names)
            recipes[str(row.get("recipe_sha256"))] += 1
            ways[INSTANCES[marked.has_instances]] += 1
        writer.finish()
        told = {"images": dict(images), "without_mask": dict(without), "objects_are": dict(ways)}
        origin = {**describe_origin(dataset), "recipe_sha256": dict(recipes), "format": form}
        (build / PROVENANCE).write_text(write_json({**origin, **told}) + "\n", encoding="utf-8")
    _tell(without, ways)
    return {split: {"images": images[split], "objects": dict(objects[split])} for split in images}


def describe_origin(dataset: Dataset) -> dict[str, Any]:
    """Returns the name of the run's folder and recipe, its licence, and this version."""
    recipe = dataset.recipe
    return {
        "run": dataset.url.rstrip("/").rpartition("/")[2],
        "recipe": None if recipe is None else recipe.name,
        "license": dataset.card_header.get("license"),
        "factory": __version__,
    }


def _tell(without: Counter[str], ways: Counter[str]) -> None:
    if without.total():
        tell(f"{without.total():,} rows have no mask: they are left out")
    for way, count in sorted(ways.items()):
        tell(f"objects of {count:,} images: {way}")


__all__ = ["FORMATS", "export_annotations"]
