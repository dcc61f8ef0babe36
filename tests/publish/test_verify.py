"""Verifying run folders and copies: every kind of damage is found, named, or said to be unseen."""

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.api import refilter
from factory.core.errors import InputError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image
from factory.engine.dataset import open_dataset
from factory.engine.run import read_status
from factory.engine.run_folder import WORK
from factory.publish.verify import VerifyOptions, verify_set
from tests import ASSETS
from tests.running import DEDUP, call, run, write_recipe

NEAR = {"filters": [{"kind": "finite", "min_contrast": 0.1435}], "dedup": DEDUP}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One finished run, of several files, that tests only read or copy."""
    folder = tmp_path_factory.mktemp("made")
    output = {"formats": ["parquet", "webdataset"], "rows_per_file": 10}
    run(write_recipe(folder, output=output), folder / "run")
    return folder / "run"


@pytest.fixture
def run_copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def publish(source, target, names=("data", "rejected", "README.md", "recipe.json")):
    """Copies what a published data set has."""
    target.mkdir()
    for name in names:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, target / name)
    return target


def check(folder, **options):
    return verify_set(open_dataset(str(folder)), VerifyOptions(**options))


def edit(folder, change, pattern="data/*.parquet"):
    """Writes the first file of rows anew with `change` applied to them."""
    path = sorted(folder.glob(pattern))[0]
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows = change(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return path.relative_to(folder).as_posix()


def forge_hashes(folder):
    """Makes the summary's file hashes those of the files as they are now."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in summary["files"]["sha256"]:
        if (folder / name).is_file():
            summary["files"]["sha256"][name] = hash_bytes((folder / name).read_bytes())
    (folder / "summary.json").write_text(json.dumps(summary))


def list_checks(report):
    return {failure.check for failure in report.failures}


def find(report, check_name):
    return next(each for each in report.failures if each.check == check_name)


# --- sound sets ----------------------------------------------------------------------------------


def test_a_run_folder_is_sound_and_everything_was_looked_at(made):
    report = check(made, regenerate=3, near_duplicates=True)
    assert report.is_sound, report.failures
    for name, least in {
        "files": 3 + 3 + 3, "shards": 7, "rows": 40, "image hash": 40, "decodable": 40,
        "pixels": 40, "unique ids": 40, "identity": 160, "provenance": 400, "scores": 80,
        "verdict": 40, "schema": 100, "counts": 10, "tars": 23, "shard rows": 40, "selection": 23,
        "near-duplicates": 23, "regenerated": 3, "recipe": 1,
    }.items():  # fmt: skip
        assert report.checked[name] >= least, name
    assert [each.status for each in report.rebuilt] == ["exact"] * 3


def test_a_bare_copy_is_sound_and_says_what_it_cannot_tell(made, tmp_path):
    copy = publish(made, tmp_path / "copy", ("data", "recipe.json", "README.md"))
    report = check(copy, regenerate=2)
    assert report.is_sound, report.failures
    said = " ".join(report.notes)
    assert "hashes of files" in said
    assert ".factory/" in said
    assert report.checked["rows"] == 23
    assert [each.status for each in report.rebuilt] == ["exact"] * 2


def test_rows_are_chosen_by_seed_whatever_the_files_are(made, tmp_path):
    ids = [each.sample_id for each in check(made, regenerate=4, seed=5).rebuilt]
    recipe = write_recipe(tmp_path, output={"rows_per_file": 4})
    run(recipe, tmp_path / "other")
    other = [each.sample_id for each in check(tmp_path / "other", regenerate=4, seed=5).rebuilt]
    assert sorted(ids) == sorted(other)
    assert {each.sample_id for each in check(made, regenerate=4, seed=6).rebuilt} != set(ids)


@pytest.mark.parametrize(
    "override", ["filters.finite.min_contrast=0.145", "filters.0.min_contrast=0"]
)
def test_a_refiltered_run_is_sound(run_copy, override):
    refilter(str(run_copy), [override])
    report = check(run_copy)
    assert report.is_sound, report.failures


