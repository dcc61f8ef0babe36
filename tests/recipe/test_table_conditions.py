"""Kinds whose conditions are rows of a table: `embedding` and `vector`, with columns beside."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from factory.core.errors import RecipeError, SourceError
from factory.core.hashing import hash_bytes
from factory.core.text_rows import read_rows as read_text_rows
from factory.data.records import Condition
from factory.data.rows import open_rows
from factory.data.streams import Control
from factory.engine.plan import build_plan
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.conditions.table_series import ConditionTable
from factory.recipe.file import load_recipe
from tests.running import call, read_rows, run

ARRAYS = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
TABLE = {
    "embedding": pa.array(ARRAYS.tolist(), pa.list_(pa.list_(pa.float32(), 4))),
    "tissue": ["tumor", "normal"] * 3,
    "text": ["dense"] * 6,
    "mpp": [0.5, 0.25] * 3,
    "patient": ["p1"] * 3 + ["p2"] * 3,
    "MYC": [0.1] * 6,
}
SCORES = """spot,patient,tissue,MYC,HYPOXIA
1x1,p1,tumor,.5,-1
1x2,p1,normal,,2
1x3,p2,tumor,.5,-1
"""
EMBEDDING = {"kind": "embedding", "embeddings": "e.parquet", "encoder": "uni2-h", "per_row": 2}
BESIDE = {"class_name": "tissue", "caption": "text", "scale": "mpp", "vector": {"names": ["MYC"]}}
VECTOR = {"kind": "vector", "vectors": "v.csv", "count": 7, "ignore": ["spot"], "missing": "zero"}
PLAIN = {"group_column": "patient", "columns": {"class_name": "tissue"}}
TAKES = {
    "embedding": {"encoder": "uni2-h", "dim": 4, "tokens": 2},
    "vector": {"names": ["HYPOXIA", "MYC"]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table(TABLE), tmp_path / "e.parquet", row_group_size=2)
    np.save(tmp_path / "e.npy", ARRAYS)
    (tmp_path / "v.csv").write_text(SCORES)
    return tmp_path


def write(folder: Path, *blocks: dict[str, Any], **taken: Any) -> Path:
    """Writes a recipe of these blocks for a fake model that takes `taken`."""
    entry = {"id": "asked", "base": "fake", **taken}
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "asked.yaml").write_text(yaml.safe_dump(entry))
    recipe = {
        "name": "table",
        "seed": 3,
        "catalogs": ["."],
        "generator": {"model": "asked", "batch_size": 4},
        "conditions": list(blocks),
        "filters": [{"kind": "finite"}],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def list_problems(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe(path))
    return str(caught.value)


def test_rows_ask_for_images_and_every_row_is_made_again_from_itself(folder: Path) -> None:
    joint = {**EMBEDDING, "columns": BESIDE, "group_column": "patient"}
    recipe = write(folder, joint, {**VECTOR, **PLAIN}, **TAKES)
    # The row with a vector of one name beside its embedding is refused by the model that has two.
    assert "asked needs the value 'HYPOXIA'" in list_problems(recipe)
    recipe = write(folder, joint, {**VECTOR, **PLAIN})
    out = folder / "run"
    assert run(recipe, out).exit_code == 0
    (folder / "e.parquet").unlink()  # rows keep what they are made of
    words = ["verify", str(out), "--regenerate", "19", "--base", str(folder)]
    told = call(*words)
    assert told.output.count(": exact") == 19 and told.exit_code == 0, told.output
    rows = sorted(read_rows(out), key=lambda row: (row["embedding"] is None, row["ordinal"]))
    assert len(rows) == 12 + 7 and len({row["image_sha256"] for row in rows}) == 19
    first = next(row for row in rows if row["embedding"] == ARRAYS[1].tolist())
    shown = {name: first[name] for name in ("class_name", "caption", "asked_mpp", "vector")}
    assert shown == {"class_name": "normal", "caption": "dense", "asked_mpp": 0.25, "vector": [0.1]}
    assert (first["embedding_encoder"], first["vector_names"]) == ("uni2-h", ["MYC"])
    assert json.loads(first["provenance"])["embedding_group_sha256"] == hash_bytes(b"p1")
    scored = [row for row in rows if row["embedding"] is None]
    assert {tuple(row["vector_names"]) for row in scored} == {("HYPOXIA", "MYC")}
    unknown = [row for row in scored if row["vector"] == [2.0, 0.0]]
    assert [json.loads(row["provenance"])["vector_missing"] for row in unknown] == [["MYC"]] * 2
    same = [row["ordinal"] for row in scored if row["vector"] == [-1.0, 0.5]]
    assert sorted(same) == [0, 1, 2, 3, 4]  # two rows that ask for the same


def test_patients_of_a_finished_run_go_with_its_embeddings(folder: Path) -> None:
    block = {**EMBEDDING, "per_row": 1, "group_column": "patient"}
    assert run(write(folder, block), folder / "run").exit_code == 0
    loaded = load_recipe(write(folder, {**EMBEDDING, "embeddings": "run", "per_row": 1}))
    series = build_plan(loaded.recipe, loaded.session).series[0]
    found = [series.request_at(index).condition.streams[0].groups() for index in range(6)]
    assert sorted(found) == sorted([(hash_bytes(b"p1"),)] * 3 + [(hash_bytes(b"p2"),)] * 3)
    table = {"embedding": TABLE["embedding"], "provenance": ["TCGA"] * 6, "sample_id": ["a"] * 6}
    pq.write_table(pa.table(table), folder / "e.parquet")  # no rows of factory
    loaded = load_recipe(write(folder, EMBEDDING))
    check_recipe(loaded)
    series = build_plan(loaded.recipe, loaded.session).series[0]
    assert series.request_at(0).condition.streams[0].groups() == ()


def test_a_higher_count_adds_requests_and_changes_none(folder: Path) -> None:
    loaded = load_recipe(write(folder, {**VECTOR, **PLAIN}))
    few = build_plan(loaded.recipe, loaded.session).series[0]
    loaded = load_recipe(write(folder, {**VECTOR, **PLAIN, "count": 70}))
    many = build_plan(loaded.recipe, loaded.session).series[0]
    assert (few.key, few.count, many.count) == (many.key, 7, 70)
    requests = [many.request_at(index) for index in range(70)]
    assert requests[:7] == [few.request_at(index) for index in range(7)]
    assert len({(each.condition.key, each.ordinal) for each in requests}) == 70
    assert few.class_names == ("tumor", "normal")


def test_arrays_are_the_same_conditions_whatever_file_they_are_in(folder: Path) -> None:
    save_file({"uni": ARRAYS, "other": ARRAYS[:, 0]}, folder / "e.safetensors")
    lines = [json.dumps({"uni": each.tolist()}) for each in ARRAYS]
    (folder / "e.jsonl").write_text("\n".join(lines))
    from datasets import Array2D, Dataset, Features

    features = Features({"uni": Array2D((2, 4), "float32")})
    Dataset.from_dict({"uni": ARRAYS.tolist()}, features).save_to_disk(folder / "saved")
    keys = set()
    for name, column in (
        ("e.parquet", "embedding"),
        ("e.npy", None),
        ("e.safetensors", "uni"),
        ("e.jsonl", None),
        ("saved", None),
    ):
        block = {**EMBEDDING, "embeddings": name, **({"column": column} if column else {})}
        loaded = load_recipe(write(folder, block))
        check_recipe(loaded)
        keys.add(build_plan(loaded.recipe, loaded.session).series[0].key)
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ({"encoder": "uni"}, r"embeddings: .*e.parquet#0: asked takes embeddings of uni2-h"),
        ({"encoder": "my-own"}, "asked takes embeddings of uni2-h, got my-own"),
        ({"column": "emb"}, r"embeddings: no column 'emb': .*did you mean 'embedding'"),
        ({"column": "text"}, r"embeddings: .*#0: text: want a list of numbers, got str"),
        ({"columns": {"smell": "text"}}, r"columns.smell: no stream that columns give"),
        ({"columns": {"class_name": "typ"}}, r"columns.class_name: .*e.parquet: no column 'typ'"),
        ({"columns": {"vector": {"names": ["A"]}}}, r"columns.vector: .*e.parquet: no column 'A'"),
        ({"columns": {"scale": "text"}}, r"#0: text: want a number, got 'dense'"),
        ({"columns": {"embedding": "text"}}, r"columns.embedding: no stream that columns give"),
        ({"columns": {"vector": {"name": []}}}, r"columns.vector: names: field required"),
        ({"columns": {"reference": "text"}}, r"columns.reference: no stream that columns give"),
        ({"group_column": "who"}, r"group_column: .*e.parquet: no column 'who'"),
        ({"count": 3}, "takes either per_row or count: set one"),
        ({"embeddings": "none.npy"}, "none.npy: no such file"),
        ({"embeddings": "recipe.yaml"}, "recipe.yaml"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_line_and_field(
    folder: Path, block: dict[str, Any], fault: str
) -> None:
    path = write(folder, {**EMBEDDING, **block}, **TAKES)
    try:
        told = list_problems(path)
    except RecipeError as error:
        told = str(error)
    assert re.search(fault, told), told
    assert f"{path}:" in told and "conditions[0]" in told


def test_arrays_of_another_shape_and_numbers_that_are_none_are_refused(folder: Path) -> None:
    for name, array, fault in (
        ("wide", ARRAYS[..., :3], "takes 2 x 4 (tokens x dim), got 2 x 3"),
        ("few", ARRAYS[:, :1], "takes 2 x 4 (tokens x dim), got 1 x 4"),
        ("deep", ARRAYS[..., None], "want (tokens, dim)"),
        ("nan", np.where(ARRAYS > 1, np.nan, ARRAYS), "NaN or infinite"),
        ("text", ARRAYS.astype(str), "want numbers"),
    ):
        np.save(folder / f"{name}.npy", array)
        told = list_problems(write(folder, {**EMBEDDING, "embeddings": f"{name}.npy"}, **TAKES))
        assert fault in told and "conditions[0].embeddings" in told, (name, told)


def test_a_column_may_name_the_masks_beside_a_table(folder: Path) -> None:
    mask = {"column": "mask", "palette": {1: "gland"}}
    block = {"kind": "vector", "vectors": "v.csv", "per_row": 1, "columns": {"control": mask}}
    labels = np.zeros((64, 64), np.uint8)
    labels[8:40, 8:40] = 1
    (folder / "masks").mkdir()
    Image.fromarray(labels).save(folder / "masks" / "a.png")
    (folder / "v.csv").write_text("MYC,mask\n1,masks/a.png\n2,masks/a.png\n")
    path = write(folder, block, optional=["vector", "control"])
    loaded = load_recipe(path)
    check_recipe(loaded)
    condition = build_plan(loaded.recipe, loaded.session).series[0].request_at(1).condition
    control = condition.get(Control)
    assert control is not None and np.array_equal(control.load(64, 64), labels)
    for name, fault in (("../a.png", "is not below"), ("masks/b.png", "cannot be read")):
        (folder / "v.csv").write_text(f"MYC,mask\n1,{name}\n")
        assert fault in list_problems(path)
    Image.fromarray(labels[:32]).save(folder / "masks" / "a.png")
    (folder / "v.csv").write_text("MYC,mask\n1,masks/a.png\n2,masks/a.png\n")
    told = list_problems(path)
    assert told.count("its mask has 64 x 32 px, but 64 x 64 px are asked for: take resize") == 1
    resized = {**block, "columns": {"control": {**mask, "fit": "resize"}}}
    check_recipe(load_recipe(write(folder, resized, optional=["vector", "control"])))
    path = write(folder, block, optional=["vector", "control"])
    Image.fromarray(labels * 7).save(folder / "masks" / "a.png")
    (folder / "v.csv").write_text("MYC,mask\n1,masks/a.png\n")
    assert "has the id 7, which the palette does not name" in list_problems(path)


@pytest.mark.parametrize(
    ("palette", "fault"),
    [
        ({300: "gland"}, r"columns.control: palette.300.*less than or equal to 255"),
        ({0: "gland"}, r"columns.control: palette.0.*greater than or equal to 1"),
        ({-1: "gland"}, r"columns.control: palette.-1.*greater than or equal to 1"),
        ({1: "gland", 2: "gland"}, r"columns.control: palette: .*a name stands twice"),
        ({}, r"columns.control: palette: .*at least 1"),
    ],
)
def test_palettes_beside_a_table_are_checked_as_those_of_masks(
    folder: Path, palette: dict[int, str], fault: str
) -> None:
    (folder / "v.csv").write_text("MYC,mask\n1,a.png\n")
    columns = {"control": {"column": "mask", "palette": palette}}
    block = {"kind": "vector", "vectors": "v.csv", "per_row": 1, "columns": columns}
    assert re.search(fault, list_problems(write(folder, block))), fault


def test_many_bad_rows_are_counted(folder: Path) -> None:
    np.save(folder / "e.npy", np.full((40, 4), np.inf))
    told = list_problems(write(folder, {**EMBEDDING, "embeddings": "e.npy"}))
    assert told.count("NaN or infinite") == 5 and "and 35 rows more" in told


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"missing": "refuse"}, r"v.csv:3: MYC: missing or NaN: give it, or set missing: zero"),
        ({"ignore": []}, r"v.csv:2: spot: want a number, got '1x1'"),
        ({"ignore": ["spt"]}, r"ignore: no column 'spt': did you mean 'spot'"),
        ({"names": ["MYC"]}, r"asked needs the value 'HYPOXIA': give it"),
        ({"names": ["MYC", "MTOR"]}, r"no column 'MTOR'"),
        ({"columns": {}}, r"v.csv:2: tissue: want a number, got 'tumor'"),
    ],
)
def test_values_are_checked_by_name(folder: Path, changes: dict[str, Any], fault: str) -> None:
    told = list_problems(write(folder, {**VECTOR, **PLAIN, **changes}, **TAKES))
    assert re.search(fault, told), told


def test_a_model_that_needs_more_or_takes_less_says_so(folder: Path) -> None:
    block = {**VECTOR, **PLAIN}
    told = list_problems(write(folder, block, required=["class_name", "scale", "vector"]))
    assert "conditions[0].columns: asked needs scale too: name its column" in told
    told = list_problems(write(folder, block, optional=["vector"]))
    assert "conditions[0].columns.class_name: asked takes no class_name: remove it" in told
    told = list_problems(write(folder, block, class_names=["tumor", "stroma"]))
    assert "no class 'normal' in asked" in told


def test_terms_and_content_of_a_table(folder: Path) -> None:
    licence = {"id": "cc-by-nc-4.0", "date_read": "2026-11-26"}
    loaded = load_recipe(write(folder, {**VECTOR, **PLAIN, "licence": licence}))
    (term,) = loaded.recipe.blocks[0].terms(None)
    assert (term.role, term.name, term.id) == ("vector table", "v.csv", "cc-by-nc-4.0")
    content = loaded.recipe.blocks[0].describe_content()
    assert "vectors" not in content and "licence" not in content


def test_rows_of_large_files_are_read_a_group_at_a_time(folder: Path) -> None:
    rows = open_rows(folder / "e.parquet")
    assert (len(rows), rows.header[0]) == (6, "embedding")
    found = [rows.read(index, ["embedding", "mpp"]) for index in (5, 0, 3)]
    assert [each["embedding"] for each in found] == [ARRAYS[i].tolist() for i in (5, 0, 3)]
    assert rows.place(3).endswith("e.parquet#3")


def test_rows_of_a_group_are_converted_together_and_stay_in_order(tmp_path: Path) -> None:
    numbers = list(range(100))
    pq.write_table(pa.table({"a": numbers}), tmp_path / "T.PARQUET", row_group_size=40)
    rows = open_rows(tmp_path / "T.PARQUET")
    order = [99, 0, 31, 32, 39, 40, 79, 80, *numbers]
    assert [rows.read(index, ["a"])["a"] for index in order] == order


def test_rows_of_text_are_read_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffk,text\r\n1,"two\r\nlines"\r\n\r\n2,é\u2028x\r\n3,"a ""b"""'.encode())
    rows = open_rows(path)
    found = [dict(rows.read(index, ["k", "text"])) for index in (2, 0, 1)]
    assert [each["text"] for each in found] == ['a "b"', "two\nlines", "é\u2028x"]
    assert [rows.place(index)[-2:] for index in range(3)] == [":2", ":5", ":6"]
    assert sorted(map(str, found)) == sorted(str(row) for _, row in read_text_rows(path))
    (tmp_path / "a.jsonl").write_text('{"k": 1}\n\n{"k": [2, "é"]}\n')
    lines = open_rows(tmp_path / "a.jsonl")
    assert [lines.read(index, ["k"])["k"] for index in (1, 0)] == [[2, "é"], 1]
    path.write_text("k,text\n4,other\n")  # nothing of it is in memory
    with pytest.raises(SourceError, match=r"a\.csv: changed since its rows were read"):
        rows.read(0, ["k"])


