"""Layouts: masks that are drawn, not read, as many as wanted, after what was fitted to real ones.

A pattern (of one class) holds what `factory train layout` found in real masks. A layout is drawn in
three steps, each from a seed and an index alone:

1. How many: a density is drawn from those of the real masks, as they vary from one to the next.
2. Where: a Gibbs process of so many points whose pairs attract or repel by their distance
   (`interaction`: the logarithm of a step function, as in Penttinen 1984's multiscale processes and
   `PairPiece` of Baddeley & Turner 2005), and never come nearer than `core` times the sum of their
   radii; sampled by Metropolis moves of one point at a time at a fixed count (Ripley 1979).
3. What: the outline of a real object, by its distances from the centre along 32 rays (star-convex
   polygons, as StarDist of Schmidt et al. 2018), turned and mirrored by chance and scaled by up to
   a tenth.

Where two overlap, the first that was drawn keeps the pixels; the later one loses them, and is left
out where it would lose more than a fifth. Objects of masks that did not tell touching ones apart
stay 1 px apart (`gap`), as they were parts of their own.
"""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field, PrivateAttr

from factory.core.errors import DamageError, MismatchError, SourceError
from factory.core.hashing import compute_digest, derive_seed
from factory.core.late import NDArray, np
from factory.data.artefact import Artefact, Part
from factory.data.label_maps import INSTANCES, Palette

RAYS = 32
"""Directions in which an outline is stored."""
SWEEPS = 20
"""Moves for each point: more changed the pair correlation of nuclei by less than its noise."""
JITTER = 0.1
"""Share by which a shape is made larger or smaller, at most."""
MOST_LOST = 0.2
"""Share of its pixels that an object may lose to others and still be drawn."""
_FORBIDDEN = 50.0

Floats: TypeAlias = "NDArray[np.float64]"


class Shapes(Part):
    """Outlines of real objects: (N, RAYS) uint8 in base64, in units of `unit` px."""

    unit: float
    rays: str

    def decode(self) -> Floats:
        """Returns (N, RAYS) distances from the centre, px."""
        flat = np.frombuffer(base64.b64decode(self.rays), np.uint8)
        return flat.reshape(-1, RAYS).astype(np.float64) * self.unit

    @classmethod
    def encode(cls, radii: Floats) -> Shapes:
        """Stores (N, RAYS) distances, px."""
        unit = round(float(radii.max()) / 255, 6)
        data = np.rint(radii / unit).clip(1, 255).astype(np.uint8).tobytes()
        return cls(unit=unit, rays=base64.b64encode(data).decode())


class Pattern(Part):
    """What was found in the masks of one class."""

    masks: int = Field(description="that it was fitted to")
    densities: tuple[float, ...] = Field(description="objects per million px, quantiles")
    excess: float = Field(description="points drawn for each object that is seen")
    step: float = Field(description="px of one step of the interaction")
    interaction: tuple[float, ...] = Field(description="logarithm, by distance")
    core: float = Field(description="least distance, in sums of radii")
    shares: dict[str, float] = Field(description="id -> share of the objects")
    shapes: dict[str, Shapes] = Field(description="id -> outlines")
    measured: dict[str, dict[str, float]] = Field(
        {}, description="measure -> distance to the real masks, and of these among themselves"
    )


class Layout(Artefact):
    """A file of patterns, by class; a single one without classes is called `all`."""

    name: str
    palette: dict[str, str]
    gap: int = 0
    mpp: float | None = None
    window: tuple[int, int] = Field(description="px of the masks that it was fitted to")
    source: str = ""
    licence: dict[str, Any] | None = None
    patterns: dict[str, Pattern]
    _sha256: str = PrivateAttr("")

    @property
    def sha256(self) -> str:
        """Of all that shapes a mask: patterns and palette, not names and terms."""
        if not self._sha256:
            told = self.model_dump(mode="json", include={"palette", "gap", "patterns"})
            for pattern in told["patterns"].values():
                del pattern["measured"], pattern["masks"]
            self._sha256 = compute_digest("layout", told)
        return self._sha256

    @property
    def ids(self) -> Palette:
        """Ids and names, sorted by id."""
        return tuple(sorted((int(key), name) for key, name in self.palette.items()))


