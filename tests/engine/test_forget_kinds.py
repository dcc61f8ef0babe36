"""Forgetting a patient whatever real images are used for, in other places, and beyond a run."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factory import api
from factory.core.errors import InputError
from factory.core.files.store import FileStore
from factory.data.records import Condition
from factory.engine.dataset import Dataset
from factory.engine.forget import ForgetOptions
from factory.engine.forgotten import INSTEAD, Forgotten, ForgottenRecord, SparedSeries
from factory.publish.hub import prepare_publication
from factory.publish.verify import VerifyOptions, verify_set
from tests.engine.test_forget import (
    ANNA,
    BERT,
    PATTERN,
    find_named,
    forget,
    hash_name,
    list_marks,
    write_patches,
    write_references,
)
from tests.hub import TOKEN, open_hub
from tests.publish.test_publish import REPO, send
from tests.running import ask, read_rows, run, write_recipe

ENCODER = "color-texture"
ANY = [{"kind": "finite", "min_contrast": 0.0}]
BLOCKS = {
    "translate": {"kind": "translate", "per_image": 2},
    "between": {
        "kind": "between",
        "encoder": ENCODER,
        "per_class": 8,
        "shots": 4,
        "size": 32,
    },
    "prototypes": {
        "kind": "reference",
        "per_class": 6,
        "prototypes": {"per_class": 3, "encoder": ENCODER},
    },
    "embedding": {"kind": "embedding", "encoder": ENCODER, "per_row": 2},
    "stains": {
        "kind": "reference",
        "per_class": 6,
        "shots": 4,
        "strength": 0.3,
    },
}


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """Patches of three patients in two classes."""
    return write_patches(tmp_path_factory.mktemp("patches") / "real")


def list_groups(folder: Path) -> dict[str, tuple]:
    """sample_id -> hashes of patients that a row of a shard tells of, and the row's image."""
    found = {}
    for path in (folder / ".factory/shards").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            told = json.loads(row["provenance"])
            groups = [v for k, v in told.items() if k.endswith("_group_sha256") and v]
            flat = {one for v in groups for one in (v if isinstance(v, list) else [v])}
            found[row["sample_id"]] = (flat, row["image_sha256"])
    return found


SLOW = pytest.mark.slow("test_every_way_to_use_real_images_is_found_and_made_up_for")


@pytest.mark.parametrize(
    "kind",
    [
        "translate",
        "embedding",
        *(pytest.param(each, marks=SLOW) for each in ("between", "prototypes")),
    ],
)
def test_every_way_to_use_real_images_is_found_and_made_up_for(kind, real, tmp_path):
    block = {**BLOCKS[kind], "images": str(real), "group_pattern": PATTERN}
    recipe = write_recipe(tmp_path, conditions=[block], filters=ANY, budget={"attempts": 3})
    done = run(recipe, tmp_path / "run")
    assert done.exit_code == 0
    before = list_groups(tmp_path / "run")
    theirs = {name for name, (groups, _) in before.items() if hash_name(ANNA) in groups}
    assert 0 < len(theirs) < len(before)
    result = forget(tmp_path / "run", ANNA)
    assert result.told["untold"] == 0
    assert result.exit_code == 0 and result.summary.accepted == done.summary.accepted
    after = list_groups(tmp_path / "run")
    assert {k: v for k, v in before.items() if k not in theirs}.items() <= after.items()
    assert not any(hash_name(ANNA) in groups for groups, _ in after.values())
    assert find_named(tmp_path / "run", list_marks(real, ANNA)) == set()
    assert verify_set(Dataset(str(tmp_path / "run")), VerifyOptions(regenerate=2)).is_sound


def test_what_is_asked_for_once_stays_open(real, tmp_path):
    """Images to translate, one each; and images that are there and only judged."""
    block = {"kind": "translate", "images": str(real), "group_pattern": PATTERN}
    recipe = write_recipe(tmp_path, conditions=[block], filters=ANY)
    assert run(recipe, tmp_path / "run").summary.accepted == 12
    result = forget(tmp_path / "run", ANNA)
    assert (result.exit_code, result.summary.accepted, result.summary.asked) == (1, 8, 12)
    ask("judge", "--data", real, "--recipe", recipe, "--out", tmp_path / "judged",
        "--group-pattern", PATTERN)  # fmt: skip
    result = forget(tmp_path / "judged", ANNA)
    assert result.exit_code == 0 and len(read_rows(tmp_path / "judged")) == 8
    assert find_named(tmp_path / "judged", list_marks(real, ANNA)) == set()


def test_donors_of_stains_and_spots_of_a_table_are_found(real, tmp_path):
    """A look that was measured of their image, and rows of RNA with a patient column."""
    donors = write_patches(tmp_path / "donors", (ANNA, "patient-dora"), 1)
    stains = {"images": str(donors), "group_pattern": PATTERN}
    block = {**BLOCKS["stains"], "images": str(real), "group_pattern": PATTERN, "stains": stains}
    recipe = write_recipe(tmp_path, conditions=[block], filters=ANY, budget={"attempts": 8})
    assert run(recipe, tmp_path / "run").exit_code == 0
    told = json.loads(ask("forget", tmp_path / "run", "--group", hash_name("patient-dora"),
                          "--dry-run", "--json"))  # fmt: skip
    assert told["touched_as"].keys() == {"stain"} and told["rows"] > 0
    assert told["untold"] == 0


