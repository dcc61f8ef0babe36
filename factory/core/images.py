"""Image bytes: lossless encoding with the synthetic-media mark, decoding, and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import struct
from collections.abc import Iterator
from typing import Literal

from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from factory.core.errors import SourceError
from factory.core.late import NDArray, np
from factory.core.warned import name_image

ImageFormat = Literal["webp", "png"]

XMP_MARK = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    "Iptc4xmpExt:DigitalSourceType="
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)
"""IPTC Photo Metadata Standard 2023.1, property Digital Source Type."""


_QUARTER_TURNS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height (Exif 2.32, tag 0x0112)."""
_NOT_RGB = ("I", "F", "CMYK", "LAB", "HSV")
"""Pillow's modes of more than 8 bits, and of colours that need a profile to become RGB."""


def encode_image(
    pixels: NDArray[np.uint8], image_format: ImageFormat, is_synthetic: bool = True
) -> bytes:
    """Encodes one image losslessly.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        image_format: `webp` (lossless, smaller and faster here) or `png`.
        is_synthetic: mark it as made by a trained algorithm; False where factory did not make it.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if image_format == "webp":
        mark = {"xmp": XMP_MARK.encode()} if is_synthetic else {}
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0, **mark)
    else:
        info = PngImagePlugin.PngInfo()
        if is_synthetic:
            info.add_itxt("XML:com.adobe.xmp", XMP_MARK)
        image.save(buffer, "PNG", compress_level=1, pnginfo=info)
    return buffer.getvalue()


@contextlib.contextmanager
def open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    """Opens image bytes; what Pillow raises meanwhile is told with their name.

    Raises:
        SourceError: bytes that are not a readable image.
    """
    try:
        with name_image(name), Image.open(io.BytesIO(data)) as opened:
            yield opened
    except UnidentifiedImageError as error:
        raise SourceError(f"{name}: not a readable image: replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise SourceError(f"{name}: {error}: cut it into patches, or replace it") from error
    except (OSError, ValueError, LookupError, SyntaxError, struct.error) as error:
        told = f"{name}: not a readable image ({error})"
        raise SourceError(f"{told}: replace or remove it") from error


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decodes image bytes to (H, W, 3) uint8 RGB; `name` is used in the error.

    Grey and palette images become RGB; an alpha channel is laid over white, the background of a
    slide. An image is turned as its EXIF orientation says, as `datasets` and browsers turn it.

    Raises:
        SourceError: bytes that are not a readable 8-bit image.
    """
    with open_image(data, name) as opened:
        _check_depth(opened, data, name)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        image = opened
        if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """Returns width and height, px, as `decode_image` turns it; reads the header only.

    Raises:
        SourceError: bytes that are not a readable image.
    """
    with open_image(data, name) as opened:
        width, height = opened.size
        if opened.format == "TIFF":  # some versions of Pillow give its size turned already
            tags = opened.tag_v2  # type: ignore[attr-defined]
            width, height = int(tags[256]), int(tags[257])
        is_turned = opened.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (height, width) if is_turned else (width, height)


def _check_depth(image: Image.Image, data: bytes, name: str) -> None:
    """Refuses what 8-bit RGB cannot show: what its darkest and brightest stand for is not known."""
    if image.mode.startswith(_NOT_RGB):
        raise SourceError(f"{name}: mode {image.mode} is not 8-bit RGB: convert it to RGB")
    depth = _read_depth(image, data)
    if depth > 8:
        raise SourceError(f"{name}: {depth} bits a channel are not 8-bit RGB: convert it to RGB")


def _read_depth(image: Image.Image, data: bytes) -> int:
    """Returns the bits per channel that the file itself tells, 8 where its format has no others.

    Pillow's mode does not tell: it opens RGB of 16 bits as 8-bit RGB.
    """
    if image.format == "PNG":
        return data[24]  # IHDR, PNG specification (third edition), section 11.2.1
    if image.format == "TIFF":
        found = getattr(image, "tag_v2", {}).get(258, 8)  # BitsPerSample, TIFF 6.0, section 8
        return int(max(found) if isinstance(found, tuple) else found)
    if image.format == "JPEG2000":
        place = data.find(b"ihdr")  # bits less one, ISO/IEC 15444-1, annex I.5.3.1
        if place >= 0:
            return (data[place + 14] & 0x7F) + 1
        return (data[42] & 0x7F) + 1  # SIZ of a bare codestream, annex A.5.1
    if image.format == "PPM":
        words = re.sub(rb"#[^\n]*", b"", data[:1000]).split(maxsplit=4)
        return 8 if words[0] not in {b"P2", b"P3", b"P5", b"P6"} else int(words[3]).bit_length()
    return 8


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Returns the sha256 of an image's size and raw RGB values, 64 hex characters.

    The hash is of the pixels, not of the file, so that another encoder version or format changes
    nothing.
    """
    height, width, channels = pixels.shape
    header = f"{height}x{width}x{channels}:".encode()
    return hashlib.sha256(header + np.ascontiguousarray(pixels).tobytes()).hexdigest()
