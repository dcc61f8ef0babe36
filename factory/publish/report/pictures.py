"""Pictures of a report: stored images of chosen candidates, and thumbnails as data URIs."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.errors import SourceError
from factory.core.files.new_folder import WORK
from factory.core.images import XMP_MARK, decode_image
from factory.data.provenance import read_provenance
from factory.data.records import Shard
from factory.data.varied import Varied, parse_varied
from factory.engine.committed import read_markers
from factory.engine.plan import Outline
from factory.engine.run_folder import Marker, RunFolder
from factory.publish.report.collect import Shown
from factory.recipe.conditions import draw_condition, list_kept, list_real_columns

COLUMNS = ("image", "descriptor", "reference_sha256", "provenance")
LONGEST = 192
"""Longest side of a thumbnail, px."""
MAX_BYTES = 12_000
"""Stored files up to this size are embedded as they are."""


class Picture(NamedTuple):
    """A thumbnail: a data URI, and the size in px of the image that it stands for."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a candidate; `data` is None where its image was not kept."""

    data: bytes | None
    descriptor: NDArray[np.float16] | None
    condition: Mapping[str, Any]
    """As asked: what `Condition.describe` gave."""
    varied: Varied | None = None
    asked: tuple[NDArray[np.uint8], ...] = ()
    """What was asked for and can be seen, such as a mask: (H, W, 3) uint8 RGB each."""
    has_real: bool = False
    """Whether real images are among these."""

    def read_pixels(self, name: str) -> NDArray[np.uint8] | None:
        """Returns (H, W, 3) uint8 RGB, or None."""
        return None if self.data is None else decode_image(self.data, name)


def fetch_stored(
    folder: RunFolder,
    outline: Outline,
    shown: Iterable[Shown],
    matches: Mapping[str, str],
    with_real: bool = True,
) -> dict[str, Stored]:
    """Reads the images and descriptors of chosen candidates and of what they repeat.

    Args:
        folder: run folder.
        outline: its shards.
        shown: candidates, whose shards are known.
        matches: sample id -> key of its series, whose shards are searched.
        with_real: real images that rows keep, too.

    Returns:
        Sample id -> what is stored.

    Raises:
        StoreError: damaged data.
    """
    wanted: dict[Shard, set[str]] = defaultdict(set)
    for each in shown:
        wanted[each.shard].add(each.sample_id)
    found: dict[str, Stored] = {}
    open_ids = dict(matches)
    for shard in outline.iterate_shards():
        sought = {name for name, series in open_ids.items() if series == shard.series}
        ids = wanted.get(shard, set()) | sought
        if not ids:
            continue
        for marker in read_markers(folder, shard):
            for row in folder.read_rows(marker, ids, _choose_columns(folder, marker)):
                found[row["sample_id"]] = _read_stored(row, with_real)
                open_ids.pop(row["sample_id"], None)
    return found


def make_picture(data: bytes, name: str, is_synthetic: bool) -> Picture:
    """Makes the thumbnail of an encoded image; small files are embedded as they are.

    Args:
        data: any image that Pillow reads.
        name: for the error.
        is_synthetic: mark a new file as made by a trained algorithm.

    Raises:
        SourceError: not a readable image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            kind, (width, height) = opened.format, opened.size
    except OSError as error:
        raise SourceError(f"{name}: not a readable image: replace or remove it") from error
    if kind in {"PNG", "WEBP"} and len(data) <= MAX_BYTES and max(width, height) <= LONGEST:
        return Picture(_to_uri(data, str(kind).lower()), width, height)
    return draw_picture(decode_image(data, name), is_synthetic)


def draw_picture(pixels: NDArray[np.uint8], is_synthetic: bool) -> Picture:
    """Makes the thumbnail of (H, W, 3) uint8 RGB pixels."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    mark = {"xmp": XMP_MARK.encode()} if is_synthetic else {}
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, **mark)
    return Picture(_to_uri(buffer.getvalue(), "webp"), width, height)


def _to_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _choose_columns(folder: RunFolder, marker: Marker) -> list[str]:
    """Returns COLUMNS, and those that streams have in the table of a shard."""
    with folder.files.open_parquet(f"{WORK}/{marker.data}") as table:
        kept = list_kept(table.schema.names)
    return [*dict.fromkeys((*COLUMNS, *kept))]


def _read_stored(row: Mapping[str, Any], with_real: bool) -> Stored:
    known = row["descriptor"]
    descriptor = None if known is None else np.asarray(known, np.float16)
    condition = read_provenance(row).condition
    varied = parse_varied(row, str(row["sample_id"]))
    asked = tuple(draw_condition(condition, row, with_real))
    has_real = with_real and any(row[name] is not None for name in list_real_columns([*row]))
    return Stored(row["image"]["bytes"], descriptor, condition, varied, asked, has_real)