@pytest.mark.slow("test_near_duplicates_are_found_where_the_rule_was_not_kept")
def test_a_grown_run_with_near_duplicates_is_sound(tmp_path):
    near = {"filters": [], "dedup": {"max_similarity": 0.2}}
    recipe = write_recipe(tmp_path / "a", **near, budget={"attempts": 6})
    run(recipe, tmp_path / "run")
    more = {"conditions": [{"kind": "class", "per_class": {"normal": 12, "tumor": 14}}]}
    grown = write_recipe(tmp_path / "b", **near, budget={"attempts": 6}, **more)
    result = run(grown, tmp_path / "run", extend=True)
    report = check(tmp_path / "run", near_duplicates=True)
    assert report.is_sound, report.failures
    assert report.checked["near-duplicates"] == result.summary.accepted > 10


def test_picked_and_scored_only_runs_are_sound(tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 2.0}
    recipe = write_recipe(tmp_path, pick=pick, output={"keep_rejected": "scores"})
    run(recipe, tmp_path / "run")
    report = check(tmp_path / "run")
    assert report.is_sound, report.failures


# --- damage and edits ----------------------------------------------------------------------------


def flip_bit(path, share):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_flipped_bit_is_found_by_the_hash_of_its_file(made, tmp_path, share):
    copy = publish(made, tmp_path / "copy", ("data", "recipe.json", "summary.json"))
    path = sorted((copy / "data").glob("*"))[1]
    flip_bit(path, share)
    failure = find(check(copy), "files")
    assert (failure.file, failure.field) == (f"data/{path.name}", "sha256")


@pytest.mark.parametrize("share", [*(0.01 + 0.07 * step for step in range(14)), 0.999])
def test_a_flipped_bit_of_a_row_is_found_without_hashes(made, tmp_path, share):
    """By page checksums; what stays unseen is a footer's statistics, and no row is different."""
    copy = publish(made, tmp_path / "copy", ("data", "recipe.json", "README.md"))
    path = sorted((copy / "data").glob("*"))[1]
    before = pq.read_table(path)
    flip_bit(path, share)
    report = check(copy)
    if report.is_sound:
        assert pq.read_table(path).equals(before, check_metadata=True)
        assert share > 0.4
    else:
        assert report.failures[0].file == f"data/{path.name}"


def test_a_flipped_bit_of_an_image_names_the_row(run_copy):
    def flip(rows):
        data = bytearray(rows[3]["image"]["bytes"])
        data[-9] ^= 1
        rows[3]["image"]["bytes"] = bytes(data)

    file = edit(run_copy, flip)
    report = check(run_copy)
    failure = find(report, "image hash")
    assert (failure.file, failure.field) == (file, "image (image_sha256)")
    assert failure.row.startswith("3 (")
    assert "files" in list_checks(report)


def test_another_image_under_a_forged_hash_is_found(made, tmp_path):
    """The pixels' own hash is in the provenance."""
    copy = publish(made, tmp_path / "copy")

    def swap(rows):
        pixels = decode_image(rows[0]["image"]["bytes"], "x").copy()
        pixels[0, 0] ^= 1
        rows[0]["image"]["bytes"] = encode_image(pixels, "webp")
        rows[0]["image_sha256"] = hash_bytes(rows[0]["image"]["bytes"])

    edit(copy, swap)
    assert list_checks(check(copy)) == {"pixels"}


def test_what_is_no_image_is_found(made, tmp_path):
    copy = publish(made, tmp_path / "copy")

    def spoil(rows):
        rows[1]["image"]["bytes"] = b"RIFF no image"
        rows[1]["image_sha256"] = hash_bytes(b"RIFF no image")

    edit(copy, spoil)
    assert find(check(copy), "decodable").row.startswith("1 (")


def test_a_dropped_row_is_named_by_the_run_folder(run_copy):
    gone = {}
    edit(run_copy, lambda rows: gone.update(rows[2]) or [*rows[:2], *rows[3:]])
    forge_hashes(run_copy)
    report = check(run_copy)
    assert list_checks(report) == {"counts", "tars", "selection"}
    assert find(report, "selection").row == gone["sample_id"]
    assert "22" in find(report, "counts").message


