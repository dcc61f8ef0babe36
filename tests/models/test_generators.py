"""One contract for every generator family, on tiny random-weight pipelines that are really run."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factory.catalog.catalog import LicenceTerms, ModelEntry, load_catalogs
from factory.catalog.entries import Adapter
from factory.core.errors import GenerationError, InputError, OutOfMemoryError
from factory.data.images import SourceImage
from factory.data.records import Condition, Job, Request, Sample
from factory.data.streams import Reference
from factory.models.generators import build_generator
from factory.models.generators.families import FAMILIES
from factory.models.generators.families.pipeline import PipelineFamily, TextFamily
from factory.models.generators.families.stable_diffusion import StableDiffusionFamily
from factory.models.generators.settings import GeneratorSettings, Guidance, find_entry
from tests import ROOT, tiny
from tests.pipelines import save_pipeline

TEXT_TOKENS = 64  # of the family flow
DIFFUSERS = tuple(tiny.BUILDERS)


def get_family(name: str) -> type[PipelineFamily]:
    family = FAMILIES.get(name)
    assert issubclass(family, PipelineFamily)
    return family


TEXT = tuple(name for name in DIFFUSERS if issubclass(get_family(name), TextFamily))
STEPWISE = tuple(name for name in DIFFUSERS if get_family(name).guidance == "step")
IMAGE = tuple(name for name in DIFFUSERS if get_family(name).image_pipelines)
FLOW = tuple(name for name in DIFFUSERS if get_family(name).predicts == "flow")
SIZE = 32
LICENCE = LicenceTerms(id="apache-2.0", date_read="2026-11-20")
T5_LIMIT = 64
LONG = "tumor cells with necrosis and lymphocytes in a desmoplastic stroma " * 8

Build = Callable[..., Any]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a family's tiny pipeline, saved at its first use."""
    root = tmp_path_factory.mktemp("tiny")

    return functools.partial(find_tiny, root)


@pytest.fixture(scope="session")
def build(folders: Callable[[str], Path]) -> Build:
    """Builds a generator of a family: small, three steps, four images in a batch."""

    def make(family: str, folder: Path | None = None, **changes: Any) -> Any:
        model = "fake" if family == "fake" else str(folder or folders(family))
        values = {"width": SIZE, "height": SIZE, "steps": 3, "batch_size": 4}
        return build_saved(model, family, **{**values, **changes})

    return make


@pytest.fixture(scope="session")
def shared(build: Build) -> Build:
    """Returns one default generator per family, for tests that leave it as it was."""
    built: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in built:
            built[family] = build(family)
        return built[family]

    return get


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Reference]:
    """Returns a smooth pink and purple image as a reference of some strength."""
    path = tmp_path_factory.mktemp("reference") / "one.png"
    rows, columns = np.mgrid[0:40, 0:48]
    wave = 0.5 + 0.5 * np.sin(rows / 5.0) * np.cos(columns / 7.0)
    colours = np.array([220, 150, 200]) * wave[..., None] + np.array([90, 50, 140]) * (
        1 - wave[..., None]
    )
    Image.fromarray(colours.astype(np.uint8)).save(path)
    image = SourceImage("one.png", "TUM", None, path)
    return lambda strength: Reference(image, "0" * 64, strength)


def make_entry(family: str, source: str, **changes: Any) -> ModelEntry:
    values: dict[str, Any] = {
        "id": f"tiny-{family}",
        "source": source,
        "family": family,
        "width": SIZE,
        "height": SIZE,
        "mpp": 0.5,
        "steps": 3,
        "guidance": 4.0,
        "licence": LICENCE,
    }
    return ModelEntry(**{**values, **changes})


ENTRIES: dict[str, Callable[[str], ModelEntry]] = {
    # The folder of a DiTPipeline does not keep its labels.
    "dit": lambda source: make_entry("dit", source, class_names=tiny.CLASS_NAMES),
    # Padding every prompt to hundreds of T5 tokens would only cost time.
    **{
        name: lambda source, name=name: make_entry(  # type: ignore[misc]
            name, source, pipeline_arguments={"max_sequence_length": T5_LIMIT}
        )
        for name in ("stable-diffusion-3", "pixart-sigma", "flux")
    },
}
"""Catalog entries of the families that need one here; the others are detected by their folder."""


def find_tiny(root: Path, family: str) -> Path:
    """Returns the folder of a family's tiny pipeline under `root`, saved at its first use."""
    folder = root / family
    if folder.exists():
        return folder
    return (tiny.save_tiny if family in tiny.BUILDERS else save_pipeline)(family, folder)


def build_saved(model: str, family: str, **settings: Any) -> Any:
    """Builds the generator of a tiny pipeline's folder, with the entry that its family needs."""
    entry = ENTRIES[family](model) if family in ENTRIES else None
    return build_generator(GeneratorSettings(**{"model": model, **settings}), entry, Path())


def make_job(ordinal: int = 0, attempt: int = 0, **streams: Any) -> Job:
    streams = streams or {"class_name": "TUM"}
    others = [streams.pop(name) for name in ("reference",) if name in streams]
    condition = Condition(streams.get("class_name"), streams.get("caption"), *others)
    request = Request("series", ordinal, condition, ordinal)
    return Job(request, attempt, request.derive_seed(7, attempt))


