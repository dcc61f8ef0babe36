"""croissant.json: valid for mlcroissant, and its records are the rows, read offline."""

import hashlib
import json

import mlcroissant as mlc
import pyarrow.parquet as pq
import pytest

from tests.running import read_rows, run, write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("croissant")
    card = {"license": "cc-by-4.0", "authors": ["Doe, Jane"], "description": "For a test."}
    run(write_recipe(folder, card=card, output={"rows_per_file": 6}), folder / "run")
    return folder / "run"


def read_jsonld(made):
    return json.loads((made / "croissant.json").read_text())


def test_it_passes_the_librarys_own_validation(made):
    data_set = mlc.Dataset(jsonld=made / "croissant.json")
    assert not data_set.metadata.issues.errors
    assert data_set.metadata.name == "test"
    assert [each.id for each in data_set.metadata.record_sets] == ["default", "rejected"]


def test_records_are_the_rows(made):
    data_set = mlc.Dataset(jsonld=made / "croissant.json")
    rows = {row["sample_id"]: row for row in read_rows(made)}
    records = list(data_set.records("default"))
    assert len(records) == len(rows) == 23
    for record in records:
        row = rows.pop(record["default/sample_id"].decode())
        assert record["default/label"] == row["label"]
        assert record["default/image"].size == (row["width"], row["height"])
        scores = record["default/scores"]
        found = {name.rpartition("/")[2]: value for name, value in scores.items()}
        assert found == row["scores"]
    assert not rows
    rejected = list(data_set.records("rejected"))
    assert len(rejected) == len(read_rows(made, "rejected"))
    assert all(record["rejected/status"] for record in rejected)


def test_files_have_their_hashes_and_sizes(made):
    objects = {each["@id"]: each for each in read_jsonld(made)["distribution"]}
    paths = sorted([*made.glob("data/*.parquet"), *made.glob("rejected/*.parquet")])
    assert len(paths) > 2
    for path in paths:
        described = objects.pop(str(path.relative_to(made)))
        assert described["@type"] == "cr:FileObject"
        assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert described["contentSize"] == f"{path.stat().st_size} B"
    assert {each["@type"] for each in objects.values()} == {"cr:FileSet"}


def test_every_column_is_a_field(made):
    for records, folder in zip(read_jsonld(made)["recordSet"], ("data", "rejected"), strict=True):
        schema = pq.read_schema(next((made / folder).glob("*.parquet")))
        assert [each["@id"].partition("/")[2] for each in records["field"]] == schema.names


def test_responsible_ai_fields_come_from_the_run(made):
    found = read_jsonld(made)
    summary = json.loads((made / "summary.json").read_text())
    assert found["rai:hasSyntheticData"] is True
    assert found["rai:dataCollectionType"] == "Synthetic"
    assert summary["recipe_sha256"] in found["rai:dataCollection"]
    assert f"{summary['generated']:,} candidates" in found["rai:dataCollection"]
    for name in ("dataBiases", "dataLimitations", "dataUseCases", "dataAnnotationProtocol"):
        assert found[f"rai:{name}"], name
    assert found["conformsTo"] == [
        "http://mlcommons.org/croissant/1.0",
        "http://mlcommons.org/croissant/RAI/1.0",
    ]
    assert found["license"] == "https://creativecommons.org/licenses/by/4.0/legalcode"
    assert str(made) not in json.dumps(found)


def test_the_text_is_the_same_every_time(made):
    from factory.engine.dataset import Dataset
    from factory.publish.card import build_documents, collect_facts

    dataset = Dataset(str(made))
    documents = build_documents(dataset, collect_facts(dataset))
    assert documents["croissant.json"] == (made / "croissant.json").read_bytes()
    assert documents["README.md"] == (made / "README.md").read_bytes()
