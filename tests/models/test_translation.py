"""Diffusion models translate: inversion, injection, and rows stand alone."""

import numpy as np
import pytest

from factory.core.errors import InputError
from factory.data.images import list_images
from factory.data.records import Condition, Job, Request
from factory.data.streams import Domain, Source
from factory.data.streams.source import Injection, Translation
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from tests import ASSETS
from tests.tiny import save_tiny

PCAM = ASSETS / "pcam" / "train"
INVERT = Translation("invert", keep_glass=False)
TARGETS = {
    "flow": ("TUM", None),
    "multi": ("TUM", None),
    "stable-diffusion": (None, "pink"),
    "pixart-sigma": (None, "pink"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny(name, folder / name) for name in TARGETS}


@pytest.fixture(scope="module")
def sources():
    images = list_images(PCAM)[:4]
    return [(each, f"{row:064d}") for row, each in enumerate(images)]


def translate(*asked, **settings):
    return np.stack([each.pixels for each in sample(*asked, **settings)])


def sample(folder, sources, way=INVERT, target=(None, None), *others, **settings):
    asked = GeneratorSettings(
        **{"model": str(folder), "steps": 6, "batch_size": 4, "device": "cpu"} | settings
    )
    generator = build_generator(asked, None, folder)
    conditions = [Condition(*target, Source(*each, way, "resize"), *others) for each in sources]
    jobs = [Job(Request("s", 0, each, 0), 0, 5) for each in conditions]
    return generator.generate(jobs)


@pytest.mark.parametrize("name", TARGETS)
def test_a_row_alone_is_the_row_in_its_batch(models, sources, name):
    way = Translation("invert", strength=0.5, inject=Injection(), keep_glass=False)
    together = translate(models[name], sources, way, TARGETS[name])
    assert len(np.unique(together, axis=0)) == 4
    for row, each in enumerate(sources):
        alone = translate(models[name], [each], way, TARGETS[name])
        assert np.array_equal(alone[0], together[row])


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("flow", "Euler on the sigmas of FlowMatchEulerDiscreteScheduler"),
        ("stable-diffusion", "DDIMInverseScheduler, DDIMScheduler"),
    ],
)
def test_a_sample_notes_what_stepped_it(models, sources, name, steps):
    for way, noted in (
        (INVERT, {"scheduler": steps}),
        (Translation("image_to_image", 0.5, steps=4), {"num_inference_steps": 4}),
        (Translation("image_to_image", 0.5), {}),
    ):
        (made,) = sample(models[name], sources[:1], way, TARGETS[name])
        assert {key: made.notes[key] for key in made.notes if key != "class_sent"} == noted


def test_a_source_inverted_and_sampled_as_it_is_comes_back(models, sources):
    """Fewer steps follow the path less closely; another target leads elsewhere."""
    errors = {}
    for steps in (4, 60):
        back = translate(models["flow"], sources[:2], steps=steps)
        real = np.stack([Source(*each, INVERT, "resize").load(32, 32) for each in sources[:2]])
        errors[steps] = float(((back.astype(float) - real) ** 2).mean())
    assert errors[60] < errors[4] / 2
    other = translate(models["flow"], sources[:2], INVERT, TARGETS["flow"], steps=60)
    assert float(((other.astype(float) - real) ** 2).mean()) > 2 * errors[60]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_injected_changes_the_image_and_unknown_layers_are_named(models, sources, name):
    plain = translate(models[name], sources[:1], INVERT, TARGETS[name])
    inject = Translation("invert", inject=Injection(share=1.0), keep_glass=False)
    assert not np.array_equal(plain, translate(models[name], sources[:1], inject, TARGETS[name]))
    unknown = Translation("invert", inject=Injection(("nowhere*",)), keep_glass=False)
    with pytest.raises(
        InputError, match=r"inject.layers: no layer nowhere\*: it has .*(attn|attentions|blocks)"
    ):
        translate(models[name], sources[:1], unknown, TARGETS[name])


def test_a_domain_is_the_mean_of_its_images_and_image_to_image_begins_at_the_source(
    models, sources
):
    noise = Translation("image_to_image", strength=0.5, keep_glass=False)
    images, hashes = zip(*sources, strict=True)
    looks = [Domain(images[row:], hashes[row:], "resize") for row in (0, 2)]
    one, other = (
        translate(models["flow"], sources[:1], noise, (None, None), each) for each in looks
    )
    assert not np.array_equal(one, other)
    again = translate(models["flow"], sources[:2], noise, (None, None), looks[0])
    assert np.array_equal(one[0], again[0])
    near = Translation("image_to_image", strength=0.2, keep_glass=False)
    real = Source(*sources[0], near, "resize").load(32, 32).astype(float)
    closer = translate(models["flow"], sources[:1], near, (None, None), looks[0])
    assert ((closer - real) ** 2).mean() < ((one - real) ** 2).mean()