def stack(samples: list[Sample]) -> Any:
    return np.stack([sample.pixels for sample in samples])


def get_network(generator: Any) -> Any:
    pipeline = generator.model.pipeline
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


every_family = pytest.mark.parametrize("family", (*DIFFUSERS, "fake"))


# --- the contract ---------------------------------------------------------------------------------


def test_every_family_has_a_class_and_is_tested() -> None:
    elsewhere = {"given", "diffusers", "latent", "pixcell", "translator"}  # with files of their own
    untested = set(FAMILIES.names) - {*DIFFUSERS, "fake", *elsewhere}
    # sigma's twin, and models on record
    assert untested == {"pixart-alpha", "unsupported"}


@every_family
def test_makes_one_rgb_image_per_job(family: str, shared: Build) -> None:
    samples = shared(family).generate([make_job(ordinal) for ordinal in range(3)])
    assert len(samples) == 3
    for sample in samples:
        assert sample.pixels.shape == (SIZE, SIZE, 3)
        assert sample.pixels.dtype == np.uint8
        assert sample.pixels.std() > 1
        assert sample.nonfinite_fraction == 0.0
        assert sample.batch_size == 4
    assert shared(family).generate([]) == []


@every_family
def test_same_job_gives_same_pixels_twice_and_after_reload(
    family: str, build: Build, shared: Build
) -> None:
    jobs = [make_job(0), make_job(1)]
    first = stack(shared(family).generate(jobs))
    assert np.array_equal(first, stack(shared(family).generate(jobs)))
    assert np.array_equal(first, stack(build(family).generate(jobs)))


@every_family
def test_pixels_depend_on_neither_place_nor_company(family: str, shared: Build) -> None:
    jobs = [make_job(ordinal) for ordinal in range(4)]
    straight = stack(shared(family).generate(jobs))
    turned = stack(shared(family).generate(jobs[::-1]))[::-1]
    assert np.array_equal(straight, turned)
    strangers = [make_job(9, class_name="ADI"), jobs[0], make_job(8, class_name="LYM")]
    assert np.array_equal(straight[0], shared(family).generate(strangers)[1].pixels)


@every_family
def test_padded_batch_equals_full_one(family: str, shared: Build) -> None:
    jobs = [make_job(ordinal) for ordinal in range(4)]
    full = stack(shared(family).generate(jobs))
    assert np.array_equal(full[:1], stack(shared(family).generate(jobs[:1])))
    six = stack(shared(family).generate([*jobs, *jobs[:2]]))
    assert np.array_equal(six, np.concatenate([full, full[:2]]))


@every_family
def test_seed_and_class_change_the_image(family: str, shared: Build) -> None:
    first, retried, other = shared(family).generate(
        [make_job(0), make_job(0, attempt=1), make_job(0, class_name="ADI")]
    )
    assert not np.array_equal(first.pixels, retried.pixels)
    same_noise = make_job(0, class_name="ADI")
    same_noise = Job(same_noise.request, 0, make_job(0).seed)
    other = shared(family).generate([same_noise])[0]
    assert not np.array_equal(first.pixels, other.pixels)


@every_family
def test_capabilities_and_description_are_plain(family: str, shared: Build) -> None:
    capabilities = shared(family).capabilities
    assert (capabilities.width, capabilities.height) == (SIZE, SIZE)
    assert "class_name" in capabilities.required | capabilities.optional
    assert ("reference" in capabilities.optional) == (family in (*IMAGE, "fake"))
    if family in ("dit", "flow"):
        assert capabilities.class_names == tiny.CLASS_NAMES
        assert capabilities.mpp == 0.5
    assert set(capabilities.token_limits.values()) <= {77, T5_LIMIT, TEXT_TOKENS}
    described = shared(family).describe()
    assert json.loads(json.dumps(described)) == described
    assert set(described) >= {
        *("model", "model_revision", "weights_sha256", "pipeline", "scheduler"),
        *("num_inference_steps", "guidance_scale", "width", "height", "mpp", "dtype"),
        *("device", "adapters", "libraries"),
    }


@every_family
def test_unknown_class_is_refused_where_classes_are_fixed(family: str, shared: Build) -> None:
    job = make_job(0, class_name="TUMM")
    if shared(family).capabilities.class_names is None:
        assert shared(family).generate([job])
    else:
        with pytest.raises(InputError, match=r"no class 'TUMM'.*did you mean 'TUM'"):
            shared(family).generate([job])


