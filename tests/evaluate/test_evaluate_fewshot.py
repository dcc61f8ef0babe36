"""Few-shot study: planted gains and losses are found, leaks are refused, killed studies resume."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torchvision.models import resnet18

from factory.cli import main
from factory.core.errors import InputError
from factory.core.hashing import hash_bytes
from factory.core.stats.intervals import LEVEL
from factory.data.shots import draw_shots, list_real, split_held_out
from factory.evaluate.fewshot.batches import draw_batches
from factory.evaluate.fewshot.labels import (
    SHOTS,
    TEST,
    choose_judge,
    explain_shift,
    join_images,
)
from factory.evaluate.fewshot.leaks import OTHER_SHOTS, find_other_shots
from factory.evaluate.fewshot.learners import NetworkLearner, TrainingSet
from factory.evaluate.fewshot.scores import measure, pair_arms, resample, score_arm, to_interval
from factory.evaluate.fewshot.settings import ARMS, METRICS, StudySettings
from factory.evaluate.fewshot.synthetic import read_first_attempts, read_synthetic
from factory.evaluate.workers import WorkerPool, count_workers
from factory.recipe.conditions.shots import choose_shots
from tests import ASSETS, ROOT, forked, killer
from tests.running import read_json, read_rows, run, save_again, write_recipe

PCAM = ASSETS / "pcam"
CLASSES = ("normal", "tumor")
FAST = ("--encoder", "color-texture", "--size", "32", "--steps", "60", "--shots", "3")


def draw_patch(rng, class_name, size=32):
    """A noisy patch; the classes differ in mean colour, by less than patches of one class do."""
    shift = 5 if class_name == "tumor" else -5
    colour = np.array([190 - shift, 130, 180 + shift]) + rng.normal(0, 9, 3)
    noise = rng.normal(0, 12, (size, size, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def write_images(folder, count, seed, classes=CLASSES, labels=None, groups=4):
    """Writes `count` patches a class; `labels` gives each class's patches another folder."""
    rng = np.random.default_rng(seed)
    for name in classes:
        for number in range(count):
            label = name if labels is None else labels(name, number)
            path = folder / label / f"{name}-s{seed}p{number % groups}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_patch(rng, name)).save(path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fewshot")
    other = dict(zip(CLASSES, reversed(CLASSES), strict=True))
    write_images(folder / "train", 40, 1)
    write_images(folder / "test", 60, 2)
    write_images(folder / "held", 80, 3)
    write_images(folder / "swapped", 80, 4, labels=lambda name, n: name if n % 4 else other[name])
    write_images(folder / "wrong", 80, 5, labels=lambda name, n: other[name])
    return folder


