"""Calibration: thresholds proposed from real images, what they cost, and that it is all true."""

import json
import math
import re
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor
from pydantic import TypeAdapter

from factory.core.plots import choose_ticks, draw_plot
from factory.evaluate.calibrate import calibrate_recipe, picture
from factory.evaluate.calibrate.costs import Ask, measure_cost
from factory.evaluate.calibrate.picture import PANEL_HEIGHT, PANEL_WIDTH, PROPOSED
from factory.evaluate.calibrate.scored import Scored
from factory.evaluate.calibrate.thresholds import (
    Decider,
    place_points,
    propose_threshold,
    round_outwards,
)
from factory.filters import FILTERS, decide_all
from factory.models.session import Session
from factory.recipe.file import load_recipe
from factory.recipe.recipe import AnyFilter
from tests import ASSETS
from tests.filters.test_filters import ALL_KINDS, build, paint_tissue
from tests.running import call, read_json, write_recipe
from tests.train.test_train_classifier import write_folder

PCAM = ASSETS / "pcam"
FILTERS_USED = [
    {"kind": "finite", "min_contrast": 0.1435},
    {"kind": "tissue"},
]
JUDGES = {each["kind"]: build(each)[0] for each in ALL_KINDS}
SETTINGS = {kind: FILTERS.get(kind).Settings for kind in FILTERS.names}
BOUNDS = [(kind, field) for kind, judge in JUDGES.items() for field in judge.thresholds]


# --- the thresholds of every kind ----------------------------------------------------------------


@pytest.mark.parametrize("kind", FILTERS.names)
def test_every_kind_says_which_score_each_threshold_bounds(kind):
    judge, fields = JUDGES[kind], SETTINGS[kind].model_fields
    assert set(judge.thresholds) <= set(fields)
    assert set(judge.thresholds.values()) <= set(judge.score_names)
    bounds = {name for name in fields if name.startswith(("min_", "max_"))}
    assert set(judge.thresholds) == bounds


@pytest.mark.parametrize(("kind", "field"), BOUNDS)
def test_a_score_at_the_threshold_passes_and_one_step_beyond_does_not(kind, field):
    described, thresholds = next(e for e in ALL_KINDS if e["kind"] == kind), JUDGES[kind].thresholds
    value = 2 if "int" in str(SETTINGS[kind].model_fields[field].annotation) else 0.5
    needs = {"captions": "he-basic"} if field == "max_rank" else {}
    sided = [
        name for name, score in thresholds.items() if list(thresholds.values()).count(score) > 1
    ]
    alone = {name: each for name, each in described.items() if name not in sided}
    judge = build({**alone, **needs, field: value})[0]
    scores = dict.fromkeys(judge.score_names, 0.0)
    for name, score in thresholds.items():
        scores[score] = 1e6 if name.startswith("min_") else -1e6
    bounded = thresholds[field]
    beyond = -1e-4 if field.startswith("min_") else 1e-4
    assert judge.decide({**scores, bounded: value}).accepted
    assert not judge.decide({**scores, bounded: value + beyond}).accepted
    passes = field != "min_precision" and any(
        score.name == bounded and score.may_be_nan for score in judge.scores
    )
    assert decide_all((judge,), {**scores, bounded: math.nan}).accepted == passes


# --- arithmetic ----------------------------------------------------------------------------------


def cost(accepted, total, ask, attempts):
    rows = [Scored("synthetic", str(n), "a", "s", {}) for n in range(total)]
    mask = np.arange(total) < accepted
    return measure_cost(rows, mask, [ask], attempts, seconds=2.0)