@pytest.mark.parametrize("family", DIFFUSERS)
def test_equals_the_pipeline_called_by_hand(family: str, shared: Build, folders: Any) -> None:
    import torch
    from diffusers import DiffusionPipeline

    from factory.models.generators.flow import FlowPipeline
    from factory.models.generators.multi import MultiPipeline

    own = {"flow": FlowPipeline, "multi": MultiPipeline}
    loader = own.get(family, DiffusionPipeline)
    pipeline = loader.from_pretrained(folders(family))
    pipeline.set_progress_bar_config(disable=True)
    jobs = [make_job(ordinal) for ordinal in range(4)]
    arguments: dict[str, Any] = dict(get_family(family).call_arguments)
    if "max_sequence_length" in arguments:
        arguments["max_sequence_length"] = T5_LIMIT
    scale = 4.0 if family in ENTRIES else get_family(family).scale
    if get_family(family).is_indexed:
        arguments["class_labels"] = [2] * 4
    else:
        arguments["prompt"] = ["H&E histopathology patch, TUM"] * 4
        arguments |= {"width": SIZE, "height": SIZE}
    if family == "dit":  # three classes: row 3 of the embeddings is the null class
        embedder = pipeline.transformer.transformer_blocks
        for block in embedder:
            table = block.norm1.emb.class_embedder.embedding_table
            grown = torch.nn.Embedding(1001, table.embedding_dim)
            grown.weight.data[:3], grown.weight.data[1000] = table.weight[:3], table.weight[3]
            block.norm1.emb.class_embedder.embedding_table = grown
    images = pipeline(
        **arguments,
        num_inference_steps=3,
        guidance_scale=scale,
        generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
        output_type="np",
    ).images
    assert np.array_equal(
        np.rint(images * 255).astype(np.uint8), stack(shared(family).generate(jobs))
    )


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TEXT)
def test_caption_wins_over_class_and_is_recorded(family: str, shared: Build) -> None:
    made, plain = shared(family).generate(
        [make_job(0, caption="Mucin pools", class_name="any"), make_job(0)]
    )
    assert made.prompt == "Mucin pools"
    assert plain.prompt == "H&E histopathology patch, TUM"
    assert shared(family).describe()["prompt_template"] == "H&E histopathology patch, {class_name}"


@pytest.mark.parametrize("family", TEXT)
def test_tokens_kept_and_dropped_are_recorded(family: str, shared: Build) -> None:
    limits = shared(family).capabilities.token_limits
    short, long = shared(family).generate([make_job(caption="a b"), make_job(caption=LONG)])
    assert set(short.tokens) == set(long.tokens) == set(limits)
    for name, limit in limits.items():
        assert short.tokens[name][1] == 0
        kept, dropped = long.tokens[name]
        assert kept == limit or dropped == 0
        assert kept + dropped > 400
    assert long.tokens["tokenizer"][1] > 0


def test_token_limit_is_the_familys_where_no_entry_tells(folders: Any) -> None:
    settings = GeneratorSettings(model=str(folders("pixart-sigma")), width=SIZE, height=SIZE)
    generator = build_generator(settings.model_copy(update={"steps": 1}), None, Path())
    assert generator.capabilities.token_limits == {"tokenizer": 300}
    assert generator.generate([make_job(caption=LONG)])[0].tokens["tokenizer"][0] == 300


def test_negative_prompt_changes_the_image_or_is_refused(build: Build, shared: Build) -> None:
    plain = shared("stable-diffusion").generate([make_job()])[0]
    negative = build("stable-diffusion", negative_prompt="blurred").generate([make_job()])[0]
    assert not np.array_equal(plain.pixels, negative.pixels)
    for family in ("flux", "flow"):
        with pytest.raises(InputError, match=r"generator\.negative_prompt"):
            build(family, negative_prompt="blurred")


def test_template_needs_the_class(build: Build) -> None:
    with pytest.raises(InputError, match=r"must hold \{class_name\}"):
        build("stable-diffusion", prompt_template="H&E patch")
    sample = build("stable-diffusion", prompt_template="{class_name}!").generate([make_job()])[0]
    assert sample.prompt == "TUM!"


# --- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", (*IMAGE, "fake"))
def test_lower_strength_stays_closer_to_the_reference(
    family: str, build: Build, reference: Any
) -> None:
    generator = build(family, steps=10, guidance=1.0)
    strengths = (0.1, 0.9)
    jobs = [
        make_job(ordinal, class_name="TUM", reference=reference(strength))
        for strength in strengths
        for ordinal in range(3)
    ]
    target = _pass_through_vae(generator, family, reference(1.0))
    distances = np.abs(stack(generator.generate(jobs)) - target).mean(axis=(1, 2, 3))
    assert distances[:3].max() < distances[3:].min()


