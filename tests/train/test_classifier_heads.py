"""Heads, calibration, thresholds and the refusal to pretend, against outside references."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageColor
from scipy.special import softmax
from scipy.stats import binomtest, norm, t
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from factory.core.errors import InputError
from factory.data.images import list_images
from factory.models.classifiers.heads import parse_head
from factory.models.classifiers.model import load_classifier, read_classifier_info
from factory.train.classifier.card import BLUE, GREY, draw_reliability
from factory.train.classifier.heads import choose_head, fit_neighbours, fit_prototypes
from factory.train.classifier.report import (
    BINS,
    count_effective,
    find_confused,
    measure_balanced,
    measure_predictions,
    weigh_classes,
)
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.temperature import ENOUGH, calibrate_across, find_thresholds
from factory.train.classifier.train import train_classifier
from tests import ASSETS
from tests.running import call
from tests.train.test_train_classifier import paint, write_folder

PCAM = ASSETS / "pcam"
CERVIX = ASSETS / "cervix-lbc4"


def draw_features(sizes, apart=1.0, seed=0, width=8):
    """Gaussian classes around different centres, features of very different scales."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = apart * draw.normal(size=(len(sizes), width))
    features = draw.normal(size=(len(labels), width)) + centres[labels]
    return features * np.geomspace(0.01, 100, width) + 5, labels


def split_by_turn(labels, folds=5):
    place = np.arange(len(labels)) % folds
    return [(np.flatnonzero(place != fold), np.flatnonzero(place == fold)) for fold in range(folds)]


# --- heads against scikit-learn ------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_votes_equal_those_of_scikit_learn(neighbours):
    features, labels = draw_features((40, 40, 40), 0.7)
    asked, _ = draw_features((300,), 0.5, seed=1)
    head = fit_neighbours(features, labels, neighbours)
    scaler = StandardScaler().fit(features)
    model = KNeighborsClassifier(neighbours).fit(scaler.transform(features), labels)
    expected = model.predict_proba(scaler.transform(asked))
    np.testing.assert_allclose(head.count_votes(asked) / neighbours, expected, atol=1e-12)
    smoothed = (expected * neighbours + 1 / 3) / (neighbours + 1)
    np.testing.assert_allclose(head.compute_logits(asked), np.log(smoothed), atol=1e-12)


def test_votes_of_a_rare_class_weigh_more():
    features, labels = draw_features((60, 20), 0.0)
    votes = fit_neighbours(features, labels, 80).count_votes(features[:1])
    np.testing.assert_allclose(votes, [[40, 40]])


def test_prototypes_equal_the_nearest_centroid_of_scikit_learn():
    features, labels = draw_features((5, 9, 4), 1.0)
    asked, _ = draw_features((200,), 1.0, seed=1)
    head = fit_prototypes(features, labels)
    scaler = StandardScaler().fit(features)
    model = NearestCentroid().fit(scaler.transform(features), labels)
    scaled = scaler.transform(asked)
    np.testing.assert_array_equal(head.compute_logits(asked).argmax(1), model.predict(scaled))
    far = ((scaled[:, None] - model.centroids_) ** 2).sum(-1)
    shares = softmax(-far / np.sqrt(8), axis=1)
    np.testing.assert_allclose(softmax(head.compute_logits(asked), axis=1), shares, atol=1e-9)


def test_auto_takes_what_suits_the_shots_and_says_why():
    few, labels = draw_features((5, 30), 2.0)
    folds = split_by_turn(labels)
    choice = choose_head("auto", few, labels, 2, folds, lambda line: None)
    assert choice.report["head"]["kind"] == "prototype"
    assert "5 images of the smallest class, fewer than 6" in choice.report["head"]["why"]
    line, labels = draw_features((80, 80), 0.6)
    choice = choose_head("auto", line, labels, 2, split_by_turn(labels), lambda line: None)
    assert choice.report["head"]["kind"] == "logistic"
    corners = np.random.default_rng(0).normal(size=(160, 2))
    labels = (corners[:, 0] * corners[:, 1] > 0).astype(np.int64)
    lines = []
    choice = choose_head("auto", corners, labels, 2, split_by_turn(labels), lines.append)
    told = choice.report["head"]
    assert (told["kind"], told["asked"]) == ("knn", "auto")
    assert told["neighbours"] == choice.report["k"] == choice.head.neighbours
    assert "logistic 0.69" in told["why"] and "knn 0." in told["why"]
    assert lines[-1].startswith("k ") and not any(line.startswith("head") for line in lines)


def test_k_is_the_one_of_least_held_out_loss():
    features, labels = draw_features((40, 50), 0.5, seed=3)
    choice = choose_head("knn", features, labels, 2, split_by_turn(labels), lambda line: None)
    losses = choice.report["log_loss_by_k"]
    assert losses[str(choice.report["k"])] == min(losses.values()) == choice.log_loss
    assert max(map(int, losses)) <= 32


