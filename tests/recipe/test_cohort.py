"""Cohorts: patients, slides and patches planned in advance, of one stain, label and split each."""

import copy
import itertools
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import InputError, MismatchError
from factory.data.streams import Recolour, Vector
from factory.data.streams.bag import Bag
from factory.engine.plan import build_plan
from factory.recipe.conditions import build_series
from factory.recipe.conditions.cohort_draws import apportion
from factory.recipe.conditions.series import find_details
from tests import ASSETS
from tests.running import (
    ask,
    find_messages,
    list_identities,
    load_recipe,
    read_json,
    read_rows,
    run,
    write_recipe,
)

LABELS = {
    "tumour": {"share": 0.5, "positive": [0.25, 0.5], "classes": {"tumor": 1}},
    "benign": {"share": 0.5},
}
BLOCK = {
    "kind": "cohort",
    "patients": 6,
    "slides": 2,
    "patches": 5,
    "labels": LABELS,
    "background": {"classes": {"normal": 3, "stroma": 1}},
    "splits": {"train": 0.67, "test": 0.33},
    "stain": {"catalog": "he-slides"},
}
WORDED = {
    "captions": "he-attributes-2",
    "per_patient": ["organ"],
    "labels": {
        "tumour": {
            "share": 0.5,
            "positive": 0.4,
            "weights": {"density": {"high": 1}},
            "values": {"HALLMARK_E2F_TARGETS": 3.0},
        },
        "benign": {"share": 0.5},
    },
    "background": {"weights": {"density": {"low": 1, "medium": 1}}},
    "profiles": {"patient": 1.0, "patch": 0.1},
}
BAG = ("patient", "slide", "bag_label", "bag_split")


def change(block, **changes):
    return {name: value for name, value in {**block, **changes}.items() if value is not None}


def write_cohort(folder, block=BLOCK, filters=(), **changes):
    return write_recipe(folder, filters=list(filters), conditions=[block], **changes)


def plan(folder, **changes):
    """Returns the series of a cohort, and all its conditions."""
    loaded = load_recipe(write_cohort(folder, change(BLOCK, **changes)))
    (series,) = build_series(loaded.recipe, loaded.session, ())
    return series, [series.request_at(index).condition for index in range(series.count)]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5).filter(lambda each: sum(each) > 0.1))
@settings(deadline=None)
def test_shares_are_met_by_any_first_patients(weights):
    shares = [each / sum(weights) for each in weights]
    dealt = list(itertools.islice(apportion(shares), 200))
    for count in (1, 7, 50, 200):
        found = Counter(dealt[:count])
        for place, share in enumerate(shares):
            assert abs(found[place] - share * count) < len(shares)
            assert share > 0 or not found[place]


def test_a_slide_has_one_patient_stain_label_and_split(tmp_path):
    series, conditions = plan(tmp_path)
    slides = defaultdict(list)
    for each in conditions:
        slides[each.get(Bag).slide].append(each)
    assert len(slides) == 12 and {len(each) for each in slides.values()} == {5}
    for patches in slides.values():
        for read in (lambda bag: bag.patient, lambda bag: bag.label, lambda bag: bag.split):
            assert len({read(each.get(Bag)) for each in patches}) == 1
        assert len({each.get(Recolour) for each in patches}) == 1
        places = [(each.get(Bag).row, each.get(Bag).column) for each in patches]
        assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
        bag = patches[0].get(Bag)
        positive = [each for each in patches if each.get(Bag).shows == bag.label]
        assert len(positive) in ((1, 2) if bag.label == "tumour" else (0,))
        assert all(each.class_name == "tumor" for each in positive)
        others = {each.class_name for each in patches} - {"tumor"}
        assert others <= {"normal", "stroma"}
    assert len({each.key for each in conditions}) == series.count
    assert any("tumour: " in line for line in find_details(series)["details"])


