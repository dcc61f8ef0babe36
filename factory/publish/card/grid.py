"""The picture on the card: a few images of each class."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from factory.core.images import decode_image
from factory.core.sheets import set_beside
from factory.data.provenance import read_provenance
from factory.engine.dataset import DATA, Dataset
from factory.recipe.conditions import draw_condition, list_kept

GRID_COLUMNS = 8
GRID_ROWS_MAX = 12
COLUMNS = ("image", "class_name", "sample_id")
Pixels = np.ndarray[Any, Any]


def draw_sample_grid(dataset: Dataset) -> bytes | None:
    """Draws the first accepted images, one row per class or caption block, as PNG."""
    rows = list(_pick_samples(dataset))
    if not rows:
        return None
    height, width = rows[0][0].shape[:2]
    zoom = max(1, 128 // max(height, width))
    cell_height, cell_width, gap = height * zoom, width * zoom, 4
    canvas = Image.new(
        "RGB",
        (
            max(map(len, rows)) * (cell_width + gap) - gap,
            len(rows) * (cell_height + gap) - gap,
        ),
        "white",
    )
    for y, images in enumerate(rows):
        for x, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((cell_width, cell_height))
            canvas.paste(image, (x * (cell_width + gap), y * (cell_height + gap)))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=1)  # as rows are: three times as fast
    return buffer.getvalue()


def _pick_samples(dataset: Dataset) -> Iterator[list[Pixels]]:
    """Yields up to GRID_COLUMNS images of each class, from the first files only.

    What was asked for and can be seen, such as a mask, stands to the right of each.
    """
    wanted: dict[str, list[tuple[Pixels, list[Pixels]]]] = {}
    for name in dataset.list_tables(DATA)[:1]:
        kept = [*list_kept(dataset.read_schema(name).names)]
        columns = [*COLUMNS, *kept, *(["provenance"] if kept else [])]
        for row in dataset.iterate_rows(name, columns, check_pages=False):
            images = wanted.setdefault(row.values["class_name"] or "", [])
            if len(images) < GRID_COLUMNS:
                pixels = decode_image(row.values["image"]["bytes"], row.place)
                asked = read_provenance(row.values).condition if kept else {}
                images.append((pixels, draw_condition(asked, row.values)))
    shown = list(wanted.values())[:GRID_ROWS_MAX]
    room = max((len(asked) for images in shown for _, asked in images), default=0)
    yield from ([set_beside(*pair, room) for pair in images] for images in shown)
