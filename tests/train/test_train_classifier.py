"""Classifier training: any shots, honest folds, no pickles, equal answers after a reload."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from factory.core.errors import FilterError, InputError, SourceError
from factory.data.images import list_images
from factory.data.records import Condition, Sample
from factory.filters import build_filters, decide_all, score_all
from factory.filters.classifier import ClassifierFilter
from factory.models.classifiers.model import load_classifier, read_classifier_info
from factory.models.encoders import load_encoder
from factory.models.session import Session
from factory.train.classifier.heads import fit_head
from factory.train.classifier.report import measure_calibration_error, measure_predictions
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.temperature import fit_temperature
from factory.train.classifier.train import train_classifier
from tests import ASSETS, ROOT, run_alone

PCAM = ASSETS / "pcam"
SHIPPED = ROOT / "catalogs" / "classifiers" / "pcam"


def paint(class_name, seed, size=48):
    """Fine or coarse dark dots on pink: two classes that overlap a little."""
    generator = np.random.default_rng([seed, len(class_name)])
    step = {"fine": 2, "coarse": 4, "mixed": 3}[class_name]
    dots = generator.random((size // step + 1,) * 2).repeat(step, 0).repeat(step, 1)[:size, :size]
    dots = 0.75 * dots + 0.25 * generator.random((size, size))
    density = dots[..., None] * [0.65, 0.70, 0.29] + np.array([0.05, 0.25, 0.1])
    return np.clip(255 * 10 ** -(0.6 * density), 0, 255).astype(np.uint8)


def write_folder(root, per_class, groups=1, size=48):
    for class_name, count in per_class.items():
        (root / class_name).mkdir(parents=True)
        for number in range(count):
            name = f"{class_name}-p{number % groups}_{number:03d}.png"
            Image.fromarray(paint(class_name, number, size)).save(root / class_name / name)
    return root


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    base = tmp_path_factory.mktemp("fitted")
    data = write_folder(base / "data", {"coarse": 20, "fine": 30}, groups=6)
    test = write_folder(base / "test", {"coarse": 5, "fine": 4})
    report = train_classifier(
        data,
        base / "fine-coarse",
        ClassifierSettings(group_pattern=r"(\w+-p\d)_", test=test, seed=3),
    )
    return base, report


def read_pixels(root):
    return [image.read_pixels() for image in list_images(root)]


# --- what is written -----------------------------------------------------------------------------


def test_folder_holds_json_and_safetensors_only(fitted):
    base, report = fitted
    names = sorted(path.name for path in (base / "fine-coarse").iterdir())
    own = ["README.md", "classifier.json", "head.safetensors", "patients.json", "reliability.png"]
    assert names == own
    stored = json.loads((base / "fine-coarse" / "classifier.json").read_text())
    assert stored["report"] == report
    assert stored["data"]["per_class"] == {"coarse": 20, "fine": 30}
    assert stored["data"]["groups"] == 12


def test_report_has_held_out_and_test_numbers(fitted):
    _, report = fitted
    assert report["grouped"]
    assert report["warnings"] == []
    assert report["folds"] == 5
    held, test = report["held_out"], report["test"]
    assert (held["images"], test["images"]) == (50, 9)
    assert np.sum(held["confusion"], axis=1).tolist() == [20, 30]
    assert np.sum(test["confusion"], axis=1).tolist() == [5, 4]
    assert held["balanced_accuracy"] > 0.9
    assert test["balanced_accuracy"] > 0.8
    assert 0 <= held["ece"] < 0.3


def test_reading_the_info_imports_no_torch(fitted):
    base, _ = fitted
    code = (
        "import sys; from pathlib import Path;"
        "from factory.models.classifiers.model import read_classifier_info;"
        f"info = read_classifier_info(Path({str(base / 'fine-coarse')!r}));"
        "assert info.class_names == ('coarse', 'fine');"
        "heavy = {'torch', 'sklearn', 'scipy', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run_alone(code)


def test_training_again_gives_the_same_files(fitted):
    base, _ = fitted
    again = base / "again"
    train_classifier(
        base / "data",
        again,
        ClassifierSettings(group_pattern=r"(\w+-p\d)_", test=base / "test", seed=3),
    )
    for name in ("classifier.json", "head.safetensors"):
        assert (again / name).read_bytes() == (base / "fine-coarse" / name).read_bytes()


# --- the numbers ---------------------------------------------------------------------------------


def test_reloaded_probabilities_equal_scikit_learns(fitted):
    base, report = fitted
    classifier = load_classifier(base / "fine-coarse")
    images = list_images(base / "data")
    features = load_encoder("color-texture").encode(np.stack(read_pixels(base / "data")))
    labels = [image.class_name for image in images]
    scaler = StandardScaler().fit(features.astype(float))
    model = LogisticRegression(C=report["C"], class_weight="balanced", max_iter=5000)
    model.fit(scaler.transform(features.astype(float)), labels)
    logits = model.decision_function(scaler.transform(features.astype(float)))
    temperature = classifier.info.calibration.temperature
    expected = softmax(np.stack([0 * logits, logits], 1) / temperature, axis=1)
    found = classifier.predict_probabilities(read_pixels(base / "data"))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = load_classifier(base / "fine-coarse").predict_probabilities(read_pixels(base / "data"))
    np.testing.assert_array_equal(found, again)


def test_numpy_head_agrees_with_predict_proba_for_three_classes():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [20, 30, 40])
    features = generator.normal(size=(90, 6)) + labels[:, None] * [1, 0, 0.5, 0, 0, 0]
    head = fit_head(features, labels, 0.3)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=5000)
    expected = model.fit(scaler.transform(features), labels).predict_proba(
        scaler.transform(features)
    )
    np.testing.assert_allclose(softmax(head.compute_logits(features), 1), expected, atol=1e-8)


def test_temperature_undoes_overconfidence():
    generator = np.random.default_rng(0)
    true = generator.normal(size=(4000, 2))
    labels = (generator.random(4000) < softmax(true, 1)[:, 1]).astype(np.int64)
    assert fit_temperature(true * 3.0, labels) == pytest.approx(3.0, rel=0.1)
    sharp = softmax(true * 3.0, 1)
    weights = np.ones(4000)
    calm = softmax(true * 3.0 / fit_temperature(true * 3.0, labels), 1)
    assert measure_calibration_error(sharp, labels, weights) > 0.1
    assert measure_calibration_error(calm, labels, weights) < 0.03


def test_few_perfect_shots_do_not_end_in_certainty():
    logits = np.array([[9.0, 0.0]] * 10 + [[0.0, 9.0]] * 10)
    temperature = fit_temperature(logits, np.repeat([0, 1], 10))
    assert softmax(logits / temperature, 1).max() == pytest.approx(11 / 12, abs=0.01)


def test_measures_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    found = measure_predictions(probabilities, np.array([0, 0, 1, 1]), ("a", "b"))
    assert found["accuracy"] == 0.75
    assert found["per_class_recall"] == {"a": 1.0, "b": 0.5}
    assert found["confusion"] == [[2, 0], [1, 1]]
    assert found["auroc"] == 0.75
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.3 + 0.8) / 4)


@pytest.mark.parametrize("shots", [2, 5, 10])
def test_few_shots_work(tmp_path, shots):
    data = write_folder(tmp_path / "data", {"coarse": shots, "fine": shots, "mixed": shots + 1})
    report = train_classifier(data, tmp_path / "out", ClassifierSettings(force=shots == 2))
    assert report["folds"] == min(5, shots)
    assert report["head"]["kind"] == "prototype" or shots == 10
    assert report["calibrated"] == (shots == 10)
    assert any("NOT CALIBRATED" in each for each in report["warnings"]) == (shots < 10)
    classifier = load_classifier(tmp_path / "out")
    found = classifier.predict_probabilities([paint("fine", 99), paint("coarse", 99, 64)])
    np.testing.assert_allclose(found.sum(1), 1.0)
    assert classifier.class_names == ("coarse", "fine", "mixed")


def test_missing_and_unusable_groups_are_said_loudly(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 6, "fine": 6}, groups=1)
    report = train_classifier(data, tmp_path / "out")
    assert not report["grouped"]
    assert "NO PATIENT OR SLIDE GROUPS" in report["warnings"][0]
    report = train_classifier(
        data, tmp_path / "other", ClassifierSettings(group_pattern=r"-(p\d)_")
    )
    assert not report["grouped"]
    assert "GROUPS NOT KEPT WHOLE" in report["warnings"][0]


def test_groups_never_straddle_a_fold(tmp_path):
    from factory.data.labelled import read_labelled, split_folds

    data = write_folder(tmp_path / "data", {"coarse": 12, "fine": 12}, groups=4)
    listed = list_images(data, group_pattern=r"(\w+-p\d)_")
    real, warnings = read_labelled(data, listed, 32, "crop"), []
    folds = split_folds(real, 0, warnings)
    assert len(folds) == 4
    for rows, held in folds:
        assert not set(real.groups[rows]) & set(real.groups[held])
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(24))


def test_parquet_is_read_like_a_folder(tmp_path, fitted):
    base, _ = fitted
    rows = [
        {"image": {"bytes": image.read_bytes(), "path": None}, "class_name": image.class_name}
        for image in list_images(base / "data")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    train_classifier(tmp_path / "data.parquet", tmp_path / "out", ClassifierSettings(seed=3))
    found = read_classifier_info(tmp_path / "out")
    expected = read_classifier_info(base / "fine-coarse")
    assert found.data.sha256 == expected.data.sha256
    assert (found.class_names, found.image_size) == (expected.class_names, 48)


@pytest.mark.slow("test_folder_holds_json_and_safetensors_only")
def test_network_trained_from_scratch_travels_with_the_folder(tmp_path):
    data = write_folder(tmp_path / "data", {"coarse": 40, "fine": 40}, size=32)
    lines = []
    report = train_classifier(
        data,
        tmp_path / "out",
        ClassifierSettings(encoder="small-resnet", epochs=3, force=True),
        progress=lines.append,
    )
    assert report["fitted_images"] == 64
    assert report["held_out"]["images"] == 16
    assert any("epoch 3/3" in line for line in lines)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    names = {path.name for path in moved.iterdir()}
    assert names >= {"classifier.json", "encoder.json", "encoder.safetensors", "head.safetensors"}
    found = load_classifier(moved, "cpu").predict_probabilities([paint("fine", 99)] * 3)
    np.testing.assert_array_equal(found[0], found[2])
    again = tmp_path / "again"
    train_classifier(data, again, ClassifierSettings(encoder="small-resnet", epochs=3, force=True))
    first, second = (load_file(each / "encoder.safetensors") for each in (moved, again))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


# --- errors --------------------------------------------------------------------------------------


def test_bad_folders_are_refused(tmp_path):
    single = write_folder(tmp_path / "single", {"fine": 4})
    with pytest.raises(SourceError, match="one class only"):
        train_classifier(single, tmp_path / "out")
    few = write_folder(tmp_path / "few", {"fine": 4, "coarse": 1})
    with pytest.raises(SourceError, match=r"fewer than 2 images of coarse \(1\)"):
        train_classifier(few, tmp_path / "out")
    loose = write_folder(tmp_path / "loose", {"fine": 2, "coarse": 2})
    Image.fromarray(paint("fine", 0)).save(loose / "lost.png")
    with pytest.raises(SourceError, match=r"lost\.png has no class"):
        train_classifier(loose, tmp_path / "out")
    broken = write_folder(tmp_path / "broken", {"fine": 2, "coarse": 2})
    (broken / "fine" / "bad.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"bad\.png: not a readable image"):
        train_classifier(broken, tmp_path / "out")
    good = write_folder(tmp_path / "good", {"fine": 2, "coarse": 2})
    with pytest.raises(InputError, match="no such folder and no known id"):
        train_classifier(good, tmp_path / "out", ClassifierSettings(encoder="unknown"))
    assert not (tmp_path / "out").exists()


def test_test_images_of_unknown_classes_are_refused(tmp_path):
    data = write_folder(tmp_path / "data", {"fine": 2, "coarse": 2})
    test = write_folder(tmp_path / "test", {"mixed": 2})
    with pytest.raises(SourceError, match=r"\['mixed'\] are not among"):
        train_classifier(data, tmp_path / "out", ClassifierSettings(test=test))


def test_an_existing_classifier_is_not_overwritten(fitted):
    base, _ = fitted
    with pytest.raises(InputError, match="holds a classifier already"):
        train_classifier(base / "data", base / "fine-coarse")


def copy_folder(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_damaged_folders_are_named(fitted, tmp_path):
    base, _ = fitted
    folder = copy_folder(base / "fine-coarse", tmp_path / "a")
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"head\.safetensors: damaged"):
        load_classifier(folder)
    (folder / "head.safetensors").unlink()
    with pytest.raises(InputError, match=r"head\.safetensors: not a classifier folder"):
        load_classifier(folder)
    (folder / "classifier.json").write_text('{"format": 1, "class_names": ["a"], "colour": 2}')
    with pytest.raises(InputError) as caught:
        read_classifier_info(folder)
    assert "class_names" in str(caught.value)
    assert "colour" in str(caught.value)
    assert "head_sha256" in str(caught.value)


def test_another_encoder_version_is_refused(fitted, tmp_path):
    base, _ = fitted
    folder = copy_folder(base / "fine-coarse", tmp_path / "a")
    stored = json.loads((folder / "classifier.json").read_text())
    stored["encoder_description"]["revision"] = "0"
    (folder / "classifier.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="fit the classifier again"):
        load_classifier(folder)


# --- the filter ----------------------------------------------------------------------------------


def build_filter(folder, **options):
    described = ClassifierFilter.Settings(kind="classifier", model=str(folder), **options)
    return build_filters([described], Session.open(Path()))


def test_filter_scores_the_asked_class(fitted):
    base, _ = fitted
    filters = build_filter(base / "fine-coarse", min_probability=0.7)
    samples = [Sample(paint("fine", 200)), Sample(paint("fine", 201, 64)), Sample(paint("fine", 2))]
    asked = [Condition(class_name="fine"), Condition(class_name="coarse"), Condition(caption="x")]
    rows = score_all(filters, samples, asked)
    verdicts = [decide_all(filters, row) for row in rows]
    assert [verdict.accepted for verdict in verdicts] == [True, False, True]
    assert verdicts[1].reason.startswith("class_probability 0.")
    assert verdicts[1].reason.endswith(" < 0.7")
    for row in rows[:2]:
        assert row["class_margin"] == pytest.approx(2 * row["class_probability"] - 1, abs=2e-4)
    assert np.isnan(list(rows[2].values())).all()


def test_filter_refuses_a_class_it_does_not_know(fitted):
    base, _ = fitted
    with pytest.raises(FilterError, match="does not know class 'tumour': it knows coarse, fine"):
        score_all(
            build_filter(base / "fine-coarse"),
            [Sample(paint("fine", 0))],
            [Condition(class_name="tumour")],
        )


def test_filter_revision_follows_the_classifier(fitted, tmp_path):
    base, _ = fitted
    first = build_filter(base / "fine-coarse")[0].describe()["revision"]
    train_classifier(base / "test", tmp_path / "other")
    assert build_filter(tmp_path / "other")[0].describe()["revision"] != first
    with pytest.raises(FilterError, match="no classifier there"):
        build_filter(tmp_path / "gone")[0].describe()


# --- the shipped one -----------------------------------------------------------------------------


def test_shipped_classifier_is_small_and_holds_no_pickle():
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_shipped_classifier_reaches_its_reported_accuracy_on_other_slides():
    classifier = load_classifier(SHIPPED)
    images = list_images(PCAM / "test")
    labels = np.array([classifier.class_names.index(image.class_name) for image in images])
    found = classifier.predict_probabilities([image.read_pixels() for image in images])
    measured = measure_predictions(found, labels, classifier.class_names)
    told = classifier.info.report["test"]["balanced_accuracy"]
    assert measured["balanced_accuracy"] == pytest.approx(told, abs=0.06)
    assert told > 0.8