def test_a_dropped_row_is_found_by_summary_or_card_alone(made, tmp_path):
    copy = publish(made, tmp_path / "summary", ("data", "recipe.json", "README.md", "summary.json"))
    edit(copy, lambda rows: rows[:-1])
    forge_hashes(copy)
    fields = {failure.field for failure in check(copy).failures}
    assert {"accepted", "files.rows"} <= fields
    bare = publish(made, tmp_path / "bare", ("data", "recipe.json"))
    splits = "{name: train, num_examples: 23}"
    (bare / "README.md").write_text(f"---\ndataset_info:\n  splits:\n  - {splits}\n---\n# Card\n")
    assert check(bare).is_sound
    edit(bare, lambda rows: rows[:-1])
    failure = find(check(bare), "counts")
    assert (failure.file, failure.field) == ("README.md", "dataset_info: train.num_examples")


def test_a_missing_file_is_found_with_and_without_a_summary(made, tmp_path):
    for names in (("data", "recipe.json"), ("data", "recipe.json", "summary.json")):
        copy = publish(made, tmp_path / str(len(names)), names)
        sorted((copy / "data").glob("*"))[1].unlink()
        assert "missing" in find(check(copy), "files").message


def test_a_file_too_many_is_found(run_copy):
    first = sorted((run_copy / "data").glob("*"))[0]
    shutil.copy(first, run_copy / "data" / "train-00009-of-00003.parquet")
    checks = list_checks(check(run_copy))
    assert {"files", "unique ids", "counts"} <= checks


def test_a_duplicated_id_is_found(made, tmp_path):
    copy = publish(made, tmp_path / "copy")
    edit(copy, lambda rows: [*rows, rows[0]])
    report = check(copy)
    assert find(report, "unique ids").field == "sample_id"


@pytest.mark.parametrize(
    ("column", "value", "check_name"),
    [
        ("seed", 5, "identity"),
        ("attempt", 99, "identity"),
        ("ordinal", 99, "identity"),
        ("sample_id", "0" * 32, "identity"),
        ("condition_id", "0" * 16, "identity"),
        ("prompt", "something else", "identity"),
        ("class_name", "stroma", "provenance"),
        ("label", 1, "provenance"),
        ("caption", "a caption", "provenance"),
        ("model", "better-model", "provenance"),
        ("weights_sha256", "0" * 64, "provenance"),
        ("guidance_scale", 9.0, "provenance"),
        ("provenance", "{", "provenance"),
        ("width", 64, "image size"),
        ("scores", None, "scores"),
        ("image_sha256", "0" * 64, "image hash"),
    ],
)
def test_an_edited_column_is_found_in_a_bare_copy(made, tmp_path, column, value, check_name):
    copy = publish(made, tmp_path / "copy")

    def change(rows):
        assert rows[0][column] != value
        rows[0][column] = value

    file = edit(copy, change)
    found = [each for each in check(copy).failures if each.check == check_name]
    assert found
    assert found[0].file == file
    assert found[0].row.startswith("0 (")
    assert any(column in each.field for each in found)


def set_score(value, name="contrast"):
    def change(rows):
        rows[0]["scores"][name] = value

    return change


@pytest.mark.parametrize(
    ("value", "check_name"),
    [(0.01, "verdict"), (0.987654321, "scores")],
)
def test_an_edited_score_is_found_where_it_breaks_a_rule(made, tmp_path, value, check_name):
    copy = publish(made, tmp_path / "copy")
    edit(copy, set_score(value))
    assert list_checks(check(copy)) == {check_name}


def test_an_edited_score_that_breaks_none_needs_hashes_or_shards(made, run_copy, tmp_path):
    bare = publish(made, tmp_path / "bare")
    edit(bare, set_score(0.5))
    report = check(bare)
    assert report.is_sound
    assert any("edited score" in note for note in report.notes)
    hashed = publish(made, tmp_path / "hashed", ("data", "recipe.json", "summary.json"))
    edit(hashed, set_score(0.5))
    assert list_checks(check(hashed)) == {"files"}
    edit(run_copy, set_score(0.5))
    forge_hashes(run_copy)
    failure = find(check(run_copy), "shard rows")
    assert failure.field == "scores"
    assert "contrast 0.5 instead of" in failure.message


