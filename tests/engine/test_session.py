"""A run opens each thing once: counted from outside, by the files that its processes open."""

import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from factory.cli import main
from factory.core.hashing import hash_bytes
from factory.data.images.reader import ImageReader
from factory.models.session import Session
from factory.recipe.file import load_recipe
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests import ROOT, forked
from tests.evaluate.test_evaluate_fewshot import write_images
from tests.filters.test_class_filters import write_classifier
from tests.running import read_rows, run_recipe, write_recipe
from tests.watching import watch

WATCH = """
import os
from tests.watching import watch
watch(os.environ["OPENED"])
"""


def write_run(folder, **workers):
    """Writes a recipe whose filters and pick share an encoder, and all that it names."""
    write_images(folder / "real", 4, 1)
    write_images(folder / "test", 1, 2)
    settings = ClassifierSettings(encoder="he-ssl", head="logistic", image_size=32, force=True)
    train_classifier(folder / "real", folder / "judge", settings)
    (folder / "opened").mkdir()
    return write_recipe(
        folder,
        generator={"batch_size": 2},
        conditions=[
            {"kind": "reference", "images": "real", "shots": 1, "per_class": 2, "strength": 0.5}
        ],
        filters=[
            {"kind": "realism", "images": "real", "encoder": "he-ssl", "neighbours": 1}
            | {"min_realism": 0},
            {"kind": "classifier", "model": "judge", "min_probability": 0},
            {"kind": "training_copy", "held_out": "test"},
        ],
        pick={"keep": "diverse", "encoder": "he-ssl", "pool": 1.5},
        budget={"attempts": 1},
        workers=workers,
        output={"shard_size": 2},
    )


def read_logs(folder):
    """Returns how often each file was opened, by process."""
    return {
        path.name: Counter(os.path.realpath(name) for name in path.read_text().split("\n") if name)
        for path in (folder / "opened").iterdir()
    }


def hash_images(folder):
    """Returns the real images by hash."""
    return {hash_bytes(path.read_bytes()): path for path in (folder / "real").rglob("*.png")}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A run on two Ray workers; (rows, real images, opened files by the driver, by each worker)."""
    folder = tmp_path_factory.mktemp("session")
    recipe = write_run(folder, executor="ray", count=2)
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    paths = f"{folder / 'watch'}{os.pathsep}{ROOT}"
    process = subprocess.Popen(
        [sys.executable, "-m", "factory", "run", str(recipe), "--out", str(folder / "out")],
        env={**os.environ, "OPENED": str(folder / "opened"), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.communicate()[0]
    assert process.returncode in (0, 1), said
    logs = read_logs(folder)
    driver = logs.pop(str(process.pid))
    workers = [log for log in logs.values() if any("he-ssl" in name for name in log)]
    return read_rows(folder / "out"), hash_images(folder), driver, workers


def run_watched(folder, words):
    """Runs a command that notes what it opens."""
    watch(folder)
    main(words)


def test_a_run_in_one_process_opens_each_thing_once(tmp_path):
    """Of images, the driver's two glances (below), and one for the pixels."""
    recipe = write_run(tmp_path, executor="local")
    words = ["run", str(recipe), "--out", str(tmp_path / "out")]
    code = forked.wait(forked.start(run_watched, str(tmp_path / "opened"), words))
    assert code in (0, 1)
    (log,) = read_logs(tmp_path).values()
    assert {Path(name).name for name in count_catalogs(log)} >= {"fake.yaml", "he-ssl.yaml"}
    assert set(count_catalogs(log).values()) == {1}
    loads = {Path(name).parent.name: n for name, n in log.items() if "encoder.json" in name}
    assert loads["he-ssl"] == 1
    images = hash_images(tmp_path)
    varied = {row["reference_sha256"] for row in read_rows(tmp_path / "out")}
    counts = {sha: log[os.path.realpath(path)] for sha, path in images.items()}
    assert {counts[sha] for sha in images.keys() - varied} == {3}


def count_catalogs(log):
    """Opened catalog files, by name."""
    place = str(ROOT / "catalogs")
    return {name: n for name, n in log.items() if name.startswith(place) and name.endswith(".yaml")}


@pytest.mark.slow("test_a_run_in_one_process_opens_each_thing_once")
def test_catalogs_are_read_once_and_by_the_driver_alone(opened):
    _, _, driver, workers = opened
    found = count_catalogs(driver)
    assert {Path(name).name for name in found} >= {"fake.yaml", "he-ssl.yaml"}
    assert set(found.values()) == {1}
    assert len(workers) == 2
    assert [count_catalogs(worker) for worker in workers] == [{}, {}]