@pytest.mark.parametrize("accepted", [1, 3, 7, 10])
def test_expected_counts_are_those_of_a_simulated_run(accepted):
    found = cost(accepted, 10, Ask("s", "s", 50, 50), attempts=4)
    draw = np.random.default_rng(0).random((4000, 50, 4)) < accepted / 10
    filled, tries = draw.any(-1).sum(-1), np.where(draw.any(-1), draw.argmax(-1) + 1, 4).sum(-1)
    (part,) = found["series"]
    assert part["expected_accepted"] == pytest.approx(filled.mean(), abs=0.3)
    assert part["candidates"] == pytest.approx(tries.mean(), abs=0.6)
    assert found["short"] == pytest.approx(50 - filled.mean(), abs=0.3)
    assert found["candidates_per_accepted"] == pytest.approx(10 / accepted, rel=1e-3)
    assert found["seconds_per_accepted"] == pytest.approx(20 / accepted, rel=1e-3)
    assert part["short_at_worst"] > part["short"]


@pytest.mark.parametrize("accepted", [1, 5, 9])
@pytest.mark.parametrize("pool", [40, 60])
def test_attempts_needed_are_the_fewest_that_fill_a_class(accepted, pool):
    ask = Ask("s", "s", 40, pool)
    needed = cost(accepted, 10, ask, 1)["series"][0]["attempts_needed"]
    assert cost(accepted, 10, ask, needed)["short"] <= 0.51
    assert needed == 1 or cost(accepted, 10, ask, needed - 1)["short"] > 0.5


def test_a_class_that_nothing_passes_has_no_price():
    found = cost(0, 10, Ask("s", "s", 5, 5), 3)
    assert (found["short"], found["candidates_per_accepted"]) == (5, None)
    assert found["series"][0]["attempts_needed"] is None
    assert measure_cost([], np.zeros(0, bool), [Ask("s", "s", 5, 5)], 3, 1.0)["short"] == 0


# --- proposals -----------------------------------------------------------------------------------


def decide_on(*described, rule=None):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(described)
    return Decider(parsed, Session.open(), rule)


def find_bound(decider, name):
    return next(bound for bound in decider.bounds if bound.name == name)


MIN = decide_on({"kind": "tissue"})
MAX = decide_on({"kind": "training_copy"})
UNIT = st.integers(0, 10_000).map(lambda n: n / 10_000)


@settings(max_examples=60)
@given(
    st.lists(UNIT, min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]), UNIT,
    st.sampled_from([MIN, MAX]),
)  # fmt: skip
def test_a_proposal_keeps_the_share_and_one_step_stricter_does_not(scores, keep, first, decider):
    (bound,) = decider.bounds
    rows = [Scored("real", "", "a", None, {bound.score: score}) for score in [first, *scores]]
    value = propose_threshold(decider, rows, bound, keep)
    assert value == round(value, 4) == float(str(value))
    assert decider.decide(rows, {bound: value}).mean() >= keep - 1e-9
    stricter = value + (1e-4 if bound.is_lower else -1e-4)
    if decider.allows(bound, stricter):
        assert decider.decide(rows, {bound: stricter}).mean() < keep


@given(st.floats(-3, 1e5), st.sampled_from([MIN, MAX]))
def test_thresholds_are_rounded_outwards(score, decider):
    (bound,) = decider.bounds
    value = round_outwards(score, bound)
    assert value == round(value, 4)
    assert abs(value - score) < 1.01e-4
    assert value <= score if bound.is_lower else value >= score


def test_rows_without_the_score_have_no_say():
    (bound,) = MAX.bounds
    rows = [Scored("real", "", "a", None, {bound.score: math.nan})] * 9
    assert propose_threshold(MAX, rows, bound, 0.5) is None
    rows += [Scored("real", "", "a", None, {bound.score: 0.25})]
    assert propose_threshold(MAX, rows, bound, 0.5) == 0.25


def test_a_filter_s_other_threshold_plays_no_part_in_a_proposal():
    decider = decide_on({"kind": "focus", "max_blur": 0.2, "min_sharpness": 0.001})
    bound = find_bound(decider, "min_sharpness")
    rows = [
        Scored("real", "", "a", None, {"blur_effect": 0.9, "sharpness": n / 100}) for n in range(10)
    ]
    assert propose_threshold(decider, rows, bound, 0.8) == 0.02
    assert not decider.decide(rows, {bound: 0.02}).any()


