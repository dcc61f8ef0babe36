"""The recipe's near-duplicate rule once more, over the accepted images of a data set."""

import json
from typing import Any

import numpy as np

from factory.core.errors import FactoryError
from factory.core.images import decode_image
from factory.core.thumbnails import describe_images
from factory.data.provenance import read_provenance
from factory.engine.dataset import Row
from factory.engine.dedup import SimilarityIndex
from factory.publish.verify.findings import Report
from factory.recipe.recipe import Recipe


class Duplicates:
    """The recipe's near-duplicate rule once more, within what can be told of each series."""

    def __init__(self, report: Report, recipe: Recipe | None) -> None:
        dedup = None if recipe is None else recipe.dedup
        blocks = () if recipe is None else recipe.blocks
        captions = [block for block in blocks if block.is_caption]
        self.report = report
        self.max_similarity = None if dedup is None else dedup.max_similarity
        self.has_one_grid = len(captions) <= 1
        self.series: dict[str, tuple[Any, list[str]]] = {}
        if dedup is None:
            report.note("near-duplicates: the recipe has no dedup")
        if not self.has_one_grid:
            report.note("near-duplicates of captions: the recipe has several blocks of them")

    def check(self, row: Row) -> None:
        """Compares one accepted image with those of its series before it."""
        values = row.values
        is_captioned = values["caption"] is not None and values["reference_sha256"] is None
        if self.max_similarity is None or (is_captioned and not self.has_one_grid):
            return
        try:
            key = "captions" if is_captioned else _name_series(values)
            pixels = decode_image(values["image"]["bytes"], row.place)
        except FactoryError:
            return  # booked already
        if key not in self.series:
            self.series[key] = (SimilarityIndex(self.max_similarity), [])
        index, names = self.series[key]
        descriptor = np.asarray(describe_images(pixels[None]), np.float16)
        self.report.checked["near-duplicates"] += 1
        match = int(index.find(descriptor)[0])
        if match >= 0:
            message = f"similarity > {self.max_similarity} to {names[match]}"
            self.report.fail("near-duplicates", row.file, message, row.place, "image")
        index.add(descriptor)
        names.append(str(row.sample_id))


def _name_series(values: Any) -> str:
    """Returns what the rows of one series share: class, and how they vary real images."""
    reference = read_provenance(values).condition.get("reference")
    varied = None if reference is None else [reference["strength"], reference["fit"]]
    return json.dumps([values["class_name"], values["caption"], varied])