def test_a_check_reads_every_row_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ConditionTable.read
    counted: list[int] = []

    def count(table: ConditionTable, index: int) -> Condition:
        counted.append(index)
        return read(table, index)

    monkeypatch.setattr(ConditionTable, "read", count)
    check_recipe(load_recipe(write(folder, {**EMBEDDING, "columns": BESIDE})))
    assert counted == [0, 1, 2, 3, 4, 5]


def test_arrays_give_labels_and_say_which_types_they_cannot(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        "uni": torch.from_numpy(ARRAYS),
        "label": torch.arange(6),
        "half": torch.from_numpy(ARRAYS).bfloat16(),
        "step": torch.tensor(3.0),
    }
    save_torch(tensors, folder / "E.SAFETENSORS")
    np.save(folder / "e.NPY", ARRAYS)
    (folder / "e.NPY.npy").rename(folder / "E.NPY")
    check_recipe(load_recipe(write(folder, {**EMBEDDING, "embeddings": "E.NPY"}, **TAKES)))
    block = {**EMBEDDING, "embeddings": "E.SAFETENSORS", "columns": {"class_name": "label"}}
    loaded = load_recipe(write(folder, {**block, "column": "uni"}, **TAKES))
    check_recipe(loaded)
    series = build_plan(loaded.recipe, loaded.session).series[0]
    assert series.class_names == ("0", "1", "2", "3", "4", "5")
    told = list_problems(write(folder, {**block, "column": "half"}, **TAKES))
    assert "E.SAFETENSORS: tensor 'half' is of BF16: save it as float32" in told


def test_columns_that_repeat_and_other_delimiters_are_told_with_their_file(folder: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["A", "A"])
    pq.write_table(twice, folder / "v.parquet")
    block = {"kind": "vector", "vectors": "v.parquet", "per_row": 1}
    told = list_problems(write(folder, block))
    assert "v.parquet: column 'A' stands twice: rename or remove one" in told
    (folder / "v.csv").write_text("A;B\n0,5;1\n")
    told = list_problems(write(folder, {**block, "vectors": "v.csv"}))
    assert "the header names 1: save it with ',' between fields, not ';'" in told