def _pass_through_vae(generator: Any, family: str, reference: Reference) -> Any:
    """What a perfect copy would look like: the reference as the family's autoencoder gives it."""
    from factory.data.images import fit_image

    fitted = fit_image(reference.image.read_pixels(), SIZE, SIZE).astype(float)
    if family in ("fake", "flow", "multi"):
        return fitted
    import torch

    vae = generator.model.pipeline.vae
    image = torch.from_numpy(fitted).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(image).latent_dist.mode()).sample
    return ((decoded[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).numpy()


@pytest.mark.parametrize("family", (*IMAGE, "fake"))
def test_mixed_batch_keeps_the_order(family: str, shared: Build, reference: Any) -> None:
    jobs = [
        make_job(0, class_name="TUM", reference=reference(0.9)),
        make_job(1),
        make_job(2, class_name="TUM", reference=reference(0.5)),
        make_job(3, class_name="ADI"),
        make_job(4, class_name="TUM", reference=reference(0.9)),
    ]
    together = stack(shared(family).generate(jobs))
    apart = [shared(family).generate([job])[0].pixels for job in jobs]
    assert np.array_equal(together, np.stack(apart))
    assert len(np.unique(together.reshape(5, -1), axis=0)) == 5


def test_image_pipeline_shares_the_weights(shared: Build) -> None:
    model = shared("stable-diffusion-xl").model
    assert type(model.image_pipeline).__name__ == "StableDiffusionXLImg2ImgPipeline"
    assert model.image_pipeline.unet is model.pipeline.unet
    assert model.image_pipeline.vae is model.pipeline.vae


@pytest.mark.parametrize("family", ("pixart-sigma", "dit"))
def test_reference_without_image_pipeline_is_refused(
    family: str, shared: Build, reference: Any
) -> None:
    with pytest.raises(InputError, match="reference is not supported: it takes"):
        shared(family).generate([make_job(class_name="TUM", reference=reference(0.5))])


def test_strength_that_runs_no_step_is_refused(shared: Build, reference: Any) -> None:
    with pytest.raises(InputError, match="leaves no step to run"):
        shared("stable-diffusion").generate([make_job(caption="a", reference=reference(0.2))])


# --- conditions and settings that do not fit ------------------------------------------------------


def test_caption_on_a_class_model_is_refused(shared: Build) -> None:
    with pytest.raises(InputError, match="caption is not supported; class_name is missing"):
        shared("dit").generate([make_job(caption="tumor")])
    with pytest.raises(InputError, match="class_name is missing"):
        shared("dit").generate([Job(Request("s", 0, Condition(), 0), 0, 1)])


def test_flow_takes_any_streams_but_not_none(shared: Build, reference: Any) -> None:
    generator = shared("flow")
    seed = make_job(0).seed
    conditions = [
        Condition(class_name="TUM"),
        Condition(caption="dense nuclei"),
        Condition(caption="sparse nuclei"),
        Condition(class_name="TUM", caption="dense nuclei"),
        Condition(class_name="ADI", caption="dense nuclei"),
        Condition(None, "dense nuclei", reference(1.0)),
    ]
    jobs = [Job(Request("s", n, each, 0), 0, seed) for n, each in enumerate(conditions)]
    samples = generator.generate(jobs)
    assert len(np.unique(stack(samples).reshape(len(jobs), -1), axis=0)) == len(jobs)
    assert [sample.prompt for sample in samples[:2]] == [None, "dense nuclei"]
    assert samples[1].tokens["tokenizer"][1] == 0
    with pytest.raises(InputError, match="condition is empty"):
        generator.generate([Job(Request("s", 0, Condition(), 0), 0, 1)])


def test_flow_keeps_what_its_captions_hold(shared: Build) -> None:
    made = shared("flow").generate([make_job(caption=LONG)])[0]
    kept, dropped = made.tokens["tokenizer"]
    assert kept == TEXT_TOKENS
    assert dropped > 100


def test_flow_sends_a_class_beside_a_caption_only_where_it_knows_it(shared: Build) -> None:
    known, foreign = shared("flow").generate(
        [make_job(caption="dense nuclei", class_name=name) for name in ("TUM", "oscc_400x")]
    )
    assert (known.notes, foreign.notes) == ({}, {"class_sent": "null class"})


@pytest.mark.parametrize("family", ("dit", "flow"))
def test_size_of_a_fixed_model_is_refused(family: str, build: Build) -> None:
    with pytest.raises(InputError, match="only makes 32x32 px"):
        build(family, width=64).generate([make_job()])


def test_unknown_family_and_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'flow'"):
        build_generator(GeneratorSettings(model="x/y", family="flwo"), None, tmp_path)
    with pytest.raises(InputError, match=r"no folder .* and not a Hub id"):
        build_generator(GeneratorSettings(model="nowhere"), None, tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanPipeline"}')
    with pytest.raises(InputError, match="'SanPipeline' is no pipeline of the installed"):
        build_generator(GeneratorSettings(model="."), None, tmp_path)
    entry = make_entry("flux", "x/y")
    with pytest.raises(InputError, match="the catalog says 'flux'"):
        build_generator(GeneratorSettings(model="x", family="dit"), entry, tmp_path)


def test_relative_folder_resolves_against_the_recipe(folders: Any) -> None:
    folder = folders("flow")
    settings = GeneratorSettings(model=f"./{folder.name}", steps=1, batch_size=1)
    generator = build_generator(settings, None, folder.parent)
    assert generator.generate([make_job()])[0].pixels.shape == (SIZE, SIZE, 3)


# --- schedulers and guidance ----------------------------------------------------------------------


@pytest.mark.parametrize("family", DIFFUSERS)
def test_scheduler_by_name_and_no_state_between_calls(
    family: str, build: Build, shared: Build
) -> None:
    generator = build(family, scheduler="UniPCMultistep", batch_size=1)
    first = generator.generate([make_job()])[0].pixels
    assert generator.describe()["scheduler"] == "UniPCMultistepScheduler"
    assert not np.array_equal(first, shared(family).generate([make_job()])[0].pixels)
    generator.generate([make_job(5)])
    assert np.array_equal(first, generator.generate([make_job()])[0].pixels)
    if family in FLOW:
        config = generator.model.scheduler.config
        assert (config.prediction_type, config.use_flow_sigmas) == ("flow_prediction", True)
        assert config.flow_shift == (3.0 if family == "stable-diffusion-3" else 1.0)


@pytest.mark.parametrize("family", FLOW)
@pytest.mark.parametrize("scheduler", ("DPMSolverMultistepScheduler", "FlowMatchHeunDiscrete"))
def test_other_flow_schedulers_stay_close_to_euler(
    family: str, scheduler: str, build: Build
) -> None:
    if (family, scheduler) == ("flux", "FlowMatchHeunDiscrete"):
        with pytest.raises(InputError, match="takes no sigmas and shift"):
            build(family, scheduler=scheduler).generate([make_job()])
        return
    options = {"steps": 20, "batch_size": 1}
    euler = build(family, **options).generate([make_job()])[0].pixels.astype(float)
    other = build(family, scheduler=scheduler, **options).generate([make_job()])[0].pixels
    assert np.abs(euler - other).mean() < 12


def test_flow_varies_with_a_second_order_scheduler(build: Build, reference: Any) -> None:
    jobs = [make_job(0, class_name="TUM", reference=reference(s)) for s in (0.2, 0.9)]
    made = stack(build("flow", steps=10, scheduler="FlowMatchHeunDiscrete").generate(jobs))
    euler = stack(build("flow", steps=10).generate(jobs))
    assert np.abs(made.astype(float) - euler).mean() < 12


def test_scheduler_that_does_not_fit_is_refused(build: Build) -> None:
    for family, scheduler, message in (
        ("stable-diffusion", "UniPCMultistp", "did you mean 'UniPCMultistep'"),
        (
            "stable-diffusion",
            "FlowMatchEulerDiscrete",
            "steps flow, and .* predicts noise",
        ),
        ("flow", "DDIM", "DDIM steps noise, and FlowPipeline predicts flow velocities"),
        ("flow", "Unheard", "no scheduler of diffusers"),
    ):
        with pytest.raises(InputError, match=message):
            build(family, scheduler=scheduler).generate([make_job()])


@pytest.mark.parametrize("family", STEPWISE)
def test_guidance_schedule(family: str, build: Build) -> None:
    def sample(guidance: float | Guidance) -> Any:
        generator = build(family, guidance=guidance, batch_size=1)
        return generator.generate([make_job()])[0].pixels

    constant = sample(3.0)
    assert np.array_equal(constant, sample(Guidance(scale=3.0, end=3.0)))
    assert np.array_equal(constant, sample(Guidance(scale=3.0, end=3.0 + 1e-12)))
    annealed = sample(Guidance(scale=3.0, end=0.0))
    assert not np.array_equal(constant, annealed)
    assert not np.array_equal(annealed, sample(Guidance(scale=3.0, end=1.0)))


@pytest.mark.parametrize("family", STEPWISE)
def test_guidance_schedule_of_one_is_no_guidance(family: str, build: Build) -> None:
    plain = build(family, guidance=1.0).generate([make_job()])[0].pixels.astype(int)
    held = build(family, guidance=Guidance(scale=1.0, end=1.0 + 1e-12)).generate([make_job()])
    assert np.abs(plain - held[0].pixels).max() <= 1


def test_guidance_schedule_runs_from_scale_to_end(build: Build, reference: Any) -> None:
    for family in ("stable-diffusion", "flow"):
        generator = build(family, steps=5, guidance=Guidance(scale=2.5, end=0.5))
        pipeline, seen = generator.model.image_pipeline, []

        def record(_module: Any, _inputs: Any, pipeline: Any = pipeline, seen: Any = seen) -> None:
            seen.append(float(pipeline._guidance_scale))

        get_network(generator).register_forward_pre_hook(record)
        generator.generate([make_job(class_name="TUM", reference=reference(1.0))])
        assert seen == pytest.approx([2.5, 2.0, 1.5, 1.0, 0.5])


@pytest.mark.parametrize("family", sorted(set(DIFFUSERS) - set(STEPWISE)))
def test_guidance_schedule_is_refused_where_it_would_be_ignored(family: str, build: Build) -> None:
    with pytest.raises(InputError, match="it cannot follow a schedule"):
        build(family, guidance=Guidance(scale=3.0, end=1.0))


@pytest.mark.parametrize("family", DIFFUSERS)
def test_guidance_changes_the_image(family: str, build: Build) -> None:
    low, high = (
        build(family, guidance=guidance, batch_size=1).generate([make_job()])[0].pixels
        for guidance in (1.5, 6.0)
    )
    assert not np.array_equal(low, high)


def test_dit_guides_with_its_own_null_class(build: Build) -> None:
    generator = build("dit", guidance=4.0)
    seen = []
    embedder = get_network(generator).transformer_blocks[0].norm1.emb.class_embedder
    embedder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].tolist()))
    generator.generate([make_job(0), make_job(1, class_name="ADI")])
    assert len(seen) >= 3
    assert all(labels == [2, 0, 0, 0, 3, 3, 3, 3] for labels in seen)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DIFFUSERS)
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_broken_weights_are_seen(family: str, value: float, build: Build) -> None:
    import torch

    generator = build(family)
    *_, last = (p for name, p in get_network(generator).named_parameters() if "bias" in name)
    with torch.no_grad():
        last.fill_(value)
    sample = generator.generate([make_job()])[0]
    assert sample.nonfinite_fraction > 0.5
    assert sample.pixels.max() == 0 or sample.nonfinite_fraction < 1.0


