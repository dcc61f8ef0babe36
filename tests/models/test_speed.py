"""`generator.speed`: other ways to run the same network, said by the recipe and by its rows."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from factory import api
from factory.core.errors import CallError, InputError, MismatchError
from factory.data.schema import select_shaping
from factory.engine import speeds
from factory.engine.dataset import open_dataset
from factory.engine.regenerate import Places, regenerate_rows
from factory.models.generators import build_generator
from factory.models.generators import speed as speed_module
from factory.models.generators.settings import GeneratorSettings, Speed
from factory.models.generators.speed import find_network
from factory.recipe.file import load_recipe
from factory.recipe.recipe import compute_recipe_digest
from tests.models.test_generators import build_saved, find_tiny, make_job, stack
from tests.running import ask, find_messages, read_rows, run, write_recipe

FAMILIES = ("flow", "multi", "stable-diffusion")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds the generator of a tiny pipeline: two steps, two images in a batch."""
    root = tmp_path_factory.mktemp("tiny")

    def make(family: str, **changes: Any) -> Any:
        return build_saved(
            str(find_tiny(root, family)),
            family,
            **{"steps": 2, "batch_size": 2, "guidance": 2.0, **changes},
        )

    return make


def write_tiny(build: Any, folder: Path, speed: Any, **changes: Any) -> Path:
    """Writes the recipe of a tiny model in another way."""
    model = build("multi").family.settings.model
    generator = {"model": model, "width": None, "height": None, "steps": 2, "batch_size": 2}
    generator |= {"guidance": 1.0, "speed": speed, **changes}
    conditions = [{"kind": "class", "per_class": {"TUM": 2}}]
    return write_recipe(
        folder, generator=generator, conditions=conditions, filters=[{"kind": "finite"}]
    )


