"""Step caches: less work, rows that stay theirs, and a word where a cache would mix them."""

import functools
import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import _helpers, taylorseer_cache
from PIL import Image

from factory.core.errors import CallError, InputError, MismatchError
from factory.data.records import Condition, Job, Request
from factory.data.streams import Scale, Vector
from factory.engine.dataset import open_dataset
from factory.engine.regenerate import Places, regenerate_rows
from factory.models.generators import multi_network
from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.settings import REFUSED_CACHES, GeneratorSettings
from factory.models.generators.speed import find_network
from tests.models.test_generators import build_saved, find_tiny, make_job, stack
from tests.running import find_messages, read_rows, run, write_recipe

BOTH = ("taylorseer", "pyramid_attention")
CACHED = [("multi", "taylorseer"), ("stable-diffusion", "pyramid_attention")]
CACHED += [(family, kind) for family in ("flux", "pixart-sigma", "dit") for kind in BOTH]
CACHED += [("stable-diffusion-3", "taylorseer")]
STEPS = 6


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds the generator of a tiny pipeline: six steps, four images in a batch."""
    root = tmp_path_factory.mktemp("tiny")

    def make(family: str, **changes: Any) -> Any:
        values = {"width": 32, "height": 32, "steps": STEPS, "batch_size": 4}
        values |= {} if family == "flux" else {"guidance": 3.0}
        return build_saved(str(find_tiny(root, family)), family, **{**values, **changes})

    return make


def count_calls(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts calls of all modules by their class, as long as the test lasts."""
    found: Counter[str] = Counter()
    for kind in {type(each) for each in network.modules()}:
        forward = kind.forward

        @functools.wraps(forward)
        def counted(self: Any, *args: Any, _forward: Any = forward, **kwargs: Any) -> Any:
            found[type(self).__name__] += 1
            return _forward(self, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", counted)
    return found


@pytest.mark.parametrize(("family", "kind"), CACHED)
def test_a_row_is_the_same_in_any_company_and_in_any_call(build, family, kind):
    generator = build(family, cache=kind)
    jobs = [make_job(number) for number in range(4)]
    whole = stack(generator.generate(jobs))
    assert np.array_equal(whole[2], generator.generate([jobs[2]])[0].pixels)
    strangers = [make_job(9, class_name="ADI"), jobs[0], make_job(8, class_name="LYM")]
    assert np.array_equal(whole[0], generator.generate(strangers)[1].pixels)
    assert np.array_equal(whole, stack(build(family, cache=kind).generate(jobs)))
    assert not np.array_equal(whole, stack(build(family).generate(jobs)))


@pytest.mark.parametrize(("family", "kind"), CACHED)
def test_it_leaves_out_work_and_nothing_of_it_stays(build, family, kind, monkeypatch):
    plain, cached = build(family), build(family, cache=kind)
    network = find_network(cached.model.pipeline, "cache")
    calls = count_calls(network, monkeypatch)
    alone = stack(plain.generate([make_job()]))
    before = dict(calls)
    calls.clear()
    cached.generate([make_job()])
    assert calls[type(network).__name__] == before[type(network).__name__]
    part = "FluxAttention" if family == "flux" else "Attention"
    if kind == "taylorseer":
        stack_name = "blocks" if family == "multi" else "transformer_blocks"
        part = type(getattr(network, stack_name)[0]).__name__
    if family == "stable-diffusion-3":  # its only block is its last: what is in it is left out
        part = "FeedForward"
    share = calls[part] / before[part]
    # Of the steps 0 to 5 taylorseer leaves out 2 and 4.
    assert share < 1.0 if kind == "pyramid_attention" else share == 4 / 6
    hooks = [vars(each).get("_diffusers_hook") for each in network.modules()]
    assert any(hooks) and not any(each.hooks for each in hooks if each is not None)
    shared = DiffusersGenerator(plain.family, cached.model)
    assert np.array_equal(alone, stack(shared.generate([make_job()])))


def test_hooks_are_gone_after_a_call_that_fails(build, monkeypatch):
    generator = build("multi", cache="taylorseer")
    first = stack(generator.generate([make_job()]))
    transformer = generator.model.pipeline.transformer
    with monkeypatch.context() as patch:
        patch.setattr(type(transformer.leave), "forward", lambda *_: 1 / 0)
        with pytest.raises(CallError, match="ZeroDivisionError"):
            generator.generate([make_job()])
    assert not any(vars(each).get("_diffusers_hook").hooks for each in [*transformer.blocks])
    assert np.array_equal(first, stack(generator.generate([make_job()])))


def make_mixed(streams: list[Any], number: int, caption: str | None = None) -> Job:
    request = Request("series", number, Condition(None, caption, *streams), number)
    return Job(request, 0, request.derive_seed(7, 0))


def test_streams_of_other_rows_and_guidance_in_an_interval_change_no_row(build):
    """Where guidance begins or ends part-way, and with it a prediction, its history begins anew."""
    own = {"caption": {"scale": 4.0, "low": 0.3, "high": 0.7}, "vector": {"scale": 2.0, "low": 0.5}}
    generator = build("multi", cache={"kind": "taylorseer", "start": 1}, guidance=1.5)
    guided = build("multi", steps=10, cache="taylorseer", guidance=1.0, stream_guidance=own)
    values = Vector.of({"HYPOXIA": 0.5, "APOPTOSIS": -1.0, "MITOSIS": 2.0})
    jobs = [
        make_mixed([Scale(0.25)], 0),
        make_mixed([values], 1),
        make_mixed([Scale(0.5), values], 2, "dense lymphocytes"),
        make_mixed([], 3, "fat"),
    ]
    for each in (generator, guided):
        together = each.generate(jobs)
        for job, sample in zip(jobs, together, strict=True):
            assert np.array_equal(each.generate([job])[0].pixels, sample.pixels)
    scheduled = build("multi", cache="taylorseer", guidance={"scale": 1.0, "end": 3.0})
    assert np.array_equal(
        scheduled.generate(jobs)[1].pixels, scheduled.generate(jobs[1:2])[0].pixels
    )


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [("multi", "FlowMatchHeunDiscrete"), ("pixart-sigma", "DDIM"), ("dit", "HeunDiscrete")],
)
def test_schedulers_of_two_predictions_a_step_and_of_none_counted(build, family, scheduler):
    for kind in ("taylorseer",) if family == "multi" else BOTH:
        generator = build(family, cache=kind, scheduler=scheduler)
        jobs = [make_job(number) for number in range(3)]
        assert np.array_equal(
            stack(generator.generate(jobs))[1:2], stack(generator.generate(jobs[1:2]))
        )


