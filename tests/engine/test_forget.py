"""`factory forget`: nothing of a patient is left, and the rest is byte for byte as it was."""

import hashlib
import json
import shutil
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory import api
from factory.api import train_classifier
from factory.core.errors import InputError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, hash_pixels
from factory.data.patients import PATIENTS as PATIENTS_FILE
from factory.data.patients import describe_patients, write_patients
from factory.data.review.answers import Answer
from factory.data.review.store import ReviewStore
from factory.engine.dataset import Dataset
from factory.engine.forget import ForgetOptions
from factory.engine.forget.look import look
from factory.engine.forget.traces import clean_later, find_traces
from factory.engine.forget.trained import Traced, Trained, trace_trained
from factory.engine.forgotten import FORGOTTEN, Forgotten, ForgottenRecord, read_forgotten
from factory.engine.later import compute_later, read_later, write_later
from factory.engine.run import read_status
from factory.engine.run_folder import RunFolder
from factory.engine.summary import read_recipe
from factory.filters.later import Gathered
from factory.publish.hub import prepare_publication
from factory.publish.review.drawing import draw_review
from factory.publish.verify import VerifyOptions, verify_set
from factory.recipe.file import load_recipe
from factory.train.classifier.settings import ClassifierSettings
from tests import forked, killer
from tests.engine.test_parts import run_and_die
from tests.running import ask, call, read_json, read_rows, run, stop_after, write_recipe

ANNA, BERT, CARL = PATIENTS = ("patient-anna", "patient-bert", "patient-carl")
PATTERN = r"^([a-z-]+)_"
NEAR = 0.999


def hash_name(name: str) -> str:
    """The hash that rows have of a patient."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_patches(folder: Path, patients=PATIENTS, each: int = 2, size: int = 32) -> Path:
    """Writes patches of noise for each patient, in two classes."""
    draw = np.random.default_rng(0)
    for name in ("normal", "tumor"):
        (folder / name).mkdir(parents=True)
        for patient in patients:
            for number in range(each):
                base = draw.integers(60, 220, 3) + draw.normal(0, 40, (size, size, 3))
                pixels = np.clip(base, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{patient}_{name}{number}.png")
    return folder


def write_references(folder: Path, **changes) -> Path:
    """A recipe that varies five shots of each class, of three patients."""
    block = {"kind": "reference", "images": str(folder / "real"), "per_class": 10, "shots": 5}
    block |= {"strength": 0.3, "group_pattern": PATTERN}
    given = {
        "conditions": [block],
        "filters": [{"kind": "finite", "min_contrast": 0.0}],
        "dedup": {"max_similarity": NEAR},
        "budget": {"attempts": 6},
        **changes,
    }
    return write_recipe(folder, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Real images, a recipe, and a finished run of it."""
    folder = tmp_path_factory.mktemp("made")
    write_patches(folder / "real")
    assert run(write_references(folder), folder / "run").exit_code == 0
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the run to forget in."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def list_marks(real: Path, patient: str) -> set[str]:
    """All that may name a patient's images: names of files, hashes of bytes and of pixels."""
    marks = {patient, hash_name(patient)}
    for path in real.rglob(f"{patient}_*"):
        data = path.read_bytes()
        marks |= {path.name, hash_bytes(data), hash_pixels(decode_image(data, "x"))}
    return marks


