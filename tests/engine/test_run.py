"""Whole runs on the fake model: counts, identity, growth, shortfalls, failures, what comes out."""

import functools
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, load_dataset
from PIL import Image

from factory.api import refilter
from factory.core.errors import InputError, MismatchError, RunBrokenError
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image, hash_pixels
from factory.engine.finalise import survey_run
from factory.engine.run import build_policy, read_outline, read_status
from factory.engine.run_folder import WORK, RunFolder
from factory.models.generators.families.fake import FakeGenerator
from factory.recipe.recipe import Recipe
from tests.running import (
    DEDUP,
    FILTERS,
    list_identities,
    read_json,
    read_rows,
    run,
    stop_after,
    write_recipe,
)

CONTRACT = (  # noqa: SIM905
    "image label class_name caption prompt sample_id condition_id ordinal attempt seed model "
    "model_revision weights_sha256 scheduler num_inference_steps guidance_scale width height dtype "
    "device factory_version recipe_sha256 reference_sha256 image_sha256 scores provenance"
).split()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One finished run that tests only read."""
    folder = tmp_path_factory.mktemp("plain")
    recipe = write_recipe(folder, output={"formats": ["parquet", "webdataset"]})
    result = run(recipe, folder / "run")
    return folder, result


def test_counts_are_exactly_as_asked(plain):
    folder, result = plain
    rows = read_rows(folder / "run")
    assert result.exit_code == 0
    names = [row["class_name"] for row in rows]
    assert (names.count("normal"), names.count("tumor")) == (10, 13)
    assert list(rows[0]) == CONTRACT


def test_load_dataset_needs_no_arguments(plain, tmp_path):
    folder, _ = plain
    data = load_dataset(str(folder / "run"), split="train", cache_dir=tmp_path)
    assert len(data) == 23
    assert data.features["label"] == ClassLabel(names=["normal", "tumor"])
    row = data[0]
    assert isinstance(row["image"], Image.Image)
    assert data.features["label"].int2str(row["label"]) == row["class_name"]
    rejected = load_dataset(str(folder / "run"), "rejected", cache_dir=tmp_path)["rejected"]
    assert len(rejected) > 0
    assert set(rejected["rejected_by"]) <= {"finite", None}
    assert all(row["reason"] for row in rejected if row["status"] == "rejected")


def test_hashes_are_of_the_stored_files(plain):
    folder, _ = plain
    for row in read_rows(folder / "run"):
        assert hash_bytes(row["image"]["bytes"]) == row["image_sha256"]
        assert decode_image(row["image"]["bytes"], "x").shape == (32, 32, 3)
        assert b"trainedAlgorithmicMedia" in row["image"]["bytes"]


def test_funnel_adds_up(plain):
    _, result = plain
    for part in result.summary.series:
        rejected = sum(part.rejected.values())
        assert part.accepted + part.spare + rejected == part.generated
        assert (rejected > 0) is (part.label == "normal")


def test_card_states_counts_and_funnel(plain):
    folder, _ = plain
    text = (folder / "run" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "cc0-1.0"
    assert [config["config_name"] for config in header["configs"]] == ["default", "rejected"]
    assert "| tumor | 13 | 13 |" in text
    assert "rejected: finite" in text
    with Image.open(folder / "run" / "assets" / "samples.png") as grid:
        assert grid.width > 8 * 32


def test_open_clip_reads_the_tars(plain, monkeypatch):
    """open_clip_train 3.3 needs webdataset < 0.2.96, or this: mlfoundations/open_clip#935."""
    from open_clip_train import data

    expand = functools.partial(data.tar_file_expander, eof_value=None)
    monkeypatch.setattr(data, "tar_file_expander", expand)
    from open_clip import get_tokenizer, image_transform
    from open_clip_train.data import get_wds_dataset

    folder, _ = plain
    tars = sorted((folder / "run" / "webdataset").glob("*.tar"))

    class Options:
        train_data = str(tars[0])
        train_data_upsampling_factors = None
        train_num_samples = 23
        dataset_resampled = False
        seed = 0
        batch_size = 4
        workers = 1
        world_size = 1

    transform = image_transform(32, is_train=True)
    info = get_wds_dataset(Options, transform, True, tokenizer=get_tokenizer("ViT-B-32"))
    images, texts = next(iter(info.dataloader))
    assert images.shape == (4, 3, 32, 32)
    assert texts.shape[0] == 4


