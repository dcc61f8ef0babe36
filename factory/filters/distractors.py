"""Captions that a caption is ranked among, drawn by its own text from a grid or a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from factory.catalog.captions.file import read_captions
from factory.catalog.captions.grid import CaptionGrid, caption_at, count_captions
from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, derive_seed

FindCaptions = Callable[[str], CaptionGrid]
"""Maps a catalog id to its caption grid."""

_TRIES = 20
"""Draws per distractor; pools so small that they could fail are sorted instead."""


@dataclass(frozen=True)
class CaptionPool:
    """Captions by index.

    Attributes:
        count: how many; those of a file are all different.
        read: index -> caption.
        sha256: identity of the pool.
    """

    count: int
    read: Callable[[int], str]
    sha256: str


def open_pool(name: str, base: Path, column: str, find: FindCaptions) -> CaptionPool:
    """Opens the captions of a file, or of a grid by catalog id.

    Raises:
        SourceError: a file that cannot be read, or neither file nor catalog.
        CatalogError: no such grid.
    """
    path = base / Path(name).expanduser()
    if path.is_file():
        captions = tuple(dict.fromkeys(read_captions(path, column, None)[0]))
        digest = compute_digest("captions", sorted(captions))
        return CaptionPool(len(captions), captions.__getitem__, digest)
    grid = find(name)
    described = grid.model_dump(mode="json", exclude={"title", "measures"})
    return CaptionPool(
        count_captions(grid),
        lambda index: caption_at(grid, index)[0],
        compute_digest("captions", described),
    )


def draw_distractors(pool: CaptionPool, caption: str, wanted: int, seed: int) -> tuple[str, ...]:
    """Draws different captions other than `caption`; nothing but caption and seed matters.

    Raises:
        SourceError: the pool has too few.
    """
    found: dict[str, None] = {}
    if pool.count > 2 * wanted + 2:
        for turn in range(_TRIES * wanted):
            place = derive_seed(seed, "distractor", caption, turn) % pool.count
            found.setdefault(pool.read(place))
            if len(found.keys() - {caption}) == wanted:
                break
    else:
        texts = {pool.read(place) for place in range(pool.count)}
        ranked = sorted(texts, key=lambda text: compute_digest("distractor", [seed, caption, text]))
        found = dict.fromkeys(ranked)
    others = tuple(text for text in found if text != caption)[:wanted]
    if len(others) < wanted:
        raise SourceError(
            f"captions: {len(others)} other captions are too few for {wanted} distractors: lower "
            "distractors"
        )
    return others
