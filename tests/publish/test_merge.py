"""Merging real and synthetic sets: no patient in two splits, no leak into test, bytes as stored."""

import json
import shutil
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from factory.core.errors import InputError, SourceError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image, hash_pixels
from factory.core.notes import listen
from factory.data.groups import hash_group
from factory.data.images import SourceImage
from factory.publish.merge import MergeSettings, merge_sets
from factory.publish.merge.members import Member
from factory.publish.merge.splits import (
    LEFT_OUT,
    SEVERAL,
    VARIES_TEST,
    assign_splits,
    place_members,
)
from tests.data.test_sources import make_pixels
from tests.running import call, read_rows, run, save_again, write_recipe

PATIENTS = 12
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
GROUPS = {"group_pattern": r"^(P\d+)_"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Real images of 12 patients in two classes, variations of eight of them, class images."""
    folder = tmp_path_factory.mktemp("sets")
    for patient in range(PATIENTS):
        name = "normal" if patient % 2 else "tumor"
        (folder / "real" / name).mkdir(parents=True, exist_ok=True)
        for index in range(4):
            data = encode_image(make_pixels(100 * patient + index, 32), "png")
            (folder / "real" / name / f"P{patient}_{index}.png").write_bytes(data)
    block = {"kind": "reference", "images": "real", "shots": 10, "per_class": 20, **GROUPS}
    run(write_recipe(folder, conditions=[block], filters=[]), folder / "varied")
    plain = [{"kind": "class", "per_class": {"tumor": 5, "stroma": 4}}]
    run(write_recipe(folder / "b", conditions=plain, filters=[]), folder / "plain")
    return folder


def merge(sets, out, synthetic=("varied", "plain"), **options):
    settings = MergeSettings(**{"columns": GROUPS, **options})
    return merge_sets(sets / "real", [sets / name for name in synthetic], out, settings)


def read_splits(out):
    rows = defaultdict(list)
    for path in sorted((out / "data").glob("*.parquet")):
        rows[path.name.partition("-")[0]] += pq.read_table(path).to_pylist()
    return rows


def test_no_patient_is_in_two_splits_and_no_synthetic_image_in_test(sets, tmp_path):
    summary = merge(sets, tmp_path / "out")
    rows = read_splits(tmp_path / "out")
    patients = {
        split: {row["group_sha256"] for row in each} - {None} for split, each in rows.items()
    }
    assert set(rows) == {"train", "validation", "test"}
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["validation"] & patients["test"]
    assert sum(map(len, patients.values())) == PATIENTS
    assert not any(row["is_synthetic"] for row in rows["test"])
    real = {row["image_sha256"] for row in rows["test"]}
    varied = {row["reference_sha256"] for split in ("train", "validation") for row in rows[split]}
    assert not real & varied
    assert sum(summary["left_out"].values()) > 0
    assert sum(map(len, rows.values())) == 48 + 40 + 9 - sum(summary["left_out"].values())


def test_a_variation_goes_where_its_patient_goes(sets, tmp_path):
    merge(sets, tmp_path / "out", test_synthetic=True)
    rows = read_splits(tmp_path / "out")
    split_of = {
        row["image_sha256"]: split for split, each in rows.items() for row in each
        if not row["is_synthetic"]
    }  # fmt: skip
    placed = Counter()
    for split, each in rows.items():
        for row in each:
            if row["reference_sha256"] is not None:
                assert split == split_of[row["reference_sha256"]]
                placed[split] += 1
            elif row["is_synthetic"]:
                assert split == "train"
    assert sum(placed.values()) == 40
    assert placed["test"] > 0


def test_bytes_are_those_stored_and_rows_say_where_they_come_from(sets, tmp_path):
    merge(sets, tmp_path / "out")
    rows = [row for each in read_splits(tmp_path / "out").values() for row in each]
    files = {hash_bytes(path.read_bytes()) for path in (sets / "real").rglob("*.png")}
    made = {r["sample_id"]: r for name in ("varied", "plain") for r in read_rows(sets / name)}
    for row in rows:
        assert hash_bytes(row["image"]["bytes"]) == row["image_sha256"]
        if not row["is_synthetic"]:
            assert row["image_sha256"] in files
            assert row["source"] == "real"
            assert row["sample_id"] is None
            continue
        origin = made[row["sample_id"]]
        assert row["image"]["bytes"] == origin["image"]["bytes"]
        for column in ("class_name", "model", "reference_sha256", "provenance"):
            assert row[column] == origin[column]
    assert not any(f"P{n}_" in row["image"]["path"] for row in rows for n in range(PATIENTS))


def test_datasets_loads_it_with_united_classes(sets, tmp_path):
    merge(sets, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(data) == {"train", "validation", "test"}
    train = data["train"]
    assert train.features["label"] == ClassLabel(names=["normal", "stroma", "tumor"])
    row = train[0]
    assert row["image"].size == (32, 32)
    assert train.features["label"].int2str(row["label"]) == row["class_name"]


def test_equal_inputs_give_equal_files_and_another_seed_another_split(sets, tmp_path):
    hashes = [merge(sets, tmp_path / str(n), seed=n // 2)["sha256"] for n in range(3)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
    for name, sha in hashes[0].items():
        assert hash_bytes((tmp_path / "0" / name).read_bytes()) == sha
    card = (tmp_path / "0" / "README.md").read_text()
    assert (
        card.replace("# 0", "# 1").replace("name: '0'", "name: '1'")
        == (tmp_path / "1" / "README.md").read_text()
    )


def test_card_and_json_state_the_counts(sets, tmp_path):
    summary = merge(sets, tmp_path / "out")
    rows = read_splits(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "merge.json").read_text()) == json.loads(
        json.dumps(summary)
    )
    for split, each in rows.items():
        for kind in ("real", "synthetic"):
            names = Counter(r["class_name"] for r in each if r["is_synthetic"] == (kind != "real"))
            assert summary["splits"][split][kind] == names
            cells = [names[name] for name in ("normal", "stroma", "tumor")]
            line = [split, kind, *cells, sum(cells)]
            assert "| " + " | ".join(map(str, line)) + " |" in card
    assert "left out" in card
    assert "model fake" in card
    assert str(tmp_path) not in card


def test_one_image_in_two_patients_makes_them_one(sets, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for patient in range(6):
        for index in range(2):
            seed = 0 if index == 0 and patient in (1, 4) else 100 + 10 * patient + index
            (real / f"P{patient}_{index}.png").write_bytes(
                encode_image(make_pixels(seed, 16), "png")
            )
    settings = MergeSettings(columns=GROUPS, test=0.4, validation=0.2)
    summary = merge_sets(real, [sets / "plain"], tmp_path / "out", settings)
    assert sum(summary["units"].values()) == 5
    shared = hash_bytes(encode_image(make_pixels(0, 16), "png"))
    rows = read_splits(tmp_path / "out")
    holding = [split for split, each in rows.items() if shared in {r["image_sha256"] for r in each}]
    assert len(holding) == 1
    both = {hash_bytes(b"P1"), hash_bytes(b"P4")}
    assert both <= {row["group_sha256"] for row in rows[holding[0]]}


def test_without_patients_a_variation_goes_where_its_image_goes(sets, tmp_path):
    merge(sets, tmp_path / "out", columns={}, test_synthetic=True)
    rows = read_splits(tmp_path / "out")
    found = Counter()
    for each in rows.values():
        real = {row["image_sha256"] for row in each if not row["is_synthetic"]}
        varied = {row["reference_sha256"] for row in each} - {None}
        found["inside"] += len(varied & real)
        found["outside"] += len(varied - real)
    assert found["inside"] > 0 == found["outside"]


def test_a_variation_of_an_image_that_is_not_here_goes_where_its_patient_goes(sets, tmp_path):
    """The real set holds other images of the same patients."""
    for path in sorted((sets / "real").rglob("P*_0.png")):
        target = tmp_path / "real" / path.parent.name / path.name.replace("_0", "_9")
        target.parent.mkdir(parents=True, exist_ok=True)
        patient = int(path.name[1:].partition("_")[0])
        target.write_bytes(encode_image(make_pixels(7000 + patient, 32), "png"))
    settings = MergeSettings(columns=GROUPS, test_synthetic=True)
    summary = merge_sets(tmp_path / "real", [sets / "varied"], tmp_path / "out", settings)
    assert summary["unplaced"] == 0
    rows = read_splits(tmp_path / "out")
    split_of = {
        row["group_sha256"]: split for split, each in rows.items() for row in each
        if not row["is_synthetic"]
    }  # fmt: skip
    synthetic = [(split, row) for split, each in rows.items() for row in each if row["sample_id"]]
    assert len(synthetic) == 40
    assert all(split == split_of[row["group_sha256"]] for split, row in synthetic)
    assert len({split for split, _ in synthetic}) > 1


def test_unknown_origins_are_counted_and_said(sets, tmp_path):
    """Variations of images that are not among the real ones."""
    other = tmp_path / "other" / "tumor"
    other.mkdir(parents=True)
    for index in range(6):
        data = encode_image(make_pixels(9000 + index, 32), "png")
        (other / f"{index}.png").write_bytes(data)
    settings = MergeSettings(validation=0.0, test=0.5)
    summary = merge_sets(other.parent, [sets / "varied"], tmp_path / "out", settings)
    assert summary["unplaced"] == 40
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vary a real image that is not here" in card
    assert "no patient or slide is known" in card


def test_a_given_test_set_is_the_test_split_and_its_patients_leave_train(sets, tmp_path):
    test_set = tmp_path / "held_out" / "tumor"
    test_set.mkdir(parents=True)
    for name, seed in (("P0_9.png", 5001), ("P77_0.png", 5002)):
        (test_set / name).write_bytes(encode_image(make_pixels(seed, 32), "png"))
    summary = merge(sets, tmp_path / "out", test_set=test_set.parent)
    rows = read_splits(tmp_path / "out")["test"]
    assert {row["group_sha256"] for row in rows} == {hash_bytes(b"P0"), hash_bytes(b"P77")}
    assert len(rows) == 4 + 2
    assert summary["units"]["test"] == 2


def test_the_same_run_twice_counts_once(sets, tmp_path):
    shutil.copytree(sets / "plain", tmp_path / "again")
    settings = MergeSettings(columns=GROUPS)
    roots = [sets / "plain", tmp_path / "again"]
    summary = merge_sets(sets / "real", roots, tmp_path / "out", settings)
    assert summary["left_out"]["are in an earlier set already"] == 9


@given(
    units=st.dictionaries(
        st.text("abcdef", min_size=1),
        st.dictionaries(st.sampled_from(["x", "y", None]), st.integers(1, 9), min_size=1),
        min_size=3,
        max_size=40,
    ),
    seed=st.integers(0, 5),
)
def test_every_unit_gets_one_split_and_no_split_stays_empty(units, seed):
    units = {unit: [*counts.items()] for unit, counts in units.items()}
    chosen = assign_splits(units, SHARES, seed)
    assert set(chosen) == set(units)
    assert set(chosen.values()) == set(SHARES)
    assert chosen == assign_splits(dict(reversed(units.items())), SHARES, seed)


def test_an_image_made_of_two_patients_leaks_neither():
    def make(name, group=None, groups=()):
        image = SourceImage(name, "a", group, Path(name))
        return Member(image, "set", bool(groups), "a", name, name, groups=groups)

    real = [make(f"{number}", f"p{number}") for number in range(12)]
    splits = place_members(real, SHARES, 0, False).splits
    first = {split: hash_group(f"p{splits.index(split)}") for split in SHARES}
    pairs = [("train", "validation"), ("train", "test"), ("train", "train")]
    made = [make(f"{pair}", None, tuple(first[each] for each in pair)) for pair in pairs]
    for members in (real + made, real + [replace(m, groups=m.groups[::-1]) for m in made]):
        placed = place_members(members, SHARES, 0, False)
        assert placed.splits[12:] == (LEFT_OUT, LEFT_OUT, "train")
        assert placed.left_out == {SEVERAL: 1, VARIES_TEST: 1}
        let_in = place_members(members, SHARES, 0, True)
        assert let_in.left_out == {SEVERAL: 2}


def test_shares_are_kept_class_by_class():
    totals = {"x": 100, "y": 20}
    units = {f"{name}{n}": [(name, 2)] for name, total in totals.items() for n in range(total)}
    chosen = assign_splits(units, SHARES, 0)
    counts = Counter((unit[0], split) for unit, split in chosen.items())
    assert [counts["x", split] for split in SHARES] == [70, 10, 20]
    assert [counts["y", split] for split in SHARES] == [14, 2, 4]


def test_the_command_and_what_it_refuses(sets, tmp_path):
    base = ["merge", sets / "real", sets / "plain", "--group-pattern", GROUPS["group_pattern"]]
    result = call(*base, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "train: 9 synthetic (stroma 4, tumor 5)" in result.stdout
    assert call(*base, "--out", tmp_path / "out").exit_code == 2
    assert call(*base, "--out", tmp_path / "x", "--test", "0.95").exit_code == 2
    assert call(*base, "--out", tmp_path / "x", "--rename", "tumor").exit_code == 2
    assert not list(tmp_path.glob("x/*"))
    renamed = call(*base, "--out", tmp_path / "y", "--rename", "stroma=tumor", "--json")
    assert json.loads(renamed.stdout)["class_names"] == ["normal", "tumor"]


def test_classes_that_differ_in_spelling_alone_are_refused(sets, tmp_path):
    with pytest.raises(InputError, match=r"--rename"):
        merge(sets, tmp_path / "out", rename={"stroma": "Tumor"})


def test_too_few_patients_are_refused(sets, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for index in range(8):
        data = encode_image(make_pixels(index, 16), "png")
        (real / f"P{index % 2}_{index}.png").write_bytes(data)
    with pytest.raises(InputError, match="2 patients, slides or single images cannot fill 3"):
        merge_sets(real, [sets / "plain"], tmp_path / "out", MergeSettings(columns=GROUPS))


@pytest.mark.stranger
@pytest.mark.parametrize("form", ["bmp", "webp", "tif", "exif"])
def test_another_file_of_the_same_image_is_the_same_image(sets, tmp_path, form):
    real = tmp_path / "real"
    shutil.copytree(sets / "real", real)
    for patient in range(PATIENTS):
        name = "normal" if patient % 2 else "tumor"
        image = Image.open(real / name / f"P{patient}_0.png")
        path = real / name / f"P{patient + 100}_0.{'png' if form == 'exif' else form}"
        if form == "exif":
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
        else:
            image.save(path, **({"lossless": True} if form == "webp" else {}))
    merge_sets(real, [sets / "plain"], tmp_path / "out", MergeSettings(test=0.4, columns=GROUPS))
    shown = {
        split: {
            hash_pixels(decode_image(row["image"]["bytes"], "x"))
            for row in rows
            if not row["is_synthetic"]
        }
        for split, rows in read_splits(tmp_path / "out").items()
    }
    assert sum(map(len, shown.values())) == 48
    assert not shown["train"] & shown["test"]
    assert len(shown["test"]) >= 4


def count_varied(out):
    """Variations by split and by whether the real image that they vary is there too."""
    found = Counter()
    for split, rows in read_splits(out).items():
        real = {hash_pixels(decode_image(r["image"]["bytes"], "x")) for r in rows if not r["model"]}
        for row in rows:
            told = json.loads(row["provenance"] or "{}").get("reference_pixels_sha256")
            if told is not None:
                found[split, told in real] += 1
    return found


@pytest.mark.stranger
def test_a_variation_of_an_image_saved_again_goes_where_that_goes(sets, tmp_path):
    real = save_again(sets / "real", tmp_path / "real")
    for test_synthetic, places in ((True, {"train", "validation", "test"}), (False, {"train"})):
        settings = MergeSettings(test_synthetic=test_synthetic)
        out = tmp_path / str(test_synthetic)
        summary = merge_sets(real, [sets / "varied"], out, settings)
        found = count_varied(out)
        assert {is_there for _, is_there in found} == {True}
        assert {split for split, _ in found} >= places
        assert summary["unplaced"] == 0
        assert (found["test", True] > 0) == test_synthetic
        assert bool(summary["left_out"]) != test_synthetic


def test_rows_that_do_not_tell_the_pixels_are_placed_by_the_file(sets, tmp_path):
    """As factory wrote them before."""
    (tmp_path / "varied" / "data").mkdir(parents=True)
    for path in (sets / "varied" / "data").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.schema.get_field_index("provenance")
        told = [json.loads(text) for text in table["provenance"].to_pylist()]
        assert all(each.pop("reference_pixels_sha256") for each in told)
        texts = pa.array([json.dumps(each) for each in told])
        table = table.set_column(place, "provenance", texts)
        pq.write_table(table, tmp_path / "varied" / "data" / path.name)
    settings = MergeSettings(test_synthetic=True)
    summary = merge_sets(sets / "real", [tmp_path / "varied"], tmp_path / "out", settings)
    assert summary["unplaced"] == 0
    for rows in read_splits(tmp_path / "out").values():
        real = {row["image_sha256"] for row in rows if not row["is_synthetic"]}
        assert {row["reference_sha256"] for row in rows} - {None} <= real


def test_a_training_image_saved_again_in_the_given_test_set_leaves_train(sets, tmp_path):
    test_set = tmp_path / "held_out" / "tumor"
    test_set.mkdir(parents=True)
    Image.open(sets / "real" / "tumor" / "P0_0.png").save(test_set / "P77_0.bmp")
    with listen() as notes:
        merge(sets, tmp_path / "out", test_set=test_set.parent)
    rows = read_splits(tmp_path / "out")
    assert {row["group_sha256"] for row in rows["test"]} == {hash_bytes(b"P0"), hash_bytes(b"P77")}
    assert hash_bytes(b"P0") not in {row["group_sha256"] for row in rows["train"]}
    assert any("4 images of real show images or patients of the test set, 1 of" in n for n in notes)


@pytest.mark.stranger
def test_the_same_pixels_under_two_classes_are_reported(sets, tmp_path):
    real = tmp_path / "real"
    shutil.copytree(sets / "real", real)
    Image.open(real / "tumor" / "P0_0.png").save(real / "normal" / "P0_7.bmp")
    with listen() as notes:
        merge_sets(real, [sets / "plain"], tmp_path / "out", MergeSettings(columns=GROUPS))
    summary = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert summary["conflicts"] == {"normal and tumor": 1}
    assert (
        "**1 images stand under normal and tumor**" in (tmp_path / "out" / "README.md").read_text()
    )
    (note,) = [note for note in notes if "stand under several classes" in note]
    assert "P0_7.bmp (normal) = " in note


def test_concepts_of_rows_are_kept(sets, tmp_path):
    plain = [{"kind": "class", "per_class": {"tumor": 2}}]
    run(write_recipe(tmp_path, conditions=plain, filters=[], terms={}), tmp_path / "named")
    merge_sets(sets / "real", [tmp_path / "named"], tmp_path / "out", MergeSettings(columns=GROUPS))
    rows = [row for each in read_splits(tmp_path / "out").values() for row in each]
    assert [row["concepts"] for row in rows if row["is_synthetic"]] == [["NCIT:C9305"]] * 2
    assert {row["concepts"] for row in rows if not row["is_synthetic"]} == {None}
    data = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert data.filter(lambda row: row["is_synthetic"])[0]["concepts"] == ["NCIT:C9305"]


# --- masks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(sets, tmp_path_factory):
    """Images of masks that were drawn on patients P0 to P5 of the real set."""
    folder = tmp_path_factory.mktemp("masked")
    (folder / "masks").mkdir()
    for patient in range(6):
        mask = Image.new("L", (32, 32))
        mask.paste(1, (patient, 4, 20, 20))
        mask.save(folder / "masks" / f"P{patient}_m.png")
    block = {"kind": "mask", "masks": "masks", "palette": {1: "gland"}, "per_mask": 2, **GROUPS}
    run(
        write_recipe(folder, conditions=[block], filters=[], budget={"attempts": 1}), folder / "run"
    )
    return folder / "run"


def test_masks_pass_and_no_image_of_a_test_patients_mask_is_in_train(sets, masked, tmp_path):
    merge_sets(sets / "real", [masked], tmp_path / "out", MergeSettings(columns=GROUPS))
    splits = read_splits(tmp_path / "out")
    kept = {row["sample_id"]: row["mask"]["bytes"] for row in read_rows(masked)}
    real = {
        split: {row["group_sha256"] for row in rows if not row["is_synthetic"]}
        for split, rows in splits.items()
    }
    made = [(split, row) for split, rows in splits.items() for row in rows if row["is_synthetic"]]
    assert 0 < len(made) < len(kept), "some patients are in test, so that their images are left out"
    for split, row in made:
        assert split != "test"
        assert row["group_sha256"] in real[split]
        assert row["mask"]["bytes"] == kept[row["sample_id"]]
    shown = load_dataset(str(tmp_path / "out"), split="train")
    masks = [row["mask"] for row in shown if row["is_synthetic"]]
    assert masks and all(mask.size == (32, 32) for mask in masks)


def write_rows(folder, rows, first):
    """Parquet files of 20 rows each: tiny images, each of a patient and with a text of its own."""
    (folder / "data").mkdir(parents=True)
    for start in range(0, rows, 20):
        part = [
            {
                "image": {"bytes": encode_image(make_pixels(first + row, 8), "png"), "path": None},
                "class_name": "normal" if row % 2 else "tumor",
                "patient": f"P{first + row // 2}",
                "caption": f"{row} " * 20,
            }
            for row in range(start, min(start + 20, rows))
        ]
        pq.write_table(pa.Table.from_pylist(part), folder / "data" / f"train-{start:05d}.parquet")


def test_a_synthetic_set_may_be_one_file_of_rows(tmp_path):
    write_rows(tmp_path / "real", 8, 0)
    write_rows(tmp_path / "made", 8, 100)
    file = tmp_path / "made" / "data" / "train-00000.parquet"
    merge_sets(tmp_path / "real", [file], tmp_path / "out", MergeSettings())
    merge_sets(tmp_path / "real", [tmp_path / "made"], tmp_path / "folder" / "out", MergeSettings())
    own = [row["image_sha256"] for row in read_splits(tmp_path / "out")["train"]]
    assert own == [row["image_sha256"] for row in read_splits(tmp_path / "folder" / "out")["train"]]


@pytest.mark.parametrize("column", ["sample_id", "model", "reference_sha256", "provenance"])
@pytest.mark.parametrize("cell", [7, b"{}", b"\xff", ["x"], None])
def test_columns_of_our_names_hold_text(tmp_path, column, cell):
    write_rows(tmp_path / "real", 8, 0)
    write_rows(tmp_path / "made", 8, 100)
    path = next((tmp_path / "made" / "data").iterdir())
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, [[cell] * len(table)]), path)
    sets = tmp_path / "real", [tmp_path / "made"], tmp_path / "out", MergeSettings()
    if cell in (b"{}", None):
        assert merge_sets(*sets)["sources"][1]["images"] == 8
        return
    with pytest.raises(
        SourceError, match=rf"#0: column '{column}': want text.*: rename the column"
    ):
        merge_sets(*sets)


@pytest.mark.usefixtures("usual_gc")
def test_an_image_more_costs_memory_a_few_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("factory.publish.merge._BLOCK", 8)
    peaks = []
    for rows in (20, 60, 140):  # the first for what is imported late and kept
        folder = tmp_path / str(rows)
        write_rows(folder / "real", rows, 0)
        write_rows(folder / "made", rows, 10_000)
        settings = MergeSettings(columns={"group_column": "patient"}, rows_per_file=20)
        tracemalloc.start()
        summary = merge_sets(folder / "real", [folder / "made"], folder / "out", settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(summary["units"].values()) == rows // 2
    assert peaks[2] - peaks[1] < 500 * 2 * (140 - 60)  # a member in memory has over 1 kB
