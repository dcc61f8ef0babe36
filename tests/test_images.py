"""Image bytes: lossless both ways, marked, and hashed by content."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.errors import SourceError
from factory.images import decode_image, encode_image, hash_pixels

RED = np.full((8, 8, 3), (200, 30, 40), np.uint8)


@pytest.mark.parametrize("image_format", ["png", "webp"])
@given(seed=st.integers(0, 2**31), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
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


def test_hash_depends_on_shape():
    assert hash_pixels(RED.reshape(4, 16, 3)) != hash_pixels(RED)
