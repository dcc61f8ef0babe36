"""`factory judge`: images that something else made, through the line that judges samples."""

import io
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.core.hashing import hash_bytes
from factory.engine.score_images import load_judging
from factory.publish.report import build_report
from tests import ASSETS, ROOT, forked
from tests.running import (
    DEDUP,
    call,
    list_identities,
    read_rows,
    run,
    run_recipe,
    stop_after,
    write_recipe,
)

REAL = ASSETS / "pcam"


FILTERS = [{"kind": "finite"}, {"kind": "tissue", "min_fraction": 0.2}]


def write_image(path, seed, size=32, ground=(200, 120, 170)):
    noise = np.random.default_rng(seed).integers(-60, 60, (size, size, 3))
    pixels = (np.array(ground) + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def data(tmp_path):
    """Six noisy images of two classes and sizes, two blank ones, and a copy."""
    folder = tmp_path / "data"
    for index in range(3):
        write_image(folder / "normal" / f"{index}.png", index)
        write_image(folder / "tumor" / f"{index}.png", 10 + index, size=48)
    for name in ("normal", "tumor"):
        Image.new("RGB", (32, 32), "white").save(folder / name / "blank.png")
    (folder / "normal" / "copy.png").write_bytes((folder / "normal" / "0.png").read_bytes())
    return folder


def judge(data, recipe, out, *more):
    arguments = ["judge", "--data", str(data), "--recipe", str(recipe), "--out", str(out), *more]
    return call(*arguments)


def test_folder_is_judged_into_the_tables_of_a_run(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP)
    result = judge(data, recipe, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "6 of 9 accepted, 9 judged" in result.output
    assert "rejected by finite: 2" in result.output
    assert "SHORTFALL" not in result.output
    rows, others = read_rows(tmp_path / "out"), read_rows(tmp_path / "out", "rejected")
    assert sorted(row["class_name"] for row in rows) == ["normal"] * 3 + ["tumor"] * 3
    assert sorted(row["rejected_by"] for row in others) == ["finite", "finite", "near_duplicate"]
    for row in (*rows, *others):
        given = json.loads(row["provenance"])["condition"]["given"]
        source = data / given["name"]
        assert given["sha256"] == hash_bytes(source.read_bytes())
        stored = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        assert np.array_equal(stored, np.asarray(Image.open(source).convert("RGB")))
        assert b"trainedAlgorithmicMedia" not in row["image"]["bytes"]
        assert row["scores"]["contrast"] is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 of 9 given histopathology images, **judged, not generated**" in card
    assert "- synthetic" not in card and "trainedAlgorithmicMedia" not in card
    assert "| images | judged | accepted | rejected: finite |" in card
    assert "9 images were judged; rejected ones are in" in card
    written = card.split("## Recipe")[0].replace("not generated", "")
    page = build_report(str(tmp_path / "out"))[1].split("<body>")[1].split("<h2>Recipe")[0]
    for name, text in {"card": written, "report": page}.items():
        for word in (
            "asked",
            "were generated",
            "requests",
            "candidates were",
            "made it",
            "was made",
        ):
            assert word not in text, f"{name}: {word}"
    told = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert told["rai:dataCollection"].endswith("9 images, 6 accepted.")
    status = call("status", str(tmp_path / "out"))
    assert "normal (existing): 3 of 5 accepted" in status.output


def test_same_command_resumes_and_refilter_decides_anew(data, tmp_path):
    recipe, out = write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP), tmp_path / "out"
    assert judge(data, recipe, out).exit_code == 0
    first = {row["sample_id"] for row in read_rows(out)}
    marker = next((out / ".factory" / "shards").glob("*.json"))
    marker.unlink()
    assert judge(data, recipe, out).exit_code == 0
    assert {row["sample_id"] for row in read_rows(out)} == first
    again = call(
        "refilter",
        str(out),
        "--set",
        "filters.finite.min_contrast=0.0",
        "--set",
        "filters.finite.max_saturated_fraction=1.0",
        "--set",
        "filters.tissue.min_fraction=0.0",
    )
    assert again.exit_code == 0, again.output
    assert len(read_rows(out)) == 8  # all but the copy


def test_stopped_judging_goes_on_to_the_same_rows(data, tmp_path):
    recipe = write_recipe(
        tmp_path / "recipe", filters=FILTERS, dedup=DEDUP, output={"shard_size": 2}
    )
    assert judge(data, recipe, tmp_path / "whole").exit_code == 0
    loaded = load_judging(recipe, data, (), {})
    with pytest.raises(KeyboardInterrupt):
        run_recipe(loaded, str(tmp_path / "out"), stop_after(2), lambda line: None)
    assert not (tmp_path / "out" / "summary.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/.factory/shards/*.json")}
    assert len(kept) >= 2
    assert judge(data, recipe, tmp_path / "out").exit_code == 0
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert list_identities(tmp_path / "out") == list_identities(tmp_path / "whole")