def test_running_again_changes_nothing(plain, tmp_path):
    folder, result = plain
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    outcomes = []
    again = run(folder / "recipe.yaml", copy, notify=outcomes.append)
    assert again.summary.digest == result.summary.digest
    assert len(outcomes) >= 6
    assert list_identities(copy) == list_identities(folder / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"shard_size": 7}},
        {"output": {"shard_size": 1000, "rows_per_file": 5}},
        {"output": {"keep_rejected": "scores"}},
        {"conditions": [{"kind": "class", "per_class": {"stroma": 3, "tumor": 13, "normal": 10}}]},
        {"conditions": [{"kind": "class", "per_class": {"normal": 10, "tumor": 30}}]},
        {"generator": {"batch_size": 5}},
    ],
)
def test_what_does_not_matter_changes_no_image(plain, tmp_path, changes):
    folder, _ = plain
    run(write_recipe(tmp_path, **changes), tmp_path / "run")
    assert list_identities(folder / "run") <= list_identities(tmp_path / "run")


@pytest.mark.stranger
def test_a_run_goes_on_with_the_shards_that_it_has(plain, tmp_path):
    folder, _ = plain
    with pytest.raises(KeyboardInterrupt):
        run(write_recipe(tmp_path), tmp_path / "run", notify=stop_after(2))
    open_size = write_recipe(tmp_path, output={"shard_size": None})
    run(open_size, tmp_path / "run")
    assert list_identities(tmp_path / "run") == list_identities(folder / "run")
    run(open_size, tmp_path / "fresh")
    assert list_identities(tmp_path / "fresh") == list_identities(folder / "run")


def test_extended_equals_fresh(plain, tmp_path):
    folder, _ = plain
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    counts = {"normal": 15, "tumor": 13, "stroma": 6}
    more = {"conditions": [{"kind": "class", "per_class": counts}], "output": {"shard_size": 3}}
    recipe = write_recipe(tmp_path / "more", **more)
    before = {path.name for path in (copy / WORK / "shards").iterdir()}
    with pytest.raises(MismatchError, match="--extend"):
        run(recipe, copy)
    result = run(recipe, copy, extend=True)
    assert (result.exit_code, result.summary.accepted) == (0, 34)
    assert before <= {path.name for path in (copy / WORK / "shards").iterdir()}
    run(recipe, tmp_path / "fresh")
    assert list_identities(copy) == list_identities(tmp_path / "fresh")


def test_another_recipe_is_refused_with_a_diff_and_touches_nothing(plain, tmp_path):
    folder, _ = plain
    recipe = write_recipe(tmp_path, seed=8)
    before = {p: p.stat().st_mtime_ns for p in (folder / "run").rglob("*")}
    with pytest.raises(MismatchError, match=r"seed: 7 -> 8"):
        run(recipe, folder / "run")
    assert {p: p.stat().st_mtime_ns for p in (folder / "run").rglob("*")} == before


def test_a_recipe_that_cannot_be_filled_says_so_and_delivers_the_rest(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.145}]
    recipe = write_recipe(tmp_path, filters=filters, budget={"attempts": 2})
    result = run(recipe, tmp_path / "run")
    assert result.exit_code == 1
    short = {part.label: part.short for part in result.summary.shortfalls}
    assert set(short) == {"normal"}
    rows = read_rows(tmp_path / "run")
    assert 0 < len(rows) == 23 - sum(short.values()) < 23
    text = (tmp_path / "run" / "README.md").read_text()
    assert "**Shortfall**" in text
    assert "finite: contrast" in text
    assert run(recipe, tmp_path / "run").exit_code == 1


def test_on_shortfall_error_writes_no_data_set(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.9}]
    budget = {"attempts": 2, "on_shortfall": "error"}
    recipe = write_recipe(tmp_path, filters=filters, budget=budget)
    assert run(recipe, tmp_path / "run").exit_code == 1
    assert not (tmp_path / "run" / "data").exists()


