"""Image bytes: lossless both ways, marked, and hashed by content."""

import io
import struct
import zlib

import numpy as np
import pytest
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from factory.core.errors import SourceError
from factory.core.images import decode_image, encode_image, hash_pixels, read_size

RED = np.full((8, 8, 3), (200, 30, 40), np.uint8)


@pytest.mark.parametrize("image_format", ["png", "webp"])
@given(seed=st.integers(0, 2**31), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=15)
def test_bytes_round_trip(image_format, seed, height, width):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = encode_image(pixels, image_format)
    assert np.array_equal(decode_image(data, "x"), pixels)


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_mark_is_inside(image_format):
    data = encode_image(RED, image_format)
    with Image.open(io.BytesIO(data)) as image:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    assert "trainedAlgorithmicMedia" in (xmp.decode() if isinstance(xmp, bytes) else xmp)


def test_equal_pixels_encode_to_equal_bytes():
    assert encode_image(RED, "webp") == encode_image(RED.copy(), "webp")


def test_alpha_is_laid_over_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(buffer, "PNG")
    assert (decode_image(buffer.getvalue(), "x") == 255).all()


def test_grey_becomes_rgb():
    buffer = io.BytesIO()
    Image.new("L", (4, 5), 77).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "x").shape == (5, 4, 3)


@pytest.mark.parametrize("data", [b"", b"not an image", encode_image(RED, "png")[:60]])
def test_garbage_names_the_file(data):
    with pytest.raises(SourceError, match=r"slide\.png"):
        decode_image(data, "slide.png")


def test_sixteen_bit_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(buffer, "PNG")
    with pytest.raises(SourceError, match="8-bit"):
        decode_image(buffer.getvalue(), "x")


@pytest.mark.stranger
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_turned_by_exif_as_datasets_turns_them(form, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = (250, 0, 0)
    pixels[8:, 24:] = (0, 0, 250)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, exif=exif)
    decoded = decode_image(buffer.getvalue(), "x")
    same = ImageFeature().decode_example({"bytes": buffer.getvalue(), "path": None})
    assert np.array_equal(decoded, np.asarray(same.convert("RGB")))
    assert decoded.shape == ((32, 16, 3) if orientation > 4 else (16, 32, 3))
    assert read_size(buffer.getvalue(), "x") == decoded.shape[1::-1]


def test_pixels_without_orientation_are_what_they_were():
    buffer = io.BytesIO()
    Image.fromarray(RED).save(buffer, "JPEG")
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        plain = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_image(buffer.getvalue(), "x"), plain)


def write_png(depth, kind, rows):
    """A PNG of 4 x 2 px by hand: Pillow writes no RGB of 16 bits."""

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 4, 2, depth, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header)]
    if kind == 3:
        parts.append(chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0])))
    parts += [chunk(b"IDAT", content), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_tiff(array, sample_format=1):
    """A TIFF of (H, W, C) by hand: Pillow writes no RGB of 16 bits."""
    height, width, channels = array.shape
    bits, tail = array.dtype.itemsize * 8, 8 + 2 + 11 * 12 + 4
    fields = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, tail if channels > 2 else bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels == 3 else 1),
        (273, 4, 1, tail + 12),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, array.nbytes),
        (284, 3, 1, 1),
        (339, 3, channels, tail + 6 if channels > 2 else sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    values = struct.pack("<3H", *[bits] * 3) + struct.pack("<3H", *[sample_format] * 3)
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    return head + entries + struct.pack("<I", 0) + values + array.tobytes()


def write_pillow(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.stranger
@pytest.mark.parametrize(
    "data",
    [
        write_png(16, 2, [b"\x00\xf0" * 12] * 2),
        write_png(16, 6, [b"\x00\xf0" * 16] * 2),
        write_png(16, 0, [b"\x00\xf0" * 4] * 2),
        write_png(16, 4, [b"\x00\xf0" * 8] * 2),
        write_tiff(np.full((8, 8, 3), 240, np.uint16)),
        write_tiff(np.full((8, 8, 1), 240, np.uint16)),
        write_tiff(np.full((8, 8, 1), 0.5, np.float32), 3),
        write_pillow(Image.fromarray(np.full((8, 8), 240, np.uint16)), "JPEG2000"),
        b"P6 2 1 65535 " + b"\x00\xf0" * 6,
    ],
)
def test_more_than_eight_bits_are_refused_by_the_files_own_depth(data):
    with pytest.raises(SourceError, match=r"slide\.x: .* not 8-bit RGB: convert it to RGB"):
        decode_image(data, "slide.x")


@pytest.mark.parametrize(
    ("data", "first"),
    [
        (write_png(8, 2, [bytes([9, 8, 7] * 4)] * 2), [9, 8, 7]),
        (write_png(1, 0, [b"\xf0"] * 2), [255, 255, 255]),
        (write_png(4, 0, [b"\xff\xff"] * 2), [255, 255, 255]),
        (write_png(1, 3, [b"\xf0"] * 2), [255, 0, 0]),
        (write_tiff(np.full((8, 8, 3), 24, np.uint8)), [24, 24, 24]),
        (write_pillow(Image.new("1", (8, 8), 1), "TIFF"), [255, 255, 255]),
        (write_pillow(Image.new("RGB", (8, 8), (1, 2, 3)), "JPEG2000"), [1, 2, 3]),
        (b"P6\n# made by hand\n2 1 255 " + b"\x01\x02\x03" * 2, [1, 2, 3]),
    ],
)
def test_eight_bits_and_fewer_are_read(data, first):
    assert decode_image(data, "x")[0, 0].tolist() == first


def test_hash_depends_on_shape():
    assert hash_pixels(RED.reshape(4, 16, 3)) != hash_pixels(RED)