@functools.lru_cache(maxsize=16)
def _parse(data: bytes) -> Layout:
    return Layout.parse(data)


def read_layout(path: Path) -> Layout:
    """Reads a layout.

    Raises:
        SourceError: not there, or none.
    """
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error}): give a layout's file") from error
    except (DamageError, MismatchError) as error:
        raise SourceError(f"{path}: no layout ({error}): make one with train layout") from error


@dataclass(frozen=True)
class DrawnMask:
    """A mask that is drawn: the `index`-th of a pattern and a seed; `zoom` enlarges all."""

    layout: Layout
    pattern: str
    seed: int
    index: int
    zoom: float = 1.0

    def describe(self) -> dict[str, Any]:
        """Returns what it is drawn from."""
        named = {"layout": self.layout.sha256, "pattern": self.pattern}
        described = {**named, "seed": self.seed, "index": self.index}
        return described if self.zoom == 1 else {**described, "zoom": self.zoom}

    def read(self, width: int, height: int) -> NDArray[np.uint16]:
        """Returns the (height, width) map of coded objects.

        Raises:
            SourceError: more objects of an id than 16 bits hold.
        """
        layout, pattern = self.layout, self.layout.patterns[self.pattern]
        seed = derive_seed(self.seed, "layout", layout.sha256, self.pattern, self.index)
        draw = np.random.default_rng(seed)
        return draw_pattern(pattern, draw, width, height, layout.gap, self.zoom)

    def __hash__(self) -> int:
        return hash((self.layout.sha256, self.pattern, self.seed, self.index, self.zoom))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DrawnMask) and self.describe() == other.describe()


def draw_pattern(
    pattern: Pattern,
    draw: np.random.Generator,
    width: int,
    height: int,
    gap: int = 0,
    zoom: float = 1.0,
) -> NDArray[np.uint16]:
    """Draws a mask of (height, width): id * 1000 + n where an object is.

    Args:
        pattern: what it is drawn after.
        draw: gives all chance.
        width: px.
        height: px.
        gap: px that stay free around an object.
        zoom: px of the mask for each px of those that the pattern was fitted to.

    Raises:
        SourceError: more objects of an id than 16 bits hold.
    """
    shapes = {int(key): each.decode() for key, each in pattern.shapes.items()}
    margin = max(float(np.quantile(radii.mean(1), 0.9)) for radii in shapes.values())
    field = np.array([width, height]) / zoom + 2 * margin
    expected = draw_density(pattern, draw) * width * height / zoom**2 * pattern.excess
    count = int(expected + draw.random())
    ids = draw.choice([int(key) for key in pattern.shares], count, p=list(pattern.shares.values()))
    if count and np.bincount(ids).max() >= INSTANCES:
        raise SourceError(
            f"layout: more than {INSTANCES - 1} objects of one name on {width} x {height} px: ask "
            "for smaller images"
        )
    outlines = [shapes[each][int(draw.integers(len(shapes[each])))] for each in ids.tolist()]
    outlines = [radii * draw.uniform(1 - JITTER, 1 + JITTER) for radii in outlines]
    sizes = np.array([np.sqrt((radii**2).mean()) for radii in outlines])
    points = _place(pattern, draw, sizes, field)
    turns = [(draw.uniform(0, 2 * np.pi), bool(draw.integers(2))) for _ in outlines]
    corner = round(margin * zoom)
    canvas = _Canvas(width, height, corner, gap)
    for point, radii, identifier, turn in zip(points, outlines, ids.tolist(), turns, strict=True):
        canvas.paint((point - margin) * zoom, radii * zoom, identifier, *turn)
    return canvas.crop()