def call(*arguments, code=0):
    result = CliRunner().invoke(main, ["evaluate", "fewshot", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def study(data, *arguments, synthetic="held", code=0):
    given = ("--real", data / "train", "--test", data / "test", "--synthetic", data / synthetic)
    return call(*given, *FAST, *arguments, code=code)


# --- what is planted is found --------------------------------------------------------------------


@pytest.mark.spine
def test_contract_of_the_json(data, tmp_path):
    path = tmp_path / "deep" / "result.json"
    shown = study(data, "--seeds", "3", "--json", path, "--unfiltered", data / "wrong").output
    found = read_json(path)
    assert list(found["arms"]) == list(ARMS)
    for figures in found["arms"].values():
        assert list(figures) == list(METRICS)
        for interval in figures.values():
            assert set(interval) == {"mean", "low", "high"}
            assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1
    for base in ("real", "real+classical"):
        for arm in ARMS:
            assert (f"{arm} - {base}" in found["paired"]) == (arm != base)
    for interval in found["paired"].values():
        assert set(interval) == {"mean", "low", "high"}
        assert interval["low"] <= interval["mean"] <= interval["high"]
    for pair, interval in found["paired"].items():
        first, second = (found["arms"][arm]["balanced_accuracy"] for arm in pair.split(" - "))
        assert interval["mean"] == pytest.approx(first["mean"] - second["mean"])
    assert found["settings"]["steps"] == 60
    assert found["settings"]["batch_size"] == 32
    assert found["settings"]["seeds"] == [0, 1, 2]
    assert "shots" not in found
    assert found["marks"] == {}
    assert any("3 draws: a bootstrap over so few" in note for note in found["notes"])
    assert found["images"]["real+synthetic"][0]["synthetic"] == {"normal": 80, "tumor": 80}
    assert found["images"]["all_real"][0]["real"] == {"normal": 40, "tumor": 40}
    judged = found["label_fidelity"]
    shares = {kind: each["balanced_accuracy"] for kind, each in judged.items()}
    assert list(shares) == [TEST, SHOTS, "synthetic", "synthetic_unfiltered"]
    assert abs(shares["synthetic"]["mean"] - shares["real test images"]["mean"]) < 0.12
    assert shares["synthetic_unfiltered"]["high"] < 0.5  # the wrong labels
    assert judged["synthetic"]["images"] == 160
    assert judged["synthetic"]["recall"]["tumor"]["low"] > 0.5
    assert shares[SHOTS]["low"] <= shares[TEST]["high"]
    assert "differ from the training set" not in shown
    for arm in ARMS:
        assert arm in shown
    assert "60 steps of 32 for every arm" in shown


@pytest.mark.slow("test_contract_of_the_json")
def test_a_test_set_of_another_stain_is_said(data, tmp_path):
    """Tumour is redder, and so is every test image: a judge of the shots sees tumour alone."""
    for split, stain in (("train", 0), ("test", 40), ("held", 0)):
        for path in (data / split).rglob("*.png"):
            red = stain + (30 if path.parent.name == "tumor" else 0)
            pixels = np.asarray(Image.open(path)).astype(int) - np.array([70 - red, 0, 0])
            out = tmp_path / split / path.relative_to(data / split)
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out)
    given = ["--real", tmp_path / "train", "--test", tmp_path / "test"]
    given += ["--synthetic", tmp_path / "held", *FAST, "--seeds", "3"]
    shown = call(*given, "--json", tmp_path / "r.json").output
    assert "the test images differ from the training set: a classifier of its other" in shown
    judged = read_json(tmp_path / "r.json")["label_fidelity"]
    low, high = (judged[kind]["balanced_accuracy"] for kind in (TEST, SHOTS))
    assert low["high"] < 0.6 < 0.8 < high["low"]
    assert judged[SHOTS]["images"] <= 3 * 2 * 3
    assert judged["synthetic"]["balanced_accuracy"]["mean"] > 0.8, "held back, of the shots' stain"
    assert explain_shift({TEST: judged[TEST]}) == ""


def test_held_back_real_images_show_a_clear_gain(data, tmp_path):
    study(data, "--json", tmp_path / "r.json", "--arms", "real,real+synthetic,all_real")
    found = read_json(tmp_path / "r.json")
    assert found["paired"]["real+synthetic - real"]["low"] > 0
    assert found["relative_gain"]["real+synthetic"]["low"] > 0


@pytest.mark.slow("test_held_back_real_images_show_a_clear_gain")
def test_wrong_labels_show_a_clear_loss(data, tmp_path):
    path = tmp_path / "r.json"
    arms = ("--arms", "real,real+synthetic,synthetic")
    study(data, *arms, "--json", path, synthetic="wrong")
    found = read_json(path)
    assert found["paired"]["real+synthetic - real"]["high"] < 0
    assert found["arms"]["synthetic"]["auroc"]["high"] < 0.5


@pytest.mark.slow("test_contract_of_the_json")
def test_several_shots_and_the_curve(data, tmp_path):
    path, out = tmp_path / "r.json", tmp_path / "out"
    arms = ("--arms", "real,real+synthetic", "--counts", "0,10,40", "--seeds", "2")
    shown = study(data, "--shots", "6", *arms, "--json", path, "--out", out).output
    found = read_json(path)
    assert set(found["shots"]) == {"3", "6"}
    assert found["arms"] == found["shots"]["6"]["arms"]
    assert found["settings"]["shots"] == 6
    curve = found["shots"]["3"]["curve"]
    assert [point["per_class"] for point in curve] == [0, 10, 40]
    real = found["shots"]["3"]["arms"]["real"]["balanced_accuracy"]
    assert curve[0]["balanced_accuracy"] == real  # none added: the very same training
    assert curve[2]["balanced_accuracy"]["mean"] > curve[0]["balanced_accuracy"]["mean"]
    assert shown.count("by synthetic images of each class") == 2
    assert read_json(out / "results.json") == found
    for name in ("arms.svg", "curve.svg"):
        assert (out / name).read_text().startswith("<svg")


@pytest.mark.slow("test_held_back_real_images_show_a_clear_gain")
def test_planted_on_real_patches(tmp_path):
    """Real patches held back from the training folder help; with shuffled labels they hurt."""
    rng = np.random.default_rng(0)
    for name, other in zip(CLASSES, reversed(CLASSES), strict=True):
        files = rng.permutation(sorted((PCAM / "train" / name).glob("*.webp")))
        tests = rng.permutation(sorted((PCAM / "test" / name).glob("*.webp")))
        parts = (("train", files[:4]), ("held", files[4:]), ("test", tests))
        links = [(part, name, path) for part, paths in parts for path in paths]
        half = [name if row % 2 else other for row in range(10)]
        links += [("shuffled", to, path) for to, path in zip(half, files[4:], strict=True)]
        for part, to, path in links:
            (tmp_path / part / to).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / to / path.name).symlink_to(path)
    gains = {}
    for kind in ("held", "shuffled"):
        given = ("--real", tmp_path / "train", "--test", tmp_path / "test", "--shots", "3")
        options = ("--arms", "real,real+synthetic", "--encoder", "color-texture", "--steps", "200")
        path = tmp_path / f"{kind}.json"
        call(*given, *options, "--synthetic", tmp_path / kind, "--json", path)
        gains[kind] = read_json(path)["paired"]["real+synthetic - real"]
    assert gains["held"]["mean"] > 0.05, gains
    assert gains["shuffled"]["high"] < 0, gains