def test_predictions_made_apart_are_kept_apart_or_refused(build):
    """QwenImage calls its network twice a step: of attention diffusers would keep one alone."""
    changes = {"steps": 6, "width": 64, "height": 64}
    generator = build("QwenImagePipeline", cache="taylorseer", **changes)
    jobs = [make_job(number, caption=text) for number, text in enumerate(("a", "b", "c"))]
    made = stack(generator.generate(jobs))
    assert np.array_equal(made[1:2], stack(generator.generate(jobs[1:2])))
    refused = build("QwenImagePipeline", cache="pyramid_attention", **changes)
    with pytest.raises(InputError, match="makes several apart"):
        refused.generate(jobs)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REFUSED_CACHES, "first_block", "FirstBlockCache", "MagCache"])
def test_a_cache_that_would_mix_rows_is_refused_with_the_reason(name):
    for given in (name, {"kind": name}):
        with pytest.raises(ValueError, match=r"depend on its company|take taylorseer"):
            GeneratorSettings(model="he-multi-base", cache=given)


def test_networks_without_the_parts_are_refused(build, tmp_path):
    with pytest.raises(InputError, match=r"family 'stable-diffusion', whose network has nothing"):
        build("stable-diffusion", cache="taylorseer")
    with pytest.raises(InputError, match=r"that taylorseer could leave out \(no cache has\)"):
        build("flow", cache="taylorseer")
    with pytest.raises(InputError, match=r"SanaTransformerBlock is no block"):
        build("SanaPipeline", cache="taylorseer").generate([make_job(caption="a")])
    with pytest.raises(InputError, match=r"cache: start 2 leaves out none of 2 steps"):
        build("multi", cache="taylorseer", steps=2)


