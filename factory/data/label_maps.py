"""Label maps: masks whose values are ids. Read losslessly, fitted by nearest neighbour, drawn.

A map of ids has those of a palette (id -> name; 0 is nothing). A map of instances tells objects
apart: each value is id * 1000 + n, as Cityscapes codes its `instanceIds`
(https://github.com/mcordts/cityscapesScripts), so that one 16-bit image holds name and object.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from PIL import Image

from factory.core.errors import SourceError
from factory.core.images import open_image
from factory.core.late import NDArray, np

INSTANCES = 1000
"""Values of a map of instances: id * INSTANCES + n, with n from 1 to INSTANCES - 1."""
MOST_ID = 255
"""Of a palette; of maps of instances, what 16 bits hold."""
TURNS = 8
"""Flips and quarter turns of a square, the identity first."""

Values = Literal["ids", "objects", "coded"]
"""Of a mask: ids of a palette; 1 .. n, each an object; or id * INSTANCES + n."""
Labels: TypeAlias = "NDArray[np.unsignedinteger[Any]]"
Palette = tuple[tuple[int, str], ...]
"""(id, name), sorted by id."""

_COLORS = (
    (255, 255, 255),
    (230, 75, 53),
    (77, 187, 213),
    (0, 160, 135),
    (243, 155, 127),
    (145, 209, 194),
    (255, 204, 0),
    (132, 145, 180),
    (176, 156, 133),
    (126, 97, 72),
)


class MapSource(Protocol):
    """Where a label map comes from: a file, a layout that is drawn, or the row that kept it.

    Equal ones give equal maps.
    """

    def __hash__(self) -> int:
        """Returns the same for equal ones."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what tells it from all others, as plain data."""
        ...

    def read(self, width: int, height: int) -> Labels:
        """Returns the (height, width) map: ids of the palette, or coded instances.

        Raises:
            SourceError: it cannot be read, or does not fit.
        """
        ...


def decode_labels(data: bytes, name: str) -> Labels:
    """Decodes a PNG or TIFF of one channel to (H, W) uint8 or uint16; `name` is for the error.

    A palette image gives its indices, one of 1 bit 0 and 1.

    Raises:
        SourceError: no readable image, several channels or frames, or values that are no ids.
    """
    with open_image(data, name) as opened:
        if getattr(opened, "n_frames", 1) > 1:
            raise SourceError(f"{name}: a label map has one frame: save them one by one")
        found = np.asarray(opened)
    if found.ndim != 2:
        raise SourceError(
            f"{name}: {found.shape[-1]} channels, but a label map has one, whose values are ids: "
            "save it as an 8- or 16-bit grey PNG"
        )
    if found.dtype.kind not in "bui" or (found.size and (found.min() < 0 or found.max() > 65535)):
        raise SourceError(f"{name}: values of {found.dtype} are no ids: use whole ones, 0 to 65535")
    return found.astype(np.uint8 if not found.size or found.max() <= MOST_ID else np.uint16)


def encode_labels(labels: Labels) -> bytes:
    """Encodes a map as a grey PNG, 8 or 16 bits as its dtype has; no mark: no model made it."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def hash_labels(labels: Labels) -> str:
    """Returns the sha256 of a map's size and values, whatever file and depth they come in."""
    header = "{}x{}:".format(*labels.shape).encode()
    return hashlib.sha256(header + labels.astype("<u2").tobytes()).hexdigest()


def fit_labels(labels: Labels, width: int, height: int, fit: str, place: str) -> Labels:
    """Brings a map to (height, width) by nearest neighbour, as `fit_source` does images.

    Raises:
        SourceError: under `crop`, a map smaller than that; names its place.
    """
    rows, columns = labels.shape
    if fit == "crop" and (columns < width or rows < height):
        raise SourceError(
            f"{place}: {columns} x {rows} px, but {width} x {height} px are asked for, and "
            "`fit: crop` keeps the scale (mpp), so it enlarges nothing: take `fit: resize`, "
            "larger masks, or a smaller size"
        )
    scale = max(width / columns, height / rows, 1.0 if fit == "crop" else 0.0)
    area = (min(columns, round(width / scale)), min(rows, round(height / scale)))
    left, top = (columns - area[0]) // 2, (rows - area[1]) // 2
    x = left + ((np.arange(width) + 0.5) * area[0] / width).astype(np.int64)
    y = top + ((np.arange(height) + 0.5) * area[1] / height).astype(np.int64)
    return labels[np.ix_(y, x)]


