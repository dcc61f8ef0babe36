"""Regenerating rows: exact from provenance alone, and honest about what differs where it is not."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from factory.core.errors import StoreError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image, hash_pixels
from factory.engine.dataset import open_dataset
from factory.engine.executors.base import NoWatch
from factory.engine.regenerate import Places, compute_psnr, regenerate_rows
from factory.engine.score_images import load_judging
from tests import ROOT
from tests.data.test_sources import make_pixels
from tests.running import (
    call,
    list_identities,
    read_json,
    read_rows,
    run,
    run_recipe,
    save_again,
    write_recipe,
)
from tests.tiny import save_lora, save_tiny

SMALL = ["conditions.0.per_class.normal=3", "conditions.0.per_class.tumor=3"]


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake")
    run(write_recipe(folder), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A run of a tiny flow pipeline: classes and captions, in batches of which none is full."""
    folder = tmp_path_factory.mktemp("flow")
    save_tiny("flow", folder / "model")
    generator = {"model": "./model", "steps": 3, "guidance": {"scale": 2.0, "end": 1.0}}
    (folder / "captions.txt").write_text("dense lymphocytes\nfat\nmany nuclei, strong eosin\n")
    recipe = write_recipe(
        folder,
        generator={**generator, "width": None, "height": None, "batch_size": 4},
        conditions=[
            {"kind": "class", "per_class": {"LYM": 5, "TUM": 3}},
            {"kind": "caption", "captions": "captions.txt", "count": 6},
        ],
        filters=[],
    )
    assert run(recipe, folder / "run").exit_code == 0
    return folder


def rebuild(folder, rows, **places):
    recipe = open_dataset(str(folder)).recipe
    return regenerate_rows(rows, recipe, Places(**places))


# --- exact ---------------------------------------------------------------------------------------


def test_accepted_and_rejected_rows_are_exact(fake):
    rows = [*read_rows(fake)[:5], *read_rows(fake, "rejected")[:5]]
    for row, rebuilt in zip(rows, rebuild(fake, rows), strict=True):
        assert (rebuilt.status, rebuilt.psnr, rebuilt.differences) == ("exact", None, ())
        assert rebuilt.is_same_file
        assert rebuilt.data == row["image"]["bytes"]