# --- what is run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_lies_so_and_makes_nearly_the_same_image(build, family):
    jobs = [make_job(number) for number in range(2)]
    plain, fast = build(family), build(family, speed={"channels_last": True})
    made = stack(fast.generate(jobs))
    weight = next(x for x in find_network(fast.model.pipeline, "speed").parameters() if x.ndim == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    moved = np.abs(made.astype(int) - stack(plain.generate(jobs)))
    assert moved.max() <= 2
    assert fast.describe()["speed"] == Speed(channels_last=True).model_dump()
    assert "speed" not in plain.describe()
    assert select_shaping(fast.describe())["speed"]["channels_last"]


def test_attention_runs_by_the_kernel_asked_for_and_all_else_as_before(build, monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def look(*args: Any, **kwargs: Any) -> Any:
        kernels = torch.backends.cuda
        seen.append((kernels.math_sdp_enabled(), kernels.flash_sdp_enabled()))
        return attend(*args, **kwargs)

    monkeypatch.setattr("factory.models.generators.multi_layers.scaled_dot_product_attention", look)
    build("multi", speed={"attention": "math"}).generate([make_job()])
    assert set(seen) == {(True, False)}
    assert torch.backends.cuda.flash_sdp_enabled()
    seen.clear()
    build("multi", speed={"attention": "flash"}, cache={"kind": "taylorseer", "start": 1}).generate(
        [make_job()]
    )
    assert set(seen) == {(False, True)}


def test_a_kernel_that_cannot_attend_is_told(build, monkeypatch):
    monkeypatch.setattr(speed_module, "list_kernels", lambda device: ("efficient",))
    with pytest.raises(CallError, match="kernel"):
        build("multi", speed={"attention": "efficient"}).generate([make_job()])


@pytest.mark.slow("test_compiling_covers_each_block_whole_and_for_one_shape")
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_it_makes_the_images_of_the_plain_call(build, family, monkeypatch):
    """`eager` traces and guards as inductor does, and then runs the same kernels."""
    monkeypatch.setattr(speed_module, "BACKEND", "eager")
    torch.compiler.reset()
    jobs = [make_job(number) for number in range(3)]
    fast = build(family, speed={"compile": True})
    for count in (3, 1):
        made = stack(fast.generate(jobs[:count]))
        assert np.array_equal(made, stack(build(family).generate(jobs[:count])))


@pytest.mark.slow("test_compiling_covers_each_block_whole_and_for_one_shape")
def test_inductor_compiles_and_makes_its_images_again(build):
    if (lacking := speed_module.explain_no_compiler("cpu")) is not None:
        pytest.skip(lacking)
    jobs = [make_job(number) for number in range(2)]
    first = build("multi", speed={"compile": True})
    made = stack(first.generate(jobs))
    assert np.array_equal(made, stack(first.generate(jobs)))
    assert np.array_equal(made[1], first.generate(jobs[1:])[0].pixels)
    torch.compiler.reset()
    assert np.array_equal(made, stack(build("multi", speed={"compile": True}).generate(jobs)))
    assert np.abs(made.astype(int) - stack(build("multi").generate(jobs))).max() <= 2


def test_compiling_covers_each_block_whole_and_for_one_shape(build, monkeypatch):
    asked = []

    def compile_nothing(forward: Any, **options: Any) -> Any:
        asked.append(options)
        return forward

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(speed_module, "explain_no_compiler", lambda device: None)
    fast = build("multi", speed={"compile": True})
    network = fast.model.pipeline.transformer
    assert len(asked) == len(network.compiled_parts) >= len(network.blocks) > 0
    wanted = {"fullgraph": True, "dynamic": False, "options": {"deterministic": True}}
    assert all(wanted.items() <= each.items() for each in asked)
    made = stack(fast.generate([make_job()]))
    assert np.array_equal(made, stack(build("multi").generate([make_job()])))


def test_what_cannot_be_compiled_is_refused_by_its_field(build, monkeypatch):
    from torch._dynamo.exc import Unsupported

    def fail(*_: Any, **__: Any) -> Any:
        raise Unsupported("a branch on data", gb_type="data", skip_frame=False)

    monkeypatch.setattr(torch, "compile", lambda forward, **options: fail)
    monkeypatch.setattr(speed_module, "explain_no_compiler", lambda device: None)
    with pytest.raises(InputError, match=r"speed\.compile: .*cannot be compiled.*remove it"):
        build("multi", speed={"compile": True}).generate([make_job()])


# --- what is refused ------------------------------------------------------------------------------


def test_what_device_network_and_family_lack_is_refused(build, monkeypatch):
    with pytest.raises(InputError, match=r"no 'cudnn' for cpu: math, flash"):
        build("multi", speed={"attention": "cudnn"}).describe()
    flat = SimpleNamespace(transformer=torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"speed\.channels_last: Linear has no convolution"):
        speed_module.make_fast(flat, Speed(channels_last=True), "cpu")
    monkeypatch.setattr(speed_module, "explain_no_compiler", lambda device: "no C++ compiler here")
    with pytest.raises(InputError, match=r"speed\.compile: no C\+\+ compiler here"):
        build("multi", speed={"compile": True}).describe()
    with pytest.raises(InputError, match=r"family 'fake'.*no network"):
        build_generator(GeneratorSettings(model="fake", speed={"compile": True}), None, Path())
    with pytest.raises(InputError, match=r"speed\.compile: a cache leaves out"):
        build("multi", speed={"compile": True}, cache={"kind": "taylorseer", "start": 1})
    with pytest.raises(InputError, match=r"generator\.speed: object has no component"):
        find_network(object(), "speed")


def test_inversion_looks_into_layers_and_is_not_compiled(tmp_path):
    from PIL import Image

    (tmp_path / "crops" / "TUM").mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 90, 160)).save(tmp_path / "crops" / "TUM" / "one.png")
    generator = {"model": "nano-he-base", "width": None, "height": None}
    way = {
        "kind": "translate",
        "images": "crops",
        "method": "invert",
        "to": {"class_name": "tumor"},
    }
    for compiled in (True, False):
        speed = {"compile": compiled, "channels_last": True}
        recipe = write_recipe(
            tmp_path, generator={**generator, "speed": speed}, conditions=[way], filters=[]
        )
        assert ("generator.speed.compile" in find_messages(recipe)) == compiled


# --- identity -------------------------------------------------------------------------------------


def test_it_is_part_of_the_fingerprint_and_none_is_as_before(build, tmp_path):
    def digest(name: str, speed: Any) -> str:
        recipe = load_recipe(write_tiny(build, tmp_path / name, speed)).recipe
        return compute_recipe_digest(recipe)

    plain = digest("plain", None)
    assert digest("off", {}) == digest("idle", {"compile": False}) == plain
    fast = digest("fast", {"channels_last": True})
    assert fast == digest("whole", {"channels_last": True, "compile": False}) != plain
    assert len({plain, fast, digest("flash", {"attention": "flash"})}) == 3


