"""The picture on the card: a few images of each class."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from factory.core.images import decode_image
from factory.engine.run_folder import RunFolder

GRID_COLUMNS = 8
GRID_ROWS_MAX = 12


def draw_sample_grid(folder: RunFolder) -> bytes | None:
    """Draws the first accepted images, one row per class or caption block, as PNG."""
    rows = list(_pick_samples(folder))
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
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _pick_samples(folder: RunFolder) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Yields up to GRID_COLUMNS images of each class, from the first files only."""
    names = folder.files.list("data")
    wanted: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name in names[:1]:
        with folder.files.open_parquet(f"data/{name}") as table:
            for batch in table.iterate_batches(256, ["image", "class_name", "sample_id"]):
                for row in batch.to_pylist():
                    images = wanted.setdefault(row["class_name"] or "", [])
                    if len(images) < GRID_COLUMNS:
                        images.append(decode_image(row["image"]["bytes"], row["sample_id"]))
    yield from list(wanted.values())[:GRID_ROWS_MAX]
