"""Files of images of any number of channels: `.npy`, OME-TIFF and RGB, known by their names."""

from pathlib import Path

import numpy as np

from factory.core.errors import InputError, SourceError
from factory.core.images import decode_image
from factory.data.channels import Values

SUFFIXES = (
    *(".channels.npy", ".npy", ".ome.tiff", ".ome.tif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".tiff", ".tif"),
)


def name_key(path: Path) -> str:
    """Returns a file's name without its suffixes, with the folders that it lies in."""
    text = path.as_posix()
    suffix = next((each for each in SUFFIXES if text.lower().endswith(each)), "")
    return text[: len(text) - len(suffix)]


def list_values(root: Path) -> dict[str, Path]:
    """Returns key -> file of a folder, at any depth.

    Raises:
        InputError: no such folder, nothing in it, or two files of one key.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: give one of .npy, OME-TIFF or RGB images")
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.lower().endswith(SUFFIXES):
            key = name_key(path.relative_to(root))
            if key in found:
                raise InputError(f"{path}: another file has the key {key!r}: remove one")
            found[key] = path
    if not found:
        raise InputError(f"{root}: holds no {', '.join(SUFFIXES)}")
    return found


def read_values(path: Path) -> Values:
    """Returns (C, H, W).

    Raises:
        SourceError: it cannot be read, or has other axes.
        InputError: OME-TIFF without tifffile.
    """
    name = path.name.lower()
    if name.endswith(".npy"):
        try:
            found: Values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"{path}: not a readable .npy ({error})") from error
    elif name.endswith((".ome.tif", ".ome.tiff")):
        found = _read_ome(path)
    else:
        return np.moveaxis(decode_image(path.read_bytes(), str(path)), -1, 0)
    if found.ndim != 3 or not found.size or found.dtype.kind not in "uif":
        raise SourceError(f"{path}: want (C, H, W), got {found.shape} {found.dtype}")
    return found


def _read_ome(path: Path) -> Values:
    try:
        import tifffile
    except ImportError as error:
        raise InputError(
            f"{path}: needs the package tifffile: pip install 'factory-pathology[ome]'"
        ) from error
    try:
        with tifffile.TiffFile(path) as tiff:
            found: Values = tiff.asarray()
            axes = tiff.series[0].axes
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise SourceError(f"{path}: not a readable TIFF ({error})") from error
    return np.moveaxis(found, -1, 0) if axes == "YXS" else found