def test_lora_changes_the_image_by_its_scale(build: Build, shared: Build, tmp_path: Path) -> None:
    folder = tiny.save_lora(tmp_path / "lora")
    base = shared("stable-diffusion").generate([make_job()])[0].pixels

    def adapt(*scales: float) -> Any:
        adapters = tuple(Adapter(source=str(folder), scale=scale) for scale in scales)
        return build("stable-diffusion", adapters=adapters)

    one = adapt(1.0)
    adapted = one.generate([make_job()])[0].pixels
    assert not np.array_equal(base, adapted)
    assert np.array_equal(base, adapt(0.0).generate([make_job()])[0].pixels)
    halves = adapt(0.5, 0.5).generate([make_job()])[0].pixels.astype(int)
    assert np.abs(halves - adapted).max() <= 1
    (described,) = one.describe()["adapters"]
    assert described["scale"] == 1.0
    assert described["weight_name"] == "pytorch_lora_weights.safetensors"
    assert len(described["sha256"]) == 64


def test_lora_that_cannot_be_used_is_refused(build: Build, tmp_path: Path) -> None:
    lora = Adapter(source=str(tmp_path))
    with pytest.raises(InputError, match="takes no LoRA adapters"):
        build("dit", adapters=(lora,)).generate([make_job()])
    with pytest.raises(InputError, match="adapter files: none"):
        build("stable-diffusion", adapters=(lora,)).generate([make_job()])
    (tmp_path / "lora.bin").write_bytes(b"pickle")
    lora = Adapter(source=str(tmp_path), weight_name="lora.bin")
    with pytest.raises(InputError, match=r"lora\.bin: weights are not safetensors"):
        build("stable-diffusion", adapters=(lora,)).generate([make_job()])