def test_a_rejected_row_without_its_image_is_exact_by_hash(tmp_path):
    run(write_recipe(tmp_path, output={"keep_rejected": "scores"}), tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run", "rejected") if not row["image"]["bytes"]]
    rebuilt = rebuild(tmp_path / "run", rows[:2])
    assert [each.status for each in rebuilt] == ["exact", "exact"]
    assert hash_bytes(rebuilt[0].data) == rows[0]["image_sha256"]


def test_a_flow_pipeline_is_exact_row_by_row_and_in_any_company(flow):
    """One row alone is padded to the batch that made it; captions of any length in company."""
    rows = read_rows(flow / "run")
    assert len(rows) == 14
    together = rebuild(flow / "run", rows[::-1], base=flow)
    assert [each.status for each in together] == ["exact"] * 14, [str(each) for each in together]
    for row in (rows[0], rows[7], rows[-1]):
        assert rebuild(flow / "run", [row], base=flow)[0].status == "exact"


@contextmanager
def other_threads():
    """In here a CPU samples with one thread more than before."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        yield
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_threads_of_a_cpu_are_those_that_the_row_recorded(flow):
    row = read_rows(flow / "run")[0]
    record = json.loads(row["provenance"])
    assert record["generator"].pop("threads") == torch.get_num_threads()
    with other_threads():
        for each in (row, {**row, "provenance": json.dumps(record)}):  # as older runs have it
            (rebuilt,) = rebuild(flow / "run", [each], base=flow)
            assert (rebuilt.status, rebuilt.differences) == ("exact", ())


def test_a_run_that_goes_on_with_other_threads_says_so(flow, tmp_path):
    class Watch(NoWatch):
        notes = ()

        def report(self, progress):
            self.notes = (*self.notes, progress.note)

    shutil.copytree(flow / "run", tmp_path / "run")
    grown = ["conditions.0.per_class.LYM=6"]
    before, watch = list_identities(tmp_path / "run"), Watch()
    with other_threads():
        run(flow / "recipe.yaml", tmp_path / "run", True, grown, watch=watch)
    then, now = torch.get_num_threads(), torch.get_num_threads() + 1
    (note,) = set(watch.notes)
    assert f"was begun with {then} CPU threads and goes on with {now}" in note
    after = list_identities(tmp_path / "run")
    assert set(before) < set(after) and len(after) == len(before) + 1
    makers = read_json(tmp_path / "run" / "summary.json")["makers"]
    assert sorted(each["generator"]["threads"] for each in makers) == [then, now]


def test_adapters_scheduler_and_prompts_are_as_they_were(tmp_path):
    save_tiny("stable-diffusion", tmp_path / "model")
    save_lora(tmp_path / "lora")
    recipe = write_recipe(
        tmp_path,
        generator={
            "model": "./model",
            "steps": 3,
            "guidance": 4.0,
            "scheduler": "UniPCMultistep",
            "negative_prompt": "blurred",
            "prompt_template": "a slide of {class_name}",
            "adapters": [{"source": "./lora", "scale": 0.5}],
            "width": 32,
            "height": 32,
            "batch_size": 3,
        },
        conditions=[{"kind": "class", "classes": ["fat", "tumor"], "per_class": 2}],
        filters=[],
    )
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    rebuilt = rebuild(tmp_path / "run", rows, base=tmp_path)
    assert {(each.status, each.differences) for each in rebuilt} == {("exact", ())}
    (tmp_path / "lora").rename(tmp_path / "old")
    save_lora(tmp_path / "lora", seed=1)
    changed = rebuild(tmp_path / "run", rows[:1], base=tmp_path)[0]
    assert changed.status == "different"
    assert [what for what, _, _ in changed.differences] == ["adapters.0.sha256"]


def test_a_moved_model_is_found_and_a_missing_one_is_asked_for(flow, tmp_path):
    row = read_rows(flow / "run")[0]
    shutil.copytree(flow / "model", tmp_path / "elsewhere")
    rebuilt = rebuild(flow / "run", [row], base=tmp_path, model=str(tmp_path / "elsewhere"))
    assert rebuilt[0].status == "exact"
    [left] = rebuild(flow / "run", [row], base=tmp_path)
    assert left.status == "not checked"
    assert "--base (folder of the recipe), --catalog, --model or --guide" in left.reason


def test_a_batch_that_was_halved_is_made_again_in_its_own_shape(tmp_path, monkeypatch):
    from factory.core.errors import OutOfMemoryError
    from factory.models.generators.diffusers import DiffusersGenerator

    save_tiny("flow", tmp_path / "model")
    call = DiffusersGenerator.call_pipeline

    def fill_memory(self, pipeline, arguments, seeds, pause=None):
        if len(seeds) > 4:
            raise OutOfMemoryError("full")
        return call(self, pipeline, arguments, seeds, pause)

    monkeypatch.setattr(DiffusersGenerator, "call_pipeline", fill_memory)
    recipe = write_recipe(
        tmp_path,
        generator={"model": "./model", "steps": 2, "width": None, "height": None, "batch_size": 8},
        conditions=[{"kind": "class", "per_class": {"LYM": 5}}],
        filters=[],
    )
    run(recipe, tmp_path / "run")
    monkeypatch.undo()
    rows = read_rows(tmp_path / "run")
    assert {json.loads(row["provenance"])["batch_size"] for row in rows} == {4}
    rebuilt = rebuild(tmp_path / "run", rows, base=tmp_path)
    assert {(each.status, each.differences) for each in rebuilt} == {("exact", ())}


# --- real images ---------------------------------------------------------------------------------


@pytest.fixture
def varied(tmp_path):
    for index in range(4):
        (tmp_path / "real" / "tumor").mkdir(parents=True, exist_ok=True)
        data = encode_image(make_pixels(index, 40), "png")
        (tmp_path / "real" / "tumor" / f"{index}.png").write_bytes(data)
    block = {"kind": "reference", "images": "real", "shots": 2, "per_class": 4, "strength": 0.5}
    run(write_recipe(tmp_path, conditions=[block], filters=[]), tmp_path / "run")
    return tmp_path


def test_variations_are_made_again_from_references_found_by_hash(varied, tmp_path):
    rows = read_rows(varied / "run")
    assert {each.status for each in rebuild(varied / "run", rows, base=varied)} == {"exact"}
    (varied / "real").rename(varied / "moved")
    for index, path in enumerate(sorted((varied / "moved" / "tumor").iterdir())):
        path.rename(varied / "moved" / f"renamed{index}.png")
    found = rebuild(varied / "run", rows, references=(varied / "moved",))
    assert {each.status for each in found} == {"exact"}


@pytest.mark.stranger
def test_references_saved_again_are_found_by_their_pixels(varied):
    recipe = write_recipe(varied / "judge", filters=[{"kind": "finite"}])
    loaded = load_judging(recipe, varied / "real", (), {})
    run_recipe(loaded, str(varied / "judged"), lambda outcome: None, lambda line: None)
    again = save_again(varied / "real", varied / "again")
    (varied / "real").rename(varied / "gone")
    (again / "broken.png").write_bytes(b"no image")
    for name in ("run", "judged"):
        found = rebuild(varied / name, read_rows(varied / name), references=(again,))
        assert {each.status for each in found} == {"exact"}
    rows = read_rows(varied / "run")
    for row in rows:  # as factory wrote them before
        told = json.loads(row["provenance"])
        del told["reference_pixels_sha256"]
        row["provenance"] = json.dumps(told)
    found = rebuild(varied / "run", rows, references=(again,))
    assert {each.status for each in found} == {"not checked"}


@pytest.mark.stranger
def test_a_missing_reference_is_neither_sound_nor_unsound(varied):
    rows = read_rows(varied / "run")
    (varied / "real").rename(varied / "gone")
    left = rebuild(varied / "run", rows[:1], base=varied)[0]
    assert left.status == "not checked"
    assert rows[0]["reference_sha256"] in left.reason
    assert "real, which is not here" in left.reason
    assert left.reason.startswith("needs --references")
    out = varied / "again.png"
    result = call(
        "regenerate", varied / "run", rows[0]["sample_id"], "--out", out, "--base", varied
    )
    assert result.exit_code == 2
    assert "--references" in result.stderr
    assert not out.exists()
    report = call("verify", varied / "run", "--regenerate", 2, "--base", varied)
    assert report.exit_code == 0
    assert "regenerated: 2 NOT CHECKED\n" in report.stdout
    assert "not checked: regenerated: needs --references: the real image" in report.stdout
    last = "sound; 2 asked for and not checked: neither sound nor not"
    assert report.stdout.rstrip().endswith(last)
    (varied / "gone").rename(varied / "here")
    some = sorted((varied / "here" / "tumor").iterdir())
    wanted = {row["reference_sha256"] for row in rows}
    next(path for path in some if hash_bytes(path.read_bytes()) in wanted).unlink()
    options = ("--regenerate", 4, "--references", varied / "here")
    told = json.loads(call("verify", varied / "run", *options, "--json").stdout)
    counts = (told["checked"]["regenerated"], told["unchecked"]["regenerated"])
    assert counts[0] > 0 < counts[1]
    assert sum(counts) == 4
    assert told["sound"]


def test_judged_images_are_read_again_by_hash(varied):
    recipe = write_recipe(varied / "judge", filters=[{"kind": "finite"}])
    loaded = load_judging(recipe, varied / "real", (), {})
    run_recipe(loaded, str(varied / "judged"), lambda outcome: None, lambda line: None)
    rows = read_rows(varied / "judged")
    rebuilt = rebuild(varied / "judged", rows)
    assert {(each.status, each.is_same_file) for each in rebuilt} == {("exact", True)}


# --- not exact -----------------------------------------------------------------------------------


def change_provenance(row, change):
    record = json.loads(row["provenance"])
    change(record)
    return {**row, "provenance": json.dumps(record)}


def test_other_weights_are_different_and_named(flow, tmp_path):
    row = read_rows(flow / "run")[0]
    save_tiny("flow", tmp_path / "model", seed=1)
    rebuilt = rebuild(flow / "run", [row], base=tmp_path)[0]
    assert rebuilt.status == "different"
    assert 0 < rebuilt.psnr < 40
    named = {what for what, _, _ in rebuilt.differences}
    assert named == {"weights_sha256", "model_revision"}
    assert "weights_sha256" in str(rebuilt)


def test_last_bits_are_within_tolerance_and_library_versions_named(flow):
    """Half precision on the same device: the image is the same to the eye, not to the bit."""
    row = read_rows(flow / "run")[0]

    def make_half(record):
        record["generator"]["dtype"] = "bfloat16"
        record["generator"]["libraries"]["torch"] = "1.0"

    rebuilt = rebuild(flow / "run", [change_provenance(row, make_half)], base=flow)[0]
    assert rebuilt.status == "within tolerance"
    assert 40 <= rebuilt.psnr < 80
    assert ("libraries.torch", "1.0") in {each[:2] for each in rebuilt.differences}
    assert "PSNR" in str(rebuilt)


def test_an_exact_image_says_what_differs_all_the_same(fake):
    row = read_rows(fake)[0]
    edited = change_provenance(
        row, lambda record: record["generator"]["libraries"].update(numpy="1")
    )
    rebuilt = rebuild(fake, [{**edited, "factory_version": "0.0.1"}])[0]
    assert rebuilt.status == "exact"
    assert {what for what, _, _ in rebuilt.differences} == {"libraries.numpy", "factory_version"}
    assert "although" in str(rebuilt)


def test_a_swapped_image_is_different_even_where_the_record_is_right(fake):
    row = read_rows(fake)[0]
    pixels = decode_image(row["image"]["bytes"], "x").copy()
    pixels[:16] = 255
    swapped = {**row, "image": {**row["image"], "bytes": encode_image(pixels, "webp")}}
    rebuilt = rebuild(fake, [swapped])[0]
    assert rebuilt.status == "different"
    assert rebuilt.differences[0][0] == "stored image"
    assert rebuilt.psnr < 40


def test_an_edited_seed_makes_another_image(fake):
    row = read_rows(fake)[0]
    assert rebuild(fake, [{**row, "seed": row["seed"] + 1}])[0].status == "different"


def test_unreadable_provenance_is_named(fake):
    row = read_rows(fake)[0]
    with pytest.raises(StoreError, match=rf"{row['sample_id']}: provenance"):
        rebuild(fake, [{**row, "provenance": "{"}])
    with pytest.raises(StoreError, match="batch_size: Field required"):
        rebuild(fake, [change_provenance(row, lambda record: record.pop("batch_size"))])


def test_psnr_is_that_of_its_definition():
    one = np.zeros((4, 4, 3), np.uint8)
    assert compute_psnr(one, one) == np.inf
    assert compute_psnr(one, one + np.uint8(255)) == pytest.approx(0.0)
    assert compute_psnr(one, one + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_the_command_writes_the_image(fake, tmp_path, suffix):
    row = read_rows(fake, "rejected")[0]
    out = tmp_path / "new" / f"again{suffix}"
    told = call("regenerate", fake, row["sample_id"], "--out", out)
    assert "loading the model fake; then making 1 images again" in told.stderr
    result = call("regenerate", fake, row["sample_id"], "--out", out, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["status"], printed["is_same_file"]) == ("exact", True)
    assert (out.read_bytes() == row["image"]["bytes"]) is (suffix == ".webp")
    recorded = json.loads(row["provenance"])["pixels_sha256"]
    assert hash_pixels(decode_image(out.read_bytes(), "x")) == recorded
    assert b"trainedAlgorithmicMedia" in out.read_bytes()


def test_the_command_refuses_what_it_cannot_do(fake, tmp_path):
    assert call("regenerate", fake, "0" * 32, "--out", tmp_path / "a.webp").exit_code == 2
    assert call("regenerate", fake, "0" * 32, "--out", tmp_path / "a.jpg").exit_code == 2
    shutil.copytree(fake / "data", tmp_path / "bare" / "data")
    result = call("regenerate", tmp_path / "bare", "0" * 32, "--out", tmp_path / "a.webp")
    assert "recipe.json" in result.stderr


# --- the shipped model ---------------------------------------------------------------------------


@pytest.mark.slow("test_accepted_and_rejected_rows_are_exact")
def test_five_random_rows_of_a_small_quickstart_are_exact(tmp_path):
    """From a copy that holds what is published: rows, recipe.json and README.md."""
    run(ROOT / "recipes" / "quickstart.yaml", tmp_path / "run", overrides=SMALL)
    shutil.copytree(tmp_path / "run" / "data", tmp_path / "copy" / "data")
    for name in ("recipe.json", "README.md"):
        shutil.copy(tmp_path / "run" / name, tmp_path / "copy")
    result = call("verify", tmp_path / "copy", "--regenerate", 5, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [each["status"] for each in report["regenerated"]] == ["exact"] * 5
    assert all(each["is_same_file"] for each in report["regenerated"])
    assert report["checked"]["verdict"] == 6