def test_slides_of_a_patient_are_more_alike_in_stain_than_patients(tmp_path):
    _, conditions = plan(tmp_path, patients=60, slides=2, patches=1)
    looks = [each.get(Recolour).stain.look.mean[0] for each in conditions]
    pairs = np.array(looks).reshape(-1, 2)
    within = np.std(pairs[:, 0] - pairs[:, 1]) / np.sqrt(2)
    assert 0 < within < 0.5 * np.std(pairs.mean(1))
    _, same = plan(tmp_path, stain={"catalog": "he-slides", "within": 0}, patches=1)
    looks = [each.get(Recolour).stain.look for each in same]
    assert looks[::2] == looks[1::2] and len(set(looks)) == 6


def test_more_patients_change_none_and_no_split_is_shared(tmp_path):
    _, few = plan(tmp_path)
    more, many = plan(tmp_path, patients=11)
    assert [each.key for each in few] == [each.key for each in many[: len(few)]]
    splits = defaultdict(set)
    for each in many:
        splits[each.get(Bag).patient].add(each.get(Bag).split)
    assert len(splits) == 11 and all(len(each) == 1 for each in splits.values())
    other, parted = plan(tmp_path, patients=11, splits={"train": 1.0})
    assert more.key != other.key  # no run folder holds a patient in two splits
    assert [each.key for each in many] == [each.key for each in parted]
    # another seed is another cohort, whose patients are others
    loaded = load_recipe(write_cohort(tmp_path, seed=8))
    (series,) = build_series(loaded.recipe, loaded.session, ())
    assert series.request_at(0).condition.get(Bag).patient not in splits


def test_profiles_are_of_the_patient_with_a_spread_among_patches(tmp_path):
    _, conditions = plan(tmp_path, **WORDED, classes=None, patients=40, slides=1)
    values = np.array([each.get(Vector).load(0, 0) for each in conditions]).reshape(40, 5, -1)
    assert values.shape[2] == 50
    within, between = values.std(1).mean(), values.mean(1).std(0).mean()
    assert 0.05 < within < 0.15 and 0.8 < between < 1.2
    place = conditions[0].get(Vector).names.index("HALLMARK_E2F_TARGETS")
    labels = np.array([each.get(Bag).label for each in conditions[::5]])
    means = values.mean(1)[:, place]
    assert 2.0 < means[labels == "tumour"].mean() - means[labels == "benign"].mean() < 4.0


def test_words_of_patches_follow_label_and_patient(tmp_path):
    _, conditions = plan(tmp_path, **WORDED, patients=8)
    organs = defaultdict(set)
    for each in conditions:
        said, bag = each.attributes, each.get(Bag)
        assert (said["density"] == "high") == (bag.shows == "tumour")
        organs[bag.patient] |= {said["organ"]} if "organ" in said else set()
    assert all(len(each) <= 1 for each in organs.values())
    assert len({each for found in organs.values() for each in found}) > 1


def test_rows_tell_the_bag_and_are_made_again_exactly(tmp_path):
    out = tmp_path / "out"
    assert run(write_cohort(tmp_path), out).exit_code == 0
    rows = read_rows(out)
    assert len(rows) == 60 and len({row["slide"] for row in rows}) == 12
    for row in rows:
        assert all(isinstance(row[name], str) for name in BAG)
        assert row["bag_label"] in LABELS and row["patch_label"] in ("background", row["bag_label"])
    (series,) = read_json(out / "summary.json")["series"]
    assert series["bags"] == {"size": 5, "slides": 12, "short": 0, "lacking": {}, "unshown": 0}
    report = json.loads(ask("verify", out, "--regenerate", 6, "--json"))
    assert {each["status"] for each in report["regenerated"]} == {"exact"}


