"""The provenance of a row: one model, whose text is what earlier versions wrote too."""

import json

import pytest

from factory.core.errors import DamageError, MismatchError
from factory.data.provenance import Origin, Provenance, read_origin, read_provenance
from tests import ROOT
from tests.running import read_rows

OLD = ROOT / "tests" / "contracts" / "v0.1" / "run"
LEAST = {
    "batch_size": 1,
    "condition": {},
    "generator": {"model": "x"},
    "pixels_sha256": "ab",
}


def dump(**changes):
    return json.dumps(LEAST | changes, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("folder", ["data", "rejected"])
def test_rows_of_earlier_versions_are_read_and_written_back_byte_for_byte(folder):
    rows = read_rows(OLD, folder)
    assert rows
    for row in rows:
        found = read_provenance(row)
        assert found.write() == row["provenance"]
        assert found.generator.model == row["model"]
        assert found.generator.first_guidance == row["guidance_scale"]


@pytest.mark.parametrize("guidance", [2, 2.0, 2.5, None, {"scale": 3, "end": 0.0}])
def test_numbers_and_what_is_not_known_stay_as_they_were(guidance):
    generator = {"guidance_scale": guidance, "model": "x", "temperature": 2}
    text = dump(generator=generator, vector_group_sha256="cd")
    assert read_provenance({"provenance": text}).write() == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "no JSON"),
        (None, "no JSON"),
        ("[1]", "want a JSON object"),
        (json.dumps({**LEAST, "generator": {}}), r"generator\.model: Field required"),
    ],
)
def test_damage_names_the_row(text, problem):
    with pytest.raises(DamageError, match=f"r1: provenance: damaged, .*{problem}"):
        read_provenance({"sample_id": "r1", "provenance": text})


def test_a_newer_layout_is_refused():
    with pytest.raises(MismatchError, match=r"r1: provenance: version 9 of this file"):
        read_provenance({"sample_id": "r1", "provenance": dump(version=Provenance.newest + 8)})


def test_rows_of_others_tell_no_origin():
    assert read_origin({}, "x") == read_origin({"provenance": None}, "x") == Origin()


def test_a_filter_is_a_record_that_keeps_what_it_does_not_know():
    row = {"condition": {}, "batch_size": 1, "pixels_sha256": "x", "generator": {"model": "fake"}}
    told = {"kind": "own", "model": 3, "weights_sha256": None}
    found = Provenance.parse(json.dumps({**row, "filters": [told]}))
    assert found.to_json() == {**row, "filters": [told]}
    (record,) = found.filters
    assert (record.kind, record.get("model"), record.get("encoder")) == ("own", 3, None)
    with pytest.raises(DamageError, match=r"filters\.0\.kind"):
        Provenance.parse(json.dumps({**row, "filters": [{"model": 3}]}))