def test_thresholds_that_no_value_opens_are_off_while_another_is_looked_at():
    decider = decide_on(
        {
            "kind": "realism",
            "images": "none",
            "min_realism": 0.5,
            "max_centroid_distance_quantile": 0.9,
        }
    )
    bound = find_bound(decider, "min_realism")
    others = dict.fromkeys((each.score for each in decider.bounds), 1.0)
    rows = [
        Scored(
            "real", "", "a", None,
            {**others, "realism": n / 10, "centroid_distance_quantile": 1.01},
        )
        for n in range(10)
    ]  # fmt: skip
    assert propose_threshold(decider, rows, bound, 0.8) == 0.2


def test_whole_numbers_stay_whole():
    (kind,) = (kind for kind, field in BOUNDS if field == "max_rank")
    described = next(each for each in ALL_KINDS if each["kind"] == kind)
    decider = decide_on({**described, "captions": "he-basic", "max_rank": 3})
    bound = find_bound(decider, "max_rank")
    scores = dict.fromkeys(JUDGES[kind].score_names, 1.0)
    rows = [Scored("real", "", "a", None, {**scores, bound.score: float(n)}) for n in range(1, 11)]
    value = propose_threshold(decider, rows, bound, 0.8)
    assert (value, type(value)) == (8, int)
    assert place_points(decider, rows, bound) == list(range(1, 11))


def test_a_filter_that_only_scores_costs_nothing():
    rule = "tissue"
    decider = decide_on({"kind": "tissue"}, {"kind": "stain"}, rule=rule)
    row = Scored("synthetic", "", "a", "s", {"tissue_fraction": 0.9, "stain_plausibility": 0.1})
    assert decider.decide([row], {find_bound(decider, "min_plausibility"): 1.0}).all()
    assert not decider.decide([row], {find_bound(decider, "min_fraction"): 1.0}).any()


# --- the command ---------------------------------------------------------------------------------