def test_an_image_that_goes_away_costs_its_shard_and_nothing_else(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", filters=[], dedup=None, output={"shard_size": 2})
    assert judge(data, recipe, tmp_path / "whole").exit_code == 0
    gone = max((data / "tumor").glob("*.png"))
    aside = gone.read_bytes()
    loaded = load_judging(recipe, data, (), {})

    def remove(outcome):
        gone.unlink(missing_ok=True)

    result = run_recipe(loaded, str(tmp_path / "out"), remove, lambda line: None)
    assert result.exit_code == 3
    (failed,) = result.quarantined
    assert gone.name in str(failed)
    assert len(list(tmp_path.glob("out/.factory/shards/*.json"))) >= 3
    gone.write_bytes(aside)
    assert judge(data, recipe, tmp_path / "out").exit_code == 0
    assert list_identities(tmp_path / "out") == list_identities(tmp_path / "whole")


def test_another_set_of_the_same_names_is_not_taken_for_the_first(data, tmp_path):
    recipe, out = write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP), tmp_path / "out"
    assert judge(data, recipe, out).exit_code == 0
    write_image(data / "normal" / "1.png", 99)
    result = judge(data, recipe, out)
    assert result.exit_code == 2
    assert "use another --out" in result.output


def test_rows_and_samples_are_judged_as_files_are(data, tmp_path):
    files = sorted(data.glob("*/*.png"))
    rows = [
        {"image": {"bytes": p.read_bytes(), "path": None}, "kind": p.parent.name} for p in files
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with tarfile.open(tmp_path / "samples.tar", "w") as tar:
        for number, path in enumerate(files):
            tar.add(path, f"{number}.png")
            info = tarfile.TarInfo(f"{number}.kind")
            info.size = len(path.parent.name)
            tar.addfile(info, io.BytesIO(path.parent.name.encode()))
    recipe = write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP)
    found = []
    for source in (data, tmp_path / "rows.parquet", tmp_path / "samples.tar"):
        column = () if source == data else ("--label-column", "kind")
        result = judge(source, recipe, tmp_path / source.stem / "out", *column)
        assert result.exit_code == 0, result.output
        accepted = read_rows(tmp_path / source.stem / "out")
        found.append(sorted((row["image_sha256"], row["class_name"]) for row in accepted))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6


