"""Diffusion models translate: inversion, injection, and rows stand alone."""

import functools
import json
import re
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from factory.catalog.catalog import LicenceTerms, ModelEntry
from factory.core.errors import InputError
from factory.core.glass import find_glass
from factory.data.images import list_images
from factory.data.records import Condition, Job, Request
from factory.data.streams import Domain, Source
from factory.data.streams.source import Injection, Translation
from factory.models.generators import build_generator
from factory.models.generators.binding import draw_changed
from factory.models.generators.calls import find_call
from factory.models.generators.settings import GeneratorSettings
from tests import ASSETS
from tests.pipelines import SETTINGS, save_pipeline
from tests.sweep import read_record
from tests.tiny import BUILDERS, CLASS_NAMES, save_tiny

PCAM = ASSETS / "pcam" / "train"
INVERT = Translation("invert", keep_glass=False)
ENTRIES = {
    "dit": {"class_names": CLASS_NAMES},  # the folder of a DiTPipeline does not keep its labels
    # Padding every prompt to hundreds of T5 tokens would only cost time.
    "stable-diffusion-3": {"pipeline_arguments": {"max_sequence_length": 16}},
    "flux": {"pipeline_arguments": {"max_sequence_length": 16}},
    "Flux2KleinPipeline": {
        "family": "diffusers",
        "pipeline_arguments": {"text_encoder_out_layers": (1,)},
    },
}
TARGETS = {
    "flow": ("TUM", None),
    "multi": ("TUM", None),
    "stable-diffusion": (None, "pink"),
    "stable-diffusion-3": (None, "pink"),
    "pixart-sigma": (None, "pink"),
    "flux": (None, "pink"),
    "dit": ("TUM", None),
    "AuraFlowPipeline": (None, "pink"),
    "SanaPipeline": (None, "pink"),  # an autoencoder without moments, and a solver of flows
    "QwenImagePipeline": (None, "pink"),  # an autoencoder of films
    "Flux2KleinPipeline": (None, "pink"),  # latents normed by patches
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save = {name: save_tiny if name in BUILDERS else save_pipeline for name in TARGETS}
    return {name: save[name](name, folder / name) for name in TARGETS}


@pytest.fixture(scope="module")
def sources():
    images = list_images(PCAM)[:4]
    return [(each, f"{row:064d}") for row, each in enumerate(images)]


def translate(*asked, **settings):
    return np.stack([each.pixels for each in sample(*asked, **settings)])


def find_entry(folder):
    """Returns the catalog entry of the models that need one."""
    if folder.name not in ENTRIES:
        return None
    told = {"family": folder.name, "width": 32, "height": 32} | ENTRIES[folder.name]
    return ModelEntry(
        id=folder.name.lower(),
        source=str(folder),
        steps=2,
        guidance=2.0,
        licence=LicenceTerms(id="cc0-1.0", date_read="2026-11-27"),
        **told,
    )


@functools.lru_cache(maxsize=1)
def load(folder, **settings):
    """Loads a model once for the calls of a test that differ in what they ask alone."""
    given = {"model": str(folder), "steps": 6, "batch_size": 4, "device": "cpu"}
    if folder.name not in BUILDERS:
        given |= {"width": 32, "height": 32}
    return build_generator(GeneratorSettings(**given | settings), find_entry(folder), folder)


def sample(folder, sources, way=INVERT, target=(None, None), *others, soften=1.0, **settings):
    generator = load(folder, **settings)
    conditions = [Condition(*target, Source(*each, way, "resize"), *others) for each in sources]
    jobs = [Job(Request("s", 0, each, 0), 0, 5) for each in conditions]
    if soften == 1.0:
        return generator.generate(jobs)
    pipeline = generator.model.pipeline
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    hook = network.register_forward_hook(lambda _module, _given, said: multiply(said, soften))
    try:
        return generator.generate(jobs)
    finally:
        hook.remove()


def multiply(said, share):
    """Returns what a network says, times a share."""
    if isinstance(said, torch.Tensor):
        return said * share
    if isinstance(said, dict):
        return type(said)({name: multiply(each, share) for name, each in said.items()})
    return type(said)(multiply(each, share) for each in said)


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
        ("stable-diffusion-3", "Euler on the sigmas of FlowMatchEulerDiscreteScheduler"),
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


MISSED = 2.0
"""Grey values by which the way back may miss its aim on average, in 20 steps."""
ROUNDED = 0.6
"""Grey values by which an image differs on average, rounded to whole ones."""
SMALL = {"SanaPipeline": 0.01, "dit": 0.05}
"""What a network's answer is multiplied by, where a tenth leaves a rough field."""


FLOWS = ("stable-diffusion-3", "flux", "AuraFlowPipeline", "SanaPipeline", "QwenImagePipeline")


@pytest.mark.parametrize("name", [*FLOWS, "Flux2KleinPipeline", "dit"])
def test_the_way_back_leads_to_what_the_autoencoder_makes_of_the_source(models, sources, name):
    """Random weights are no smooth field, so what they say is made small."""
    class_name, caption = TARGETS[name]
    own = Translation("invert", class_name=class_name, caption=caption, keep_glass=False)
    other = replace(own, class_name=class_name and "ADI", caption=caption and "a blue tumour")
    small = SMALL.get(name, 0.1)

    def make(way, share):
        asked = {"steps": 20, "guidance": 1.0, "soften": share}
        return translate(models[name], sources[:2], way, TARGETS[name], **asked).astype(float)

    aim = make(own, 0.0)  # no velocity: the autoencoder alone
    assert np.abs(aim - pass_through(models[name], sources[:2])).mean() < ROUNDED
    back, elsewhere = (np.abs(make(way, small) - aim).mean() for way in (own, other))
    assert back < MISSED
    assert elsewhere != back


OTHERS = {*TARGETS, "ConsistencyModelPipeline", "HiDreamImagePipeline"}
"""Those tried above, one that names no classes, and one that makes a megapixel or nothing."""
PARTS = 8
"""Of the pipelines tried: to read how all are called takes 2 s, which no other test needs."""


@functools.cache
def list_starting():
    """Returns the names of further pipelines that start from latents."""
    kept = {key for key, said in read_record()["pipelines"].items() if said.startswith("kept")}
    return [name for name in sorted(kept - OTHERS) if find_call(name).starts_from_latents]


@pytest.mark.slow("test_the_way_back_leads_to_what_the_autoencoder_makes_of_the_source")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_pipeline_inverts_or_says_that_it_does_not(
    sources, tmp_path, monkeypatch, subtests, part
):
    names = list_starting()[part::PARTS]
    assert names
    for name in names:
        with subtests.test(name):
            invert_or_refuse(name, sources, tmp_path, monkeypatch)


def invert_or_refuse(name, sources, tmp_path, monkeypatch):
    folder, settings = save_pipeline(name, tmp_path / name), SETTINGS.get(name, {})
    arguments = {"pipeline_arguments": settings.get("arguments", {})}
    monkeypatch.setitem(ENTRIES, name, {"family": "diffusers", **arguments})
    side = {key: settings.get("size", 32) for key in ("width", "height")}
    way, softly = replace(INVERT, caption="pink"), {"steps": 12, "guidance": 1.0}

    def make(count, share):
        asked = softly | side | {"soften": share}
        return translate(folder, sources[:count], way, (None, "pink"), **asked).astype(float)

    try:
        aim = make(2, 0.0)
    except InputError as error:
        assert re.search("not supported|steps the schedule of|translates by method", str(error))
        return
    back = make(2, 0.001)  # a thousandth: 12 steps of DDIM follow a rough field badly
    assert np.abs(back - aim).mean() < MISSED
    assert np.array_equal(make(1, 0.001)[0], back[0])


def pass_through(folder, sources):
    """Returns what the autoencoder of a folder makes of sources: (N, H, W, 3) in grey values."""
    kind = json.loads((folder / "model_index.json").read_text())["vae"][1]
    vae = getattr(diffusers, kind).from_pretrained(folder / "vae").eval()
    pixels = np.stack([Source(*each, INVERT, "resize").load(32, 32) for each in sources])
    given = torch.tensor(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    is_film = kind in ("AutoencoderKLQwenImage", "AutoencoderKLWan")
    with torch.no_grad():
        made = vae(given.unsqueeze(2) if is_film else given).sample
    made = made.squeeze(2) if is_film else made
    return (made.permute(0, 2, 3, 1).clamp(-1, 1) + 1).numpy() * 127.5


def test_a_schedule_that_is_not_stepped_and_a_model_that_cannot_are_told(sources, tmp_path):
    odd = tmp_path / "odd"
    save_tiny("stable-diffusion", odd)
    index = json.loads((odd / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "KarrasVeScheduler"]
    (odd / "model_index.json").write_text(json.dumps(index))
    scheduler = {"_class_name": "KarrasVeScheduler"}
    (odd / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.raises(InputError, match="neither DDIM nor Euler steps the schedule of KarrasVe"):
        sample(odd, sources[:1], INVERT, (None, "pink"), width=32, height=32)
    ordered = save_pipeline("Ideogram4Pipeline", tmp_path / "Ideogram4Pipeline")
    with pytest.raises(InputError, match="source is not supported"):
        sample(ordered, sources[:1], INVERT, (None, "pink"))


def test_pipelines_of_masks_and_instructions_change_sources(sources, tmp_path):
    """Glass, which no pixel shows where it is kept, is what an inpainting mask leaves out."""
    way = Translation("image_to_image", 1.0)
    masks = []
    inpaint = save_pipeline("StableDiffusionInpaintPipeline", tmp_path / "inpaint")
    edit = save_pipeline("StableDiffusionInstructPix2PixPipeline", tmp_path / "edit")
    for folder in (inpaint, edit):
        together = translate(folder, sources, way, (None, "pink"), width=32, height=32)
        assert len(np.unique(together, axis=0)) == 4
        alone = translate(folder, sources[2:3], way, (None, "pink"), width=32, height=32)
        assert np.array_equal(alone[0], together[2])
        blue = translate(folder, sources[2:3], way, (None, "blue"), width=32, height=32)
        assert not np.array_equal(blue, alone)
    for keep in (True, False):
        one = Source(*sources[0], replace(way, keep_glass=keep), "resize")
        masks.append(np.asarray(draw_changed(one, (32, 32))))
    assert masks[1].min() == 255
    assert np.array_equal(masks[0] == 0, find_glass(one.load(32, 32)))
    with pytest.raises(InputError, match=r"only looks at the image, got strength 0\.5"):
        translate(
            edit, sources[:1], replace(way, strength=0.5), (None, "pink"), width=32, height=32
        )


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