def test_near_duplicates_go_on_with_the_next_attempt(tmp_path):
    near = {"filters": [], "dedup": {"max_similarity": 0.2}}
    budget = {"attempts": 6}
    recipe = write_recipe(tmp_path / "a", **near, budget=budget)
    result = run(recipe, tmp_path / "a" / "run")
    rejected = read_rows(tmp_path / "a" / "run", "rejected")
    duplicates = [row for row in rejected if row["status"] == "rejected"]
    assert {row["rejected_by"] for row in duplicates} == {"near_duplicate"}
    kept = {row["sample_id"]: row for row in read_rows(tmp_path / "a" / "run")}
    assert all(row["reason"].rsplit(" ", 1)[1] in kept for row in duplicates)
    assert any(row["attempt"] > 0 for row in kept.values())
    assert result.summary.accepted == len(kept)
    folder = RunFolder(str(tmp_path / "a" / "run"))
    record = folder.read_run()
    policy = build_policy(folder, Recipe.model_validate(record.recipe))
    assert survey_run(folder, read_outline(record), policy).goes_on == []
    assert list((tmp_path / "a" / "run" / WORK / "shards").glob("*-r1.json"))
    other = write_recipe(tmp_path / "b", **near, budget=budget, output={"shard_size": 9})
    run(other, tmp_path / "b" / "run")
    assert list_identities(tmp_path / "a" / "run") == list_identities(tmp_path / "b" / "run")


def test_refilter_loosens_and_tightens_without_generating(plain, tmp_path, monkeypatch):
    folder, result = plain
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)

    def refuse(*args, **kwargs):
        raise AssertionError("generated")

    monkeypatch.setattr(FakeGenerator, "generate", refuse)
    tight = refilter(str(copy), ["filters.finite.min_contrast=0.145"])
    assert tight.summary.accepted < result.summary.accepted
    assert tight.exit_code == 1
    scores = [row["scores"]["contrast"] for row in read_rows(copy)]
    assert min(scores) >= 0.145
    loose = refilter(str(copy), ["filters.0.min_contrast=0"])
    assert loose.exit_code == 0
    assert {row["attempt"] for row in read_rows(copy)} == {0}
    back = refilter(str(copy), [])
    assert list_identities(copy) == list_identities(folder / "run")
    assert back.exit_code == 0


@pytest.mark.parametrize(
    "override", ["seed=9", "filters.focus.min_sharpness=1", "filters.tissue.min_fraction=7"]
)
def test_refilter_refuses_what_is_no_threshold(plain, override):
    folder, _ = plain
    with pytest.raises(Exception, match=r"thresholds|no filter|must be"):
        refilter(str(folder / "run"), [override])


def test_a_shard_that_keeps_failing_is_quarantined_and_made_later(tmp_path, monkeypatch):
    generate = FakeGenerator.generate

    def fail_on_one(self, jobs):
        if any(job.condition.class_name == "tumor" and job.request.index == 5 for job in jobs):
            raise ValueError("cosmic ray")
        return generate(self, jobs)

    monkeypatch.setattr(FakeGenerator, "generate", fail_on_one)
    recipe = write_recipe(tmp_path, budget={"max_error_rate": 1.0})
    result = run(recipe, tmp_path / "run")
    assert result.exit_code == 3
    assert [r.error for r in result.quarantined] == ["ValueError: cosmic ray"]
    assert result.summary.missing_shards == 1
    assert len(read_rows(tmp_path / "run")) == 19
    monkeypatch.undo()
    result = run(recipe, tmp_path / "run")
    assert (result.exit_code, result.quarantined, len(read_rows(tmp_path / "run"))) == (0, (), 23)


def test_a_passing_fault_is_retried(tmp_path, monkeypatch):
    generate, calls = FakeGenerator.generate, []

    def fail_twice(self, jobs):
        calls.append(1)
        if len(calls) <= 2:
            raise RuntimeError("flaky")
        return generate(self, jobs)

    monkeypatch.setattr(FakeGenerator, "generate", fail_twice)
    assert run(write_recipe(tmp_path), tmp_path / "run").exit_code == 0