def draw_density(pattern: Pattern, draw: np.random.Generator) -> float:
    """Returns objects per px, drawn from the quantiles of real masks: the first chance of all."""
    levels = np.array(pattern.densities)
    return float(np.interp(draw.random(), np.linspace(0, 1, len(levels)), levels)) / 1e6


def _place(pattern: Pattern, draw: np.random.Generator, sizes: Floats, field: Floats) -> Floats:
    """Returns (N, 2) points in a field, moved one by one until the start is forgotten."""
    count = len(sizes)
    points = draw.random((count, 2)) * field
    moves = SWEEPS * count if count > 1 else 0
    chosen = draw.integers(max(count, 1), size=moves).tolist()
    targets = draw.random((moves, 2)) * field
    coins = np.log(np.maximum(draw.random(moves), 1e-300)).tolist()
    table = np.array([*pattern.interaction, 0.0])
    last = len(table) - 1

    def weigh(place: Floats, mine: int) -> float:
        away = np.hypot(points[:, 0] - place[0], points[:, 1] - place[1])
        away[mine] = np.inf
        steps = np.minimum(away / pattern.step, last).astype(np.int64)
        near = np.count_nonzero(away < pattern.core * (sizes + sizes[mine]))
        return float(table[steps].sum()) - _FORBIDDEN * near

    for mine, target, coin in zip(chosen, targets, coins, strict=True):
        if coin < weigh(target, mine) - weigh(points[mine], mine):
            points[mine] = target
    return points


class _Canvas:
    """Where objects are painted: larger than the mask by `corner` px on each side."""

    def __init__(self, width: int, height: int, corner: int, gap: int) -> None:
        self.size, self.corner, self.gap = (width, height), corner, gap
        self.labels = np.zeros((height + 2 * corner, width + 2 * corner), np.uint16)
        self.taken = np.zeros(self.labels.shape, bool)
        self.counts: dict[int, int] = {}

    def paint(
        self, centre: Floats, radii: Floats, identifier: int, angle: float, is_mirrored: bool
    ) -> None:
        """Paints an object where none is; `centre` is (x, y) px in the mask, which it may leave."""
        x, y = centre + self.corner
        reach = int(np.ceil(radii.max())) + 1
        rows = slice(max(0, int(y) - reach), max(0, int(y) + reach + 1))
        columns = slice(max(0, int(x) - reach), max(0, int(x) + reach + 1))
        shape = self.labels[rows, columns].shape
        if 0 in shape:
            return
        down = np.arange(rows.start, rows.start + shape[0])[:, None] - y
        right = np.arange(columns.start, columns.start + shape[1])[None, :] - x
        turned = np.arctan2(down, -right if is_mirrored else right) + angle
        ray = (turned / (2 * np.pi) * RAYS) % RAYS
        first = ray.astype(np.int64) % RAYS
        part = ray - np.floor(ray)
        edge = radii[first] * (1 - part) + radii[(first + 1) % RAYS] * part
        mine = np.hypot(down, right) <= edge
        free = mine & ~self.taken[rows, columns]
        if not free.any() or free.sum() < MOST_LOST * mine.sum():
            return
        number = self.counts.get(identifier, 0) + 1
        self.counts[identifier] = number
        self.labels[rows, columns][free] = identifier * INSTANCES + number
        self.taken[rows, columns] |= free
        if self.gap:
            from scipy import ndimage

            wider = (
                slice(max(0, rows.start - self.gap), rows.stop + self.gap),
                slice(max(0, columns.start - self.gap), columns.stop + self.gap),
            )
            own = self.labels[wider] == identifier * INSTANCES + number
            self.taken[wider] |= ndimage.binary_dilation(own, np.ones((3, 3)), self.gap)

    def crop(self) -> NDArray[np.uint16]:
        """Returns the mask without its margin."""
        rows = slice(self.corner, self.corner + self.size[1])
        columns = slice(self.corner, self.corner + self.size[0])
        return np.ascontiguousarray(self.labels[rows, columns])