def write_real(folder, count=40, size=48, **shift):
    """Real-looking patches of two classes; `shift` pales those of a class."""
    for group in ("normal", "tumor"):
        (folder / group).mkdir(parents=True)
        for number in range(count):
            pixels = paint_tissue(1000 * len(group) + number, size).astype(float)
            pale = np.random.default_rng(number).uniform(0.3, 1.0) * shift.get(group, 1.0)
            pixels = 255 - pale * (255 - pixels)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / group / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A calibration that tests only read: recipe, real images, folder, report, printed."""
    base = tmp_path_factory.mktemp("calibrated")
    recipe = write_recipe(base, filters=FILTERS_USED, dedup={})
    real = write_real(base / "real")
    result = call("calibrate", recipe, "--real", real, "-n", 20, "--out", base / "out")
    assert result.exit_code in (0, 1), result.output
    return recipe, real, base / "out", read_json(base / "out" / "calibration.json"), result


def test_everything_promised_is_written(done):
    _, _, out, report, _ = done
    names = {path.name for path in out.iterdir()}
    assert names == {"calibration.json", "calibration.png", "preview.png", "scores.parquet"}
    assert report["real"]["images"] == 40
    assert report["real"]["images_found"] == 80
    assert report["synthetic"] == {"images": 20, "per_class": {"normal": 10, "tumor": 10}}
    assert [part["path"] for part in report["fields"]] == [
        "filters.finite.min_contrast",
        "filters.finite.max_saturated_fraction",
        "filters.tissue.min_fraction",
    ]


def test_the_promised_share_of_every_class_is_kept_and_some_class_has_no_room(done):
    report = done[3]
    for part in report["fields"]:
        shares = [each["proposed"] for each in part["sets"]["real"].values()]
        assert len(shares) == 2
        assert all(each["accepted"] >= 0.95 * each["images"] for each in shares)
        assert part["proposed"] in part["per_class"].values()
        assert all(each["low"] <= each["share"] <= each["high"] for each in shares)


def copy_scores(out, folder):
    folder.mkdir()
    (folder / "scores.parquet").write_bytes((out / "scores.parquet").read_bytes())
    return folder


@pytest.mark.slow("test_the_promised_share_of_every_class_is_kept_and_some_class_has_no_room")
def test_the_promise_holds_for_a_recipe_with_the_proposed_thresholds(done, tmp_path):
    recipe, _, out, report, _ = done
    folder = copy_scores(out, tmp_path / "again")
    sets = [argument for each in report["set"] for argument in ("--set", each)]
    result = call("calibrate", recipe, "--reuse", *sets, "--out", folder)
    assert result.exit_code in (0, 1), result.output
    new = read_json(folder / "calibration.json")
    for before, after in zip(report["fields"], new["fields"], strict=True):
        assert after["now"] == after["proposed"] == before["proposed"]
    assert new["now"]["real"] == report["proposed"]["real"]
    assert new["now"]["synthetic"]["series"] == report["proposed"]["synthetic"]["series"]


def test_verdicts_are_those_of_a_run(done):
    _, _, out, report, _ = done
    table = pq.read_table(out / "scores.parquet").to_pylist()
    tries = [row for row in table if row["set"] == "synthetic"]
    assert (
        sum(row["accepted"] for row in tries)
        == report["now"]["synthetic"]["acceptance"]["accepted"]
    )
    assert {row["rejected_by"] for row in tries} <= {"finite", "tissue", None}
    assert any(not row["accepted"] for row in tries)
    assert all(set(row["scores"]) >= {"contrast", "tissue_fraction"} for row in table)
    sets = [row["set"] for row in table]
    assert [sets.count(name) for name in ("real", "mislabelled", "synthetic")] == [40, 40, 20]


def test_first_tries_are_those_of_the_preview(done, tmp_path):
    recipe, _, out, _, _ = done
    assert call("preview", recipe, "-n", 20, "--out", tmp_path).exit_code == 0
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    tries = {row["key"]: row["scores"] for row in rows if row["set"] == "synthetic"}
    previewed = read_json(tmp_path / "preview.json")
    assert {str(row["seed"]): row["scores"] for row in previewed} == tries


def test_curves_are_fine_enough_fall_and_meet_the_numbers(done):
    for part in done[3]["fields"]:
        curve = part["curve"]
        assert 50 <= len(curve["thresholds"]) <= 61
        assert curve["thresholds"] == sorted(set(curve["thresholds"]))
        falls = -1 if part["accepts"] == "at least" else 1
        for name in ("real", "synthetic", "run"):
            assert set(curve[name]) == {"normal", "tumor"}
            for shares in curve[name].values():
                assert len(shares) == len(curve["thresholds"])
                assert all(step * falls >= 0 for step in np.diff(shares))
        for found in part["sets"]["real"].values():
            scores, proposed = np.array(found["scores"]), part["proposed"]
            passed = scores >= proposed if falls < 0 else scores <= proposed
            assert passed.mean() == pytest.approx(found["proposed"]["share"], abs=1e-4)
            assert found["quantiles"]["0.5"] == pytest.approx(np.median(scores), abs=1e-4)


def test_what_is_printed_can_be_copied(done):
    recipe, _, _, report, result = done
    shown = result.stdout
    for each in report["set"]:
        assert f"--set '{each}'" in shown
    by_set = load_recipe(recipe, report["set"]).recipe.filters
    snippet = yaml.safe_load(shown[shown.index("filters:\n") :])
    assert snippet == yaml.safe_load(report["yaml"])
    pasted = yaml.safe_load(recipe.read_text()) | snippet
    (recipe.parent / "pasted.yaml").write_text(yaml.safe_dump(pasted))
    assert load_recipe(recipe.parent / "pasted.yaml").recipe.filters == by_set
    assert by_set != load_recipe(recipe).recipe.filters
    assert "few images of normal (20), tumor (20)" in result.stderr
    assert "dedup acts at the end" in result.stderr


def test_the_picture_has_a_panel_for_each_threshold_and_class(done):
    image = Image.open(done[2] / "calibration.png").convert("RGB")
    assert image.width == 2 * 2 * PANEL_WIDTH
    assert image.height > 2 * 3 * PANEL_HEIGHT
    green = (np.asarray(image) == ImageColor.getrgb(PROPOSED)).all(-1)
    rows = np.array_split(green[-2 * 3 * PANEL_HEIGHT :], 3)
    assert all(half.sum() > 500 for row in rows for half in np.array_split(row, 2, axis=1))
    assert Image.open(done[2] / "preview.png").width > 0


def test_a_long_class_name_stands_beside_no_threshold(monkeypatch):
    name = "poorly differentiated adenocarcinoma of the colon"
    monkeypatch.setattr(picture, "draw_plot", partial(draw_plot, kind="svg"))
    field = {"filter": "focus", "field": "max_sharpness", "score": "sharpness", "shown": True}
    sets = {"sets": {}, "curve": {"thresholds": [0.0, 1.0]}, "now": 0.6, "proposed": 0.345678}
    report = {"recipe": "r", "keep": 0.95, "real": None, "synthetic": {"images": 4}}
    drawn = picture.draw_calibration({**report, "classes": [name], "fields": [{**field, **sets}]})
    heights = {
        text: float(re.findall(r"[\d.]+", tag)[-1])
        for tag, text in re.findall(r"<text ([^>]*)>([^<]*)<", drawn.decode())
    }
    assert heights[name] < heights["focus.max_sharpness"] - 8
    assert heights["focus.max_sharpness"] == heights["now 0.6, proposed 0.345678"]


def test_ticks_are_round_and_inside():
    assert choose_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert choose_ticks(0.013, 0.061) == [0.02, 0.03, 0.04, 0.05, 0.06]
    assert choose_ticks(2.0, 2.0) == [2.0]


@pytest.mark.slow("test_everything_promised_is_written")
def test_scores_are_reused_for_other_thresholds_but_not_for_other_images(done, tmp_path):
    recipe, real, out, report, _ = done
    folder = copy_scores(out, tmp_path / "out")
    again = call("calibrate", recipe, "--reuse", "--keep", 0.8, "--out", folder, "--json")
    assert "sampling" not in again.stderr
    assert not (folder / "preview.png").exists()
    looser = json.loads(again.stdout)
    assert looser["keep"] == 0.8
    assert looser["now"] == report["now"]
    (same,) = [each for each in report["choices"] if each["keep"] == 0.8]
    assert looser["proposed"]["thresholds"] == same["thresholds"]
    other = ("--set", "filters.finite.min_contrast=0.1", "--set", "budget.attempts=2")
    assert call("calibrate", recipe, "--reuse", *other, "--out", folder).exit_code in (0, 1)
    for change in ("seed=8", "generator.width=40", "filters=[{kind: stain}]"):
        refused = call("calibrate", recipe, "--reuse", "--set", change, "--out", folder)
        assert refused.exit_code == 2, change
        assert "calibrate without --reuse" in refused.stderr
    classes = "conditions.class.per_class={other: 4}"
    assert call("calibrate", recipe, "--reuse", "--set", classes, "--out", folder).exit_code == 2
    assert call("calibrate", recipe, "--reuse", "--out", tmp_path / "none").exit_code == 2
    assert call("calibrate", recipe, "--reuse", "--real", real, "--out", folder).exit_code == 2


def test_a_threshold_that_few_tries_pass_ends_with_exit_code_1_and_advice(tmp_path):
    recipe = write_recipe(tmp_path, filters=FILTERS_USED[1:2], budget={"attempts": 2})
    real = write_real(tmp_path / "real", count=4)
    # dense tissue only: what `fake` draws on its pink ground has gaps
    for path in real.rglob("*.png"):
        Image.new("RGB", (48, 48), (110, 60, 140)).save(path)
    for group in ("normal", "tumor"):  # all alike but one: byte-identical images count once
        Image.new("RGB", (48, 48), (111, 60, 140)).save(real / group / "000.png")
    result = call("calibrate", recipe, "--real", real, "-n", 16, "--out", tmp_path / "out")
    report = read_json(tmp_path / "out" / "calibration.json")
    assert report["set"] == ["filters.tissue.min_fraction=1.0"]
    shares = [part["acceptance"]["share"] for part in report["proposed"]["synthetic"]["series"]]
    assert result.exit_code == (1 if min(shares) < 0.9 else 0)
    assert report["short"]
    assert "SHORT normal" in result.stderr or "SHORT tumor" in result.stderr
    assert "lower --keep" in result.stderr


def test_without_real_images_the_report_says_what_it_rests_on(tmp_path):
    recipe = write_recipe(tmp_path, filters=FILTERS_USED)
    result = call("calibrate", recipe, "-n", 8, "--out", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert report["real"] is None
    assert "NO REAL IMAGES" in report["notes"][0]
    for part in report["fields"]:
        assert set(part["sets"]["real"]) == set()
        assert all(each["proposed"]["share"] >= 0.95 for each in part["sets"]["synthetic"].values())


@pytest.mark.slow("test_everything_promised_is_written")
def test_the_recipe_s_own_references_are_taken_and_so_is_their_fit(tmp_path):
    write_real(tmp_path / "real", count=6)
    reference = {"kind": "reference", "images": "real", "per_class": 4, "fit": "resize"}
    copies = {"kind": "training_copy", "images": "real"}
    recipe = write_recipe(tmp_path, conditions=[reference], filters=[*FILTERS_USED, copies])
    result = call("calibrate", recipe, "-n", 8, "--out", tmp_path / "out")
    report = read_json(tmp_path / "out" / "calibration.json")
    assert "the recipe's own references" in result.stdout
    assert (report["real"]["given"], report["real"]["fit"]) == (False, "resize")
    assert "12 of 12 real images are among those that training_copy compares with" in result.stderr
    (part,) = [each for each in report["fields"] if each["filter"] == "training_copy"]
    assert part["proposed"] is None
    assert all(each["not_applicable"] == 6 for each in part["sets"]["real"].values())
    assert "filters.training_copy.max_similarity: no proposal" in result.stderr
    assert not any("training_copy" in each for each in report["set"])


def test_real_images_that_do_not_fit_are_refused_before_any_sampling(tmp_path):
    recipe = write_recipe(tmp_path, filters=FILTERS_USED)
    real = write_real(tmp_path / "real", count=2)
    (real / "normal").rename(real / "benign")
    (real / "tumor").rename(real / "malignant")
    result = call("calibrate", recipe, "--real", real, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "has the classes benign, malignant; the recipe asks for normal, tumor" in result.stderr
    assert not (tmp_path / "out").exists()
    (real / "benign").rename(real / "normal")
    result = call("calibrate", recipe, "--real", real, "-n", 4, "--out", tmp_path / "out")
    assert "2 real images of malignant are left out" in result.stderr
    assert "no real images of tumor" in result.stderr
    control = write_recipe(tmp_path / "control", filters=[], dedup={})
    result = call("calibrate", control, "--real", real, "--out", tmp_path / "out")
    assert (result.exit_code, "nothing to calibrate" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("keep", "code"),
    [
        pytest.param(0.4, 2, marks=pytest.mark.slow),
        (0.5, 2),
        pytest.param(0.55, 1, marks=pytest.mark.slow),
    ],
)
def test_two_sides_that_keep_half_or_fewer_are_refused(keep, code, tmp_path):
    focus = {"kind": "focus", "min_blur": 0.0, "max_blur": 1.0, "min_sharpness": 0.0}
    recipe = write_recipe(tmp_path, filters=[focus])
    real = write_real(tmp_path / "real", count=5)
    words = ("--real", real, "--keep", keep, "-n", 4, "--out", tmp_path / "out")
    result = call("calibrate", recipe, *words)
    assert result.exit_code == code, result.stderr
    assert (f"--keep {keep:g}: focus bounds blur_effect" in result.stderr) == (code == 2)
    assert (tmp_path / "out").exists() == (code != 2)
    one = write_recipe(tmp_path / "one", filters=[{"kind": "focus", "max_blur": 1.0}])
    result = call("calibrate", one, *words[:-1], tmp_path / "one" / "out")
    assert result.exit_code in (0, 1), "one side alone may keep any share"


@pytest.mark.slow("test_everything_promised_is_written")
def test_real_images_without_classes_serve_filters_that_ask_for_none(tmp_path):
    write_real(tmp_path / "labelled", count=3)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "labelled").rglob("*.png"))):
        path.rename(flat / f"{number}.png")
    recipe = write_recipe(tmp_path, filters=FILTERS_USED)
    result = call("calibrate", recipe, "--real", flat, "-n", 4, "--out", tmp_path / "out")
    report = read_json(tmp_path / "out" / "calibration.json")
    assert report["classes"] == ["(no class)", "normal", "tumor"]
    assert "have no classes" in result.stderr
    assert len(report["set"]) == 3


# --- a classifier --------------------------------------------------------------------------------


@pytest.mark.slow("test_verdicts_are_those_of_a_run")
def test_a_classifier_of_our_own_real_images_is_called_optimistic_and_by_class(tmp_path):
    from factory.train.classifier.train import train_classifier

    data = write_folder(tmp_path / "data", {"coarse": 20, "fine": 20})
    test = write_folder(tmp_path / "test", {"coarse": 9, "fine": 9}, size=56)
    train_classifier(data, tmp_path / "mine")
    judge = {"kind": "classifier", "model": "mine", "min_probability": {"coarse": 0.2, "fine": 0.3}}
    classes = [{"kind": "class", "per_class": {"coarse": 4, "fine": 4}}]
    size = {"width": 48, "height": 48}
    recipe = write_recipe(tmp_path, conditions=classes, filters=[judge], generator=size)
    loaded = load_recipe(recipe)
    reports = {
        root.name: calibrate_recipe(
            loaded, tmp_path / "out", lambda line: None, root, 8, 0.95, False, None
        )
        for root in (data, test)
    }
    assert any("OPTIMISTIC: classifier mine" in note for note in reports["data"]["notes"])
    assert not any("OPTIMISTIC" in note for note in reports["test"]["notes"])
    part = next(each for each in reports["test"]["fields"] if each["field"] == "min_probability")
    assert part["now"] == {"coarse": 0.2, "fine": 0.3}
    assert part["proposed"] == part["per_class"]
    assert part["takes_classes"]
    chosen = load_recipe(recipe, reports["test"]["set"]).recipe.filters[0]
    assert chosen.min_probability == part["per_class"]
    for group, found in part["sets"]["mislabelled"].items():
        assert found["images"] == 8
        real = part["sets"]["real"][group]["scores"]
        assert np.median(found["scores"]) < np.median(real)


def test_the_shipped_classifier_on_its_own_and_on_other_patches(tmp_path):
    judge = {"kind": "classifier", "model": "pcam", "min_probability": 0.6}
    recipe = write_recipe(tmp_path, filters=[judge], generator={"width": 64, "height": 64})
    result = call("calibrate", recipe, "--real", PCAM / "test", "-n", 24, "--out", tmp_path / "a")
    report = read_json(tmp_path / "a" / "calibration.json")
    (part,) = [each for each in report["fields"] if each["field"] == "min_probability"]
    assert all(each["proposed"]["share"] >= 0.95 for each in part["sets"]["real"].values())
    wrong = [each["share"] for each in report["proposed"]["mislabelled"].values()]
    assert wrong == [each["proposed"]["share"] for each in part["sets"]["mislabelled"].values()]
    assert 0.2 < max(wrong) < 0.95
    assert [each["shown"] for each in report["fields"]] == [True, False, False, False]
    assert ("let most real images of another class through" in result.stderr) == (max(wrong) > 0.5)
    assert "OPTIMISTIC" not in result.stderr