# --- one budget, one initialisation --------------------------------------------------------------


def test_every_arm_takes_the_same_steps_from_the_same_start(data, monkeypatch):
    started, steps, rates = [], [], []
    step = torch.optim.SGD.step

    def count(optimizer, *arguments):
        group = optimizer.param_groups[0]
        if group["lr"] == group["initial_lr"]:
            started.append(group["params"][0].detach().clone())
            steps.append(0)
            rates.append(group["lr"])
        steps[-1] += 1
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", count)
    study(data, "--seeds", "2", "--steps", "9", "--unfiltered", data / "wrong")
    assert steps == [9] * 13  # the last judges the labels
    assert len(set(rates)) == 1
    for first in (0, 6):
        assert all(torch.equal(started[first], each) for each in started[first : first + 6])
    assert not torch.equal(started[0], started[6])


@pytest.mark.parametrize("mix", ["pooled", "balanced", "two-stage"])
def test_batches(mix):
    labels = np.array([0] * 3 + [1] * 5 + [0] * 40 + [1] * 20)
    is_synthetic = np.repeat([False, True], [8, 60])
    rows = draw_batches(labels, is_synthetic, 20, 8, seed=1, mix=mix)
    assert rows.shape == (20, 8)
    assert all((labels[batch] == 0).sum() == 4 for batch in rows)
    share = is_synthetic[rows].mean(1)
    if mix == "balanced":
        assert set(share) == {0.5}
    elif mix == "two-stage":
        assert set(share[:15]) == {1.0}
        assert set(share[15:]) == {0.0}
    else:
        counts = np.bincount(rows.ravel()[labels[rows.ravel()] == 0], minlength=len(labels))
        used = counts[labels == 0]
        assert used.max() - used.min() <= 1  # a deck: each once before any again
    assert np.array_equal(rows, draw_batches(labels, is_synthetic, 20, 8, seed=1, mix=mix))
    assert not np.array_equal(rows, draw_batches(labels, is_synthetic, 20, 8, seed=2, mix=mix))