def test_slides_are_topped_up_and_short_ones_are_told(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.1435}]
    block = change(BLOCK, stain=None, patients=4, slides=1)
    told = {"filters": filters, "block": block}
    whole = tmp_path / "whole"
    assert run(write_cohort(tmp_path, **told, budget={"attempts": 20}), whole).exit_code == 0
    sizes = Counter(row["slide"] for row in read_rows(whole))
    assert set(sizes.values()) == {5} and read_rows(whole, "rejected")
    out = tmp_path / "short"
    result = run(write_cohort(tmp_path, **told, budget={"attempts": 1}), out)
    assert result.exit_code == 1
    (series,) = read_json(out / "summary.json")["series"]
    sizes = Counter(row["slide"] for row in read_rows(out))
    lacking = {slide: 5 - sizes[slide] for slide in {row["slide"] for row in read_rows(whole)}}
    lacking = {slide: lacks for slide, lacks in lacking.items() if lacks}
    assert lacking and series["bags"]["lacking"] == lacking
    assert series["bags"]["short"] == len(lacking)
    shows = {row["slide"] for row in read_rows(out) if row["patch_label"] != "background"}
    tumours = {row["slide"] for row in read_rows(whole) if row["bag_label"] == "tumour"}
    assert series["bags"]["unshown"] == len(tumours - shows)
    ask("card", out)
    assert "slides lack patches" in (out / "README.md").read_text()
    # a threshold that lets all pass fills them again
    ask("refilter", out, "--set", "filters.finite.min_contrast=0.0")
    (series,) = read_json(out / "summary.json")["series"]
    assert series["bags"]["short"] == 0 and len(read_rows(out)) == 20


def test_a_run_grows_by_patients_and_not_by_slides(tmp_path):
    out = tmp_path / "out"
    run(write_cohort(tmp_path, change(BLOCK, patients=2)), out)
    before = list_identities(out)
    run(write_cohort(tmp_path, change(BLOCK, patients=3)), out, extend=True)
    assert before < list_identities(out) and len(list_identities(out)) == 30
    fresh = tmp_path / "fresh"
    run(write_cohort(tmp_path, change(BLOCK, patients=3), output={"shard_size": 7}), fresh)
    assert list_identities(out) == list_identities(fresh)


def test_a_run_keeps_the_splits_that_it_began_with(tmp_path):
    out = tmp_path / "out"
    run(write_cohort(tmp_path, change(BLOCK, patients=2)), out)
    other = change(BLOCK, patients=3, splits={"train": 0.5, "test": 0.5})
    with pytest.raises(MismatchError, match="a run can only grow"):
        run(write_cohort(tmp_path, other), out, extend=True)
    assert {row["bag_split"] for row in read_rows(out)} == {"train"}


def test_the_order_of_classes_in_the_recipe_changes_no_patch(tmp_path):
    _, one = plan(tmp_path, background={"classes": {"normal": 3, "stroma": 1}})
    _, other = plan(tmp_path, background={"classes": {"stroma": 1, "normal": 3}})
    assert [each.key for each in one] == [each.key for each in other]


def test_two_blocks_of_one_cohort_are_refused(tmp_path):
    other = change(BLOCK, splits={"train": 0.5, "test": 0.5})
    messages = find_messages(
        write_recipe(tmp_path, filters=[], conditions=[BLOCK, copy.deepcopy(other)])
    )
    assert any("asks again" in text for text in messages.values()), messages
    # said in other words: one share, and the least and the greatest
    blocks = [copy.deepcopy(BLOCK) for _ in range(2)]
    for block, positive in zip(blocks, (0.5, [0.5, 0.5]), strict=True):
        block["labels"]["tumour"]["positive"] = positive
    loaded = load_recipe(write_recipe(tmp_path, filters=[], conditions=blocks))
    with pytest.raises(InputError, match="two blocks ask for the same images"):
        build_plan(loaded.recipe, loaded.session)


