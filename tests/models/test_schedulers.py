"""Every scheduler of the list makes rows, or is refused with the reason before anything runs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from factory.catalog.vocabulary import SCHEDULERS
from factory.core.errors import InputError, RecipeError
from factory.data.records import Condition, Job, Request
from factory.models.generators import build_generator
from factory.models.generators.families import FAMILIES
from factory.models.generators.sampling import check_scheduler
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests import ROOT
from tests.running import read_json, read_rows, run, write_recipe
from tests.tiny import save_tiny

RECIPES = ROOT / "recipes"
NOISE = [name for name, kind in SCHEDULERS.items() if "noise" in kind.steps]
FLOW = [name for name, kind in SCHEDULERS.items() if "flow" in kind.steps]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("stable-diffusion", "flow", "flux"):
        save_tiny(family, folder / family)
    return folder


def write(models, folder, family, name):
    steps = max(3, SCHEDULERS[name].min_steps)
    condition = {"kind": "class", "classes": ["TUM"], "per_class": 1}
    generator = {"model": str(models / family), "scheduler": name, "steps": steps, "batch_size": 1}
    generator |= {"width": 32, "height": 32} if FAMILIES.get(family).sized else {}
    return write_recipe(folder, generator=generator, conditions=[condition], filters=[])


def make_family(name):
    return FAMILIES.get(name)(GeneratorSettings(model=name))


def check(path):
    loaded = load_recipe(path)
    check_recipe(loaded)
    return loaded


@pytest.mark.stranger
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_makes_a_row_or_says_why_not(models, tmp_path, name):
    recipe = write(models, tmp_path, "stable-diffusion", name)
    package = SCHEDULERS[name].package
    if name not in NOISE or (package is not None and find_spec(package) is None):
        expected = package or rf"{name} (is for|steps flow, and .* predicts noise)"
        with pytest.raises(RecipeError, match=expected):
            check(recipe)
        return
    check(recipe)
    run(recipe, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out")
    assert row["scheduler"] == f"{name}Scheduler"
    for path in (tmp_path / "out").rglob("*.json"):
        assert not {"-Infinity", "Infinity", "NaN"} & set(path.read_text().split())
    (maker,) = (tmp_path / "out" / ".factory" / "workers").glob("*.json")
    config = read_json(maker)["generator"]["scheduler_config"]
    assert config.get("lambda_min_clipped", "-Infinity") == "-Infinity"


@pytest.mark.parametrize(
    ("family", "name"),
    [("flow", name) for name in FLOW]
    + [
        pytest.param("flux", name, marks=() if name.startswith("FlowMatch") else pytest.mark.slow)
        for name in FLOW
    ],
)
def test_flow_schedulers_step_flow_models(models, name, family):
    known = SCHEDULERS[name]
    settings = GeneratorSettings(
        model=str(models / family), scheduler=name, steps=3, batch_size=2, device="cpu"
    )
    condition = Condition(class_name="TUM") if family == "flow" else Condition(caption="tumor")
    jobs = [Job(Request("x", each, condition, each), 0, 5 + each) for each in range(2)]
    generator = build_generator(settings, None, Path())
    if FAMILIES.get(family).shifts and not known.shifts:
        with pytest.raises(InputError, match=rf"{name} takes no sigmas and shift"):
            generator.generate(jobs)
        return
    assert all(sample.nonfinite_fraction == 0 for sample in generator.generate(jobs))


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("flow", "FlowMatchLCM"),
        ("flow", "SASolver"),
        pytest.param("flux", "FlowMatchLCM", marks=pytest.mark.slow),
        ("stable-diffusion", "EulerAncestralDiscrete"),
        ("stable-diffusion", "DPMSolverSDE"),
    ],
)
def test_noise_of_schedulers_comes_from_the_seed(models, family, name):
    settings = GeneratorSettings(
        model=str(models / family), scheduler=name, steps=4, batch_size=2, device="cpu"
    )
    condition = Condition(class_name="TUM") if family == "flow" else Condition(caption="tumor")
    jobs = [Job(Request("x", each, condition, each), 0, 5 + each) for each in range(3)]
    generator = build_generator(settings, None, Path())
    first = [sample.pixels for sample in generator.generate(jobs[:2])]
    generator.generate(jobs[2:])
    again = [sample.pixels for sample in generator.generate([jobs[2], jobs[1]])]
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("recipe", ["text-classes", "captions-from-file"])
def test_shipped_recipes_name_schedulers_that_run(recipe):
    check_recipe(load_recipe(RECIPES / f"{recipe}.yaml"), check_files=False)


def test_a_scheduler_of_another_kind_is_refused_with_what_fits():
    with pytest.raises(InputError, match=r"DDIM steps noise, .* take DEISMultistep.*UniPC"):
        check_scheduler("DDIM", make_family("flow"), None)
    with pytest.raises(InputError, match="PNDM needs 4 steps or more, got 2"):
        check_scheduler("PNDM", make_family("stable-diffusion"), 2)
    with pytest.raises(InputError, match="SCM is for continuous-time consistency models"):
        check_scheduler("SCM", None, None)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("factory.models.generators.sampling.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package torchsde.*pip install torchsde"):
        check_scheduler("DPMSolverSDE", make_family("stable-diffusion"), None)
