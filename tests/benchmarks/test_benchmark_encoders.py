"""What the benchmark of encoders computes: fits on all images and on shots, stain, time."""

import argparse
import sys

import numpy as np
import pytest
import torch

from tests import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # scripts import by bare names

from encoders import RESNET, find_encoder, measure_set, time_encoder, write_tables
from measures import Images

from factory.core.errors import InputError

OPTIONS = argparse.Namespace(shots=[3, 10], draws=4, seed=0)


class MeanColour:
    """Three features: the mean of each channel, of images whose classes are colours."""

    dim = 3

    def encode(self, images):
        return images.mean((1, 2), dtype=np.float32)


class Constant(MeanColour):
    """Features that know nothing."""

    def encode(self, images):
        return np.ones((len(images), 3), np.float32)


def draw_set(count, seed):
    """Pink and purple tissue of varying strength, in equal shares."""
    draw = np.random.default_rng(seed)
    labels = np.array(["pink", "purple"] * (count // 2))
    colours = np.where((labels == "pink")[:, None], (225, 130, 180), (110, 70, 160))
    strength = draw.uniform(0.8, 1.2, (count, 1))
    base = 255 - (255 - colours) * strength
    noise = draw.normal(0, 8, (count, 32, 32, 3))
    pixels = (base[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    return Images(pixels, labels)


def test_informative_features_beat_those_that_know_nothing():
    train, test = draw_set(16, 0), draw_set(40, 1)
    good = measure_set(MeanColour(), train, test, OPTIONS)
    bad = measure_set(Constant(), train, test, OPTIONS)
    assert (good["balanced_accuracy"], good["interval"]) == (1.0, [1.0, 1.0])
    assert bad["balanced_accuracy"] == 0.5
    assert good["shots_3"]["mean"] > 0.9 > bad["shots_3"]["mean"]
    assert good["shots_10"] is None  # 8 of each class
    assert good["stain_r2"] > 0.5 > bad["stain_r2"]


def test_an_encoder_is_named_by_id_by_folder_or_is_untrained(tmp_path):
    name, encoder = find_encoder(RESNET)
    assert (name, encoder.dim) == (RESNET, 256)
    images = draw_set(4, 0).pixels
    assert np.array_equal(encoder.encode(images), find_encoder(RESNET)[1].encode(images))
    assert find_encoder("color-texture")[0] == "color-texture"
    with pytest.raises(InputError, match="not a usable encoder"):
        find_encoder(f"mine={tmp_path}")


def test_time_is_taken_on_one_thread_and_threads_are_given_back():
    before = torch.get_num_threads()
    assert time_encoder(MeanColour(), draw_set(16, 0).pixels) > 10
    assert torch.get_num_threads() == before


def test_tables_tell_where_shots_are_too_few():
    train, test = draw_set(16, 0), draw_set(20, 1)
    one = measure_set(MeanColour(), train, test, OPTIONS)
    found = {
        "size": 32,
        "draws": 4,
        "images": {"tints": [16, 20]},
        "classes": {"tints": 2},
        "encoders": {
            "mean": {"encoder": {"dim": 3}, "images_per_second": 9.0, "sets": {"tints": one}}
        },
    }
    text = "\n".join(write_tables(found, [3, 10]))
    assert f"| mean | {one['balanced_accuracy']:.3f} ({one['interval'][0]:.3f} to " in text
    assert "too few" in text and "2 classes, 16 training and 20 test" in text
