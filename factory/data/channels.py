"""Named channels of an image beside its RGB composite: checks, composite, hash, .npy bytes.

The composite is for people, and for filters of RGB. Its rule (`COMPOSITE`, in the provenance): each
channel is scaled from its `window`, or from the 1st and 99.8th percentile of its own values, to
[0, 1], clipped, multiplied with its colour, and all are added. Channels without a colour are left
out; where none has one, the first six are blue, green, red, yellow, magenta and cyan.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any, TypeAlias

from factory.catalog.entries import ImageChannels
from factory.core.errors import DamageError, GenerationError
from factory.core.images import hash_pixels
from factory.core.late import NDArray, np
from factory.data.provenance import ChannelsRecord
from factory.data.records import Sample

COLUMN = "channels"
"""Of rows: (C, H, W); in shards .npy bytes, in data sets nested lists, `datasets.Array3D`."""
COMPOSITE = "additive, window or 1-99.8 percentile"
PERCENTILES = (1.0, 99.8)
CYCLE = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0), (255, 0, 255), (0, 255, 255))
TYPES = ("uint8", "uint16", "float16", "float32")

Values: TypeAlias = "NDArray[Any]"
"""(C, H, W) of one of the types of TYPES."""


def describe_channels(channels: ImageChannels | None) -> dict[str, Any]:
    """Returns what a generator's description says of its channels; nothing where it has none."""
    if channels is None:
        return {}
    named = [each.model_dump(mode="json", exclude_none=True) for each in channels.named]
    return {"channels": {"dtype": channels.dtype, "named": named, "composite": COMPOSITE}}


def name_made(channels: ImageChannels | None) -> tuple[str, ...]:
    """Returns the names of channels; none where a model makes RGB alone."""
    return () if channels is None else tuple(each.name for each in channels.named)


def compose_rgb(values: Values, channels: ImageChannels) -> NDArray[np.uint8]:
    """Returns the (H, W, 3) uint8 composite of (C, H, W) values, by the rule of this module."""
    colors = [channel.color for channel in channels.named]
    if not any(colors):
        colors = [*CYCLE[: len(colors)], *[None] * (len(colors) - len(CYCLE))]
    total = np.zeros((*values.shape[1:], 3))
    for plane, channel, color in zip(values, channels.named, colors, strict=True):
        if color is not None:
            total += _scale(plane, channel.window)[..., None] * np.asarray(color, np.float64)
    composite: NDArray[np.uint8] = np.rint(np.clip(total, 0.0, 255.0)).astype(np.uint8)
    return composite


def _scale(plane: Values, window: tuple[float, float] | None) -> NDArray[np.float64]:
    known = np.isfinite(plane)
    if not known.any():
        return np.zeros(plane.shape)
    wide = plane.astype(np.float64)
    low, high = np.percentile(wide[known], PERCENTILES) if window is None else window
    if high <= low:
        return np.zeros(plane.shape)
    return np.where(known, np.clip((np.where(known, wide, low) - low) / (high - low), 0, 1), 0)


def check_channels(sample: Sample, channels: ChannelsRecord | None) -> Values | None:
    """Returns the channels of a sample, as they are declared.

    Raises:
        GenerationError: it has none, others, or such as were never declared.
    """
    values = sample.channels
    if channels is None and values is None:
        return None
    if channels is None or values is None:
        missing = "declares no channels, and made some" if channels is None else "made no channels"
        raise GenerationError(f"the generator {missing}: family and catalog entry must agree")
    wanted = (len(channels.named), *sample.pixels.shape[:2])
    if values.shape != wanted or values.dtype != channels.dtype:
        raise GenerationError(
            f"channels must be {wanted} {channels.dtype}, the generator made {values.shape} "
            f"{values.dtype}: family and catalog entry must agree"
        )
    return values


def hash_image(pixels: NDArray[np.uint8], values: Values | None) -> str:
    """Returns the sha256 of the pixels, and of the channels where there are any.

    Without channels it is that of `hash_pixels`.
    """
    found = hash_pixels(pixels)
    if values is None:
        return found
    return hashlib.sha256(f"{found}:{hash_values(values)}".encode()).hexdigest()


def hash_values(values: Values) -> str:
    """Returns the sha256 of shape, type and values, 64 hex characters."""
    header = f"{'x'.join(map(str, values.shape))}:{values.dtype.name}:".encode()
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(header + little.tobytes()).hexdigest()


def encode_values(values: Values) -> bytes:
    """Returns the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def decode_values(data: bytes, where: str) -> Values:
    """Returns (C, H, W) of the bytes of a .npy file.

    Raises:
        DamageError: they are none; names `where`.
    """
    try:
        values: Values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamageError(f"{where}: channels: no readable .npy ({error})") from error
    if values.ndim != 3 or values.dtype.name not in TYPES:
        raise DamageError(f"{where}: channels: want (C, H, W), got {values.shape} {values.dtype}")
    return values


def name_channels(channels: ChannelsRecord) -> str:
    """Returns names with units, for people."""
    units: Iterable[str] = (f" ({each.unit})" if each.unit else "" for each in channels.named)
    return ", ".join(each.name + unit for each, unit in zip(channels.named, units, strict=True))
