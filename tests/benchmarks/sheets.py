"""Contact sheets: labelled rows of images as PNG files small enough for a model card."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from control import ATTRIBUTES, FORMS
from measures import Sampler, make_seeds, read_images
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from factory.catalog.captions.grid import CaptionGrid
from factory.core.hashing import derive_seed, hash_bytes
from factory.data.images import SourceImage
from factory.data.records import Condition
from factory.data.streams import Reference

MOST_PIXELS = 300_000
"""Of one sheet: a PNG of tissue takes up to 3 bytes per px, and a sheet is to stay below 1 MB."""

_STRIP = 110  # px for the labels
_LETTERS = 17  # in a line of a label
_GAP = 2
_COLUMNS = 6

Row = tuple[str, NDArray[np.uint8]]


def save_sheets(rows: Sequence[Row], folder: Path, name: str) -> list[str]:
    """Saves (label, (K, H, W, 3) uint8) rows in order; several files where one would be too large.

    Returns:
        The names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = max(1, MOST_PIXELS // max(images[..., 0].size for _, images in rows))
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]
    names = [f"{name}.png" if len(parts) == 1 else f"{name}-{i}.png" for i in range(len(parts))]
    for part, file in zip(parts, names, strict=True):
        draw_sheet(part).save(folder / file, optimize=True)
    return names


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draws one row of images below the other, each behind its label."""
    count = max(len(images) for _, images in rows)
    height, width = rows[0][1].shape[1:3]
    size = (_STRIP + count * (width + _GAP), len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, "white")
    write = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for number, (label, images) in enumerate(rows):
        top = number * (height + _GAP)
        text = textwrap.fill(label, _LETTERS)
        write.multiline_text((4, top + 4), text, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (_STRIP + column * (width + _GAP), top))
    return sheet


def draw_classes(sampler: Sampler, folder: Path, seed: int) -> list[str]:
    """Draws a row for each class: the images of the first seeds, not picked."""
    seeds = make_seeds(seed, "sheet", _COLUMNS)
    rows = [
        (name, sampler.sample([Condition(class_name=name)] * _COLUMNS, seeds))
        for name in sampler.class_names
    ]
    return save_sheets(rows, folder, "classes") if rows else []


def draw_attributes(
    sampler: Sampler, grid: CaptionGrid, organ: str, folder: Path, seed: int
) -> list[str]:
    """Draws a sheet for each attribute: a row for each value, of the same seeds."""
    seeds, names = make_seeds(seed, "sheet", _COLUMNS), []
    for attribute in ATTRIBUTES:
        rows: list[Row] = []
        for value, wordings in grid.attributes[attribute].items():
            text = FORMS[0].format(organ=organ, phrase=wordings[0])
            images = sampler.sample([Condition(caption=text)] * _COLUMNS, seeds)
            rows.append((f"{attribute} {value}", images))
        names += save_sheets(rows, folder, attribute)
    return names


def draw_references(
    sampler: Sampler, listed: Sequence[SourceImage], classes: Sequence[str], folder: Path, seed: int
) -> list[str]:
    """Draws rows of a real image, two of each class by seed, and its variations."""
    seeds = make_seeds(seed, "sheet", _COLUMNS)[1:]
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "references"))
    rows: list[Row] = []
    for name in classes:
        mine = [image for image in listed if image.class_name == name]
        for image in (mine[index] for index in draw.choice(len(mine), 2, replace=False)):
            first = read_images([image], sampler.size, "crop").pixels
            for strength in (1.0, 0.6):
                reference = Reference(image, hash_bytes(image.read_bytes()), strength)
                made = sampler.sample([Condition(None, None, reference)] * len(seeds), seeds)
                label = f"{name} reference strength {strength:g}"
                rows.append((label, np.concatenate([first, made])))
    return save_sheets(rows, folder, "references")
