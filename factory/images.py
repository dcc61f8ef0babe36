"""Image bytes: lossless encoding with the synthetic-media mark, decoding, and hashes."""

import hashlib
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from factory.errors import SourceError

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


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decodes image bytes to (H, W, 3) uint8 RGB; `name` is used in the error.

    Grey and palette images become RGB; an alpha channel is laid over white, the background of a
    slide.

    Raises:
        SourceError: bytes that are not a readable 8-bit image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image: Image.Image = opened
        if image.mode.startswith(_NOT_RGB):
            raise SourceError(f"{name}: mode {image.mode} is not 8-bit RGB: convert it to RGB")
        if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise SourceError(f"{name}: not a readable image: replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise SourceError(f"{name}: {error}: cut it into patches, or replace it") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SourceError(
            f"{name}: not a readable image ({error}): replace or remove it"
        ) from error


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Returns the sha256 of an image's size and raw RGB values, 64 hex characters.

    The hash is of the pixels, not of the file, so that another encoder version or format changes
    nothing.
    """
    height, width, channels = pixels.shape
    header = f"{height}x{width}x{channels}:".encode()
    return hashlib.sha256(header + np.ascontiguousarray(pixels).tobytes()).hexdigest()