def test_a_start_within_the_path_that_leaves_no_step_out_is_refused(tmp_path):
    (tmp_path / "crops" / "TUM").mkdir(parents=True)
    Image.new("RGB", (128, 128), (200, 90, 160)).save(tmp_path / "crops" / "TUM" / "one.png")
    model = {"model": "he-multi-base", "width": None, "height": None}
    way = {"kind": "translate", "images": "crops", "method": "image_to_image"}
    recipe = write_recipe(
        tmp_path,
        generator={**model, "cache": "taylorseer", "steps": 6},
        conditions=[
            {"kind": "reference", "images": "crops", "per_class": 1, "strength": 0.3},
            {"kind": "reference", "images": "crops", "per_class": 1, "strength": 0.5},
            {**way, "to": {"caption": "fat"}, "steps": 4},
            {**way, "to": {"caption": "fat"}},
        ],
    )
    found = find_messages(recipe)
    assert sorted(found) == ["conditions[0].strength", "conditions[2].strength"]
    wanted = "start 2 leaves out none of 2 steps that it runs: raise strength or steps, or lower"
    assert all(wanted in each for each in found.values())


def test_a_range_of_timesteps_that_holds_none_is_refused():
    cache = {"kind": "pyramid_attention", "low": 0.8, "high": 0.1}
    with pytest.raises(ValueError, match=r"high must be above low \(0\.8\), got 0\.1"):
        GeneratorSettings(model="he-multi-base", cache=cache)


@pytest.mark.parametrize(
    ("home", "name"),
    [
        (_helpers, "TransformerBlockRegistry"),
        (taylorseer_cache, "_TAYLORSEER_CACHE_HOOK"),
    ],
)
def test_what_diffusers_lacks_is_missed_by_a_cache_alone(build, monkeypatch, home, name):
    monkeypatch.delattr(home, name)
    monkeypatch.delitem(sys.modules, "factory.models.generators.step_cache")
    runpy.run_path(str(multi_network.__file__))
    build("multi").generate([make_job()])
    with pytest.raises(InputError, match=rf"^generator\.cache: .*{name}'.*fit\)$"):
        build("multi", cache="taylorseer").generate([make_job()])


def test_what_it_holds_is_of_one_call_so_none_stops_part_way(build, tmp_path):
    with pytest.raises(InputError, match="none stops part-way"):
        build("multi", cache="taylorseer").begin([make_job()], 0.5)
    recipe = write_recipe(
        tmp_path,
        generator={"model": "he-multi-base", "width": None, "height": None, "cache": "taylorseer"},
        conditions=[{"kind": "caption", "captions": "captions.txt", "count": 2}],
        filters=[{"kind": "finite"}],
        early={"min": {"contrast": 0.1}},
    )
    (tmp_path / "captions.txt").write_text("fat\n")
    assert "what generator.cache holds is of one call" in find_messages(recipe)["early"]


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_records_it_and_makes_its_rows_again(build, tmp_path):
    build("multi")
    folder = Path(build("multi").family.settings.model)
    cache = {"kind": "taylorseer", "interval": 3}

    def make(name: str, **changes: Any) -> list[dict[str, Any]]:
        recipe = write_recipe(
            tmp_path / name,
            generator={"model": str(folder), "steps": 8, "batch_size": 3, **changes},
            conditions=[{"kind": "class", "per_class": {"LYM": 3, "TUM": 2}}],
            filters=[],
        )
        assert run(recipe, tmp_path / name / "run").exit_code == 0
        return read_rows(tmp_path / name / "run")

    rows, plain = make("cached", cache=cache), make("plain")
    dataset = open_dataset(str(tmp_path / "cached" / "run"))
    (other,) = {row["sample_id"] for row in plain} & {row["sample_id"] for row in rows} or [None]
    assert other is None
    told = json.loads(rows[0]["provenance"])["generator"]["cache"]
    assert told == {"kind": "taylorseer", "interval": 3, "order": 1, "start": 2}
    card = (tmp_path / "cached" / "run" / "README.md").read_text("utf-8")
    assert "left out at some steps by taylorseer: interval 3, order 1, start 2" in card
    for rebuilt in regenerate_rows(rows, dataset.recipe, Places()):
        assert rebuilt.status == "exact"
    with pytest.raises(MismatchError, match=r"generator\.cache"):
        run(tmp_path / "plain" / "recipe.yaml", tmp_path / "cached" / "run")