@pytest.fixture
def shown():
    """A learner, 16 patches with and without augmentation."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 8)
    pixels = np.stack([draw_patch(rng, CLASSES[each]) for each in labels])
    pixels[8:, :, :, 0] //= 2
    shas = tuple(map(str, range(16)))
    settings = StudySettings(size=32, batch_size=8, dtype="float32", learning_rate=0.01)
    learner = NetworkLearner(settings, lambda line: None)
    plain, augmented = (
        TrainingSet(pixels, labels, np.zeros(16, bool), shas, is_augmented)
        for is_augmented in (False, True)
    )
    return learner, plain, augmented


@pytest.mark.slow("test_a_network_is_repeatable")
def test_a_network_learns(shown):
    learner, plain, _ = shown
    chances = learner.fit_predict(plain, plain.pixels, 2, 30, 3)
    assert (chances.argmax(1) == plain.labels).all()


def test_a_network_is_repeatable(shown):
    learner, plain, augmented = shown
    few = plain.pixels[::4]
    found = [learner.fit_predict(each, few, 2, 1, 3) for each in (plain, augmented) * 2]
    assert found[0].shape == (4, 2)
    assert np.allclose(found[0].sum(1), 1)
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])
    assert not np.array_equal(found[0], found[1])


def test_starts_from_local_weights(tmp_path):
    state = resnet18(num_classes=7).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    settings = StudySettings(weights=tmp_path, dtype="float32")
    learner = NetworkLearner(settings, lambda line: None)
    built = learner._build(2, 0).state_dict()
    assert built["fc.weight"].shape == (2, 512)
    assert all(torch.equal(built[name], state[name]) for name in state if "fc" not in name)
    assert learner.describe()["start"] == "weights"
    assert len(learner.describe()["weights_sha256"]) == 64
    del state["layer4.1.bn2.weight"]
    save_file(state, tmp_path / "model.safetensors")
    learner = NetworkLearner(settings, lambda line: None)
    with pytest.raises(InputError, match=r"no layer4\.1\.bn2\.weight of the right shape"):
        learner._build(2, 0)
    with pytest.raises(InputError, match="found 0"):
        NetworkLearner(StudySettings(weights=tmp_path / "none"), lambda line: None)
    with pytest.raises(InputError, match="--model resnet19"):
        NetworkLearner(StudySettings(model="resnet19"), lambda line: None)._build(2, 0)


def test_shots_are_those_of_a_recipe(data):
    pattern = r"-(s\d+p\d+)_"
    train = list_real(data / "train", group_pattern=pattern)
    for seed in (0, 7):
        drawn = draw_shots(train, 5, seed)
        expected = []
        for name in CLASSES:
            mine = [image for image in train.images if image.class_name == name]
            expected += [sha for _, sha in choose_shots(mine, 5, seed, "here")]
        assert list(drawn.sha256s) == expected
    assert draw_shots(train, 5, 0).sha256s != draw_shots(train, 5, 7).sha256s


# --- scores --------------------------------------------------------------------------------------


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    chances = rng.dirichlet([1, 1, 1], 200).round(1)  # many ties
    chances[np.arange(200), labels] += 0.3
    chances /= chances.sum(1, keepdims=True)
    weights = rng.integers(0, 4, (3, 200)).astype(float)
    found, by_class = measure(chances, labels, weights)
    for row, weight in enumerate(weights):
        said = chances.argmax(1)
        areas = [
            roc_auc_score(labels == name, chances[:, name], sample_weight=weight)
            for name in range(3)
        ]
        expected = {
            "balanced_accuracy": balanced_accuracy_score(labels, said, sample_weight=weight),
            "accuracy": np.average(said == labels, weights=weight),
            "macro_f1": f1_score(labels, said, average="macro", sample_weight=weight),
            "auroc": np.mean(areas),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-9), name
        f1 = f1_score(labels, said, average=None, sample_weight=weight)
        assert by_class["f1"][row] == pytest.approx(f1)


@pytest.mark.slow("test_paired_differences_are_narrower_than_unpaired")
def test_intervals_cover_the_truth():
    """Draws and images both vary; about 95 % of 95 % intervals hold the true accuracy."""
    rng, hits = np.random.default_rng(0), 0
    labels = np.repeat([0, 1], 60)
    for _ in range(60):
        easy = rng.normal(0.8, 0.5, 120)
        chances = []
        for shift in rng.normal(0, 0.25, 10):
            right = (easy + shift + rng.normal(0, 0.4, 120)) > 0
            said = np.where(right, labels, 1 - labels)
            chances.append(np.eye(2)[said] * 0.8 + 0.1)
        scored, _ = score_arm(chances, labels, resample(labels, [None] * 120, 10))
        interval = to_interval(scored["accuracy"])
        spread = np.sqrt(0.5**2 + 0.25**2 + 0.4**2)
        truth = np.mean(rng.normal(0.8, spread, 200_000) > 0)
        hits += interval.low <= truth <= interval.high
    assert LEVEL == 0.95
    assert 50 <= hits < 60


def test_paired_differences_are_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    base = [rng.dirichlet([1, 1], 100) for _ in range(3)]
    better = [each + 0.02 * np.eye(2)[labels] for each in base]
    resampling = resample(labels, [None] * 100, 3)
    scored = {"real": score_arm(base, labels, resampling)[0]}
    scored["real+synthetic"] = score_arm(better, labels, resampling)[0]
    pair = to_interval(pair_arms(scored, "auroc")["real+synthetic - real"])
    alone = to_interval(scored["real"]["auroc"])
    assert pair.low > 0
    assert pair.high - pair.low < 0.3 * (alone.high - alone.low)


def test_a_judge_knows_no_shot(data):
    train = list_real(data / "train")
    shots = [draw_shots(train, 3, seed) for seed in (0, 1)]
    judge = choose_judge(train, shots)
    assert not set(judge.sha256s) & {sha for each in shots for sha in each.sha256s}
    assert len(judge) == len(set(train.sha256s) - {sha for each in shots for sha in each.sha256s})
    assert "besides the shots of normal, tumor" in choose_judge(train, [draw_shots(train, 30, 0)])
    joined = join_images([*shots, shots[0]])
    assert len(joined) == len({sha for each in shots for sha in each.sha256s})


def test_patients_are_resampled_where_they_are_known():
    labels = np.repeat([0, 1], 30)
    groups = [f"p{row // 5}" for row in range(60)]
    images = resample(labels, groups, 2)
    assert images.units == "patients or slides"
    assert all(len(set(row)) == 1 for row in images.images[5].reshape(12, 5))
    assert resample(labels, [f"p{row // 30}" for row in range(60)], 2).units == "images"


# --- leaks ---------------------------------------------------------------------------------------


def test_shared_images_and_patients_are_refused_and_marked(data, tmp_path):
    given = ("--real", data / "train", "--test", data / "train", "--synthetic", data / "held")
    assert "40 images" in call(*given, *FAST, code=2).output.replace("80 images", "40 images")
    both = write_images(tmp_path / "other", 12, 1)  # other bytes, the same patient names
    pattern = ("--group-pattern", r"-(s\d+p\d+)_", "--arms", "real,synthetic", "--seeds", "1")
    for path in both.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
    given = ("--real", data / "train", "--test", both, "--synthetic", data / "held")
    assert "4 patients or slides (s1p0" in call(*given, *FAST, *pattern, code=2).output
    path = tmp_path / "r.json"
    shown = call(*given, *FAST, *pattern, "--force", "--json", path).output
    assert shown.count("real [TEST LEAK]") >= 2
    assert "FORCED TEST LEAK" in shown
    assert read_json(path)["marks"] == {"real": ["TEST LEAK"], "synthetic": ["TEST LEAK"]}
    assert read_json(path)["settings"]["forced"] is True


def test_test_images_among_the_synthetic_are_refused(data, tmp_path):
    source = data / "test" / "tumor"
    for name in CLASSES:
        (tmp_path / "s" / name).mkdir(parents=True)
    for path in [*source.glob("*_1.png"), *source.glob("*_2.png")]:
        (tmp_path / "s" / "tumor" / path.name).symlink_to(path)
    write_images(tmp_path / "s", 3, 9)
    shown = study(data, "--seeds", "1", synthetic=tmp_path / "s", code=2).output
    assert "TEST LEAK: 2 images of" in shown


def test_near_copies_of_test_images_are_counted(data, tmp_path):
    rng = np.random.default_rng(3)
    for part, count in (("test", 12), ("train", 12)):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.kron(rng.integers(60, 200, (8, 8, 1)), np.ones((8, 8, 3)))
                path = tmp_path / part / name / f"{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    for name in CLASSES:
        (tmp_path / "made" / name).mkdir(parents=True)
        for number in range(4):  # turned and made lighter
            pixels = np.asarray(Image.open(tmp_path / "test" / name / f"{number}.png"))
            path = tmp_path / "made" / name / f"{number}.png"
            Image.fromarray(np.rot90(pixels) + 20).save(path)
    given = ("--real", tmp_path / "train", "--test", tmp_path / "test", "--synthetic")
    path = tmp_path / "r.json"
    arms = ("--arms", "real,synthetic", "--seeds", "1", "--json", path)
    shown = call(*given, tmp_path / "made", *FAST, *arms).output
    assert read_json(path)["near_copies"][0]["near_copies"] == 8
    assert "NEAR-COPIES of test images among the synthetic ones: 8" in shown


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Runs of the fake model: of classes, and of variations of the shots of seed 0."""
    folder = tmp_path_factory.mktemp("runs")
    classes = write_recipe(folder / "classes")
    run(classes, folder / "by-class")
    references = {
        "kind": "reference", "images": str(data / "train"), "shots": 3, "per_class": 8,
    }  # fmt: skip
    recipe = write_recipe(folder / "references", conditions=[references], seed=0, filters=[])
    run(recipe, folder / "by-shot")
    return folder


