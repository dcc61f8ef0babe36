"""Diffusion models translate: inversion, injection, and rows stand alone."""

import numpy as np
import pytest

from factory.data.images import list_images
from factory.data.records import Condition, Job, Request
from factory.data.streams import Source
from factory.data.streams.source import Injection, Translation
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from tests import ASSETS
from tests.tiny import save_tiny

PCAM = ASSETS / "pcam" / "train"
INVERT = Translation("invert", keep_glass=False)
TARGETS = {"flow": ("TUM", None), "stable-diffusion": (None, "pink"), "pixart-sigma": (None, "p")}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny(name, folder / name) for name in TARGETS}


@pytest.fixture(scope="module")
def sources():
    images = list_images(PCAM)[:4]
    return [(each, f"{row:064d}") for row, each in enumerate(images)]


def translate(folder, sources, way=INVERT, target=(None, None), *others, **settings):
    asked = GeneratorSettings(
        **{"model": str(folder), "steps": 6, "batch_size": 4, "device": "cpu"} | settings
    )
    generator = build_generator(asked, None, folder)
    conditions = [Condition(*target, Source(*each, way, "resize"), *others) for each in sources]
    jobs = [Job(Request("s", 0, each, 0), 0, 5) for each in conditions]
    return np.stack([each.pixels for each in generator.generate(jobs)])


@pytest.mark.parametrize("name", TARGETS)
def test_a_row_alone_is_the_row_in_its_batch(models, sources, name):
    way = Translation("invert", strength=0.5, inject=Injection(), keep_glass=False)
    together = translate(models[name], sources, way, TARGETS[name])
    assert len(np.unique(together, axis=0)) == 4
    for row, each in enumerate(sources):
        alone = translate(models[name], [each], way, TARGETS[name])
        assert np.array_equal(alone[0], together[row])
