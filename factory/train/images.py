"""The images that a generator learns from: decoded once into a file that is mapped into memory."""

import json
from collections.abc import Iterator, Sequence
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
from factory.core.stains import measure_attributes
from factory.data.images import SourceImage, check_fit, fit_source, list_images
from factory.data.patients import Patients, list_patients
from factory.train.generator.settings import DataSettings, SourceSettings

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """Views of real images, and what is known of each.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB, mapped from disk.
        labels: (N,) class indices, -1 where no class is to be learned.
        captions: given captions, or None for images without one.
        values: caption attribute -> value of each view; empty where captions are not measured.
        sources: (N,) index of the source.
        held_out: (N,) bool: kept out of training.
        class_names: in the order of the labels.
        digest: of all of it.
        patients: whose images these are.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    captions: tuple[str | None, ...]
    values: tuple[dict[str, str], ...]
    sources: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    class_names: tuple[str, ...]
    digest: str
    patients: Patients


def load_training_images(
    data: DataSettings, grid: CaptionGrid | None, seed: int, cache: Path
) -> TrainingImages:
    """Reads all sources, or maps what an earlier call with the same data left in `cache`.

    A held-out image is held out with all its views; images of one patient or slide stay together
    where the source tells them.

    Args:
        data: the recipe's section; paths are resolved.
        grid: caption grid whose measured attributes are taken from the pixels, or None.
        seed: of random views and of the images held out.
        cache: folder for the decoded pixels.

    Raises:
        SourceError: an image cannot be read, or a class is missing or cannot be named.
    """
    listed = [
        list_images(source.images, image_column=source.image_column) for source in data.sources
    ]
    for settings, images in zip(data.sources, listed, strict=True):
        check_fit(images, data.image_size, data.image_size, settings.fit, settings.images)
    class_names = _list_class_names(data.sources, listed)
    described = {
        "data": json.loads(data.model_dump_json(exclude={"sources": {"__all__": _NOT_SHAPING}})),
        "grid": grid.model_dump(mode="json") if grid else None,
        "seed": seed,
        "images": [[identify(image) for image in images] for images in listed],
        **_name_columns(data),
    }
    digest = compute_digest("training-images", described)
    path, sidecar = cache / f"{digest[:16]}.npy", cache / f"{digest[:16]}.json"
    views = [(s, i, v) for s, i, v in _list_views(data.sources, listed)]
    if not sidecar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _decode(data, listed, views, grid, seed, path, sidecar)
    values = json.loads(sidecar.read_text(encoding="utf-8"))
    labels, captions, sources, held = [], [], [], []
    for source, index, _ in views:
        image = listed[source][index]
        learns = data.sources[source].labels
        labels.append(class_names.index(str(image.class_name)) if learns else -1)
        captions.append(image.caption)
        sources.append(source)
        held.append(is_held_out(image, data.held_out, seed))
    return TrainingImages(
        pixels=np.load(path, mmap_mode="r"),
        labels=np.array(labels, np.int64),
        captions=tuple(captions),
        values=tuple(values),
        sources=np.array(sources, np.int64),
        held_out=np.array(held, bool),
        class_names=class_names,
        digest=digest,
        patients=list_patients([image for images in listed for image in images]),
    )


_NOT_SHAPING = {"images", "image_column", "weight"}


def _list_views(
    sources: Sequence[SourceSettings], listed: Sequence[Sequence[SourceImage]]
) -> Iterator[tuple[int, int, int]]:
    """Yields (source, image, view)."""
    for source, images in enumerate(listed):
        for index in range(len(images)):
            for view in range(sources[source].views):
                yield source, index, view


def _decode(
    data: DataSettings,
    listed: Sequence[Sequence[SourceImage]],
    views: Sequence[tuple[int, int, int]],
    grid: CaptionGrid | None,
    seed: int,
    path: Path,
    sidecar: Path,
) -> None:
    """Writes the pixels of all views, then what is measured in them, which makes them count."""
    size = data.image_size
    pixels = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(len(views), size, size, 3)
    )
    values: list[dict[str, str]] = []
    last, whole = (-1, -1), np.zeros((1, 1, 3), np.uint8)
    for row, (source, index, view) in enumerate(views):
        if last != (source, index):
            last, whole = (source, index), listed[source][index].read_pixels()
        settings = data.sources[source]
        draw = np.random.default_rng(derive_seed(seed, "view", source, index, view))
        pixels[row] = cut_view(whole, size, settings, draw if view else None)
        if (row + 1) % _CHUNK == 0 or row + 1 == len(views):
            values += _measure(grid, pixels[len(values) : row + 1])
    for (source, _, _), known in zip(views, values, strict=True):
        known.update(data.sources[source].facts)
    pixels.flush()
    write_file(sidecar, write_json(values, indent=None).encode())


def _measure(grid: CaptionGrid | None, pixels: NDArray[np.uint8]) -> list[dict[str, str]]:
    if grid is None:
        return [{} for _ in pixels]
    return bin_attributes(grid, measure_attributes(np.ascontiguousarray(pixels)))


def cut_view(
    pixels: NDArray[np.uint8],
    size: int,
    settings: SourceSettings,
    draw: np.random.Generator | None,
) -> NDArray[np.uint8]:
    """Returns a (size, size, 3) view: the fitted image, or a random square where `draw` is."""
    if draw is None:
        return fit_source(pixels, size, size, settings.fit, str(settings.images))
    height, width = pixels.shape[:2]
    low, high = settings.scale
    side = max(1, round(min(height, width) * float(draw.uniform(low, high))))
    top = int(draw.integers(0, height - side + 1))
    left = int(draw.integers(0, width - side + 1))
    cut = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))


def _name_columns(data: DataSettings) -> dict[str, Any]:
    """Returns the columns of the images where a recipe names any: other columns, other images."""
    names = [source.image_column for source in data.sources]
    return {"image_columns": names} if any(names) else {}


def identify(image: SourceImage) -> list[str | int]:
    """Returns key and size: cheap to read, and other data under the same names rarely shares it."""
    size = image.span[1] if image.span is not None else image.path.stat().st_size
    return [image.key, size]


def is_held_out(image: SourceImage, share: float, seed: int) -> bool:
    """Tells whether an image is of the share that is kept back; patients stay whole."""
    key: Any = image.group if image.group is not None else image.key
    return derive_seed(seed, "held-out", key) / 2**63 < share


def _list_class_names(
    sources: Sequence[SourceSettings], listed: Sequence[Sequence[SourceImage]]
) -> tuple[str, ...]:
    """Returns the classes to learn, source by source, each source's sorted."""
    names: dict[str, None] = {}
    for source, images in zip(sources, listed, strict=True):
        if not source.labels:
            continue
        if any(image.class_name is None for image in images):
            raise SourceError(
                f"{source.images}: images without a class: put them in class folders, or set "
                "labels: false to learn without"
            )
        names |= dict.fromkeys(sorted({str(image.class_name) for image in images}))
    commas = [name for name in names if "," in name]
    if commas:
        raise SourceError(f"class {commas[0]!r}: rename the folder without a comma")
    return tuple(names)