def test_an_edited_verdict_of_a_rejected_row_is_found(made, tmp_path):
    copy = publish(made, tmp_path / "copy")

    def pardon(rows):
        row = next(row for row in rows if row["rejected_by"] == "finite")
        row["rejected_by"] = None

    edit(copy, pardon, "rejected/*.parquet")
    assert find(check(copy), "verdict").field == "rejected_by"


def test_a_loosened_recipe_is_found(run_copy):
    recipe = json.loads((run_copy / "recipe.json").read_text())
    recipe["filters"][0]["min_contrast"] = 0.0
    (run_copy / "recipe.json").write_text(json.dumps(recipe))
    assert {"recipe", "verdict", "selection"} <= list_checks(check(run_copy))


def test_a_changed_schema_is_found(made, tmp_path):
    copy = publish(made, tmp_path / "copy")
    path = sorted((copy / "data").glob("*"))[0]
    table = pq.read_table(path)
    table = table.drop(["seed"]).append_column("note", pa.array(["x"] * len(table)))
    table = table.set_column(
        table.schema.get_field_index("attempt"), "attempt", pa.array(range(len(table)))
    )
    pq.write_table(table, path)
    found = {(each.field, each.check) for each in check(copy).failures if each.check == "schema"}
    assert found == {("seed", "schema"), ("note", "schema"), ("attempt", "schema")}


def test_damaged_shards_and_tars_are_found(run_copy):
    shard = sorted((run_copy / WORK / "shards").glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    tar = sorted((run_copy / "webdataset").glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes().replace(b"RIFF", b"RIFA", 1))
    report = check(run_copy)
    assert shard.name in find(report, "shards").file + find(report, "shards").message
    assert find(report, "tars").field == "image"


def test_a_shard_written_anew_is_found(run_copy):
    """It can be read, and its rows are the same: its bytes are not those that the marker names."""
    shard = sorted((run_copy / WORK / "shards").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(shard), shard, compression="gzip")
    report = check(run_copy)
    assert "its bytes changed" in find(report, "shards").message
    assert shard.name in find(report, "shards").file


@pytest.mark.parametrize("column", ["scores.contrast", "reason", "rejected_by"])
def test_a_flipped_bit_that_makes_another_value_is_found_by_page_checksums(made, tmp_path, column):
    """What zstd unpacks without complaint, into another score or text."""
    copy = publish(made, tmp_path / "copy")
    path = next(iter(sorted((copy / "rejected").glob("*.parquet"))))
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    chunk = next(each for each in chunks if each.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    before, silent = path.read_bytes(), 0
    for place in range(start, start + chunk.total_compressed_size):
        data = bytearray(before)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            silent += not pq.read_table(path).equals(pq.read_table(io.BytesIO(before)))
        except (pa.ArrowException, OSError, ValueError):
            continue
        if silent:
            break
    assert silent, "no bit of this column changes a value in silence"
    assert find(check(copy), "files").file == f"rejected/{path.name}"


def test_near_duplicates_are_found_where_the_rule_was_not_kept(tmp_path):
    recipe = write_recipe(tmp_path, **NEAR)
    run(recipe, tmp_path / "run")
    changed = json.loads((tmp_path / "run" / "recipe.json").read_text())
    changed["dedup"]["max_similarity"] = 0.1
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(changed))
    assert check(tmp_path / "run", near_duplicates=True).failed["near-duplicates"] > 0


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_and_exits(run_copy):
    result = call("verify", run_copy, "--regenerate", 2)
    assert result.exit_code == 0, result.output
    assert "rows: 44 checked, all sound" in result.output
    assert result.stdout.rstrip().endswith("sound")
    file = edit(run_copy, set_score(0.01))
    result = call("verify", run_copy, "--json")
    assert result.exit_code == 1
    printed = json.load(io.StringIO(result.stdout))
    assert not printed["sound"]
    assert {"verdict", "files", "shard rows"} == set(printed["failed"])
    assert printed["failures"][0]["file"] == file
    result = call("verify", run_copy)
    assert f"FAILED verdict: {file} row 0 (" in result.stderr
    assert result.stdout.rstrip().endswith("NOT SOUND")


def test_what_is_no_data_set_is_refused(tmp_path):
    assert call("verify", tmp_path).exit_code == 2
    assert call("verify", tmp_path / "nothing").exit_code == 2
    with pytest.raises(InputError, match=r"holds no data/\*.parquet"):
        open_dataset(str(tmp_path))


def test_a_merged_set_is_refused_and_its_members_are_named(made, tmp_path):
    real, merged = ASSETS / "pcam" / "train", tmp_path / "all"
    assert call("merge", real, made, "--out", merged).exit_code == 0
    answer = call("verify", merged)
    assert answer.exit_code == 2
    assert "a merged set" in answer.stderr and "verify the runs" in answer.stderr


def test_a_published_folder_is_sound_and_its_rows_are_made_again(tmp_path):
    """Paths of the maker's machine are cut from what is published; hashes and fingerprint hold."""
    from tests.data.test_sources import make_pixels

    (tmp_path / "real" / "tumor").mkdir(parents=True)
    for index in range(3):
        data = encode_image(make_pixels(index, 40), "png")
        (tmp_path / "real" / "tumor" / f"{index}.png").write_bytes(data)
    real = str(tmp_path / "real")
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "reference", "images": real, "per_class": 4, "strength": 0.5}],
        filters=[{"kind": "training_copy", "images": real, "max_similarity": 1.0}],
    )
    run(recipe, tmp_path / "run")
    assert call("publish", tmp_path / "run", "--to", tmp_path / "copy").exit_code == 0
    for path in (tmp_path / "copy").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()
    result = call("verify", tmp_path / "copy", "--regenerate", 3, "--references", real)
    assert result.exit_code == 0, result.output
    assert "regenerated: 3 checked, all sound" in result.stdout
    assert "files: 2 checked, all sound" in result.stdout