def test_too_many_failures_stop_the_run(tmp_path, monkeypatch):
    def fail(self, jobs):
        raise RuntimeError("no driver")

    monkeypatch.setattr(FakeGenerator, "generate", fail)
    recipe = write_recipe(tmp_path, output={"shard_size": 1}, budget={"retries": 0})
    with pytest.raises(RunBrokenError, match=r"5 of 5 shards failed.*no driver"):
        run(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert run(recipe, tmp_path / "run").exit_code == 0


def test_reference_variations_name_their_reference(tmp_path):
    from factory.core.images import encode_image
    from tests.data.test_sources import make_pixels

    for name in ("normal", "tumor"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for index in range(4):
            data = encode_image(make_pixels(hash((name, index)) % 999, 40), "png")
            (tmp_path / "real" / name / f"P{index}_1.png").write_bytes(data)
    block = {
        "kind": "reference", "images": "real", "shots": 2, "per_class": 5, "strength": 0.5,
        "group_pattern": r"^(P\d)_",
    }  # fmt: skip
    recipe = write_recipe(tmp_path, conditions=[block], filters=[])
    result = run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert result.exit_code == 0
    assert len(rows) == 10
    for name in ("normal", "tumor"):
        hashes = {row["reference_sha256"] for row in rows if row["class_name"] == name}
        files = {hash_bytes(p.read_bytes()) for p in (tmp_path / "real" / name).iterdir()}
        assert len(hashes) == 2
        assert hashes <= files
    assert not any(f'"P{i}' in row["provenance"] for row in rows for i in range(4))
    told = [json.loads(row["provenance"]) for row in rows]
    assert all(each["reference_group_sha256"] for each in told)
    pixels = {
        hash_bytes(path.read_bytes()): hash_pixels(decode_image(path.read_bytes(), path.name))
        for path in (tmp_path / "real").rglob("*.png")
    }
    for row, each in zip(rows, told, strict=True):
        assert each["reference_pixels_sha256"] == pixels[row["reference_sha256"]]
        assert set(each["condition"]["reference"]) == {"sha256", "strength", "fit"}


def test_status_counts_shards(plain):
    folder, _ = plain
    report = read_status(str(folder / "run"))
    assert report["done"] == report["shards"] == 7
    assert report["finalized"]
    assert [part["filled"] for part in report["series"]] == [10, 13]


def test_status_asks_for_each_marker_once(plain, monkeypatch):
    folder, _ = plain
    asked = Counter()

    def note(method):
        def call(self, name):
            asked[name] += 1
            return method(self, name)

        return call

    for name in ("find", "read", "exists"):
        monkeypatch.setattr(FileStore, name, note(getattr(FileStore, name)))
    shards = read_status(str(folder / "run"))["shards"]
    markers = {name: count for name, count in asked.items() if "/shards/" in name}
    assert len(markers) == 2 * shards  # of the first round, and that there is no second
    assert set(markers.values()) == {1}


def test_summary_is_on_disk(plain):
    folder, result = plain
    assert read_json(folder / "run" / "summary.json")["accepted"] == result.summary.accepted == 23
    kinds = [settings["kind"] for settings in result.summary.filters]
    assert kinds == [settings["kind"] for settings in FILTERS]
    assert result.summary.dedup == DEDUP


def test_memory_store_works_like_disk(tmp_path, plain):
    from factory.recipe.file import load_recipe
    from tests.running import run_recipe

    folder, _ = plain
    url = f"memory://{tmp_path.name}"
    loaded = load_recipe(write_recipe(tmp_path))
    result = run_recipe(loaded, url, lambda o: None, lambda line: None)
    files = RunFolder(url).files
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(files.read(f"data/{files.list('data')[0]}")))
    found = set(zip(table["sample_id"].to_pylist(), table["image_sha256"].to_pylist(), strict=True))
    assert result.exit_code == 0
    assert found == list_identities(folder / "run")


def test_killed_amid_refiltering_then_run_gives_the_recipe_again(plain, tmp_path, monkeypatch):
    """A data set without a summary is unfinished: the next run writes it anew."""
    folder, _ = plain
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    move = FileStore.move

    def move_data_and_die(self, source, target):
        move(self, source, target)
        if target.startswith("data/"):
            raise KeyboardInterrupt

    monkeypatch.setattr(FileStore, "move", move_data_and_die)
    with pytest.raises(KeyboardInterrupt):
        refilter(str(copy), ["filters.finite.min_contrast=0.145"])
    monkeypatch.undo()
    assert list_identities(copy) != list_identities(folder / "run")
    run(folder / "recipe.yaml", copy)
    assert list_identities(copy) == list_identities(folder / "run")


def test_refilter_needs_the_images_that_it_would_accept(tmp_path):
    recipe = write_recipe(tmp_path, output={"keep_rejected": "scores"})
    run(recipe, tmp_path / "run")
    before = list_identities(tmp_path / "run")
    with pytest.raises(InputError, match="keep_rejected"):
        refilter(str(tmp_path / "run"), ["filters.finite.min_contrast=0"])
    assert list_identities(tmp_path / "run") == before


def test_a_bad_shot_leaves_no_slot_empty(tmp_path):
    """The next attempt of a variation takes the next shot: one blank reference costs no image."""
    from tests.data.test_sources import make_pixels

    (tmp_path / "real" / "tumor").mkdir(parents=True)
    for index in range(3):
        pixels = make_pixels(index, 40) if index else np.full((40, 40, 3), 255, np.uint8)
        (tmp_path / "real" / "tumor" / f"{index}.png").write_bytes(encode_image(pixels, "png"))
    block = {"kind": "reference", "images": "real", "per_class": 9, "strength": 0.1}
    filters = [{"kind": "finite", "min_contrast": 0.12}]
    recipe = write_recipe(tmp_path, conditions=[block], filters=filters, budget={"attempts": 3})
    assert run(recipe, tmp_path / "run").exit_code == 0
    rows = read_rows(tmp_path / "run")
    blank = hash_bytes((tmp_path / "real" / "tumor" / "0.png").read_bytes())
    rejected = read_rows(tmp_path / "run", "rejected")
    assert blank in {row["reference_sha256"] for row in rejected if row["status"] == "rejected"}
    assert blank not in {row["reference_sha256"] for row in rows}
    assert len(rows) == 9
    card = (tmp_path / "run" / "README.md").read_text()
    assert "tumor (references): varies 2 real images; one gives" in card
    assert "**They vary 2 real images**" in card


def test_more_attempts_fill_what_fell_short(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.145}]
    few = write_recipe(tmp_path / "few", filters=filters, budget={"attempts": 1})
    assert run(few, tmp_path / "run").exit_code == 1
    many = write_recipe(tmp_path / "many", filters=filters, budget={"attempts": 20})
    with pytest.raises(MismatchError, match=r"attempts: 1 -> 20: add --extend"):
        run(many, tmp_path / "run")
    before = list_identities(tmp_path / "run")
    assert run(many, tmp_path / "run", extend=True).exit_code == 0
    assert before < list_identities(tmp_path / "run")
    with pytest.raises(MismatchError, match="only grow"):
        run(few, tmp_path / "run", extend=True)
    run(many, tmp_path / "fresh")
    assert list_identities(tmp_path / "fresh") == list_identities(tmp_path / "run")