@pytest.mark.slow("test_a_run_in_one_process_opens_each_thing_once")
def test_a_real_image_is_read_once_to_plan_and_check_a_run(opened):
    """It is opened twice: for its first bytes, which tell whether it has further frames."""
    _, images, driver, _ = opened
    assert {name: driver[os.path.realpath(name)] for name in images.values()} == dict.fromkeys(
        images.values(), 2
    )


@pytest.mark.slow("test_a_run_in_one_process_opens_each_thing_once")
def test_a_worker_reads_a_real_image_for_its_pixels_only(opened):
    """What filters compare with once; what is varied for each try, and once for the row, too."""
    rows, images, _, workers = opened
    varied = {row["reference_sha256"] for row in rows}
    assert len(varied) == 2
    for worker in workers:
        counts = {sha: worker[os.path.realpath(path)] for sha, path in images.items()}
        assert {counts[sha] for sha in images.keys() - varied} == {1}
        tries = sum(counts[sha] for sha in varied)
        assert 2 < tries <= 2 + 3 * 2 * 2


@pytest.mark.slow("test_a_run_in_one_process_opens_each_thing_once")
def test_an_encoder_is_loaded_once_a_worker_for_all_filters_and_the_pick(opened):
    """`tests/models/test_guidance.py` counts it for guidance."""
    _, _, _, workers = opened
    for worker in workers:
        loads = {Path(name).parent.name: n for name, n in worker.items() if "encoder.json" in name}
        assert loads["he-ssl"] == 1


# --- what a worker is sent ------------------------------------------------------------------------


def test_a_worker_in_another_folder_finds_catalogs_by_relative_path(tmp_path, monkeypatch):
    (tmp_path / "own" / "captions").mkdir(parents=True)
    text = (ROOT / "catalogs" / "captions" / "he-basic.yaml").read_text()
    (tmp_path / "own" / "captions" / "mine.yaml").write_text(text.replace("he-basic", "mine"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Session.open(Path(), [Path("own")]))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(sent).catalogs.find_captions("mine").id == "mine"


def test_a_worker_whose_factory_lies_elsewhere_has_its_own_shipped_catalogs(tmp_path, monkeypatch):
    session = Session.open(tmp_path)
    session.catalogs.find_encoder("he-ssl")
    sent = pickle.dumps(session)
    shutil.copytree(ROOT / "catalogs", tmp_path / "catalogs")
    monkeypatch.setattr("factory.catalog.catalog.find_shipped_folder", lambda name: tmp_path / name)
    found = pickle.loads(sent).catalogs
    assert found.folders == (tmp_path / "catalogs",)
    assert found.find_encoder("he-ssl").source == str(tmp_path / "catalogs" / "encoders" / "he-ssl")


def test_a_classifier_fitted_again_judges_the_next_run_of_a_loaded_recipe(tmp_path):
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "class", "per_class": {"normal": 1}}],
        filters=[{"kind": "classifier", "model": "judge", "min_probability": 0}],
    )
    found = []
    write_classifier(tmp_path / "judge", logits=(0, 0))
    loaded = load_recipe(recipe)
    for turn, logits in enumerate([(0, 0), (3, 0)]):
        write_classifier(tmp_path / "judge", logits=logits)
        run_recipe(loaded, str(tmp_path / f"out{turn}"))
        (row,) = read_rows(tmp_path / f"out{turn}")
        found.append(row["scores"]["class_probability"])
    assert found == pytest.approx([0.5, 0.9526], abs=1e-4)


# --- what was found of an image ------------------------------------------------------------------


def test_what_was_read_counts_while_the_file_stays(tmp_path):
    write_images(tmp_path, 2, 1)
    session = pickle.loads(pickle.dumps(read_all(Session.open(tmp_path))))
    (first, *others) = session.images.list(tmp_path)
    known = session.images.hash_bytes(first), session.images.hash_pixels(first)
    data = first.path.read_bytes()
    assert known[0] == hash_bytes(data)
    first.path.write_bytes(others[0].path.read_bytes())
    os.utime(first.path, ns=(1, 1))
    assert session.images.hash_bytes(first) == session.images.hash_bytes(others[0])
    assert session.images.hash_pixels(first) != known[1]
    others[0].path.unlink()
    assert session.images.list(tmp_path) == (first, *others[1:])


def read_all(session):
    """The session, once it has hashed all images."""
    for image in session.images.list(session.base):
        session.images.hash_bytes(image)
        session.images.hash_pixels(image)
    return session


def test_bytes_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    write_images(tmp_path, 3, 1)
    reader = ImageReader()
    images = reader.list(tmp_path)
    largest = max(image.path.stat().st_size for image in images)
    monkeypatch.setattr("factory.data.images.reader.MOST_BYTES", 2 * largest)
    for image in images:
        assert reader.read_bytes(image) == image.read_bytes()
        assert sum(len(data) for _, data in reader._kept.values()) == reader._size <= 2 * largest