def test_a_recipe_has_one_fingerprint_before_and_after_its_paths_are_cut():
    from factory.recipe.recipe import Recipe, compute_recipe_digest

    digests = {
        compute_recipe_digest(
            Recipe.model_validate(
                {
                    "name": "x",
                    "generator": {"model": model},
                    "conditions": [{"kind": "class", "per_class": 1}],
                }
            )
        )
        for model in ("/home/me/models/mine", ".../mine")
    }
    assert len(digests) == 1


def test_a_run_folder_behind_a_url_is_verified(tmp_path):
    from factory.recipe.file import load_recipe
    from tests.running import run_recipe

    url = f"memory://{tmp_path.name}"
    changes = {"output": {"formats": ["parquet", "webdataset"]}}
    loaded = load_recipe(write_recipe(tmp_path, **changes))
    run_recipe(loaded, url, lambda outcome: None, lambda line: None)
    report = check(url, regenerate=2)
    assert report.is_sound, report.failures
    assert report.checked["shard rows"] == 44
    assert any("local only" in note for note in report.notes)


@pytest.mark.stranger
@pytest.mark.parametrize("how", ["no summary", "grown"])
def test_what_is_not_finalized_is_not_sound(run_copy, tmp_path, monkeypatch, how):
    assert read_status(str(run_copy))["finalized"]
    if how == "no summary":
        (run_copy / "summary.json").unlink()
    else:
        more = {"conditions": [{"kind": "class", "per_class": {"normal": 12, "tumor": 14}}]}

        def stop(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr("factory.engine.run.finalize", stop)
        with pytest.raises(KeyboardInterrupt):
            run(write_recipe(tmp_path / "b", **more), run_copy, extend=True)
    report = check(run_copy)
    assert report.failed["finalized"] == 1
    status = read_status(str(run_copy))
    assert not status["finalized"]
    assert status["unfinished"] in " ".join(map(str, report.failures))