@pytest.mark.parametrize("component", ("unet", "text_encoder"))
def test_pickled_weights_need_consent(
    component: str, build: Build, shared: Build, folders: Any, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(folders("stable-diffusion"), tmp_path / "model")
    (file,) = (folder / component).glob("*.safetensors")
    name = "pytorch_model.bin" if component == "text_encoder" else f"{file.stem}.bin"
    torch.save(load_file(file), folder / component / name)
    file.unlink()
    with pytest.raises(InputError, match=rf"{component}.*\.bin: weights are not safetensors"):
        build("stable-diffusion", folder).generate([make_job()])
    trusted = build("stable-diffusion", folder, allow_pickle=True)
    assert np.array_equal(
        stack(trusted.generate([make_job()])),
        stack(shared("stable-diffusion").generate([make_job()])),
    )


def test_weights_digest_is_of_the_content(
    build: Build, shared: Build, folders: Any, tmp_path: Path
) -> None:
    described = shared("flow").describe()
    copied = shutil.copytree(folders("flow"), tmp_path / "copy")
    same = build("flow", copied).describe()
    assert same["weights_sha256"] == described["weights_sha256"]
    assert same["model_revision"] == described["weights_sha256"][:16]
    other = tiny.save_tiny("flow", tmp_path / "other", seed=1)
    assert build("flow", other).describe()["weights_sha256"] != same["weights_sha256"]


def test_hub_snapshot_names_its_commit_and_blobs(
    build: Build, shared: Build, folders: Any, tmp_path: Path
) -> None:
    from factory.models.generators.weights import compute_weights_digest, hash_file

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--x--y" / "snapshots" / commit
    shutil.copytree(folders("flow"), snapshot)
    plain = compute_weights_digest(snapshot)
    (file,) = (snapshot / "unet").glob("*.safetensors")
    blob = tmp_path / hash_file(file)
    file.rename(blob)
    file.symlink_to(blob)
    assert hash_file(file) == blob.name
    assert compute_weights_digest(snapshot) == plain
    assert build("flow", snapshot).describe()["model_revision"] == commit


def test_float16_weights_run_as_float32_on_the_cpu(build: Build, tmp_path: Path) -> None:
    from factory.models.generators.flow import FlowPipeline

    folder = tiny.save_tiny("flow", tmp_path / "full")
    pipeline = FlowPipeline.from_pretrained(folder)
    pipeline.unet.half()
    pipeline.save_pretrained(tmp_path / "half")
    generator = build("flow", tmp_path / "half", device="cpu")
    generator.generate([make_job()])
    assert generator.describe()["dtype"] == "float32"
    assert {str(p.dtype) for p in get_network(generator).parameters()} == {"torch.float32"}
    narrow = build("flow", tmp_path / "half", device="cpu", dtype="bfloat16")
    assert narrow.generate([make_job()])[0].nonfinite_fraction == 0
    assert narrow.describe()["dtype"] == "bfloat16"


def test_networks_are_in_eval_mode(shared: Build) -> None:
    for family in DIFFUSERS:
        assert not get_network(shared(family)).training
        assert not any(p.requires_grad for p in get_network(shared(family)).parameters())


# --- memory and failures --------------------------------------------------------------------------


class _Fails:
    """Stands in for a pipeline's call: raises `error` while the batch is larger than `fits`."""

    def __init__(self, pipeline: Any, fits: int, error: Exception) -> None:
        self.call, self.fits, self.error = type(pipeline).__call__, fits, error
        self.sizes: list[int] = []

    def __get__(self, pipeline: Any, _owner: Any) -> Any:
        @functools.wraps(self.call)  # its signature says what it is asked by
        def call(class_labels: list[int], **arguments: Any) -> Any:
            self.sizes.append(len(class_labels))
            if len(class_labels) > self.fits:
                raise self.error
            return self.call(pipeline, class_labels, **arguments)

        return call


def _make_oom() -> tuple[Exception, ...]:
    import torch

    return (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    )


@pytest.mark.parametrize("kind", range(3))
def test_out_of_memory_halves_the_batch_and_keeps_the_images(
    kind: int, build: Build, shared: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build("flow")
    jobs = [make_job(ordinal) for ordinal in range(4)]
    expected = stack(shared("flow").generate(jobs)).astype(int)
    fails = _Fails(generator.model.pipeline, 2, _make_oom()[kind])
    monkeypatch.setattr(type(generator.model.pipeline), "__call__", fails)
    samples = generator.generate(jobs)
    assert np.abs(stack(samples) - expected).max() <= 1  # another shape: last bits may differ
    assert [sample.batch_size for sample in samples] == [2] * 4
    generator.generate(jobs[:1])
    assert fails.sizes == [4, 2, 2, 2]


def test_out_of_memory_of_a_single_image_is_an_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build("flow")
    fails = _Fails(generator.model.pipeline, 0, _make_oom()[0])
    monkeypatch.setattr(type(generator.model.pipeline), "__call__", fails)
    with pytest.raises(OutOfMemoryError, match="1 images of 32x32 px"):
        generator.generate([make_job()])
    assert fails.sizes == [4, 2, 1]


def test_failing_pipeline_is_a_generation_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = build("flow")
    fails = _Fails(generator.model.pipeline, 0, RuntimeError("device-side assert"))
    monkeypatch.setattr(type(generator.model.pipeline), "__call__", fails)
    with pytest.raises(GenerationError, match="RuntimeError: device-side assert") as caught:
        generator.generate([make_job()])
    assert not isinstance(caught.value, OutOfMemoryError)
    assert fails.sizes == [4]


def test_images_of_another_size_are_an_error(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = build("flow")
    small = SimpleNamespace(images=np.zeros((4, 16, 16, 3), np.float32))
    monkeypatch.setattr(type(generator.model.pipeline), "__call__", lambda *_, **__: small)
    with pytest.raises(GenerationError, match=r"returned \(4, 16, 16, 3\), expected \(4, 32, 32"):
        generator.generate([make_job()])


def test_unknown_pipeline_argument_is_an_error(folders: Any) -> None:
    source = str(folders("flow"))
    entry = make_entry("flow", source, pipeline_arguments={"magic": 1})
    generator = build_generator(GeneratorSettings(model="x", batch_size=1), entry, Path())
    with pytest.raises(GenerationError, match=r"TypeError.*magic"):
        generator.generate([make_job()])


# --- the Hub and remote code ----------------------------------------------------------------------


def test_hub_model_offline_says_what_to_do() -> None:
    with pytest.raises(GenerationError, match="not in the local cache and the Hub cannot be"):
        build_generator(GeneratorSettings(model="factory-tests/absent"), None, Path())


def test_hub_model_comes_from_the_cache_when_offline(
    folders: Any, shared: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--x--y"
    shutil.copytree(folders("flow"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for revision in (None, commit):
        settings = GeneratorSettings(model="x/y", revision=revision, steps=3, batch_size=4)
        generator = build_generator(settings, None, Path())
        sample = generator.generate([make_job()])[0]
        assert np.array_equal(sample.pixels, shared("flow").generate([make_job()])[0].pixels)
        assert generator.describe()["model_revision"] == commit


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("GatedRepoError", GenerationError, "gated: accept its terms on https://hugging"),
        ("RepositoryNotFoundError", InputError, "no such repository"),
        ("RevisionNotFoundError", InputError, "no such revision"),
    ],
)
def test_hub_refusals_say_what_to_do(
    name: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    response: Any = SimpleNamespace(headers={}, request=None)  # of the HTTP client in use

    def refuse(*_arguments: Any, **_options: Any) -> str:
        raise getattr(errors, name)("refused", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(kind, match=message):
        build_generator(GeneratorSettings(model="x/y"), None, Path())


def test_remote_code_needs_both_consents_and_a_pinned_revision(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factory.models.generators.consent import allow_remote_code

    def ask(trust: bool, consent: bool, revision: str | None, custom: str | None = None) -> Any:
        settings = GeneratorSettings(model="x", trust_remote_code=trust)
        entry = make_entry(
            "stable-diffusion",
            "x/y",
            revision=revision,
            remote_code=consent,
            custom_pipeline=custom,
        )
        family = get_family(entry.family)(settings, entry)
        return allow_remote_code(family, folders("flow"))

    commit = "0" * 40
    assert ask(True, False, commit) == ask(False, True, commit) == {}
    for trust, consent in ((False, True), (True, False)):
        with pytest.raises(InputError, match=r"generator\.trust_remote_code: true, and remote"):
            ask(trust, consent, commit, "x/code")
    for revision in (None, "main"):
        with pytest.raises(InputError, match="pin a full commit hash"):
            ask(True, True, revision)
    with pytest.raises(InputError, match="code on the Hub without a pinned revision"):
        ask(True, True, commit, "x/code")
    assert ask(True, True, commit) == {"trust_remote_code": True}
    code = str(folders("flow"))
    assert ask(True, True, commit, code)["custom_pipeline"] == code


# --- catalog entries, and what is not imported ----------------------------------------------------


def test_entry_tells_capabilities_without_weights() -> None:
    entry = make_entry("dit", "x/absent", class_names=("a", "b"), token_limits={})
    capabilities = build_generator(GeneratorSettings(model="x"), entry, Path()).capabilities
    assert capabilities.class_names == ("a", "b")
    assert capabilities.required == {"class_name"}
    assert (capabilities.width, capabilities.mpp) == (SIZE, 0.5)


def test_every_shipped_model_tells_what_it_takes() -> None:
    catalogs = load_catalogs()
    entries = catalogs.list_models()
    assert len(entries) >= 5
    for entry in entries:
        settings = GeneratorSettings(model=entry.id)
        assert find_entry(settings, catalogs) == entry
        if FAMILIES.get(entry.family).is_on_record:
            with pytest.raises(InputError, match="on record only"):
                build_generator(settings, entry, Path())
            continue
        generator = build_generator(settings, entry, Path())
        if entry.family == "given":  # images of any size, and no stream that a model could take
            assert generator.capabilities.required == {"existing"}
            continue
        if entry.class_names is None and entry.family == "dit":
            continue  # its classes stand in the model itself
        capabilities = generator.capabilities
        declared = set(entry.required) | set(entry.optional)
        assert capabilities.required | capabilities.optional == declared
        assert (capabilities.width, capabilities.height) == (entry.width, entry.height)
        assert set(entry.token_limits) <= set(capabilities.token_limits)


def test_entry_is_found_by_hub_id_too() -> None:
    catalogs = load_catalogs()
    known = catalogs.find_model("stable-diffusion-xl")
    assert find_entry(GeneratorSettings(model=known.source), catalogs) == known
    assert find_entry(GeneratorSettings(model="nobody/nothing"), catalogs) is None


def test_entry_narrows_the_streams(folders: Any, reference: Any) -> None:
    source = str(folders("stable-diffusion"))
    entry = make_entry("stable-diffusion", source, required=("caption",), optional=("class_name",))
    generator = build_generator(GeneratorSettings(model="x", batch_size=1), entry, Path())
    assert generator.generate([make_job(class_name="TUM")])[0].prompt
    with pytest.raises(InputError, match="reference is not supported"):
        generator.generate([make_job(caption="a", reference=reference(0.9))])


def test_entry_that_contradicts_the_model_is_refused(folders: Any) -> None:
    entry = make_entry("flow", str(folders("flow")), class_names=("TUM", "ADI", "LYM"))
    generator = build_generator(GeneratorSettings(model="x"), entry, Path())
    with pytest.raises(InputError, match="differ from the model's own"):
        generator.generate([make_job()])


def test_fake_pauses_as_its_entry_says() -> None:
    import time

    entry = make_entry("fake", "fake", pipeline_arguments={"seconds_per_image": 0.02})
    generator = build_generator(GeneratorSettings(model="fake"), entry, Path())
    began = time.perf_counter()
    generator.generate([make_job(0), make_job(1)])
    assert time.perf_counter() - began >= 0.04
    with pytest.raises(InputError, match="fake knows seconds_per_image only"):
        wrong = make_entry("fake", "fake", pipeline_arguments={"pause": 1})
        build_generator(GeneratorSettings(model="fake"), wrong, Path())


def test_fake_and_the_table_import_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from factory.models.generators import build_generator, families\n"
        "from factory.recipe.recipe import GeneratorSettings\n"
        "from factory.data.records import Condition, Job, Request\n"
        "fake = build_generator(GeneratorSettings(model='fake'), None, Path())\n"
        "fake.generate([Job(Request('s', 0, Condition(class_name='a'), 0), 0, 1)])\n"
        "import factory.models.generators.diffusers\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    root = ROOT
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_flow_varies_a_reference_of_any_class(build: Build, reference: Any) -> None:
    """An unknown class goes as the null class, and the row says so; alone it is refused."""
    generator = build("flow")
    foreign = make_job(class_name="oscc_400x", reference=reference(0.4))
    known = make_job(class_name=tiny.CLASS_NAMES[0], reference=reference(0.4))
    without = make_job(reference=reference(0.4))
    samples = generator.generate([foreign, known, without])
    assert [sample.notes for sample in samples] == [
        {"class_sent": "null class"},
        {},
        {},
    ]
    with pytest.raises(InputError, match="no class"):
        generator.generate([make_job(class_name="oscc_400x")])


def test_a_subclass_overrides_what_a_stream_becomes(folders: Any, shared: Build) -> None:
    class Marked(StableDiffusionFamily):
        kind = "marked"

        def write_prompts(self, conditions: Any) -> Any:
            return [f"{each.caption}, 20x" for each in conditions]

    settings = {"width": SIZE, "height": SIZE, "steps": 3, "batch_size": 4}
    model = str(folders("stable-diffusion"))
    marked = Marked(GeneratorSettings(model=model, **settings), None, Path()).load()
    (made,) = marked.generate([replace(make_job(caption="glands"), seed=3)])
    same = replace(make_job(caption="glands, 20x"), seed=3)
    (asked,) = shared("stable-diffusion").generate([same])
    assert made.prompt == "glands, 20x"
    assert np.array_equal(made.pixels, asked.pixels)
    assert marked.describe()["family"] == "marked"
