"""The views that a generator of parallel streams learns from, with all that is known of each.

Views are cut once and mapped into memory, and features of encoders are computed once; both lie
under the digest of what made them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import bin_attributes
from factory.core.errors import SourceError
from factory.core.files.atomic import write_file
from factory.core.hashing import compute_digest, derive_seed
from factory.core.plain import write_json
from factory.core.stains import measure_attributes, segment_nuclei
from factory.core.text_rows import read_table
from factory.data.images import SourceImage, list_images
from factory.data.patients import Patients, list_patients
from factory.models.encoders import Encoder
from factory.train.images import identify, is_held_out
from factory.train.multi.settings import Masks, MultiData, MultiSource

_CHUNK = 256
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Views:
    """Views of one set.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB, mapped from disk.
        masks: (N, S, S) uint8 label maps, or None for a set without masks.
        attributes: caption attribute -> value of each view.
        labels: (N,) class indices, -1 where no class is to be learned.
        vector: (N, V) named values, NaN where one is not known.
        features: (N, D) of the encoder, or None.
        mpp: (N,) µm per pixel, NaN where it is not known.
        held_out: (N,) bool: kept out of training.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    attributes: tuple[dict[str, str], ...]
    labels: NDArray[np.int64]
    vector: Floats
    features: Floats | None
    mpp: Floats
    held_out: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Height and width, px."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True)
class Collection:
    """All sets of a recipe.

    Attributes:
        sets: one for each source.
        class_names: in the order of the labels.
        vector_names: named values, in the order of the vectors.
        control_labels: labels of masks; the k-th is k in the maps, counted from 1.
        digest: of all of it.
        patients: whose images these are.
    """

    sets: tuple[Views, ...]
    class_names: tuple[str, ...]
    vector_names: tuple[str, ...]
    control_labels: tuple[str, ...]
    digest: str
    patients: Patients


def load_collection(
    data: MultiData, grid: CaptionGrid | None, seed: int, cache: Path, encoder: Encoder | None
) -> Collection:
    """Reads all sets, or maps what an earlier call with the same data left in `cache`.

    Raises:
        SourceError: an image, mask or table that cannot be read or does not fit.
    """
    listed = [_list_source(source) for source in data.sources]
    pairs = list(zip(data.sources, listed, strict=True))
    names = sorted({str(each.class_name) for s, images in pairs if s.labels for each in images})
    tables = [None if each.values is None else _read_values(each) for each in data.sources]
    columns = sorted({name for table in tables if table for name in next(iter(table.values()))})
    labels = sorted({n for each in data.sources if each.masks for n in each.masks.labels.values()})
    sets, digests = [], []
    for (source, images), table in zip(pairs, tables, strict=True):
        size = source.size or data.image_size
        digest = compute_digest("training-views", _describe(source, images, grid, seed, size))
        folder = cache / digest[:16]
        if not (folder / "views.json").exists():
            _cut_all(source, images, size, grid, seed, folder)
        found = _open(source, folder, labels)
        rows = [images[index] for index, _ in _list_views(source, images)]
        known = [names.index(str(each.class_name)) if source.labels else -1 for each in rows]
        held = [_is_kept_back(each, source, data.held_out, seed) for each in rows]
        sets.append(
            Views(
                **found,
                labels=np.array(known, np.int64),
                vector=_gather_values(table, columns, rows, source),
                features=None if encoder is None else _encode(found["pixels"], encoder, folder),
                held_out=np.array(held, bool),
            )
        )
        digests.append(digest)
    digest = compute_digest("collection", [digests, columns, labels, names])
    patients = list_patients([image for images in listed for image in images])
    told = tuple(names), tuple(columns), tuple(labels)
    return Collection(tuple(sets), *told, digest, patients)


def _list_source(source: MultiSource) -> tuple[SourceImage, ...]:
    return list_images(
        source.images, image_column=source.image_column, group_pattern=source.group_pattern
    )


def _describe(
    source: MultiSource,
    images: Sequence[SourceImage],
    grid: CaptionGrid | None,
    seed: int,
    size: int,
) -> dict[str, Any]:
    return {
        "images": [identify(image) for image in images],
        "measures": describe_measures(grid),
        "seed": seed,
        "size": size,
        "views": [source.views, source.scale, source.fit],
        "facts": source.facts,
        "mpp": source.mpp,
        "masked": "stain" if _is_measured(source) else source.masks is not None,
    }


def _is_measured(source: MultiSource) -> bool:
    return source.masks is not None and source.masks.folder is None


def describe_measures(grid: CaptionGrid | None) -> dict[str, Any] | None:
    """Returns what of a grid decides the attributes of a view: neither its words nor its rules."""
    if grid is None:
        return None
    measures = {name: measure.model_dump(mode="json") for name, measure in grid.measures.items()}
    return {name: [each, list(grid.attributes[name])] for name, each in measures.items()}


def _list_views(source: MultiSource, images: Sequence[SourceImage]) -> list[tuple[int, int]]:
    """Returns (image, view)."""
    return [(index, view) for index in range(len(images)) for view in range(source.views)]