def test_a_run_records_it_and_makes_its_rows_again(build, tmp_path):
    recipe = write_tiny(build, tmp_path, {"channels_last": True})
    out = tmp_path / "out"
    assert run(recipe, out).exit_code == 0
    rows, dataset = read_rows(out), open_dataset(str(out))
    told = [json.loads(row["provenance"])["generator"]["speed"] for row in rows]
    assert told == [Speed(channels_last=True).model_dump()] * 2
    assert "its network ran with `channels_last`" in (out / "README.md").read_text("utf-8")
    assert all(each.status == "exact" for each in regenerate_rows(rows, dataset.recipe, Places()))
    with pytest.raises(MismatchError, match=r"generator\.speed"):
        run(write_tiny(build, tmp_path / "plain", None), out)


# --- the calibration ------------------------------------------------------------------------------


def test_ways_are_measured_and_the_lines_to_paste_are_valid(build, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_module, "explain_no_compiler", lambda device: "no C++ compiler here")
    monkeypatch.setattr(speed_module, "explain_slow_bfloat16", lambda device: None)
    monkeypatch.setattr(speeds, "WORTH", 0.0)
    monkeypatch.setattr(speeds, "_tidy", lambda is_compiled: None)  # half of the test's time
    recipe = write_tiny(build, tmp_path, {"attention": "math"})
    report = speeds.measure_speeds(load_recipe(recipe), api.plan(recipe), batches=1)
    names = [each["name"] for each in report["ways"]]
    assert names[:4] == ["as it is", "channels_last: true", "dtype: bfloat16", "attention: math"]
    assert names[4] == "dtype: bfloat16, channels_last: true"
    assert any(name.endswith("attention: flash") for name in names[5:])
    assert len(set(names)) == len(names)
    assert report["skipped"] == [{"setting": "compile: true", "reason": "no C++ compiler here"}]
    plain, _, half = report["ways"][:3]
    assert plain["max_difference"] == plain["mean_difference"] == 0
    assert 0 < half["mean_difference"] <= half["max_difference"]
    assert all(each["images_per_second"] > 0 and each["memory_gb"] > 0 for each in report["ways"])
    way = max(report["ways"], key=lambda each: each["images_per_second"])["way"]
    pasted = load_recipe(recipe, report["proposed"]["set"]).recipe.generator
    assert pasted.dtype == way.get("dtype", "auto")
    told = {} if pasted.speed is None else pasted.speed.model_dump(exclude_defaults=True)
    assert told == {name: value for name, value in way.items() if name != "dtype"}


def test_the_table_says_what_was_not_tried_and_why(build, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_module, "explain_no_compiler", lambda device: "no C++ compiler here")
    monkeypatch.setattr(speed_module, "explain_slow_bfloat16", lambda device: "no instructions")
    monkeypatch.setattr(speed_module, "list_kernels", lambda device: ())
    monkeypatch.setattr(speeds, "WORTH", 1e9)
    told = ask("plan", write_tiny(build, tmp_path, None), "--no-calibrate", "--speed")
    assert "not tried, or failed: dtype: bfloat16: no instructions" in told
    assert "not tried, or failed: compile: true: no C++ compiler here" in told
    assert "nothing here is 5 % faster" in told
    refused = ask("plan", write_recipe(tmp_path / "fake"), "--no-calibrate", "--speed", code=2)
    assert "runs in one way alone" in refused


def test_a_lever_that_fails_alone_is_not_tried_beside_others():
    trials = speeds.Trials(GeneratorSettings(model="fake"), None, [])
    trials.skip({"compile": True}, "it fails")
    assert trials.knows_to_fail({"compile": True, "channels_last": True})
    assert not trials.knows_to_fail({"channels_last": True})
    assert speeds._propose({"dtype": "bfloat16", "compile": True}, False)["set"] == [
        "generator.dtype=bfloat16",
        "generator.speed={compile: true}",
    ]
    assert speeds._propose({}, True)["set"] == ["generator.speed=null"]
