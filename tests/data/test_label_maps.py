"""Label maps: read losslessly, fitted by nearest neighbour, coded by object."""

import io

import numpy as np
import pytest
from PIL import Image

from factory.core.errors import SourceError
from factory.data.label_maps import (
    TURNS,
    code_instances,
    decode_labels,
    encode_labels,
    fit_labels,
    hash_labels,
    list_unknown,
    paint_labels,
    translate_labels,
    turn_labels,
)

MAP = np.arange(6, dtype=np.uint8).reshape(2, 3)


def save(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("top", [5, 255, 256, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_ids_of_8_and_16_bits_are_read_as_they_were_written(top, kind):
    labels = np.array([[0, 1, top], [top, 0, 2]], np.uint8 if top <= 255 else np.uint16)
    data = encode_labels(labels) if kind == "PNG" else save(Image.fromarray(labels), kind)
    found = decode_labels(data, "m")
    assert found.dtype == labels.dtype
    assert np.array_equal(found, labels)


def test_one_bit_gives_0_and_1_and_a_palette_image_its_indices():
    one = Image.fromarray(np.array([[True, False]]))
    assert decode_labels(save(one), "m").tolist() == [[1, 0]]
    colours = Image.fromarray(MAP).convert("P")
    colours = Image.frombytes("P", (3, 2), MAP.tobytes())
    colours.putpalette([255, 0, 0, 0, 255, 0] + [7] * 762)
    assert np.array_equal(decode_labels(save(colours), "m"), MAP)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (4, 4)), r"m: 3 channels, but a label map has one"),
        (Image.fromarray(np.array([[0.5, 1.0]], np.float32)), r"m: values of float32 are no ids"),
        (Image.fromarray(np.array([[-1, 1]], np.int32)), r"m: values of int32 are no ids"),
    ],
)
def test_what_is_no_label_map_is_refused(image, message):
    with pytest.raises(SourceError, match=message):
        decode_labels(save(image, "TIFF"), "m")


def test_several_frames_and_broken_bytes_are_refused():
    frames = save(Image.fromarray(MAP), "TIFF", save_all=True, append_images=[Image.fromarray(MAP)])
    with pytest.raises(SourceError, match="one frame"):
        decode_labels(frames, "m")
    with pytest.raises(SourceError, match="m: not a readable image"):
        decode_labels(b"no image", "m")


def test_the_hash_is_of_size_and_values_not_of_the_depth():
    assert hash_labels(MAP) == hash_labels(MAP.astype(np.uint16))
    assert hash_labels(MAP) != hash_labels(MAP.reshape(3, 2))
    assert hash_labels(MAP) != hash_labels(MAP[:, ::-1])


def test_a_crop_keeps_the_scale_and_a_resize_invents_no_id():
    labels = np.random.default_rng(0).choice([0, 3, 200], (40, 60)).astype(np.uint8)
    assert np.array_equal(fit_labels(labels, 20, 10, "crop", "m"), labels[15:25, 20:40])
    smaller = fit_labels(labels, 17, 13, "resize", "m")
    assert smaller.shape == (13, 17)
    assert set(np.unique(smaller)) <= {0, 3, 200}
    assert np.array_equal(fit_labels(MAP, 6, 4, "resize", "m"), MAP.repeat(2, 0).repeat(2, 1))
    with pytest.raises(SourceError, match="m: 3 x 2 px, but 4 x 2 px are asked for"):
        fit_labels(MAP, 4, 2, "crop", "m")


def test_the_eight_turns_differ_and_the_first_changes_nothing():
    found = {
        turn_labels(MAP, turn).tobytes() + bytes(turn_labels(MAP, turn).shape)
        for turn in range(TURNS)
    }
    assert len(found) == TURNS
    assert np.array_equal(turn_labels(MAP, 0), MAP)


def test_objects_are_numbered_anew_in_their_order():
    labels = np.array([[0, 70, 70], [5, 0, 900]], np.uint16)
    assert code_instances(labels, 2, "m").tolist() == [[0, 2002, 2002], [2001, 0, 2003]]
    whole = np.array([[7, 9]], np.uint16)
    assert code_instances(whole, 1, "m").tolist() == [[1001, 1002]]
    many = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    with pytest.raises(SourceError, match="m: 1,199 objects, but 16 bits hold 999"):
        code_instances(many, 1, "m")


def test_unknown_ids_are_told_and_names_lead_to_the_models_ids():
    palette = ((2, "gland"), (5, "tumour"))
    assert list_unknown(MAP, palette) == (1, 3, 4)
    labels = np.array([[0, 2, 5]], np.uint8)
    assert translate_labels(labels, palette, {"tumour": 1, "gland": 9}).tolist() == [[0, 9, 1]]
    with pytest.raises(SourceError, match="the model knows no 'tumour': it knows gland"):
        translate_labels(labels, palette, {"gland": 1})
    assert translate_labels(labels[:, :2], palette, {"gland": 1}).tolist() == [[0, 1]]


def test_a_drawn_map_is_black_where_nothing_is_and_tells_ids_apart():
    painted = paint_labels(np.array([[0, 2, 5]], np.uint8), (5, 2))
    assert painted[0, 0].tolist() == [0, 0, 0]
    assert painted[0, 1].tolist() == [255, 255, 255]
    assert painted[0, 2].tolist() not in ([0, 0, 0], [255, 255, 255])
