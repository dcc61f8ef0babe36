"""Guiders: the published formulas, of each row alone, recorded, and refused where nothing reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg

from factory.core.errors import InputError
from factory.engine.dataset import open_dataset
from factory.engine.regenerate import Places, regenerate_rows
from factory.models.generators import build_generator
from factory.models.generators.guiders import (
    Predictions,
    ProjectedGuidance,
    RescaledGuidance,
    ZeroStarGuidance,
)
from factory.models.generators.settings import GeneratorSettings
from tests import tiny
from tests.models.test_generators import make_job, stack
from tests.running import read_rows, run, write_recipe

SCALE, SIGMA = 3.0, 0.6
KINDS = ("apg", "cfg_zero", "rescale")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("tiny")

    def make(family: str, **changes: Any) -> Any:
        folder = root / family
        if not folder.exists():
            tiny.save_tiny(family, folder)
        values = {"model": str(folder), "steps": 3, "batch_size": 3, "guidance": 3.0, **changes}
        return build_generator(GeneratorSettings(**values), None, Path())

    return make


@pytest.fixture
def found() -> Predictions:
    draw = torch.Generator().manual_seed(0)
    sample, bound, free = (torch.randn(4, 3, 8, 8, generator=draw) for _ in range(3))
    guided = free + SCALE * (bound - free)
    return Predictions(guided, bound, free, 1.0 - SCALE, sample, torch.tensor(SIGMA))


def test_apg_is_that_of_diffusers_on_the_images_foreseen(found: Predictions) -> None:
    bound, free = (found.sample - SIGMA * each for each in (found.bound, found.free))
    for parallel in (0.0, 0.3, 1.0):
        wanted = normalized_guidance(
            bound, free, SCALE - 1, eta=parallel, use_original_formulation=True
        )
        made = found.sample - SIGMA * ProjectedGuidance(kind="apg", parallel=parallel).guide(found)
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


def test_cfg_zero_scales_what_is_predicted_without_streams(found: Predictions) -> None:
    alpha = cfg_zero_star_scale(found.bound.flatten(1), found.free.flatten(1)).view(-1, 1, 1, 1)
    wanted = alpha * found.free + SCALE * (found.bound - alpha * found.free)
    torch.testing.assert_close(ZeroStarGuidance(kind="cfg_zero").guide(found), wanted)


def test_rescale_gives_the_spread_back(found: Predictions) -> None:
    made = RescaledGuidance(kind="rescale", share=0.7).guide(found)
    torch.testing.assert_close(made, rescale_noise_cfg(found.guided, found.bound, 0.7))
    whole = RescaledGuidance(kind="rescale", share=1.0).guide(found)
    torch.testing.assert_close(whole.flatten(1).std(1), found.bound.flatten(1).std(1))


@pytest.mark.parametrize("family", ["flow", "multi"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_any_company(build: Any, family: str, kind: str) -> None:
    generator, jobs = build(family, guider=kind), [make_job(number) for number in range(3)]
    whole = stack(generator.generate(jobs))
    others = [make_job(8, class_name="ADI"), jobs[1]]
    assert np.array_equal(whole[1], generator.generate(others)[1].pixels)
    finished = generator.finish(generator.begin(jobs, 0.5)[::-1])[::-1]
    assert np.array_equal(whole, stack(finished))
    assert not np.array_equal(whole, stack(build(family).generate(jobs)))
    assert generator.describe()["arguments"]["guider"]["kind"] == kind


def test_without_a_change_it_is_guidance_as_it_was(build: Any) -> None:
    for family in ("flow", "multi"):
        plain = stack(build(family).generate([make_job()]))
        kept = build(family, guider={"kind": "rescale", "share": 0.0})
        assert np.array_equal(plain, stack(kept.generate([make_job()])))
        at_one = build(family, guider="apg", guidance={"scale": 1.0, "end": 1.0})
        alone = stack(build(family, guidance=1.0).generate([make_job()]))
        assert np.array_equal(alone, stack(at_one.generate([make_job()])))


def test_streams_with_scales_of_their_own_are_guided_too(build: Any) -> None:
    own = {"class_name": {"scale": 4.0, "low": 0.5}}
    plain = build("multi", guidance=1.0, stream_guidance=own)
    for kind in KINDS:
        guided = build("multi", guidance=1.0, stream_guidance=own, guider=kind)
        jobs = [make_job(0), make_job(1, class_name=None, caption="fat")]
        made = stack(guided.generate(jobs))
        assert np.array_equal(made[:1], stack(guided.generate(jobs[:1])))
        assert (kind == "cfg_zero") == np.array_equal(made, stack(plain.generate(jobs)))


def test_where_nothing_reads_it_it_is_refused(build: Any) -> None:
    with pytest.raises(InputError, match=r"generator.guider: .*whose pipeline guides by itself"):
        build("stable-diffusion", guider="apg")
    with pytest.raises(InputError, match=r"generator.guider: has no effect at guidance 1"):
        build("flow", guider="apg", guidance=1.0)


def test_a_run_records_it_and_makes_its_rows_again(build: Any, tmp_path: Path) -> None:
    folder = build("flow").family.settings.model
    recipe = write_recipe(
        tmp_path,
        generator={
            **{"model": folder, "steps": 3, "guidance": 3.0, "guider": "apg"},
            **{"width": None, "height": None, "batch_size": 2},
        },
        conditions=[{"kind": "class", "per_class": {"LYM": 2, "TUM": 1}}],
        filters=[],
    )
    assert run(recipe, tmp_path / "run").exit_code == 0
    dataset = open_dataset(str(tmp_path / "run"))
    assert dataset.recipe.generator.guider == ProjectedGuidance(kind="apg", parallel=0.0)
    for rebuilt in regenerate_rows(read_rows(tmp_path / "run"), dataset.recipe, Places()):
        assert rebuilt.status == "exact"