# --- calibration and thresholds ------------------------------------------------------------------


def test_a_parts_temperature_never_sees_its_own_labels():
    features, labels = draw_features((60, 60), 0.4)
    folds = split_by_turn(labels)
    logits = choose_head("logistic", features, labels, 2, folds, lambda line: None).logits
    parts = [held for _, held in folds]
    before = calibrate_across(logits * 4, labels, parts)
    changed = labels.copy()
    changed[parts[0]] = 1 - changed[parts[0]]
    after = calibrate_across(logits * 4, changed, parts)
    np.testing.assert_array_equal(after[parts[0]], before[parts[0]])
    assert (after[parts[1]] != before[parts[1]]).any()
    np.testing.assert_allclose(before.sum(1), 1)


def test_reliability_adds_up_to_the_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.94, 0.06], [0.55, 0.45], [0.3, 0.7], [0.52, 0.48]])
    labels = np.array([0, 1, 0, 1, 1])
    found = measure_predictions(probabilities, labels, ("a", "b"))
    weights = weigh_classes(labels, 2)  # 1.25 for the two of a, 5/6 for the three of b
    by_hand = [  # 15 bins: 0.95 and 0.94 share [14/15, 1), 0.55 and 0.52 share [7/15, 8/15) not
        abs(weights[0] * (1 - 0.95) + weights[1] * (0 - 0.94)),
        abs(weights[2] * (1 - 0.55)),
        abs(weights[3] * (1 - 0.7)),
        abs(weights[4] * (0 - 0.52)),
    ]
    assert found["ece"] == pytest.approx(sum(by_hand) / 5, abs=1e-4)
    assert found["ece_bins"] == BINS == 15
    parts = found["reliability"]
    assert [part["images"] for part in parts] == [1, 1, 1, 2]
    total = sum(part["weight"] * abs(part["accuracy"] - part["confidence"]) for part in parts)
    assert total == pytest.approx(found["ece"], abs=5e-4)
    assert parts[-1]["confidence"] == pytest.approx(
        (1.25 * 0.95 + 0.94 / 1.2) / (1.25 + 1 / 1.2), abs=1e-4
    )


def test_thresholds_are_the_lowest_of_the_wished_precision():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [90, 40, 60])
    probabilities = softmax(draw.normal(size=(190, 3)) + 1.2 * np.eye(3)[labels], axis=1)
    table = find_thresholds(probabilities, labels, ("a", "b", "c"), wished=(0.66,))
    weights, checked = weigh_classes(labels, 3), 0
    for label, name in enumerate(("a", "b", "c")):
        chances = np.round(probabilities[:, label], 4)
        tried = {}
        for at in np.unique(chances):
            passing = chances >= at
            if passing.sum() >= ENOUGH:
                right = weights[passing & (labels == label)].sum()
                tried[at] = round(right / weights[passing].sum(), 9)
        for row in table[name]:
            lowest = min(at for at, reached in tried.items() if reached >= row.precision)
            assert row.probability == lowest
            assert row.reached == pytest.approx(tried[lowest], abs=1e-4)
            assert row.low < row.reached <= row.high
            assert row.images == (chances >= lowest).sum() >= ENOUGH
            passing = (chances >= lowest) & (labels == label)
            assert row.recall == pytest.approx(passing.sum() / (labels == label).sum(), abs=1e-4)
            checked += 1
        wished = {row.precision for row in table[name]}
        assert (0.66 in wished) == (max(tried.values()) >= 0.66)
        assert all((p in wished) == (max(tried.values()) >= p) for p in (0.5, 0.9, 0.99))
    assert checked > 12


def test_interval_of_the_balanced_accuracy():
    correct = np.array([True] * 17 + [False] * 3 + [True] * 6 + [False] * 4)
    labels = np.repeat([0, 1], [20, 10])
    (low, high), ends = measure_balanced(correct, labels, None)
    first, second = (
        binomtest(*pair).proportion_ci(method="wilson") for pair in ((17, 20), (6, 10))
    )
    assert ends[0] == pytest.approx(first) and ends[1] == pytest.approx(second)
    below = np.hypot(0.85 - first.low, 0.6 - second.low) / 2
    above = np.hypot(first.high - 0.85, second.high - 0.6) / 2
    assert (low, high) == pytest.approx((0.725 - below, 0.725 + above))


def test_repeats_of_one_patient_count_as_one():
    base = np.array([True, False, True, True, False, True] * 5)
    repeated, groups = np.repeat(base, 8), np.repeat(np.arange(30), 8)
    few = (norm.ppf(0.975) / t.ppf(0.975, 29)) ** 2
    assert count_effective(repeated, groups) == pytest.approx(few * 30 * 29 / 30, rel=1e-6)
    assert count_effective(repeated, None) == 240
    alone = count_effective(base, np.arange(30))
    assert alone == pytest.approx(few * 29, rel=1e-6)
    mixed = np.random.default_rng(0).permutation(repeated)
    assert count_effective(mixed, groups) > 150