def test_card_tells_no_ones_disk(tmp_path):
    from tests.data.test_sources import make_pixels

    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encode_image(make_pixels(1, 40), "png"))
    block = {"kind": "reference", "images": str(tmp_path / "real"), "per_class": 2}
    copies = [{"kind": "training_copy", "images": str(tmp_path / "real"), "max_similarity": 1.0}]
    recipe = write_recipe(tmp_path, conditions=[block], filters=copies)
    run(recipe, tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "images .../real" in card


def test_the_recipe_in_the_run_folder_makes_the_set_again(plain, tmp_path):
    """As the card says."""
    folder, _ = plain
    copy = tmp_path / "recipe.json"
    shutil.copy(folder / "run" / "recipe.json", copy)
    assert run(copy, tmp_path / "again").exit_code == 0
    assert list_identities(tmp_path / "again") == list_identities(folder / "run")


def test_rounds_share_one_loaded_worker(tmp_path, monkeypatch):
    """Going on after near-duplicates loads no model a second time."""
    from factory.engine.executors import base

    started = []
    worker = base.Worker
    monkeypatch.setattr(base, "Worker", lambda order: started.append(1) or worker(order))
    near = {"filters": [], "dedup": {"max_similarity": 0.2}}
    recipe = write_recipe(tmp_path, **near, budget={"attempts": 6})
    run(recipe, tmp_path / "run")
    assert list((tmp_path / "run" / WORK / "shards").glob("*-r1.json"))
    assert started == [1]