def test_columns_give_class_caption_and_patient(data, tmp_path):
    folder, lines = tmp_path / "plain", ["file_name,kind,says,patient"]
    folder.mkdir()
    for number, path in enumerate(sorted(data.glob("*/?.png"))):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
        lines.append(f"{number}.png,{path.parent.name},patch {number},p{number % 2}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    columns = ("--label-column=kind", "--caption-column=says", "--group-column=patient")
    recipe = write_recipe(tmp_path / "recipe", filters=[{"kind": "finite"}])
    result = judge(folder, recipe, tmp_path / "out", *columns)
    assert result.exit_code == 0, result.output
    rows = sorted(read_rows(tmp_path / "out"), key=lambda row: row["caption"])
    assert [row["caption"] for row in rows] == [f"patch {number}" for number in range(6)]
    assert [row["class_name"] for row in rows] == ["normal"] * 3 + ["tumor"] * 3
    for number, row in enumerate(rows):
        assert hash_bytes(f"p{number % 2}".encode()) in row["provenance"]
    result = judge(folder, recipe, tmp_path / "other", "--label-column", "organ")
    assert result.exit_code == 2
    assert "no column 'organ': it has" in result.output


def test_diverse_pick_compares_images_of_two_sizes(data, tmp_path):
    for path in (data / "tumor").glob("*.png"):
        path.rename(data / "normal" / f"large-{path.name}")
    pick = {"keep": "diverse", "pool": 3}
    recipe = write_recipe(tmp_path / "recipe", pick=pick, filters=FILTERS, dedup=DEDUP)
    assert judge(data, recipe, tmp_path / "out").exit_code == 0
    rows = read_rows(tmp_path / "out")
    assert sorted(row["width"] for row in rows) == [32, 32, 48]  # 9 // 3


def test_pick_keeps_some_of_what_is_there(data, tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 2}
    recipe = write_recipe(tmp_path / "recipe", pick=pick, filters=[{"kind": "finite"}])
    assert judge(data, recipe, tmp_path / "out").exit_code == 0
    assert len(read_rows(tmp_path / "out")) == 4  # 5 // 2 and 4 // 2


def test_finished_run_is_judged_by_other_filters(tmp_path):
    recipe = write_recipe(tmp_path / "made")
    run(recipe, tmp_path / "run")
    strict = write_recipe(tmp_path / "strict", filters=[{"kind": "focus", "min_sharpness": 9.0}])
    result = judge(tmp_path / "run", strict, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["judged"], summary["asked"], summary["accepted"]) == (True, 23, 0)


def test_unreadable_images_are_all_named_before_any_is_judged(data, tmp_path):
    (data / "tumor" / "cut.png").write_bytes((data / "tumor" / "1.png").read_bytes()[:200])
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(data / "normal" / "deep.png")
    Image.new("CMYK", (32, 32)).save(data / "normal" / "print.jpg")
    result = judge(
        data, write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP), tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "3 of 12 images cannot be read; nothing was judged" in result.output
    assert "print.jpg: mode CMYK is not 8-bit RGB: convert it to RGB" in result.output
    assert "deep.png: mode I;16 is not 8-bit RGB: convert it to RGB" in result.output
    assert "cut.png: not a readable image" in result.output
    assert not (tmp_path / "out").exists()


def test_class_that_the_classifier_does_not_know_is_refused(data, tmp_path):
    (data / "normal").rename(data / "fat")
    filters = [{"kind": "classifier", "model": "pcam"}]
    result = judge(data, write_recipe(tmp_path / "recipe", filters=filters), tmp_path / "out")
    assert result.exit_code == 2
    assert "classifier pcam does not know class 'fat'" in result.output
    assert not (tmp_path / "out").exists()


def test_filters_that_would_say_nothing_of_the_images_are_refused(data, tmp_path):
    filters = [{"kind": "classifier", "model": "pcam", "min_probability": 0.9}]
    recipe = write_recipe(tmp_path / "recipe", filters=filters)
    result = judge(data / "normal", recipe, tmp_path / "out")
    assert result.exit_code == 2
    assert "no image has a class, which filter classifier needs" in result.output


def test_cards_of_runs_before_judging_can_be_written_again(tmp_path):
    out = tmp_path / "out"
    run(write_recipe(tmp_path / "recipe"), out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary.pop("judged") is False
    (out / "summary.json").write_text(json.dumps(summary))
    before = (out / "README.md").read_text()
    result = call("card", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "README.md").read_text() == before


def test_preview_of_given_images_bears_no_mark_of_synthetic_ones(data, tmp_path):
    recipe = write_recipe(
        tmp_path / "recipe",
        generator={"model": "given"},
        conditions=[{"kind": "given", "images": str(data)}],
        filters=FILTERS,
        dedup=DEDUP,
        budget={"attempts": 5},
    )
    result = call("preview", str(recipe), "--out", str(tmp_path / "out"))
    assert "budget.attempts: existing images are judged once: set it to 1" in result.output
    arguments = ["preview", str(recipe), "--out", str(tmp_path / "out")]
    overrides = ["--set", "budget.attempts=1", "--set", "generator={model: given}"]
    result = call(*arguments, *overrides)
    assert result.exit_code == 0, result.output
    images = list((tmp_path / "out").glob("*.webp"))
    assert len(images) == 9
    assert not any(b"trainedAlgorithmicMedia" in path.read_bytes() for path in images)


def test_given_images_and_a_model_do_not_mix(data, tmp_path):
    block = {"kind": "given", "images": str(data)}
    path = write_recipe(tmp_path / "recipe", conditions=[block])
    result = call("validate", str(path))
    assert result.exit_code == 2
    assert "fake takes no existing conditions" in result.output
    path = write_recipe(tmp_path / "other", generator={"model": "given"})
    result = call("validate", str(path))
    assert result.exit_code == 2
    assert "given takes no class conditions: take existing" in result.output


def test_real_patches_pass_the_default_filters(tmp_path):
    for name in ("normal", "tumor"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for path in sorted((REAL / "test" / name).iterdir()):
            Image.open(path).convert("RGB").save(tmp_path / "data" / name / f"{path.stem}.png")
    recipe = ROOT / "recipes" / "judge.yaml"
    result = judge(tmp_path / "data", recipe, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accepted"] >= 13


@pytest.mark.stranger
def test_a_damaged_exif_is_one_note(data, tmp_path):
    entry = b"\x12\x01\x03\0\x01\0\0\0\x01\0\0\0"
    for number in range(4):
        path = data / "normal" / f"broken{number}.jpg"
        exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + entry * (number > 1)
        Image.fromarray(write_image(path, 20 + number)).save(path, exif=exif)
    recipe = write_recipe(tmp_path / "recipe", filters=FILTERS, dedup=DEDUP)
    arguments = ["judge", "--data", data, "--recipe", recipe, "--out", tmp_path / "out", "--json"]
    log = tmp_path / "log"
    code = forked.wait(forked.start_command([str(each) for each in arguments], log))
    said, _, answer = log.read_text().partition("\n{")
    assert code == 0, said
    assert "UserWarning" not in said and "site-packages" not in said
    (line,) = [each for each in said.splitlines() if "EXIF" in each]
    assert re.match(rf"note: {data}/normal/broken[0-3]\.jpg: PIL warns: Corrupt EXIF data", line)
    assert len(line) < len(str(data)) + 200
    assert line.removeprefix("note: ") in json.loads("{" + answer)["notes"]