def test_a_series_is_spared_of_one_patient_and_asks_for_others(real, tmp_path):
    """No request asks for theirs, none for what another asks for, and the rest as before."""
    recipe = write_references(tmp_path, conditions=[_vary(real)])
    plan = api.plan(recipe)
    record = ForgottenRecord(version=1, key="00" * 16, patients=(), rows=0)
    record = record.model_copy(update={"patients": (Forgotten(record).digest(hash_name(ANNA)),)})
    forgotten = Forgotten(record)
    assert forgotten.matches([hash_name(ANNA)]) and not forgotten.matches([hash_name(BERT)])
    for attempts in (1, 2, 6):
        for part in plan.series:
            spared, asked = SparedSeries(part, forgotten, attempts), set()
            for index in range(part.count):
                before, after = part.request_at(index), spared.request_at(index)
                left = [each for each in range(attempts) if each not in after.passed]
                made: list[Condition] = [after.condition_at(each) for each in left]
                assert made and not any(forgotten.matches(each.groups()) for each in made)
                if after.ordinal < INSTEAD:
                    assert made == [before.condition_at(each) for each in left]
                asked |= {(one.key, after.ordinal, n) for one, n in zip(made, left, strict=True)}
            assert len(asked) == len({*asked}) and part.key == spared.key


def _vary(real: Path) -> dict:
    return {"kind": "reference", "images": str(real), "per_class": 9, "shots": 5,
            "strength": 0.3, "group_pattern": PATTERN}  # fmt: skip


@pytest.mark.slow("engine/test_forget.py::test_nothing_names_the_patient_and_the_rest_is_as_it_was")
def test_in_an_object_store(s3, real, tmp_path):
    recipe = write_references(tmp_path, conditions=[_vary(real)])
    assert run(recipe, s3).exit_code == 0
    result = api.forget(s3, ForgetOptions(groups=(hash_name(ANNA),)))
    assert result.exit_code == 0 and result.removed and not result.traces
    files = FileStore(s3)
    for name in files.list_sizes():
        path = tmp_path / "fetched" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.read(name))
    assert find_named(tmp_path / "fetched", list_marks(real, ANNA)) == set()
    assert verify_set(Dataset(s3), VerifyOptions()).is_sound
    assert api.forget(s3, ForgetOptions(groups=(hash_name(ANNA),))).removed == 0


def test_the_published_head_names_them_no_more(real, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    recipe, out = write_references(tmp_path, conditions=[_vary(real)]), tmp_path / "run"
    assert run(recipe, out).exit_code == 0
    with open_hub() as hub:
        assert not send(hub, out, prepare_publication(out)).problems
        first = _write_files(hub.repos[REPO].files, tmp_path / "first")
        assert find_named(first, list_marks(real, ANNA))
        forget(out, ANNA)
        published = prepare_publication(out)
        with pytest.raises(InputError, match="--replace"):
            send(hub, out, published)
        assert not send(hub, out, published, replace=True).problems
        head, tags = hub.repos[REPO].files, hub.repos[REPO].tags
        assert len(tags) == 2
    folder = _write_files(head, tmp_path / "head")
    assert find_named(folder, list_marks(real, ANNA)) == set()
    assert find_named(folder, list_marks(real, BERT))
    assert verify_set(Dataset(str(folder)), VerifyOptions()).is_sound


def _write_files(files, folder: Path) -> Path:
    for name, blob in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(blob.data)
    return folder


def test_merge_refuses_their_images_and_verify_finds_rows_that_are_back(real, tmp_path):
    recipe = write_references(tmp_path, conditions=[_vary(real)])
    out = tmp_path / "run"
    assert run(recipe, out).exit_code == 0
    shutil.copytree(out, tmp_path / "before")
    forget(out, ANNA)
    told = ask("merge", real, out, "--out", tmp_path / "merged", "--group-pattern", PATTERN, code=2)
    assert "made to forget" in told and not (tmp_path / "merged").exists()
    back = next(iter((tmp_path / "before/data").glob("*.parquet")))
    shutil.copy(back, next(iter((out / "data").glob("*.parquet"))))
    assert "FAILED forgotten" in ask("verify", out, code=1)


def test_what_tells_no_patient_is_said(real, tmp_path):
    """Values of nobody known, and stains of nobody known beside references that tell theirs."""
    (tmp_path / "scores.csv").write_text("patient,A\npatient-anna,0.5\npatient-bert,0.1\n")
    block = {"kind": "vector", "vectors": str(tmp_path / "scores.csv"), "ignore": ["patient"]}
    block |= {"per_row": 1}
    recipe = write_recipe(tmp_path / "values", conditions=[block], filters=ANY)
    assert run(recipe, tmp_path / "values/run").exit_code == 0
    told = ask("forget", tmp_path / "values/run", "--group", hash_name(ANNA), code=2)
    assert "rows come from real images or values that tell no patient" in told
    block = {**BLOCKS["stains"], "images": str(real), "group_pattern": PATTERN}
    block |= {"per_class": 1, "stains": {"images": str(real)}}
    recipe = write_recipe(tmp_path / "stains", conditions=[block], filters=ANY)
    assert run(recipe, tmp_path / "stains/run").exit_code == 0
    told = ask("forget", tmp_path / "stains/run", "--group", hash_name(ANNA), "--dry-run")
    assert "NOT TOLD" in told