def _cut_all(
    source: MultiSource,
    images: Sequence[SourceImage],
    size: int,
    grid: CaptionGrid | None,
    seed: int,
    folder: Path,
) -> None:
    """Writes the views, then what is known of them, which makes them count."""
    folder.mkdir(parents=True, exist_ok=True)
    views = _list_views(source, images)
    shape = (len(views), size, size)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (*shape, 3))
    masks = None
    if source.masks is not None:
        masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, shape)
    shares, last = [], -1
    whole, mask = np.zeros((1, 1, 3), np.uint8), None
    for row, (index, view) in enumerate(views):
        if last != index:
            last, whole = index, images[index].read_pixels()
            mask = _read_mask(source, images[index], whole)
        draw = np.random.default_rng(derive_seed(seed, "view", images[index].key, view))
        top, left, side = _choose_box(whole.shape, size, source, draw if view else None)
        box = (slice(top, top + side), slice(left, left + side))
        cut = Image.fromarray(np.ascontiguousarray(whole[box]))
        pixels[row] = np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))
        if masks is not None and mask is not None:
            map_cut = Image.fromarray(np.ascontiguousarray(mask[box]))
            masks[row] = np.asarray(map_cut.resize((size, size), Image.Resampling.NEAREST))
        shares.append(side / size)
    values: list[dict[str, str]] = []
    for start in range(0, len(views), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = np.ascontiguousarray(pixels[rows])
        values += bin_attributes(grid, measure_attributes(part)) if grid else []
        if masks is not None and _is_measured(source):
            masks[rows] = segment_nuclei(part)
    pixels.flush()
    known = {"values": values, "pixels_a_pixel": shares}
    write_file(folder / "views.json", write_json(known, indent=None).encode())


def _choose_box(
    shape: tuple[int, ...], size: int, source: MultiSource, draw: np.random.Generator | None
) -> tuple[int, int, int]:
    """Returns top, left and side of a view: the central square, or a random one.

    With `fit: crop` the central square has the size of the view, where the image is larger.
    """
    height, width = shape[:2]
    most = min(height, width)
    if draw is None:
        side = min(most, size) if source.fit == "crop" else most
        return (height - side) // 2, (width - side) // 2, side
    low, high = source.scale
    side = max(1, round(most * float(draw.uniform(low, high))))
    return int(draw.integers(0, height - side + 1)), int(draw.integers(0, width - side + 1)), side


def _read_mask(source: MultiSource, image: SourceImage, whole: NDArray[np.uint8]) -> Any:
    """Returns the (H, W) uint8 values of an image's mask; None without a file of it."""
    masks = source.masks
    if masks is None or masks.folder is None:
        return None
    path = (masks.folder / image.key).with_suffix(".png")
    try:
        with Image.open(path) as file:
            values = np.asarray(file).astype(np.uint8)
    except OSError as error:
        raise SourceError(f"{path}: no readable mask of {image.place} ({error})") from error
    if values.shape != whole.shape[:2]:
        raise SourceError(f"{path}: {values.shape}, its image {whole.shape[:2]}: give masks of it")
    return values


def _open(source: MultiSource, folder: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Returns what of the views is kept in files."""
    known = json.loads((folder / "views.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
    masks = None
    if source.masks is not None:
        masks = _name_labels(
            np.load(folder / "masks.npy", allow_pickle=False), source.masks, labels
        )
    shares = np.array(known["pixels_a_pixel"], np.float32)
    return {
        "pixels": pixels,
        "masks": masks,
        "attributes": tuple({**each, **source.facts} for each in known["values"]),
        "mpp": shares * np.float32(np.nan if source.mpp is None else source.mpp),
    }


def _name_labels(
    values: NDArray[np.uint8], masks: Masks, labels: Sequence[str]
) -> NDArray[np.uint8]:
    """Returns maps of a collection's labels from the values of one set's files."""
    table = np.zeros(256, np.uint8)
    for value, name in masks.labels.items():
        table[value] = labels.index(name) + 1
    return table[values]


def _read_values(source: MultiSource) -> dict[str, dict[str, float]]:
    """Returns file name without ending -> name -> value."""
    values, found = source.values, dict[str, dict[str, float]]()
    assert values is not None  # as this is asked of tables alone
    for line, row in read_table(values.table):
        try:
            key = row.pop(values.key)
            found[key] = {name: float(each) for name, each in row.items()}
        except (KeyError, ValueError) as error:
            raise SourceError(
                f"{values.table}:{line}: no numbers by {values.key!r} "
                f"({type(error).__name__}: {error}): correct the row, or values.key"
            ) from error
    return found


def _gather_values(
    table: dict[str, dict[str, float]] | None,
    columns: Sequence[str],
    rows: Sequence[SourceImage],
    source: MultiSource,
) -> Floats:
    if table is None:
        return np.full((len(rows), len(columns)), np.nan, np.float32)
    lacking = [image.key for image in rows if Path(image.key).stem not in table]
    if lacking:
        raise SourceError(f"{source.images}: the table has no row for {lacking[0]}")
    stems = [table[Path(image.key).stem] for image in rows]
    return np.array([[each.get(name, np.nan) for name in columns] for each in stems], np.float32)


def _encode(pixels: NDArray[np.uint8], encoder: Encoder, folder: Path) -> Floats:
    """Returns (N, D) features, computed once for an encoder's weights."""
    digest = compute_digest("features", encoder.describe())
    path = folder / f"features-{digest[:16]}.npy"
    if not path.exists():
        parts = [
            encoder.encode(np.ascontiguousarray(pixels[start : start + _CHUNK]))
            for start in range(0, len(pixels), _CHUNK)
        ]
        partial = path.with_suffix(".tmp.npy")
        np.save(partial, np.concatenate(parts))
        partial.rename(path)
    return np.asarray(np.load(path, allow_pickle=False), np.float32)


def _is_kept_back(image: SourceImage, source: MultiSource, share: float, seed: int) -> bool:
    return image.class_name in source.held_out_classes or is_held_out(image, share, seed)
