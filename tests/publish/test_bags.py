"""Bags: slides exported as files, from which a model of slides learns what its patients are."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.errors import InputError
from factory.engine.dataset import open_dataset
from factory.models.session import Session
from factory.publish.bags import export_bags
from tests.benchmarks.slides import compare_attention, compute_auc, measure, read_table
from tests.recipe.test_cohort import BLOCK, LABELS, change, write_cohort
from tests.running import ask, read_rows, run, write_recipe

SPLITS = {"train": 0.6, "test": 0.4}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    block = change(BLOCK, patients=60, slides=1, patches=4, splits=SPLITS)
    block["labels"] = {**LABELS, "tumour": {**LABELS["tumour"], "positive": 0.5}}
    run(write_cohort(folder, block, output={"shard_size": 40}), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def bags(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("bags") / "out"
    told = ask("export", cohort, "--to", "bags", "--out", out, "--encoder", "color-texture")
    assert "train: 36 slides" in told and "test: 24 slides" in told
    return out


def test_a_model_of_slides_learns_labels_of_patients_that_it_has_not_seen(bags):
    scores, weights, labels, splits, positive = measure(bags)
    test = splits == "test"
    # of 12 against 12 slides chance is 0.5, and more than 0.75 once in 50 times
    assert compute_auc(scores[test], labels[test]) > 0.75
    # what it looks at are the patches that show the label
    mine = test & labels
    assert np.median(compare_attention(weights[mine], positive[mine])) > 1.5


def test_no_patient_or_image_is_in_two_splits(bags, cohort):
    rows = read_table(bags)
    splits = {}
    for row in rows:
        assert splits.setdefault(row["case_id"], row["split"]) == row["split"]
    images = {}
    for row in read_rows(cohort):
        assert images.setdefault(row["image_sha256"], row["bag_split"]) == row["bag_split"]
    assert set(splits.values()) == {"train", "test"}


def test_a_file_holds_the_patches_of_its_slide_in_place(cohort, tmp_path):
    session = Session.open()
    out = tmp_path / "out"
    counts = export_bags(open_dataset(str(cohort)), out, None, session)
    assert counts == {"train": {"tumour": 18, "benign": 18}, "test": {"tumour": 12, "benign": 12}}
    by_id = {row["sample_id"]: row for row in read_rows(cohort)}
    for row in read_table(out):
        bag = np.load(out / "bags" / f"{row['slide_id']}.npz")
        assert bag["images"].shape == (4, 32, 32, 3) and bag["images"].dtype == np.uint8
        assert bag["coords"].tolist() == [[x * 32, y * 32] for y in range(2) for x in range(2)]
        mine = [by_id[name] for name in bag["sample_ids"].tolist()]
        assert {each["slide"] for each in mine} == {row["slide_id"]}
        assert [each["patch_label"] for each in mine] == bag["patch_labels"].tolist()
        assert int(row["positive"]) == sum(bag["patch_labels"] == row["label"])
    assert json.loads((out / "bags.json").read_text())["encoder"] is None
    again = tmp_path / "again"
    export_bags(open_dataset(str(cohort)), again, None, session)
    name = f"bags/{row['slide_id']}.npz"
    assert (out / name).read_bytes() == (again / name).read_bytes()


def test_two_cohorts_are_merged_and_exported_together(cohort, tmp_path):
    other = change(BLOCK, patients=3, slides=1, patches=4)
    run(write_cohort(tmp_path, other, seed=99), tmp_path / "other")
    real = tmp_path / "real" / "normal"
    real.mkdir(parents=True)
    from PIL import Image

    for number in range(3):
        draw = np.random.default_rng(number)
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(real / f"{number}.png")
    merged = tmp_path / "merged"
    ask("merge", real.parent, cohort, tmp_path / "other", "--out", merged)
    out = tmp_path / "bags"
    told = ask("export", merged, "--to", "bags", "--out", out)
    rows = read_table(out)
    assert len(rows) == 63 and len({row["case_id"] for row in rows}) == 63
    assert "wrote" in told


def test_sets_without_slides_and_encoders_of_images_are_refused(cohort, tmp_path):
    run(write_recipe(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match="no row is of a slide"):
        export_bags(open_dataset(str(tmp_path / "out")), tmp_path / "x", None, Session.open())
    assert not (tmp_path / "x").exists()
    words = ("--to", "imagefolder", "--out", tmp_path / "y", "--encoder", "color-texture")
    assert "export bags" in ask("export", cohort, *words, code=2)


def test_slides_that_lost_what_they_are_labelled_by_are_left_out(cohort, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    slide = next(row["slide"] for row in read_rows(copy) if row["bag_label"] == "tumour")
    for path in (copy / "data").glob("*.parquet"):
        table = pq.read_table(path)
        keep = [
            row["slide"] != slide or row["patch_label"] == "background"
            for row in table.select(["slide", "patch_label"]).to_pylist()
        ]
        pq.write_table(table.filter(pa.array(keep)), path)
    out = tmp_path / "out"
    told = ask("export", copy, "--to", "bags", "--out", out)
    assert "1 slides lost all patches that show their label" in told and slide in told
    slides = {row["slide_id"] for row in read_table(out)}
    assert slide not in slides and len(slides) == 59
    assert {path.stem for path in (out / "bags").iterdir()} == slides


def test_a_label_that_no_accepted_patch_shows_is_known_by_the_rejected(cohort, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    (copy / "rejected").mkdir(exist_ok=True)
    for path in (copy / "data").glob("*.parquet"):
        table = pq.read_table(path)
        shows = [label != "background" for label in table["patch_label"].to_pylist()]
        pq.write_table(table.filter(pa.array(shows)), copy / "rejected" / path.name)
        pq.write_table(table.filter(pa.array([not each for each in shows])), path)
    out = tmp_path / "out"
    told = ask("export", copy, "--to", "bags", "--out", out)
    assert "30 slides lost all patches that show their label" in told
    assert {row["label"] for row in read_table(out)} == {"benign"}
    for path in (copy / "data").glob("*.parquet"):
        table = pq.read_table(path)
        keep = [row["bag_label"] == "benign" for row in table.select(["bag_label"]).to_pylist()]
        pq.write_table(table.filter(pa.array(keep)), path)
    told = ask("export", copy, "--to", "bags", "--out", tmp_path / "without")
    assert "30 slides have no accepted patch" in told


def test_a_slide_of_two_sets_has_no_bag(cohort, tmp_path):
    sets = []
    for size in (32, 40):
        folder = tmp_path / str(size)
        block = change(BLOCK, patients=2, slides=1)
        generator = {"width": size, "height": size}
        run(write_cohort(folder, block, generator=generator), folder / "out")
        sets.append(folder / "out")
    slides = [{row["slide"] for row in read_rows(each)} for each in sets]
    assert slides[0] == slides[1]  # the same patients: the seed is one
    both = tmp_path / "both"
    shutil.copytree(sets[0], both)
    table = pq.read_table(next((sets[1] / "data").glob("*.parquet")))
    pq.write_table(table, both / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match="two patches are of one place"):
        export_bags(open_dataset(str(both)), tmp_path / "bags", None, Session.open())
    assert not (tmp_path / "bags").exists()
