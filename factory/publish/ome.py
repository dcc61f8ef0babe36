"""OME-TIFF: each image with its named channels, units and µm per pixel, as microscopists read it.

OME-XML of the schema 2016-06 (openmicroscopy.org), written by tifffile. It has no half-precision
numbers, so that float16 is written as float32, without loss; units of values stand in a map
annotation, as channels of the schema have none.
"""

import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from factory.core.errors import InputError
from factory.core.files.new_folder import build_folder
from factory.core.images import decode_image
from factory.data.channels import COLUMN, Values
from factory.data.provenance import ChannelsRecord, read_provenance
from factory.engine.dataset import Dataset
from factory.publish.export import check_folder_name, iterate_splits

_OPAQUE = 255


def export_ome(
    dataset: Dataset, out: Path, unlabelled: str | None = None
) -> dict[str, dict[str, int]]:
    """Writes `OUT/SPLIT/CLASS/NAME.ome.tif`: the channels (C, H, W), else the RGB image.

    Args:
        dataset: what to export; its accepted rows.
        out: new folder.
        unlabelled: folder of images without a class; None: they lie in that of their split.

    Returns:
        Split -> class (empty: none) -> images.

    Raises:
        InputError: a class that cannot name a folder, `out` in use, or no tifffile here.
        StoreError: a damaged file.
    """
    tifffile = load_tifffile()
    counts: dict[str, Counter[str]] = {}
    with build_folder(out) as build:
        for split, row in iterate_splits(dataset):
            folder = row.get("class_name") or unlabelled or ""
            check_folder_name(folder)
            counted = counts.setdefault(split, Counter())
            stem = str(Path(row["image"]["path"]).stem)
            path = build / split / folder / f"{stem}.ome.tif"
            if path.exists():
                path = path.with_name(f"{stem}-{counted.total()}.ome.tif")
            path.parent.mkdir(parents=True, exist_ok=True)
            values, described = describe_image(row)
            is_rgb = described["axes"] == "YXS"
            tifffile.imwrite(
                path,
                values,
                ome=True,
                photometric="rgb" if is_rgb else "minisblack",
                compression="zlib",
                metadata=described,
            )
            counted[folder] += 1
    return {split: dict(counted) for split, counted in counts.items()}


def load_tifffile() -> ModuleType:
    """Returns the module tifffile.

    Raises:
        InputError: it is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise InputError(
            "OME-TIFF needs the package tifffile: pip install 'factory-pathology[ome]'"
        ) from error
    loaded: ModuleType = tifffile
    return loaded


def describe_scale(mpp: float | None) -> dict[str, Any]:
    """Returns what OME-XML says of µm per pixel; nothing where they are not known."""
    if mpp is None:
        return {}
    return {
        key: value
        for axis in "XY"
        for key, value in ((f"PhysicalSize{axis}", mpp), (f"PhysicalSize{axis}Unit", "µm"))
    }


def describe_image(row: Mapping[str, Any]) -> tuple[Values, dict[str, Any]]:
    """Returns the planes of a row, and what OME-XML says of them.

    Raises:
        SourceError: an image that cannot be decoded.
        DamageError: a row of ours without readable provenance.
    """
    record = read_provenance(row) if row.get("provenance") else None
    mpp = row.get("asked_mpp") or (None if record is None else record.generator.mpp)
    identity = str(row.get("sample_id") or row["image_sha256"])[:32]
    told: dict[str, Any] = {"Name": str(Path(row["image"]["path"]).stem)}
    told["UUID"] = str(uuid.UUID(identity))  # tifffile's own would differ with each export
    told |= describe_scale(mpp)
    if row.get("caption") or row.get("prompt"):
        told["Description"] = row.get("caption") or row["prompt"]
    values, channels = row.get(COLUMN), None if record is None else record.generator.channels
    if values is None or channels is None:
        return decode_image(row["image"]["bytes"], told["Name"]), {**told, "axes": "YXS"}
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return values, {**told, "axes": "CYX", **_describe_channels(channels)}


def _describe_channels(channels: ChannelsRecord) -> dict[str, Any]:
    named: dict[str, Any] = {"Name": [each.name for each in channels.named]}
    if all(each.color is not None for each in channels.named):
        named["Color"] = [_pack(each.color) for each in channels.named if each.color is not None]
    units = {each.name: each.unit for each in channels.named if each.unit}
    annotation = {"Namespace": "factory/units", **units}
    return {"Channel": named, **({"MapAnnotation": annotation} if units else {})}


def _pack(color: tuple[int, int, int]) -> int:
    """Returns RGBA as the signed 32-bit number that OME-XML has."""
    red, green, blue = color
    packed = red << 24 | green << 16 | blue << 8 | _OPAQUE
    return packed - (1 << 32) if packed >= 1 << 31 else packed