# --- refusing to pretend -------------------------------------------------------------------------


def write_random(root, count=24):
    """Images of one kind only, in folders of two names."""
    for name, start in (("left", 0), ("right", count)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = paint("fine", start + number)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_random_labels_are_refused_and_nothing_is_written(tmp_path):
    data, out = write_random(tmp_path / "data"), tmp_path / "out"
    result = call("train", "classifier", "--data", data, "--out", out)
    assert result.exit_code == 1
    assert "THE CLASSES CANNOT BE TOLD APART: held-out balanced accuracy 0." in result.stderr
    assert "guessing gives 0.50" in result.stderr and "nothing was written" in result.stderr
    assert not out.exists()
    told = json.loads(call("train", "classifier", "--data", data, "--out", out, "--json").stdout)
    assert told["refused"].startswith("THE CLASSES CANNOT") and not told["forced"]
    low, high = told["held_out"]["balanced_accuracy_interval"]
    assert low < 0.5 < high


def test_force_writes_it_and_says_so_everywhere(tmp_path):
    data, out = write_random(tmp_path / "data"), tmp_path / "out"
    result = call("train", "classifier", "--data", data, "--out", out, "--force")
    assert result.exit_code == 0
    assert "written all the same, as --force says" in result.stdout
    report = read_classifier_info(out).report
    assert report["forced"] and "guessing gives 0.50" in report["refused"]
    assert "**FORCED. THE CLASSES CANNOT BE TOLD APART" in (out / "README.md").read_text()


@pytest.mark.parametrize("head", ["logistic", "knn", "prototype"])
def test_clear_classes_are_told_apart_by_every_head(tmp_path, head):
    for name, shade in (("dark", 60), ("light", 190)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(16):
            pixels = np.clip(0.2 * paint("fine", number) + shade, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    report = train_classifier(
        tmp_path / "data", tmp_path / "out", ClassifierSettings(head=head, precisions=(0.93,))
    )
    assert report["refused"] is None and not report["forced"]
    assert report["held_out"]["balanced_accuracy"] == report["held_out"]["auroc"] == 1.0
    assert report["held_out"]["balanced_accuracy_interval"][0] > 0.7
    assert report["calibrated"] and report["temperature_of_held_out"] == "other folds"
    classifier = load_classifier(tmp_path / "out")
    assert classifier.info.head.kind == head
    rows = {row.precision: row for row in classifier.info.thresholds["dark"]}
    assert rows[0.93].recall == rows[0.99].recall == 1.0
    images = list_images(tmp_path / "data")
    found = classifier.predict_probabilities([image.read_pixels() for image in images])
    assert [classifier.class_names[k] for k in found.argmax(1)] == [i.class_name for i in images]
    np.testing.assert_allclose(found.sum(1), 1)
    assert classifier.info.find_precision("dark", float(found[:16, 0].min())) == 0.99
    assert classifier.info.find_precision("dark", 0.01) == 0.0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"a {head} head (asked for)" in card and "| dark | 16 | 1.000" in card


def test_classes_that_are_alike_are_named():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    logits = draw.normal(size=(120, 3))
    logits[:, 0] += 6.0 * (labels == 0)
    found = find_confused(logits, labels, ("normal", "benign", "in situ"), None)
    assert [pair["classes"] for pair in found] == [["benign", "in situ"]]
    assert found[0]["interval"][0] <= 0.5


def test_few_shots_say_that_they_are_not_calibrated(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 5, "fine": 5})
    report = train_classifier(data, tmp_path / "out")
    assert report["head"]["kind"] == "prototype" and not report["calibrated"]
    assert any(warning.startswith("NOT CALIBRATED: 5 held-out") for warning in report["warnings"])
    info = read_classifier_info(tmp_path / "out")
    assert info.thresholds is None and not info.calibration.calibrated
    assert np.isnan(info.find_precision("fine", 1.0))


def test_a_network_from_scratch_has_its_own_head(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 5, "fine": 5})
    with pytest.raises(InputError, match="small-resnet is trained with its own linear head"):
        train_classifier(
            data, tmp_path / "out", ClassifierSettings(encoder="small-resnet", head="knn")
        )


def test_harder_test_images_are_said_to_be_so(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 40, "fine": 40})
    test = write_random(tmp_path / "swap", 40)
    (test / "left").rename(test / "coarse")  # nothing but fine ones
    (test / "right").rename(test / "fine")
    report = train_classifier(data, tmp_path / "out", ClassifierSettings(test=test))
    assert any("HELD OUT IS OPTIMISTIC" in warning for warning in report["warnings"])