def turn_labels(labels: Labels, turn: int) -> Labels:
    """Returns one of the eight flips and quarter turns of a map; 0 is the map as it is."""
    turned = np.rot90(labels, turn % 4)
    return np.ascontiguousarray(turned[:, ::-1] if turn >= 4 else turned)


def tell_small(size: tuple[int, int], wanted: tuple[int, int]) -> str | None:
    """Says that `fit: crop` gives no map of `wanted` from one of `size`, (width, height); or not.

    Short, for checks before a run.
    """
    if size[0] >= wanted[0] and size[1] >= wanted[1]:
        return None
    got, asked = (f"{width} x {height} px" for width, height in (size, wanted))
    return f"{got}, but {asked} are asked for: take resize, or larger masks"


def tell_crowded(labels: Labels) -> str | None:
    """Says that a map of objects 1 .. n has more than can be coded; None where it has not."""
    count = len(np.unique(labels[labels > 0]))
    if count < INSTANCES:
        return None
    return (
        f"{count:,} objects, but 16 bits hold {INSTANCES - 1} of each name: cut it into smaller "
        "masks"
    )


def code_instances(labels: Labels, identifier: int, place: str) -> NDArray[np.uint16]:
    """Codes a map of objects 1 .. n, all of one id; they are numbered anew, in their order.

    Raises:
        SourceError: more than 999 objects.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape) + (0 if values.size and values[0] == 0 else 1)
    crowded = tell_crowded(labels)
    if crowded is not None:
        raise SourceError(f"{place}: {crowded}")
    coded = np.where(labels > 0, identifier * INSTANCES + numbers, 0)
    return coded.astype(np.uint16)


def list_ids(coded: Labels) -> NDArray[np.uint16]:
    """Returns the ids of a map of instances; one of no objects may come in 8 bits."""
    return np.asarray(coded.astype(np.uint16) // INSTANCES)


def list_unknown(labels: Labels, palette: Palette) -> tuple[int, ...]:
    """Returns the ids of a map that its palette does not name, sorted."""
    known = {0, *(identifier for identifier, _ in palette)}
    return tuple(sorted(set(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - known))


def translate_labels(
    labels: Labels, palette: Palette, wanted: Mapping[str, int]
) -> NDArray[np.uint8]:
    """Returns a map with the ids that another palette (name -> id) gives the same names.

    Raises:
        SourceError: a name of the map that the other palette lacks.
    """
    table = np.zeros(MOST_ID + 1, np.uint8)
    for identifier, name in palette:
        if name in wanted:
            table[identifier] = wanted[name]
        elif (labels == identifier).any():
            known = ", ".join(wanted)
            raise SourceError(f"mask: the model knows no {name!r}: it knows {known}")
    return table[labels]


def paint_labels(
    labels: Labels, ids: Sequence[int], colors: Mapping[int, tuple[int, int, int]] | None = None
) -> NDArray[np.uint8]:
    """Draws a map for people and for ControlNets: (H, W, 3) uint8 RGB, black where nothing is.

    Args:
        labels: (H, W) ids, none above 255.
        ids: of the palette; the first is white, the others have colours of their own.
        colors: id -> RGB, of those that get others.
    """
    table = np.zeros((MOST_ID + 1, 3), np.uint8)
    for position, identifier in enumerate(sorted(ids)):
        table[identifier] = (colors or {}).get(identifier, _COLORS[position % len(_COLORS)])
    return table[labels]
