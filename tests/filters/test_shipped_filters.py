"""What is never accepted, what NaN means, and what the shipped recipes let through."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from pydantic import TypeAdapter
from scipy.ndimage import gaussian_filter

from factory.api import refilter
from factory.catalog.acceptance import parse_rule
from factory.data.images import list_images
from factory.data.records import Condition, Sample
from factory.filters import build_filters, decide_all, score_all
from factory.models.generators.families.fake import FakeGenerator
from factory.models.session import Session
from factory.recipe.recipe import AnyFilter
from tests import ASSETS, ROOT
from tests.running import read_json, read_rows, run, write_recipe

RECIPES = ROOT / "recipes"
PCAM = ASSETS / "pcam"
PIXEL_KINDS = ("finite", "tissue", "stain", "focus", "color_cast")


def list_shipped():
    """(name, filters) of every shipped recipe with a classifier."""
    found = [(path.stem, yaml.safe_load(path.read_text())) for path in RECIPES.glob("*.yaml")]
    return sorted(
        (name, recipe["filters"])
        for name, recipe in found
        if any(each["kind"] == "classifier" for each in recipe.get("filters", ()))
    )


SHIPPED = list_shipped()
LYMPH = [(name, filters) for name, filters in SHIPPED if name != "text-classes"]
"""All but the one for tiles of colon at 512 px."""


def build(described):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(described)
    return build_filters(parsed, Session.open(Path()))


# --- what is not finite --------------------------------------------------------------------------


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("filters", "accept"),
    [
        ([], None),
        ([{"kind": "tissue", "min_fraction": 0.0}], None),
        ([{"kind": "finite"}, {"kind": "tissue", "min_fraction": 0.0}], "tissue"),
        ([{"kind": "tissue", "min_fraction": 0.9}], "not tissue"),
    ],
)
def test_nan_is_never_accepted(tmp_path, monkeypatch, filters, accept):
    draw = FakeGenerator.generate

    def spoil(self, jobs):
        return [
            Sample(sample.pixels, 1e-6 if job.condition.class_name == "tumor" else 0.0)
            for job, sample in zip(jobs, draw(self, jobs), strict=True)
        ]

    monkeypatch.setattr(FakeGenerator, "generate", spoil)
    changes = {} if accept is None else {"accept": accept}
    changes |= {"conditions": [{"kind": "class", "per_class": {"normal": 2, "tumor": 2}}]}
    recipe = write_recipe(tmp_path, filters=filters, budget={"attempts": 2}, **changes)
    run(recipe, tmp_path / "out")
    assert "tumor" not in {row["class_name"] for row in read_rows(tmp_path / "out")}
    rejected = read_rows(tmp_path / "out", "rejected")
    spoilt = [row for row in rejected if row["class_name"] == "tumor"]
    assert len(spoilt) == 4
    assert {(row["rejected_by"], row["reason"]) for row in spoilt} == {
        ("finite", "nonfinite_fraction 0.0001 > 0")
    }
    series = read_json(tmp_path / "out" / "summary.json")["series"]
    assert sum(part["rejected"].get("finite", 0) for part in series) == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "rejected: finite" in card
    assert "never accepted" in card
    refilter(str(tmp_path / "out"), [])
    assert "tumor" not in {row["class_name"] for row in read_rows(tmp_path / "out")}


# --- NaN scores ----------------------------------------------------------------------------------


@pytest.mark.stranger
def test_nan_passes_only_where_a_score_may_not_apply():
    (cast, stain) = build([{"kind": "color_cast"}, {"kind": "stain"}])
    scores = {"color_cast": math.nan, "tissue_cast": math.nan, "stain_plausibility": 0.9}
    assert decide_all((cast, stain), scores).accepted
    verdict = decide_all((cast, stain), {**scores, "stain_plausibility": math.nan})
    assert (verdict.filter, verdict.reason) == (
        "stain",
        "stain_plausibility is NaN, and always applies",
    )
    assert not decide_all((stain,), {"stain_plausibility": math.nan}, parse_rule("stain")).accepted


def test_every_filter_that_may_give_nan_declares_it():
    blank = np.full((64, 64, 3), 128, np.uint8)
    kinds = [{"kind": kind} for kind in ("finite", "tissue", "stain", "color_cast")]
    judges = build([*kinds, {"kind": "focus", "max_blur": 0.6}, {"kind": "training_copy"}])
    (scores,) = score_all(judges, [Sample(blank)], [Condition()])
    allowed = {
        judge_score.name
        for judge in judges
        for judge_score in judge.scores
        if judge_score.may_be_nan
    }
    assert {name for name, value in scores.items() if math.isnan(value)} <= allowed


# --- what shipped recipes let through ------------------------------------------------------------


def test_shipped_recipes_with_a_classifier_judge_pixels_too():
    assert len(SHIPPED) >= 8
    for name, filters in SHIPPED:
        kinds = {each["kind"]: each for each in filters}
        assert {"finite", "stain", "focus", "color_cast"} <= set(kinds), name
        bounds = {"max_blur", "min_blur", "min_sharpness", "max_sharpness"}
        assert bounds <= set(kinds["focus"]), name


def read_real():
    """All real patches of lymph nodes that ship with the tests."""
    images = [*list_images(PCAM / "train"), *list_images(PCAM / "test")]
    assert len(images) >= 40
    return images


def spoil(image, draw):
    """Name -> one image spoilt in one way."""
    pixels, shape = image.astype(float), image.shape
    glass = np.array([244, 242, 245]) + draw.normal(0, 2, shape)
    casts = {"green": (0.6, 1, 0.6), "blue": (0.55, 0.7, 1), "yellow": (1, 1, 0.5)}
    found = {
        "noise": draw.uniform(0, 255, shape),
        "noisy": pixels + draw.normal(0, 40, shape),
        "shuffled": draw.permutation(image.reshape(-1, 3)).reshape(shape),
        "blurred": gaussian_filter(pixels, (2, 2, 0)),
        "very blurred": gaussian_filter(pixels, (4, 4, 0)),
        "glass": glass,
        "grey": np.full(shape, 128.0),
        "black": np.zeros(shape),
        "sliver": np.concatenate([pixels[:, :4], glass[:, 4:]], axis=1),
        "murky": np.array([125, 135, 130]) + draw.normal(0, 5, shape),
        "without colour": np.repeat(pixels.mean(-1, keepdims=True), 3, -1),
        "saturated": (pixels - 128) * 4 + 128,
        "bright": pixels * 2.5 + 40,
        **{name: pixels * np.array(tint) for name, tint in casts.items()},
    }
    return {key: value.clip(0, 255).round().astype(np.uint8) for key, value in found.items()}


@pytest.mark.stranger
@pytest.mark.parametrize(("name", "filters"), LYMPH, ids=[name for name, _ in LYMPH])
def test_shipped_recipes_pass_real_patches_and_stop_spoilt_ones(name, filters):
    described = [each for each in filters if each["kind"] in (*PIXEL_KINDS, "classifier")]
    described = [{**each, "model": "pcam"} if "model" in each else each for each in described]
    judges, draw = build(described), np.random.default_rng(1)
    real = [(image.class_name, image.read_pixels()) for image in read_real()]

    def count_accepted(shown):
        samples, asked = [Sample(each) for _, each in shown], [Condition(name) for name, _ in shown]
        rows = score_all(judges, samples, asked)
        pairs = zip(rows, shown, strict=True)
        return np.mean([decide_all(judges, row, None, name).accepted for row, (name, _) in pairs])

    assert count_accepted(real) >= 0.85
    spoilt = [(label, spoil(each, draw).values()) for label, each in real[::4]]
    assert count_accepted([(label, each) for label, these in spoilt for each in these]) <= 0.05


@pytest.mark.stranger
def test_finite_keeps_fat_and_rejects_blanks():
    judges, draw = build([{"kind": "finite"}]), np.random.default_rng(0)
    real = [image.read_pixels() for image in read_real()]
    fat = Image.new("RGB", (64, 64), (238, 234, 240))
    ImageDraw.Draw(fat).ellipse((-20, -20, 60, 60), outline=(226, 205, 222), width=3)
    blanks = [
        np.clip(draw.normal(g, 2, (64, 64, 3)), 0, 255).astype(np.uint8) for g in (244, 128, 2)
    ]
    shown = [Sample(each) for each in (*real, np.asarray(fat), *blanks)]
    verdicts = [
        decide_all(judges, row).accepted
        for row in score_all(judges, shown, [Condition()] * len(shown))
    ]
    assert all(verdicts[:-3])
    assert not any(verdicts[-3:])