# --- what is stored ------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [None, 3])
def test_heads_survive_storage_and_wrong_ones_do_not(neighbours):
    features, labels = draw_features((10, 12), 1.0)
    head = fit_prototypes(features, labels)
    if neighbours:
        head = fit_neighbours(features, labels, neighbours)
    again = parse_head(head.to_bytes(), 2, 8, neighbours)
    np.testing.assert_array_equal(
        again.compute_logits(features.astype(np.float32)),
        head.compute_logits(features.astype(np.float32)),
    )
    for classes, dim, other in ((2, 9, neighbours), (1, 8, neighbours), (2, 8, 5)):
        if neighbours and other == 5:
            continue
        with pytest.raises(ValueError, match=r"do not suit|tensor|known"):
            parse_head(head.to_bytes(), classes, dim, other)


def test_reliability_plot_shows_the_bins():
    probabilities = np.array([[0.9, 0.1]] * 6 + [[0.4, 0.6]] * 6)
    measured = measure_predictions(probabilities, np.array([0] * 6 + [1, 0] * 3), ("a", "b"))
    image = np.array(Image.open(io.BytesIO(draw_reliability(measured))).convert("RGB"))
    blue, grey = (
        (image == ImageColor.getrgb(colour)).all(-1).sum(0) > 50 for colour in (BLUE, GREY)
    )  # columns; no letter is so high
    assert blue.mean() == pytest.approx(2 / 15, abs=0.03), "two bins have images"
    assert grey.mean() == pytest.approx(2 / 15, abs=0.03)
    ends = [each[::-1].argmax() for each in (blue, grey)]
    assert abs(ends[0] - ends[1]) <= 3, "counts stand below their bins"
    assert draw_reliability(measured) == draw_reliability(measured)


def test_thresholds_are_printed(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 30, "fine": 30})
    result = call(
        "train", "classifier", "--data", data, "--out", tmp_path / "out", "--precision", "0.85"
    )
    assert result.exit_code == 0, result.output
    assert "precision 0.85 from a probability of: coarse 0." in result.stdout
    assert "head: " in result.stdout and "balanced accuracy" in result.stdout
    assert result.output.count("head: ") == 1


# --- real patches --------------------------------------------------------------------------------


def link_patches(root, folders):
    """Folders of links to real patches: name -> paths."""
    for name, paths in folders.items():
        (root / name).mkdir(parents=True)
        for number, path in enumerate(paths):
            (root / name / f"{number}{path.suffix}").symlink_to(path.resolve())
    return root


def test_real_patches_with_drawn_labels_are_refused_and_with_true_ones_not(tmp_path):
    names = ("normal", "tumor")
    paths = {name: sorted((PCAM / "train" / name).iterdir()) for name in names}
    data = link_patches(tmp_path / "true", paths)
    report = train_classifier(data, tmp_path / "a", ClassifierSettings(image_size=64))
    assert report["refused"] is None
    assert report["held_out"]["balanced_accuracy"] > 0.65
    drawn = np.random.default_rng(1).permutation([*paths["normal"], *paths["tumor"]])
    data = link_patches(tmp_path / "drawn", {"normal": drawn[:14], "tumor": drawn[14:]})
    assert (
        train_classifier(data, tmp_path / "b", ClassifierSettings(image_size=64))["refused"]
        is not None
    )
    assert not (tmp_path / "b").exists()


def test_real_lesions_of_few_slides_are_said_not_to_differ(tmp_path):
    """LSIL and SCC have four slides each: too few to show that they are told apart."""
    report = train_classifier(
        CERVIX / "train",
        tmp_path / "out",
        ClassifierSettings(image_size=64, fit="resize", group_pattern=r"(\w+_\d+)_"),
    )
    assert report["grouped"]
    assert ["LSIL", "SCC"] in [pair["classes"] for pair in report["not_told_apart"]]


def test_heads_of_a_few_shots_equal_scikit_learn_on_real_features(tmp_path):
    from factory.models.encoders import load_encoder

    paths = [sorted((PCAM / "train" / name).iterdir()) for name in ("normal", "tumor")]
    pixels = np.stack([np.asarray(Image.open(path))[:64, :64] for each in paths for path in each])
    features, labels = load_encoder("color-texture").encode(pixels), np.repeat([0, 1], 14)
    head = fit_neighbours(features[::2], labels[::2], 5)
    scaler = StandardScaler().fit(features[::2].astype(float))
    known = scaler.transform(features[::2].astype(float))
    model = KNeighborsClassifier(5).fit(known, labels[::2])
    expected = model.predict_proba(scaler.transform(features[1::2].astype(float)))
    np.testing.assert_allclose(head.count_votes(features[1::2]) / 5, expected)