def test_stains_may_be_measured_in_images_of_ones_own(tmp_path):
    images = {"images": str(ASSETS / "pcam" / "train"), "group_pattern": r"(\d)\.webp$"}
    measured = {**images, "looks": 3, "per_look": 2}
    _, conditions = plan(tmp_path, stain={"measured": measured})
    stains = [each.get(Recolour).stain for each in conditions]
    # how far any of them may vary, and what images look like before, all images tell
    assert len({each.pixels_sha256s for each in stains}) == 1
    assert len({each.look for each in stains}) == 12
    assert 3 <= len(stains[0].pixels_sha256s) <= 6
    assert len(conditions[0].groups()) == 3
    block = change(BLOCK, stain={"measured": {**measured, "images": "nowhere"}})
    messages = find_messages(write_cohort(tmp_path, block))
    assert any("stain.measured" in field for field in messages)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_labels_of_no_patient_or_of_all(tmp_path, share):
    labels = {
        "tumour": {"share": share, "positive": 1.0, "classes": {"tumor": 1}},
        "benign": {"share": 1.0 - share},
    }
    _, conditions = plan(tmp_path, labels=labels, patients=1)
    shown = {each.get(Bag).shows for each in conditions}
    assert shown == ({"tumour"} if share else {"background"})


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"patients": 0}, "patients", "must be >= 1, got 0"),
        ({"splits": {"train": 0.5, "test": 0.4}}, "splits", "must be 1 together, got 0.9"),
        ({"splits": {"train": 1.2, "test": -0.2}}, "splits", "must be <= 1, got 1.2"),
        ({"labels": {"a": {"share": 0.4}}}, "", "labels: shares must be 1 together"),
        (
            {"labels": {"a": {"share": 1.0, "positive": [0.5, 0.2], "classes": {"x": 1}}}},
            "labels.a",
            "the least share first",
        ),
        (
            {"labels": {"a": {"share": 1.0, "positive": [0, 0.2], "classes": {"x": 1}}}},
            "labels.a",
            "its least share is above 0",
        ),
        ({"labels": {"a": {"share": 1.0, "positive": 0.5}}}, "labels.a", "say by classes"),
        ({"labels": {"a": {"share": 1.0, "classes": {"x": 1}}}}, "labels.a", "set positive"),
        ({"labels": {"background": {"share": 1.0}}}, "", "rename"),
        ({"background": {"classes": {"x": 0}}}, "background.classes", "a weight above 0"),
        ({"background": {}}, "background.classes", "a weight above 0"),
        ({"background": {"weights": {"a": {"b": 1}}}}, "background.weights", "name it in captions"),
        ({"stain": {"catalog": "he-slide"}}, "stain.catalog", "did you mean 'he-slides'"),
        ({"stain": {}}, "stain", "either catalog or measured"),
        ({"per_patient": ["organ"]}, "per_patient", "name it in captions"),
        ({**WORDED, "captions": "he-nothing"}, "captions", "no entry 'he-nothing'"),
        ({**WORDED, "per_patient": ["density"]}, "per_patient", "has weights"),
        ({**WORDED, "per_patient": ["organs"]}, "per_patient", "did you mean 'organ'"),
        (
            {**WORDED, "background": {"weights": {"density": {"lo": 1}}}},
            "background.weights.density.lo",
            "did you mean 'low'",
        ),
        ({**WORDED, "background": {"classes": {"a": 1}}}, "background.classes", "give weights"),
        ({"profiles": {"pathways": "hallmarks"}}, "profiles.pathways", "hallmark"),
        ({"vary": {"scale": [0.5, 1.0]}}, "vary", "no families"),
    ],
)
def test_what_is_no_cohort_is_refused(tmp_path, changes, field, words):
    place = f"conditions[0].{field}".rstrip(".")
    budget = {"budget": {"attempts": 1}} if "vary" in changes else {}
    path = write_cohort(tmp_path, change(BLOCK, **changes), **budget)
    messages = find_messages(path)
    near = {name: text for name, text in messages.items() if name.startswith(place)}
    assert any(words in text for text in near.values()), messages


def test_a_pick_would_take_bags_apart_and_models_know_their_streams(tmp_path):
    messages = find_messages(write_cohort(tmp_path, pick={"keep": "diverse"}))
    assert "apart" in messages["pick"]
    generator = {"model": "nano-he", "width": 64, "height": 64}
    messages = find_messages(write_cohort(tmp_path, change(BLOCK, **WORDED), generator=generator))
    assert "takes no vector" in messages["conditions[0].profiles"]
    block = change(BLOCK, background={"classes": {"norml": 1}})
    messages = find_messages(write_cohort(tmp_path, block, generator=generator))
    assert "did you mean 'normal'" in messages["conditions[0].background.classes.norml"]