def test_first_attempts_of_a_run_are_the_unfiltered_arm(data, runs, tmp_path):
    path = tmp_path / "r.json"
    study(data, "--seeds", "1", "--json", path, synthetic=runs / "by-class")
    found = read_json(path)
    rows = [*read_rows(runs / "by-class"), *read_rows(runs / "by-class", "rejected")]
    first = [row["class_name"] for row in rows if row["attempt"] == 0]
    assert {row["attempt"] for row in read_rows(runs / "by-class")} > {0}
    used = found["images"]["real+synthetic_unfiltered"][0]["synthetic"]
    assert used == {name: first.count(name) for name in CLASSES} == {"normal": 10, "tumor": 13}
    assert found["images"]["real+synthetic"][0]["synthetic"] == {"normal": 10, "tumor": 13}
    figures = [found["arms"][f"real+synthetic{end}"]["auroc"] for end in ("", "_unfiltered")]
    assert figures[0] != figures[1]


@pytest.mark.slow("test_first_attempts_of_a_run_are_the_unfiltered_arm")
def test_without_rejected_images_the_arm_is_left_out(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", output={"keep_rejected": "scores"})
    run(recipe, tmp_path / "run")
    path = tmp_path / "r.json"
    shown = study(data, "--seeds", "1", "--json", path, synthetic=tmp_path / "run").output
    assert "LEFT OUT real+synthetic_unfiltered" in shown
    assert "keep_rejected" in read_json(path)["left_out"]["real+synthetic_unfiltered"]
    assert "real+synthetic_unfiltered" not in read_json(path)["arms"]


@pytest.mark.slow("test_models_that_saw_labels_are_refused")
def test_variations_of_other_shots_are_refused(data, runs, tmp_path):
    arms = ("--arms", "real,real+synthetic", "--seeds", "1")
    study(data, *arms, synthetic=runs / "by-shot")
    shown = study(data, *arms, "--first-seed", "1", synthetic=runs / "by-shot", code=2).output
    assert "OTHER SHOTS" in shown
    assert "the draw of 3 shots with seed 1" in shown
    path = tmp_path / "r.json"
    options = ("--first-seed", "1", "--force", "--json", path)
    shown = study(data, *arms, *options, synthetic=runs / "by-shot").output
    assert "real+synthetic [OTHER SHOTS]" in shown
    assert read_json(path)["marks"] == {"real+synthetic": ["OTHER SHOTS"]}


@pytest.mark.stranger
def test_shots_saved_again_are_the_same_shots(data, runs, tmp_path):
    train = list_real(save_again(data / "train", tmp_path / "train"))
    read = [read_synthetic(runs / "by-shot"), read_first_attempts(runs / "by-shot")]
    varied = {each.sha256 for each in read[0].references}
    files = [hash_bytes(path.read_bytes()) for path in sorted((data / "train").rglob("*.png"))]
    shots = train.take([place for place, sha in enumerate(files) if sha in varied])
    others = train.take([place for place, sha in enumerate(files) if sha not in varied])
    assert len(shots) == 6 and not varied & set(shots.sha256s)
    for each in read:
        assert find_other_shots(each, shots, "the draw") == []
        (leak,) = find_other_shots(each, others, "the draw")
        assert leak.mark == OTHER_SHOTS


def write_catalog(folder, **fields):
    """A catalog in which `fake` has seen labels, or may have."""
    shipped = (ROOT / "catalogs" / "models" / "fake.yaml").read_text()
    kept = [
        line
        for line in shipped.splitlines()
        if not line.startswith(("labels_seen", "training_data"))
    ]
    (folder / "models").mkdir(parents=True)
    added = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    (folder / "models" / "fake.yaml").write_text("\n".join([*kept, *added]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("seen", "set_name", "is_refused"),
    [
        (True, None, True),
        (True, "Some-Set", True),
        (True, "another", False),
        (None, "some set", True),
        (None, None, False),
        (False, "some set", False),
    ],
)
def test_models_that_saw_labels_are_refused(data, runs, tmp_path, seen, set_name, is_refused):
    catalog = write_catalog(tmp_path / "c", labels_seen=seen, training_data=["Some-Set (CC0)"])
    options = ["--catalog", catalog, "--arms", "real,synthetic", "--seeds", "1"]
    options += ["--set-name", set_name] if set_name else []
    code = 2 if is_refused else 0
    shown = study(data, *options, synthetic=runs / "by-class", code=code).output
    assert ("LABELS SEEN: model fake" in shown) == is_refused
    if seen and not is_refused:
        assert "NOTE model fake has seen labels, but none of its sets is named another" in shown
    if is_refused:
        path = tmp_path / "r.json"
        study(data, *options, "--force", "--json", path, synthetic=runs / "by-class")
        assert read_json(path)["marks"] == {"synthetic": ["LABELS SEEN"]}
        assert "LABELS SEEN" in read_json(path)["leaks"][0]


def test_adapters_of_unknown_training_are_refused(data, runs, tmp_path):
    shutil.copytree(runs / "by-class", tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = read_json(path)
    summary["makers"][0]["generator"]["adapters"] = [{"sha256": "0" * 64}]
    path.write_text(json.dumps(summary))
    shown = study(data, "--seeds", "1", synthetic=tmp_path / "run", code=2).output
    assert "LABELS SEEN: model fake was used with an adapter" in shown


@pytest.mark.slow("test_models_that_saw_labels_are_refused")
def test_a_filter_fitted_on_more_than_the_shots_is_refused(data, tmp_path):
    fitted = ["--data", data / "train", "--size", "32", "--out", tmp_path / "classifier", "--force"]
    done = CliRunner().invoke(main, ["train", "classifier", *map(str, fitted)])
    assert done.exit_code == 0, done.output
    classifier = {"kind": "classifier", "model": str(tmp_path / "classifier")}
    filters = [{**classifier, "min_probability": 0.0}]
    run(write_recipe(tmp_path / "r", filters=filters), tmp_path / "run")
    shown = study(data, "--seeds", "1", synthetic=tmp_path / "run", code=2).output
    assert "LABELS SEEN: filter classifier" in shown
    assert "fitted on 80 labelled images" in shown
    path = tmp_path / "r.json"
    study(data, "--seeds", "1", "--force", "--json", path, synthetic=tmp_path / "run")
    marks = read_json(path)["marks"]  # the filter chose no first attempt
    assert {arm for arm, each in marks.items() if "LABELS SEEN" in each} == {
        "real+synthetic", "synthetic",
    }  # fmt: skip


# --- without a test set, and inputs --------------------------------------------------------------


def test_without_a_test_set_a_part_of_real_is_held_out(data, tmp_path):
    path = tmp_path / "r.json"
    given = ("--real", data / "train", "--synthetic", data / "held", "--json", path)
    pattern = ("--group-pattern", r"-(s\d+p\d+)_", "--seeds", "1", "--arms", "real,synthetic")
    shown = call(*given, *FAST, *pattern).output
    assert "no --test: a part of --real" in shown
    settings = read_json(path)["settings"]
    assert settings["test"]["split_from_real"] is True
    assert settings["test"]["images"] + settings["real"]["images"] == 80
    train, test = split_held_out(list_real(data / "train", group_pattern=r"-(s\d+p\d+)_"))
    assert not {each.group for each in train.images} & {each.group for each in test.images}
    assert train.class_names == test.class_names == CLASSES


def test_other_classes_are_said(data, tmp_path):
    write_images(tmp_path / "s", 4, 1, labels=lambda name, n: f"{name}_400x")
    shown = study(data, "--seeds", "1", synthetic=tmp_path / "s", code=2).output
    assert "has the classes normal_400x, tumor_400x, but the real images have normal" in shown
    write_images(tmp_path / "s", 4, 7, classes=("tumor",))
    arms = ("--seeds", "1", "--arms", "real,real+synthetic,synthetic")
    shown = study(data, *arms, synthetic=tmp_path / "s").output
    assert "NOTE synthetic images of other classes are not used" in shown
    assert "NOTE real+synthetic: no synthetic images of normal" in shown
    assert "LEFT OUT synthetic" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arms", "real,real+synthetik"), "did you mean 'real+synthetic'"),
        (("--shots", "50"), "shots: 50 asked for, but it has 40"),
        (("--counts", "0,a"), "--counts: want numbers"),
        (("--seeds", "0"), "'--seeds': 0"),
        (("--adapt", "nano-he-base"), "belong to --generator"),
        (("--weights", "."), "--weights: belongs to --model"),
        (("--tune", "logistik"), "did you mean 'logistic'"),
        (("--features", "color-texture"), "--features: belong to --tune"),
        (("--epochs", "2"), "--epochs, --steps: give one of them"),
        (("--protocol", "mupad"), "(--protocol mupad gives --epochs)"),
        (("--arms", "real_longer,real"), "needs --epochs, and the arm real+synthetic"),
    ],
)
def test_what_does_not_fit_is_said(data, options, message):
    assert message.lower() in study(data, *options, code=2).output.lower()


# --- resume --------------------------------------------------------------------------------------


@pytest.mark.slow("test_more_draws_reuse_and_other_settings_are_refused")
def test_killed_and_resumed_gives_the_same(data, tmp_path):
    arguments = ["--real", data / "train", "--test", data / "test", "--synthetic", data / "held"]
    arguments += [*FAST, "--arms", "real,real+synthetic", "--seeds", "2"]
    call(*arguments, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    command = [str(each) for each in ("evaluate", "fewshot", *arguments, "--out", out)]
    killed = forked.start(killer.run_armed, 3, "amid", command)
    assert forked.wait(killed) == -signal.SIGKILL
    assert not (out / "results.json").exists()
    shown = call(*arguments, "--out", out).output
    assert shown.count("stored") == 2
    whole, resumed = (read_json(each / "results.json") for each in (tmp_path / "whole", out))
    for name in ("arms", "paired", "settings", "per_class"):
        assert whole[name] == resumed[name]


def test_more_draws_reuse_and_other_settings_are_refused(data, tmp_path):
    arms = ("--arms", "real", "--out", tmp_path / "out")
    study(data, *arms, "--seeds", "1")
    assert study(data, *arms, "--seeds", "2").output.count("stored") == 1
    shown = study(data, *arms, "--seeds", "2", "--batch-size", "16", code=2).output
    assert "training.batch_size: 32 -> 16" in shown
    assert "was begun with other settings" in shown
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    shown = study(data, "--out", tmp_path / "else", code=2).output
    assert "holds something else (notes.txt)" in shown


@pytest.mark.slow("test_more_draws_reuse_and_other_settings_are_refused")
def test_more_workers_than_cores_give_what_one_process_gives(data, tmp_path):
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    common = ("--seeds", "2", "--counts", "4")
    study(data, *common, "--json", one)
    common += ("--workers", os.cpu_count() + 1)
    shown = study(data, *common, "--json", two, "--out", tmp_path / "out").output
    assert read_json(one)["arms"] == read_json(two)["arms"]
    assert read_json(one)["curve"] == read_json(two)["curve"]
    assert "stored" not in shown
    again = study(data, *common, "--out", tmp_path / "out").output
    assert again.count("stored") == shown.count(": balanced accuracy")


def test_workers_are_those_asked_for_or_the_gpus_of_the_study(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert count_workers(None, "auto") == 3
    assert count_workers(None, "cuda:1") == count_workers(None, "cpu") == 1
    assert count_workers(2, "cpu") == 2


@pytest.mark.slow("test_workers_are_those_asked_for_or_the_gpus_of_the_study")
def test_workers_work_in_the_folder_of_the_command(tmp_path, monkeypatch):
    """Also where Ray was started elsewhere before: pairs are read from relative paths."""
    import ray

    def build():
        return lambda task: (task, str(Path.cwd()))

    ray.init(include_dashboard=False, logging_level="ERROR")
    try:
        monkeypatch.chdir(tmp_path)
        pool = WorkerPool(build, 1, print)
        assert dict(pool.run({"a": 1})) == {"a": (1, str(tmp_path))}
        pool.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.slow("test_a_network_is_repeatable")
def test_a_training_that_fails_on_a_worker_says_why(data):
    wild = ("--learning-rate", "1e9", "--seeds", "1", "--workers", "2")
    assert "lower --learning-rate" in study(data, *wild, code=3).output
