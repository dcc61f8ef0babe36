"""Baselines tuned inside the shots, the preset of MUPAD's study, and what runs cost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from factory.data.images import SourceImage
from factory.data.shots import LabelledSet, draw_shots, list_real
from factory.data.varied import Varied
from factory.evaluate.fewshot import tuners
from factory.evaluate.fewshot.augment import STRENGTHS, augment_images
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.learners import NetworkLearner, TrainingSet
from factory.evaluate.fewshot.protocol import MUPAD, describe_protocol, tell_changes
from factory.evaluate.fewshot.settings import StudySettings
from factory.evaluate.fewshot.tuned import BASELINE, TUNED_ARMS
from factory.evaluate.fewshot.tuners import HeadTuner, Options, Plan, Seen
from factory.evaluate.fewshot.tuning import Tuning, cut_folds, find_shots, score_held_out
from tests.evaluate.test_evaluate_fewshot import CLASSES, call, data, write_images  # noqa: F401
from tests.running import read_json, run, write_recipe

PATTERN = r"-(s\d+p\d+)_"
TUNE = ("--tune", "prototype,knn", "--features", "color-texture", "--folds", "2")
FAST = ("--encoder", "color-texture", "--size", "32", "--steps", "20", "--shots", "4")


@pytest.fixture
def one_view(monkeypatch):
    """Augments each image once for a head, as four times tell a test no more."""
    monkeypatch.setattr(tuners, "VIEWS", 1)


class Means:
    """An encoder of three numbers: the mean colour."""

    dim = 3

    def describe(self):
        return {"id": "means", "weights_sha256": None}

    def encode(self, images):
        return images.mean((1, 2)).astype(np.float32) / 255


def make_material(reds, is_synthetic=None):
    """Patches of one colour each: class 1 where the red is strong."""
    reds = np.array(reds)
    pixels = np.zeros((len(reds), 8, 8, 3), np.uint8)
    pixels[..., 0] = reds[:, None, None]
    made = np.zeros(len(reds), bool) if is_synthetic is None else np.array(is_synthetic)
    shas = tuple(f"{red:032x}{row:032x}" for row, red in enumerate(reds))
    return TrainingSet(pixels, (reds > 128).astype(np.int64), made, shas, False)


def make_shots(groups, labels):
    pairs = enumerate(zip(groups, labels, strict=True))
    images = [
        SourceImage(str(row), CLASSES[label], group, Path("none")) for row, (group, label) in pairs
    ]
    return LabelledSet("here", tuple(images), tuple(f"{row:064x}" for row in range(len(images))))


# --- folds and options ---------------------------------------------------------------------------


def test_folds_keep_patients_whole_whatever_the_order():
    shots = make_shots(["a", "a", "b", "c", "d", "d", "e", "f"], [0, 0, 0, 0, 1, 1, 1, 1])
    groups = np.array([image.group for image in shots.images])
    folds = cut_folds(shots, CLASSES, 4, seed=0)
    assert sorted(row for _, held in folds for row in held) == list(range(8))
    for known, held in folds:
        assert not set(groups[known]) & set(groups[held])
        assert not set(known) & set(held)
    turned = shots.take([*range(7, -1, -1)])
    again = [{turned.sha256s[row] for row in held} for _, held in cut_folds(turned, CLASSES, 4, 0)]
    assert again == [{shots.sha256s[row] for row in held} for _, held in folds]
    assert cut_folds(make_shots(["a", "b"], [0, 1]), CLASSES, 5, 0) == []
    one = cut_folds(make_shots(["a", "a", "b", "c"], [0, 0, 1, 1]), CLASSES, 5, 0)
    assert all({0, 1} <= set(known) for known, _ in one), "the only patient of a class stays"


def test_what_varies_a_held_out_shot_is_not_learned_from():
    asked = []

    class Spy:
        name = "spy"

        def list_options(self, augments, mixes):
            return [Options("none", "pooled")]

        def fit_predict(self, train, options, seen, plan):
            asked.append((set(train.sha256s), set(seen.sha256s)))
            return np.full((len(seen.pixels), 2), 0.5)

    shots = make_shots("abcd", [0, 0, 1, 1])
    shots.__dict__["pixels_sha256s"] = shots.sha256s  # no files stand behind them
    material = make_material([0, 10, 250, 240, 5, 245, 3, 7], [False] * 4 + [True] * 4)
    made = LabelledSet("made", shots.images, material.sha256s[4:])
    first, second, third = (Varied(sha) for sha in shots.sha256s[:3])
    between = Varied(second.sha256, None, (second, first))
    varied = dict(zip(made.sha256s, (first, third, None, between), strict=True))
    found = find_shots(made, varied, shots)
    assert found.tolist() == [[0, -1], [2, -1], [-1, -1], [0, 1]]
    shot_of = np.concatenate([[[row, -1] for row in range(4)], found])
    Tuning(material, shot_of, cut_folds(shots, CLASSES, 2, 0), Plan(2, 1, 0)).choose(Spy(), False)
    assert len(asked) == 2
    for known, held in asked:
        assert not known & held
        assert (material.sha256s[4] in known) == (material.sha256s[0] in known)
        assert (material.sha256s[5] in known) == (material.sha256s[2] in known)
        assert material.sha256s[6] in known, "it names no shot"
        both = {*material.sha256s[:2]} <= known
        assert (material.sha256s[7] in known) == both, "what lies between needs both"
        assert material.sha256s[6] in known


def test_a_harmful_option_is_not_chosen():
    """One option swaps the classes: whatever its place, held-out shots tell it from the others."""

    class Swapping:
        name = "swapping"

        def list_options(self, augments, mixes):
            return [Options("none", "pooled", value) for value in (-1.0, 1.0, 2.0)]

        def fit_predict(self, train, options, seen, plan):
            is_second = seen.pixels[:, 0, 0, 0] > 128
            chance = np.where(is_second == (options.value > 0), 0.9, 0.1)
            return np.stack([1 - chance, chance], 1)

    material = make_material([0, 10, 20, 250, 240, 230])
    shots = make_shots("abcdef", [0, 0, 0, 1, 1, 1])
    folds = cut_folds(shots, CLASSES, 3, 0)
    choice = Tuning(material, np.arange(6)[:, None], folds, Plan(2, 1, 0)).choose(Swapping(), False)
    assert choice.options.value == 1.0, "of equal ones the first"
    assert choice.balanced_accuracy == 1.0
    untuned = Tuning(material, np.arange(6), [], Plan(2, 1, 0)).choose(Swapping(), False)
    assert untuned.options.value == -1.0
    assert untuned.log_loss is None


def test_held_out_loss_does_not_reward_boldness():
    labels = np.repeat([0, 1], 20)
    right = np.tile([True] * 4 + [False], 8)
    said = np.where(right, labels, 1 - labels)
    bold, shy = (np.where(np.eye(2)[said] > 0, chance, 1 - chance) for chance in (0.9999, 0.55))
    (one, reached), (two, _) = score_held_out(bold, labels), score_held_out(shy, labels)
    assert one == pytest.approx(two, abs=0.01)
    assert reached == pytest.approx(0.8)
    worse, _ = score_held_out(np.where(np.eye(2)[1 - said] > 0, 0.6, 0.4), labels)
    assert worse > one


@pytest.mark.parametrize("kind", ["logistic", "prototype", "knn"])
def test_heads_learn_and_weigh_synthetic_images_as_told(kind):
    material = make_material([0, 10, 20, 250, 240, 230])
    tuner = HeadTuner(kind, FeatureBank(Means(), print), "means")
    options = tuner.list_options(augments=True, mixes=True)
    assert {each.strength for each in options} == set(STRENGTHS)
    assert options[0].strength == "none" and options[0].mix == "pooled"
    assert len(tuner.list_options(False, False)) * 6 == len(options)
    seen = Seen(material.pixels[[0, 5]], ("x", "y"))
    for each in options:
        if each.strength == "classical" or (kind == "knn" and each.value > 3):
            continue  # colours of one tone are not what they were; neighbours of both classes
        chances = tuner.fit_predict(material, each, seen, Plan(2, 1, 0))
        assert chances.argmax(1).tolist() == [0, 1], each
        assert np.allclose(chances.sum(1), 1)
    wrong = dataclasses.replace(  # two real images against six synthetic ones of wrong classes
        make_material([0, 250, 10, 20, 30, 220, 230, 240], [False] * 2 + [True] * 6),
        labels=np.array([0, 1, 1, 1, 1, 0, 0, 0]),
    )
    value = options[-1].value
    pooled, level = (
        tuner.fit_predict(wrong, Options("none", mix, value), seen, Plan(2, 1, 0))[1, 1]
        for mix in ("pooled", "balanced")
    )
    assert level > pooled or kind == "knn"


def test_turns_move_pixels_and_change_no_colour():
    import torch

    batch = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    turned = augment_images(batch, 3, "turns")
    assert torch.equal(turned.flatten(2).sort(2).values, batch.flatten(2).sort(2).values)
    assert not torch.equal(turned, batch)
    assert torch.equal(augment_images(batch, 3, "none"), batch)


@pytest.fixture
def asked(monkeypatch):
    """Networks that learn nothing: images, synthetic ones, augmentation -> steps asked for."""
    found = {}

    def learn(self, train, test, classes, steps, seed):
        key = (len(train), bool(train.is_synthetic.any()), train.is_augmented)
        found.setdefault(key, []).append(steps)
        chance = np.linspace(0.1, 0.9, len(test))
        return np.stack([1 - chance, chance], 1)

    monkeypatch.setattr(NetworkLearner, "fit_predict", learn)
    return found


# --- a study ------------------------------------------------------------------------------------


def study(data, *arguments, synthetic="held", code=0):  # noqa: F811
    given = ("--real", data / "train", "--test", data / "test", "--synthetic", data / synthetic)
    return call(*given, *FAST, *arguments, code=code)


def test_every_arm_is_tuned_alike_and_gains_are_told_over_the_best(data, tmp_path, one_view):  # noqa: F811
    path = tmp_path / "r.json"
    options = (*TUNE, "--arms", "real,real+synthetic", "--seeds", "2", "--group-pattern", PATTERN)
    options += ("--per-class", "2")
    shown = study(data, *options, "--json", path).output
    found = read_json(path)
    tuned = found["tuned"]
    assert list(tuned["arms"]) == list(TUNED_ARMS)
    names = [f"{kind} on color-texture" for kind in ("prototype", "knn")]
    assert list(tuned["classifiers"]) == names
    taken = [each for each in tuned["chosen"] if each.get("taken")]
    assert len(tuned["chosen"]) == 2 * 4 * 2 and len(taken) == 4 * 2
    for each in taken:
        rivals = [
            other["held_out_log_loss"]
            for other in tuned["chosen"]
            if (other["seed"], other["arm"]) == (each["seed"], each["arm"])
        ]
        assert each["held_out_log_loss"] == min(rivals)
    plain, classical = (
        {(e["seed"], e["classifier"]): e["held_out_log_loss"] for e in tuned["chosen"]
         if e["arm"] == arm}
        for arm in ("real", BASELINE)
    )  # fmt: skip
    assert all(classical[key] <= plain[key] for key in plain), "none is one of its options"
    own = "real, sgd on color-texture, untuned"
    assert set(tuned["paired"]) == {
        *(f"{arm} - {BASELINE}" for arm in TUNED_ARMS if arm != BASELINE),
        *(f"{arm} - {own}" for arm in TUNED_ARMS),
    }
    for pair, interval in tuned["paired"].items():
        first, second = pair.split(" - ")
        base = found["arms"]["real"] if second == own else tuned["arms"][second]
        means = [each["balanced_accuracy"]["mean"] for each in (tuned["arms"][first], base)]
        assert interval["mean"] == pytest.approx(means[0] - means[1])
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert 0.3 < found["domain_gap"]["auroc"]["mean"] < 0.75, "both sets are drawn alike"
    assert list(found["label_fidelity"]), "a head judges where no arm has all real images"
    for text in ("tuned inside the shots, 2 folds", "against the best baseline", "domain gap"):
        assert text in shown


def test_what_was_tuned_is_kept(data, tmp_path, one_view, monkeypatch):  # noqa: F811
    out, found = tmp_path / "out", []
    options = (*TUNE, "--tune", "prototype", "--seeds", "1", "--per-class", "2", "--out", out)
    for path in (tmp_path / "first.json", tmp_path / "again.json"):
        shown = study(data, *options, "--arms", "real,real+synthetic", "--json", path).output
        assert ("judging the labels" in shown) == (not found)
        cells = {each.name: each.read_bytes() for each in (out / "cells").iterdir()}
        found.append((read_json(path), cells))
        monkeypatch.delattr(Tuning, "choose", raising=False)
    assert found[0] == found[1]


@pytest.mark.slow("test_every_arm_is_tuned_alike_and_gains_are_told_over_the_best")
def test_the_tests_labels_choose_nothing(data, tmp_path):  # noqa: F811
    """Swapped labels of the test turn the figures round and leave every choice as it was."""
    other = dict(zip(CLASSES, reversed(CLASSES), strict=True))
    write_images(tmp_path / "turned", 60, 2, labels=lambda name, n: other[name])
    chosen, reached = [], []
    for test in (data / "test", tmp_path / "turned"):
        given = ("--real", data / "train", "--test", test, "--seeds", "1", "--arms", "real")
        call(*given, *FAST, *TUNE, "--tune", "logistic", "--json", tmp_path / "r.json")
        found = read_json(tmp_path / "r.json")["tuned"]
        chosen.append(found["chosen"])
        reached.append(found["arms"]["real"]["balanced_accuracy"]["mean"])
    assert chosen[0] == chosen[1]
    assert sum(reached) == pytest.approx(1.0, abs=1e-6)


def test_a_space_that_filtered_is_marked(data, tmp_path, asked, one_view):  # noqa: F811
    realism = {"kind": "realism", "images": str(data / "train"), "encoder": "color-texture"}
    filters = [{"kind": "finite"}, {**realism, "max_centroid_distance": 1e9}]
    done = run(write_recipe(tmp_path / "r", filters=filters), tmp_path / "run")
    assert done.summary.accepted
    options = ("--seeds", "2", "--arms", "real,real+synthetic", "--force", "--per-class", "2")
    path = tmp_path / "r.json"
    given = ("--real", data / "train", "--test", data / "test", "--synthetic", tmp_path / "run")
    fast = ("--steps", "2", "--size", "32", "--shots", "3", "--model", "resnet18")
    call(*given, *fast, *options, *TUNE, "--tune", "prototype", "--json", path)
    assert asked
    found = read_json(path)
    assert "CIRCULAR" in found["tuned"]["marks"]["real+synthetic"]
    assert "CIRCULAR" not in found["marks"].get("real+synthetic", ())
    assert "real" not in found["tuned"]["marks"]
    (making,) = found["making"]  # of one run, which all draws take
    assert making["asked"] == 23 and making["unfilled"] == round(1 - making["accepted"] / 23, 4)
    assert making["seconds"] > 0


# --- the preset ---------------------------------------------------------------------------------


def test_the_preset_is_the_papers_and_changes_are_seen():
    settings = StudySettings(protocol="mupad")
    assert (settings.shots, settings.seeds, settings.epochs) == ((5, 10), 5, 50)
    assert (settings.model, settings.encoder, settings.steps) == ("resnet18", None, None)
    told = describe_protocol(dict(settings), has_groups=True)
    assert told["changed"] == {}
    assert tell_changes(told) == "protocol mupad"
    assert told["left_open"] == dict(MUPAD.left_open)
    again = StudySettings(**dict(settings))
    assert describe_protocol(dict(again), True)["changed"] == {}
    changed = StudySettings(protocol="mupad", seeds=2, shots=(10,), mix="balanced")
    text = tell_changes(describe_protocol(dict(changed), has_groups=False))
    assert text == (
        "protocol mupad, CHANGED: shots 10 instead of 5, 10; seeds 2 instead of 5; mix balanced "
        "instead of pooled; patients not known of all images instead of disjoint"
    )
    assert describe_protocol(dict(StudySettings()), True) is None
    assert settings.count_arm_steps(5, 3, 15) == 24 == settings.count_steps(5, 3)


def test_the_preset_in_a_study(data, tmp_path, asked):  # noqa: F811
    """One draw of few epochs: each arm its own steps, and the longer one those of synthetic."""
    given = ("--real", data / "train", "--test", data / "test", "--synthetic", data / "held")
    options = ("--protocol", "mupad", "--shots", "3", "--seeds", "1", "--size", "32")
    options += ("--per-class", "10", "--unfiltered", data / "wrong", "--group-pattern", PATTERN)
    shown = call(*given, *options, "--json", tmp_path / "r.json").output
    found = read_json(tmp_path / "r.json")
    assert list(found["arms"]) == list(MUPAD.fixed["arms"])
    assert asked == {
        (6, False, False): [10, 41],
        (6, False, True): [10],
        (26, True, False): [41, 41],
    }
    settings = found["settings"]
    assert settings["steps_of"] == {
        "real": [10], "real_longer": [41], "real+classical": [10], "real+synthetic": [41],
        "real+synthetic_unfiltered": [41],
    }  # fmt: skip
    assert set(settings["protocol"]["changed"]) == {"shots", "seeds", "size"}
    assert "protocol mupad, CHANGED: shots 3 instead of 5, 10; seeds 1 instead of 5" in shown
    assert "10 to 41 steps of 32" in shown
    assert settings["per_class"] == 10


def test_shots_of_a_set_have_folds(data):  # noqa: F811
    train = list_real(data / "train", group_pattern=PATTERN)
    shots = draw_shots(train, 5, 0)
    for known, held in cut_folds(shots, CLASSES, 5, 0):
        groups = [{shots.images[row].group for row in rows} for rows in (known, held)]
        assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", "2"), "--folds: belong to --tune: give it"),
        ((*TUNE, "--workers", "2"), "what is tuned is trained in one process"),
    ],
)
def test_options_that_tuning_does_not_take_are_refused(data, options, message):  # noqa: F811
    assert message in study(data, *options, code=2).output
