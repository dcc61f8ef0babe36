"""Conformal acceptance: the bound holds over splits, few images are refused, the card tells it."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta, binom

from factory.core.stats.conformal import bound_passed, bound_rates, count_needed
from factory.data.records import Condition
from tests.filters.test_class_filters import build, make_images, score, write_classifier
from tests.running import ask, find_messages, read_json, read_rows, run, write_recipe

ALPHA = 0.05


def test_bounds_are_those_of_the_literature():
    passed = np.arange(0, 41)
    found = bound_rates(passed, 40, 0.95)
    assert found[:-1] == pytest.approx(beta.ppf(0.95, passed[:-1] + 1, 40 - passed[:-1]))
    assert found[-1] == 1.0
    assert bound_rates(np.array([0]), 0, 0.95) == 1.0
    assert count_needed(0.05, 0.95) == 59
    assert bound_rates(np.array([0]), 59, 0.95)[0] <= 0.05 < bound_rates(np.array([0]), 58, 0.95)[0]


def accept_rate(draw, count, confidence):
    """The share of uniform scores at or above the conformal threshold of one calibration."""
    calibration = np.sort(draw.random(count))[::-1]
    allowed = bound_rates(np.arange(count + 1), count, confidence) <= ALPHA
    # a score that `passed` calibration scores reach is accepted while its bound is small enough
    return 1.0 - calibration[allowed.sum() - 1] if allowed.any() else 0.0


def test_the_bound_holds_in_95_of_100_splits_and_the_plain_quantile_does_not():
    draw = np.random.default_rng(5)
    kept = [accept_rate(draw, 120, 0.975) <= ALPHA for _ in range(1000)]
    by_hundred = np.reshape(kept, (10, 100)).sum(axis=1)
    assert (by_hundred >= 95).all(), by_hundred
    plain = [1.0 - np.quantile(draw.random(120), 1 - ALPHA) <= ALPHA for _ in range(1000)]
    assert sum(plain) < 700


def test_the_share_among_accepted_holds_though_runs_stop_when_they_like():
    """Requests are tried up to five times, until one passes; half of all images are wrong."""
    draw, held = np.random.default_rng(11), 0
    for _ in range(100):
        rate = accept_rate(draw, 120, 0.975)
        tried = accepted = wrong = 0
        for _request in range(60):
            for _attempt in range(5):
                tried += 1
                is_wrong = draw.random() < 0.5
                if draw.random() < (rate if is_wrong else 0.7):
                    accepted, wrong = accepted + 1, wrong + is_wrong
                    break
        held += wrong / accepted <= bound_passed(tried, ALPHA, 0.975) / accepted
    assert held >= 95
    # the fixed-number bound is below it, and the whole binomial mass above it is small
    assert binom.isf(0.025, 200, ALPHA) < bound_passed(200, ALPHA, 0.975) < 40


def write_calibration(folder, count, classifier=None):
    """Images on which the random classifier is right, or takes the other class for granted."""
    for number, name in enumerate(("normal", "tumor")):
        (folder / name).mkdir(parents=True)
        for place, pixels in enumerate(make_images(count, seed=number + 5)):
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def test_scores_are_the_worst_other_class(tmp_path):
    write_classifier(tmp_path / "it", ("a", "b", "c"))
    for number, (name, count) in enumerate({"a": 30, "b": 40, "c": 80}.items()):
        (tmp_path / "real" / name).mkdir(parents=True)
        for place, pixels in enumerate(make_images(count, seed=number + 3)):
            Image.fromarray(pixels).save(tmp_path / "real" / name / f"{place}.png")
    judge = build({"kind": "conformal", "model": "it", "images": "real"}, base=tmp_path)[0]
    images = make_images(6, seed=9)
    rows = score(judge, images, [Condition(class_name="b")] * 6)
    classifier = judge.context.load_classifier("it")
    mine = classifier.predict_probabilities(images)[:, 1]
    for row, probability in zip(rows, mine, strict=True):
        worst = 0.0
        for number, (count, other) in enumerate(((30, "a"), (40, "b"), (80, "c"))):
            if other == "b":
                continue
            real = classifier.predict_probabilities(make_images(count, seed=number + 3))[:, 1]
            more = int((real >= probability).sum())
            worst = max(
                worst, 1.0 if more == count else beta.ppf(1 - 0.0125, more + 1, count - more)
            )
        assert row["mislabelled_bound"] == pytest.approx(worst, abs=1e-4)
        assert row["mislabelled_bound"] >= worst - 1e-9
    assert np.isnan(score(judge, images[:1], [Condition()])[0]["mislabelled_bound"])


def test_too_few_images_are_refused_loudly_and_the_fitted_ones_too(tmp_path):
    write_classifier(tmp_path / "it")
    write_calibration(tmp_path / "real", 20)
    filters = [{"kind": "conformal", "model": "it", "images": "real"}]
    messages = find_messages(write_recipe(tmp_path, filters=filters))
    assert "20 calibration images of class" in messages["filters[0].images"]
    assert "with fewer than 72 nothing can be accepted" in messages["filters[0].images"]


def test_run_refilter_and_card(tmp_path):
    write_classifier(tmp_path / "it")
    write_calibration(tmp_path / "real", 20)
    filters = [{"kind": "conformal", "model": "it", "images": "real", "max_mislabelled": 0.6}]
    out = tmp_path / "out"
    run(write_recipe(tmp_path, filters=filters, budget={"attempts": 3}), out)
    accepted, rejected = read_rows(out), read_rows(out, "rejected")
    assert accepted
    bounds = [row["scores"]["mislabelled_bound"] for row in accepted]
    assert max(bounds) <= 0.6 and {row["rejected_by"] for row in rejected} <= {"conformal", None}
    ask("card", out)
    card = (out / "README.md").read_text()
    assert "## Labels" in card and "exchangeable" in card and "normal 20, tumor 20" in card
    tumor = sum(row["class_name"] == "tumor" for row in accepted + rejected)
    assert f"{tumor:,} judged)" in card
    ask("verify", out)
    # of 20 images none as probable bounds the share by 0.1685: below it nothing is vouched for
    ask("refilter", out, "--set", "filters.conformal.max_mislabelled=0.1", code=1)
    assert min(bounds) > 0.1 and not read_rows(out)
    assert read_json(out / "recipe.json")["filters"][0]["max_mislabelled"] == 0.1


def test_the_card_promises_nothing_where_the_rule_takes_what_it_rejects(tmp_path):
    write_classifier(tmp_path / "it")
    write_calibration(tmp_path / "real", 20)
    filters = [{"kind": "finite"}, {"kind": "conformal", "model": "it", "images": "real"}]
    filters[1]["max_mislabelled"] = 0.6
    out = tmp_path / "out"
    run(write_recipe(tmp_path, filters=filters, accept="finite or conformal"), out)
    card = (out / "README.md").read_text()
    assert "bounds nothing here" in card and "mislabelled, with confidence" not in card