def find_named(folder: Path, marks: set[str]) -> set[str]:
    """Names of files that hold one of these texts, tables decoded: no code of factory's own."""
    found = set()
    for path in (each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += repr(pq.read_table(path).to_pylist()).encode()
        if any(mark.encode() in data for mark in marks):
            found.add(str(path.relative_to(folder)))
    return found


def list_candidates(folder: Path) -> dict[str, tuple]:
    """sample_id -> patient and all that a row of a shard is, image bytes among it."""
    found = {}
    for path in sorted((folder / ".factory/shards").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            group = json.loads(row["provenance"])["reference_group_sha256"]
            found[row["sample_id"]] = (group, row["image_sha256"], repr(row))
    return found


def list_files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def forget(folder, *patients, **options):
    """Forgets patients in this process."""
    asked = ForgetOptions(groups=tuple(map(hash_name, patients)), **options)
    return api.forget(folder, asked)


def assert_gone(made: Path, folder: Path, *patients: str) -> None:
    """Nothing names the patients, all others' rows are as they were, and the set is sound."""
    for patient in patients:
        assert find_named(folder, list_marks(made / "real", patient)) == set()
    gone = set(map(hash_name, patients))
    before, after = list_candidates(made / "run"), list_candidates(folder)
    others = {name: row for name, row in before.items() if row[0] not in gone}
    assert 0 < len(others) < len(before)
    assert {name: after.get(name) for name in others} == others
    assert not any(row[0] in gone for row in after.values())
    report = verify_set(Dataset(str(folder)), VerifyOptions())
    assert report.is_sound, report.failures
    assert report.checked["forgotten"] > len(others)


def answer_all(folder: Path) -> int:
    """Lets a reader accept every accepted image; returns how many cases that are."""
    dataset, store = Dataset(str(folder)), ReviewStore(folder)
    reading, cases = draw_review(dataset, None, 0, False)
    store.add_reading(reading, cases)
    reader = store.enter("R", "pathologist")
    answers = [
        Answer(key=f"{each.id:>08}", case=each.id, seconds=1.0, verdict="accept") for each in cases
    ]
    store.add_answers(reading.id, reader.number, answers)
    return len(cases)


# --- all of it goes, and nothing else ------------------------------------------------------------


def test_nothing_names_the_patient_and_the_rest_is_as_it_was(made, copied):
    shards = list_files(copied / ".factory/shards")
    told = ask("forget", copied, "--group", hash_name(ANNA), "--dry-run")
    assert "would be removed" in told and list_files(copied / ".factory/shards") == shards
    printed = ask("forget", copied, "--group", hash_name(ANNA))
    assert "topped up: 20 of 20" in printed and "no file of the folder names" in printed
    assert_gone(made, copied, ANNA)
    kept = {n: d for n, d in list_files(copied / ".factory/shards").items() if n in shards}
    assert kept and all(shards[n] == d for n, d in kept.items() if n.endswith(".parquet"))
    record = read_json(copied / FORGOTTEN)
    told = {"patients": 1, "rows": record["rows"]}
    assert record["rows"] == count_rows(made / "run", ANNA) and record["removing"] is None
    assert read_json(copied / "summary.json")["forgotten"] == told
    assert "On request" in (copied / "README.md").read_text()


@pytest.mark.slow("test_nothing_names_the_patient_and_the_rest_is_as_it_was")
def test_what_shows_them_beside_the_rows_goes(made, copied):
    """After a report, an evaluation with file names, and a review by a person."""
    marks = list_marks(made / "real", ANNA)
    (copied / "evaluation").mkdir()
    ask("evaluate", "copies", "--real", made / "real", "--synthetic", copied, "--json",
        copied / "evaluation/copies.json")  # fmt: skip
    ask("report", copied, "--base", made)
    cases = answer_all(copied)
    named = find_named(copied, marks)
    assert {"evaluation/copies.json", "data/train-00000-of-00001.parquet"} <= named
    printed = ask("forget", copied, "--group", hash_name(ANNA))
    assert "removed evaluation, report.html: measure" in printed
    assert_gone(made, copied, ANNA)
    assert not (copied / "evaluation").exists() and not (copied / "report.html").exists()
    store = ReviewStore(copied)
    (reading,) = store.list_readings()
    left = store.list_cases(reading.id)
    assert 0 < len(left) < cases and store.count_kept() == len(left)
    assert {case.images[0].key for case in left} <= set(list_candidates(copied))
    with sqlite3.connect(copied / ".factory/review.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    assert forget(copied, BERT).exit_code == 0, "the last patient fills all"
    assert_gone(made, copied, ANNA, BERT)
    assert len(read_json(copied / FORGOTTEN)["patients"]) == 2


@pytest.mark.slow("test_forgetting_twice_changes_nothing_more")
def test_running_growing_and_refiltering_bring_nothing_back(made, copied):
    forget(copied, ANNA)
    again = run(made / "recipe.yaml", copied)
    assert again.exit_code == 0 and again.summary.accepted == 20
    grown = run(write_references_of(made, copied.parent, 14), copied, extend=True)
    assert grown.summary.accepted == 28
    ask("refilter", copied, "--set", "filters.finite.min_contrast=0.01")
    assert_gone(made, copied, ANNA)


def test_scores_are_kept_without_rows_that_go(copied):
    """Those that decide are written anew, others removed; a second call changes nothing."""
    folder, (gone, stays, *_) = RunFolder(str(copied)), list_candidates(copied)
    scores = {name: {"review": 1.0} for name in (gone, stays)}
    digest = compute_later({}, scores)
    write_later(folder, {digest: Gathered({}, scores), "unused": Gathered({}, scores)})
    recipe = read_json(copied / "recipe.json")
    recipe["filters"].append({"kind": "review", "later": digest})
    (copied / "recipe.json").write_text(json.dumps(recipe))
    clean_later(folder, {gone})
    files = list_files(copied)
    assert read_later(folder, read_recipe(folder)).scores == {stays: {"review": 1.0}}
    assert len(list_files(copied / ".factory/later")) == 1
    clean_later(folder, {gone})
    assert list_files(copied) == files


@pytest.mark.slow("test_scores_are_kept_without_rows_that_go")
def test_scores_that_people_gave_of_their_rows_go(made, copied):
    """After a review by which the set was decided: no id of a removed row is left anywhere."""
    answer_all(copied)
    ask("refilter", copied, "--set", "filters.review.min_reviewers=0")
    ask("refilter", copied, "--set", "filters.review.min_reviewers=1")
    theirs = {name for name, row in list_candidates(copied).items() if row[0] == hash_name(ANNA)}
    (scores,) = (copied / ".factory/later").iterdir()
    others = read_json(scores)["scores"].keys() - theirs
    assert find_named(copied, theirs) >= {f".factory/later/{scores.name}"} and others
    killed = forked.wait(
        forked.start(
            killer.run_armed, 4, "before", ["forget", str(copied), "--group", hash_name(ANNA)]
        )
    )
    assert killed == -signal.SIGKILL
    result = forget(copied, ANNA)
    assert "was refiltered" in result.failed and find_named(copied, theirs) == set()
    assert_gone(made, copied, ANNA)
    (left,) = (copied / ".factory/later").iterdir()
    assert read_json(left)["scores"].keys() == others
    assert {row["sample_id"] for row in read_rows(copied)} == others


def write_references_of(made: Path, folder: Path, per_class: int) -> Path:
    """The recipe of the run, grown."""
    block = {"kind": "reference", "images": str(made / "real"), "per_class": per_class, "shots": 5}
    block |= {"strength": 0.3, "group_pattern": PATTERN}
    return write_references(folder, conditions=[block])


def test_forgetting_twice_changes_nothing_more(made, copied):
    assert forget(copied, ANNA).exit_code == 0
    before = list_files(copied)
    again = forget(copied, ANNA)
    assert again.exit_code == 0 and again.removed == 0
    assert list_files(copied) == before


def test_what_cannot_be_forgotten_is_refused_and_nothing_is_touched(made, copied, tmp_path):
    before = list_files(copied)
    assert "is of" in ask("forget", copied, "--group", hash_name("nobody"), code=2)
    for wrong in ("abc", ANNA, hash_name(ANNA).upper()):
        told = ask("forget", copied, "--group", wrong, code=2)
        assert f"0-9 and a-f: where that is the name, printf %s {wrong}" in told
    everyone = [word for each in PATIENTS for word in ("--group", hash_name(each))]
    assert "--yes removes them" in ask("forget", copied, *everyone, code=2)
    assert "not a run folder" in ask("forget", made / "real", *everyone, code=2)
    assert list_files(copied) == before
    for name in (".factory",):
        shutil.copytree(copied, tmp_path / "copy", ignore=shutil.ignore_patterns(name))
    assert "copy of a data set" in ask("forget", tmp_path / "copy", *everyone, code=2)
    with RunFolder(str(copied)).hold("run"):
        told = ask("forget", copied, "--group", hash_name(ANNA), code=2)
    assert "held by" in told and list_files(copied) == before


def test_all_patients_may_go_where_it_is_said(made, copied):
    result = forget(copied, *PATIENTS, yes=True)
    assert result.exit_code == 1 and result.summary.accepted == 0
    assert list_candidates(copied) == {} and read_rows(copied) == []
    assert verify_set(Dataset(str(copied)), VerifyOptions()).is_sound


def test_an_unfinished_run_forgets_and_goes_on_without_them(made, tmp_path):
    recipe, out = made / "recipe.yaml", tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out, notify=stop_after(3))
    result = forget(out, ANNA)
    assert "was not finished" in result.open_end and result.exit_code == 0 and result.removed
    assert find_named(out, list_marks(made / "real", ANNA)) == set()
    assert run(recipe, out).exit_code == 0
    assert find_named(out, list_marks(made / "real", ANNA)) == set()
    assert verify_set(Dataset(str(out)), VerifyOptions()).is_sound


@pytest.mark.slow("test_an_unfinished_run_forgets_and_goes_on_without_them")
def test_parts_of_a_shard_that_was_killed_forget_too(made, tmp_path):
    """What an unfinished shard keeps of theirs goes, the rest is used, and no more is made."""
    recipe, out = write_references_of(made, tmp_path, 24), tmp_path / "run"
    command = ["run", str(recipe), "--out", str(out), "--set", "output.shard_size=24"]
    killed = forked.wait(forked.start(run_and_die, 4, command))
    assert killed == -signal.SIGKILL
    parts = sorted((out / ".factory/parts").glob("*.json"))
    assert parts and find_named(out, list_marks(made / "real", ANNA))
    held = sum(read_json(path)["rows"] for path in parts)
    assert forget(out, ANNA).exit_code == 0
    assert find_named(out, list_marks(made / "real", ANNA)) == set()
    left = sum(read_json(path)["rows"] for path in parts)
    assert 0 < left < held
    ask(*command)
    assert read_rows(out) and find_named(out, list_marks(made / "real", ANNA)) == set()
    assert verify_set(Dataset(str(out)), VerifyOptions()).is_sound


def test_images_taken_away_before_are_told_and_the_rest_is_done(made, tmp_path):
    write_patches(tmp_path / "real")
    recipe = write_references(tmp_path)
    assert run(recipe, tmp_path / "run").exit_code == 0
    for path in (tmp_path / "real").rglob(f"{ANNA}_*"):
        path.rename(tmp_path / path.name)
    result = forget(tmp_path / "run", ANNA)
    assert (
        result.exit_code == 1
        and "5 asked for" in result.failed
        and "bring them back" in result.failed
    )
    assert find_named(tmp_path / "run", list_marks(made / "real", ANNA)) == set()
    for path in tmp_path.glob(f"{ANNA}_*"):
        path.rename(tmp_path / "real" / path.stem.partition("_")[2][:-1] / path.name)
    assert run(recipe, tmp_path / "run").summary.accepted == 20
    assert find_named(tmp_path / "run", list_marks(made / "real", ANNA)) == set()

    for path in (tmp_path / "real").rglob(f"{ANNA}_*"):
        path.unlink()
    again = forget(tmp_path / "run", ANNA)
    assert again.exit_code == 0 and "nothing is missing" in again.open_end


def test_names_of_a_whole_slide_are_looked_for_in_seconds(copied):
    """As many marks as a slide has patches, over a quarter of a MB of other hashes."""
    folder = RunFolder(str(copied))
    marks = {hash_name(str(number)) for number in range(4000)}
    marks |= {f"tumor/é.{number}(x).png" for number in range(2000)} | {"tumor/é.1"}
    text = "".join(hash_name(f"other {number}") for number in range(4000)) + "tumor/é.2(x)"
    (copied / "others.json").write_text(text)
    some = sorted(marks)[::1000]
    for number, mark in enumerate(some):
        (copied / f"named{number}.txt").write_text(f"a{mark}b")
    begun = time.process_time()
    found = find_traces(folder, lambda groups: False, marks)
    assert found == [f"named{number}.txt" for number in range(len(some))]
    assert time.process_time() - begun < 3


# --- killed at any point -------------------------------------------------------------------------

MOMENTS = [(1, "after"), (2, "after"), (3, "amid"), (9, "after")]
"""The record, then data and marker of each shard, then the files of the set."""
FURTHER = [
    (n, p) for n in range(1, 26, 2) for p in ("before", "amid", "after") if (n, p) not in MOMENTS
]


@pytest.mark.parametrize(
    ("number", "phase"),
    [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER)],
)
def test_killed_at_a_write_and_given_again(made, copied, number, phase):
    command = ["forget", str(copied), "--group", hash_name(ANNA)]
    killed = forked.wait(forked.start(killer.run_armed, number, phase, command))
    assert killed == -signal.SIGKILL
    half = read_forgotten(RunFolder(str(copied))).record
    if half is not None and half.removing is not None:
        assert "stopped in the middle" in ask("run", made / "recipe.yaml", "--out", copied, code=2)
        assert "stopped in the middle" in ask("refilter", copied, code=2)
        other = ask("forget", copied, "--group", hash_name(BERT), code=2)
        assert "of others was stopped" in other
        assert not verify_set(Dataset(str(copied)), VerifyOptions()).is_sound
        assert "stopped in the middle" in ask("status", copied)
        with pytest.raises(InputError):
            prepare_publication(copied)
    ended = call(*command)
    assert ended.exit_code == 0, ended.output
    assert_gone(made, copied, ANNA)
    assert read_status(str(copied))["finalized"]
    assert read_json(copied / FORGOTTEN)["rows"] == count_rows(made / "run", ANNA)


def count_rows(folder: Path, patient: str) -> int:
    """Candidates of a patient in a run's shards."""
    return sum(row[0] == hash_name(patient) for row in list_candidates(folder).values())


# --- what learned from them ----------------------------------------------------------------------


def test_what_is_known_of_what_learned(made, tmp_path):
    """A record that names them, one that does not tell of all, one that does, and none."""
    folder, nobody = tmp_path / "judge", describe_patients([hash_name(CARL)], 4, 0)
    judge = {"kind": "classifier", "model": str(folder), "min_probability": 0.0}
    loaded = load_recipe(write_references(tmp_path, filters=[judge]))
    record = ForgottenRecord(version=1, key="00" * 16, patients=(), rows=0)
    digest = Forgotten(record).digest(hash_name(ANNA))
    matches = Forgotten(record.model_copy(update={"patients": (digest,)})).matches

    def trace():
        found = trace_trained(loaded.recipe, loaded.session, matches)
        return [str(each) for each in found.touched], [why for _, why in found.unknown]

    assert "is not here" in trace()[1][0]
    folder.mkdir()
    assert "no patients.json" in trace()[1][0]
    write_patients(nobody, folder)
    assert trace() == ([], [])
    write_patients(nobody.model_copy(update={"unknown": 2}), folder)
    assert "2 of 4 images that it saw tell no patient" in trace()[1][0]
    write_patients(nobody.join(None, "base"), folder)
    assert "went on from base" in trace()[1][0]
    write_patients(nobody.join(describe_patients([hash_name(ANNA)], 1, 0), "base"), folder)
    assert trace() == ([f"filter classifier {folder}"], [])
    (folder / PATIENTS_FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        trace()


def test_what_was_decided_when_it_was_begun_is_told_of_it(copied):
    """Killed under `keep` and given again with `touched`: it does, and tells, what it began."""
    found = look(RunFolder(str(copied)), ForgetOptions(groups=(hash_name(ANNA),)))
    judge = Trained("filter classifier", "judge", copied, makes=False)
    unsure = replace(found, traced=Traced(unknown=[(judge, "has no record")]))
    touched = ForgetOptions(groups=(hash_name(ANNA),), trained_unknown="touched")
    assert unsure.to_json(touched)["kept"] == 0 and unsure.to_json(touched)["rows"] == 24
    half = replace(unsure, is_half=True)
    assert half.to_json(touched) == half.to_json(ForgetOptions(groups=(hash_name(ANNA),)))
    assert half.to_json(touched)["rows"] == found.found.rows < 24


@pytest.mark.slow("test_what_is_known_of_what_learned")
def test_what_learned_from_the_patient_touches_all(made, tmp_path):
    """A folder that is not known to be free of them is asked about; one that is, is passed by."""
    write_patches(tmp_path / "real")
    settings = ClassifierSettings(group_pattern=PATTERN, force=True, encoder="color-texture")
    train_classifier(tmp_path / "real", tmp_path / "judge", settings)
    record = tmp_path / "judge" / PATIENTS_FILE
    assert read_json(record)["groups"] == sorted(map(hash_name, PATIENTS))
    judge = {"kind": "classifier", "model": str(tmp_path / "judge"), "min_probability": 0.0}
    recipe = write_references(tmp_path, filters=[judge])
    assert run(recipe, tmp_path / "run").exit_code in (0, 1)
    out, before = tmp_path / "run", list_files(tmp_path / "run")
    told = ask("forget", out, "--group", hash_name(ANNA), code=2)
    assert "learned from the patient" in told and "--yes" in told
    whole = record.read_bytes()
    record.unlink()
    told = ask("forget", out, "--group", hash_name(ANNA), code=2)
    assert "it is not known" in told and "--trained-unknown keep" in told
    write_patients(describe_patients([hash_name(BERT)], 4, 1), tmp_path / "judge")
    assert "tell no patient" in ask("forget", out, "--group", hash_name(ANNA), code=2)
    assert list_files(out) == before
    write_patients(describe_patients([hash_name(BERT)], 4, 0), tmp_path / "judge")
    assert forget(out, ANNA).exit_code == 0
    record.write_bytes(whole)
    result = forget(out, CARL, yes=True)
    assert "learned from the patient" in result.open_end and list_candidates(out) == {}
    assert not (out / "data").exists() and not (out / "README.md").exists()
    assert "train it again" in ask("run", recipe, "--out", out, code=2)
