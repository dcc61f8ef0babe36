"""What is damaged, foreign or cannot be written in a run folder: made again, or exit 3 in words."""

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from factory.api import refilter
from factory.cli import main
from factory.core.errors import StoreError
from factory.core.files import store as files
from factory.core.files.streams import StoreStream
from factory.engine import placing
from factory.engine.run import read_status
from factory.engine.run_folder import WORK
from factory.models.generators.families.fake import FakeGenerator
from factory.publish.card import documents
from factory.publish.card.croissant import build_croissant
from factory.recipe.file import load_recipe
from tests import ASSETS, ROOT
from tests.running import list_identities, run, run_recipe, write_recipe

RECIPE = {"output": {"shard_size": 4, "formats": ["parquet", "webdataset"]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run that tests copy."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, **RECIPE)
    assert run(recipe, folder / "run").exit_code == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


COMPLETE = "already complete: 23 of 23\ncompared its 3 files with their sha256"


def run_and_listen(recipe, out):
    """Runs again; returns the result and what was said."""
    said = []
    loaded = load_recipe(recipe)
    return run_recipe(loaded, str(out), lambda outcome: None, said.append), "\n".join(said)


def list_markers(out):
    return sorted((out / WORK / "shards").glob("*-r0.json"))


def call(*arguments):
    """Runs the command line in this process; asserts that nothing escaped from it."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# --- markers -------------------------------------------------------------------------------------


def copy_over(out, other):
    """Puts the first shard's marker under the second's name."""
    first, second = list_markers(out)[:2]
    shutil.copy(first, second)


def change(**fields):
    def edit(out, other):
        path = list_markers(out)[1]
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def truncate(out, other):
    path = list_markers(out)[1]
    path.write_bytes(path.read_bytes()[:40])


def take_from_another_run(out, other):
    path = list_markers(out)[1]
    shutil.copy(other / WORK / "shards" / path.name, path)
    marker = json.loads(path.read_text())
    shutil.copy(other / WORK / marker["data"], out / WORK / marker["data"])


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (copy_over, "belongs elsewhere: (shard|series|start) is"),
        (take_from_another_run, "belongs elsewhere: run is"),
        (truncate, "damaged"),
        (change(round=1), "belongs elsewhere: round is 1"),
        (change(stop=3), "belongs elsewhere: stop is 3"),
        (change(data="shards/other.parquet"), "belongs elsewhere: data is"),
        (change(rows="many"), "damaged, rows"),
    ],
)
def test_a_marker_that_does_not_fit_counts_as_absent(finished, copied, tmp_path, damage, words):
    other = tmp_path / "other"
    if damage is take_from_another_run:
        run(write_recipe(tmp_path / "o", **RECIPE, seed=8), other)
    expected = list_identities(copied)
    damage(copied, other)
    name = list_markers(copied)[1].name
    for read in (read_status, lambda url: refilter(url, [])):
        with pytest.raises(StoreError, match=rf"{name}: {words}.*run the same recipe into this"):
            read(str(copied))
    result, said = run_and_listen(finished / "recipe.yaml", copied)
    assert f"{name}: " in said
    assert ": made again" in said
    assert result.exit_code == 0
    assert list_identities(copied) == expected
    assert json.loads(list_markers(copied)[1].read_text())["run"]


def test_markers_of_before_runs_were_named_are_read(finished, copied, monkeypatch):
    for path in list_markers(copied):
        marker = json.loads(path.read_text())
        marker.pop("run")
        path.write_text(json.dumps(marker))
    monkeypatch.delattr(FakeGenerator, "generate")
    result, said = run_and_listen(finished / "recipe.yaml", copied)
    assert (result.exit_code, said) == (0, COMPLETE)


# --- summary, workers, recipe.json ---------------------------------------------------------------


@pytest.mark.stranger
@pytest.mark.parametrize("content", ["", '{"digest": "x', "[]", "{}", '"x"', "\x00"])
def test_a_damaged_summary_is_made_again(finished, copied, content):
    expected = (copied / "summary.json").read_text()
    (copied / "summary.json").write_text(content)
    for command in (["status"], ["report"], ["card"], ["refilter"], ["publish"], ["verify"]):
        extra = ["--repo", "a/b", "--dry-run"] if command == ["publish"] else []
        answer = call(*command, copied, *extra)
        if command == ["verify"]:
            assert answer.exit_code in {1, 3}
        else:
            assert answer.exit_code == 3
            assert len(answer.stderr.strip().splitlines()[-1]) < 500
        assert "summary.json: " in answer.output
    result, said = run_and_listen(finished / "recipe.yaml", copied)
    assert "summary.json: damaged" in said
    assert result.exit_code == 0
    found = json.loads((copied / "summary.json").read_text())
    assert found["digest"] == json.loads(expected)["digest"]
    assert found["files"] == json.loads(expected)["files"]


MORE_WRONG = ("{}", "{'a': 1}", "null")


@pytest.mark.stranger
@pytest.mark.parametrize(
    "content",
    ["", "[]", None, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE_WRONG)],
)
@pytest.mark.parametrize("lost", [False, True], ids=["whole", "with a shard lost"])
def test_a_damaged_worker_record_is_made_again(finished, copied, content, lost):
    (path,) = (copied / WORK / "workers").glob("*.json")
    expected = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    if lost:
        list_markers(copied)[0].unlink()
    answer = call("report", copied)
    assert answer.exit_code == 3
    assert f"workers/{path.name}: " in answer.stderr.splitlines()[-1]
    assert call("run", finished / "recipe.yaml", "--out", copied).exit_code == 0
    assert path.read_text() == expected
    assert list_identities(copied) == list_identities(finished / "run")


def edit_model(record):
    record["generator"]["model"] = "another"


def edit_unpaired_surrogate(record):
    record["generator"]["model"] = "\ud800"


@pytest.mark.stranger
@pytest.mark.parametrize("edit", [edit_model, edit_unpaired_surrogate])
def test_an_edited_worker_record_is_not_believed(finished, copied, edit):
    (path,) = (copied / WORK / "workers").glob("*.json")
    expected, record = path.read_text(), json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    for command in (["refilter"], ["verify"]):
        answer = call(*command, copied)
        assert answer.exit_code == (1 if command == ["verify"] else 3)
        assert f"workers/{path.name}: was changed" in answer.output
    result, said = run_and_listen(finished / "recipe.yaml", copied)
    assert f"workers/{path.name}: was changed" in said
    assert result.exit_code == 0
    assert path.read_text() == expected
    assert [each.to_json() for each in result.summary.makers] == [json.loads(expected)]
    assert call("verify", copied).exit_code == 0


def test_a_summary_that_names_another_maker_is_found_by_verify(copied):
    summary = json.loads((copied / "summary.json").read_text())
    summary["makers"][0]["generator"]["model"] = "another"
    (copied / "summary.json").write_text(json.dumps(summary))
    answer = call("verify", copied)
    assert answer.exit_code == 1
    assert "summary.json: makers: are not what the records of the workers say" in answer.output


def test_a_worker_record_that_nobody_can_write_again_ends_in_words(finished, copied):
    """Another worker began the folder, as with other libraries: its record cannot come back."""
    (path,) = (copied / WORK / "workers").glob("*.json")
    path.rename(path.with_name("0123456789abcdef.json"))
    for marker in list_markers(copied):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"worker": "0" * 16}))
    answer = call("run", finished / "recipe.yaml", "--out", copied)
    assert answer.exit_code == 3
    assert "workers/0000000000000000.json: missing: bring it back" in answer.stderr
    assert list_identities(copied) == list_identities(finished / "run")


@pytest.mark.parametrize("name", ["recipe.json", f"{WORK}/run.json"])
@pytest.mark.parametrize("command", [["report"], ["card"], ["refilter"], ["status"]])
def test_other_damaged_records_end_in_words(finished, copied, name, command):
    (copied / name).write_text('{"seed": ')
    answer = call(*command, copied)
    if answer.exit_code == 0:  # does not read that one
        assert (name, command) != (f"{WORK}/run.json", ["refilter"])
        return
    assert answer.exit_code == 3
    assert f"{name}: damaged" in answer.stderr.splitlines()[-1]


def test_shards_whose_run_record_is_lost_are_not_begun_anew(finished, copied):
    (copied / WORK / "run.json").unlink()
    for name in ("data", "rejected", "summary.json"):
        shutil.rmtree(copied / name) if (copied / name).is_dir() else (copied / name).unlink()
    before = sorted(copied.rglob("*"))
    answer = call("run", finished / "recipe.yaml", "--out", copied)
    assert answer.exit_code == 2
    assert "shards whose .factory/run.json is gone" in answer.stderr
    assert sorted(copied.rglob("*")) == before


@pytest.mark.stranger
def test_swapped_and_lost_data_are_told(finished, copied):
    first, second = sorted((copied / WORK / "shards").glob("*.parquet"))[:2]
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    for words in (("run", finished / "recipe.yaml", "--out", copied), ("refilter", copied)):
        answer = call(*words)
        assert answer.exit_code == 3
        assert "damaged" in answer.stderr and "rows of another shard" in answer.stderr
    second.write_bytes(first.read_bytes())
    first.write_bytes(held)
    lost = next((copied / "data").glob("*.parquet"))
    kept = lost.read_bytes()
    lost.unlink()
    answer = call("run", finished / "recipe.yaml", "--out", copied)
    assert answer.exit_code == 0
    assert f"data/{lost.name}: gone: the data set is written again" in answer.stderr
    assert lost.read_bytes() == kept


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.stranger
@pytest.mark.parametrize("folder", ["data", "rejected"])
@pytest.mark.parametrize(
    ("damage", "words"), [(flip, "its content was changed"), (cut, "bytes instead of")]
)
def test_changed_files_of_a_finished_set_are_written_again(finished, copied, folder, damage, words):
    path = next((copied / folder).glob("*.parquet"))
    kept = path.read_bytes()
    damage(path)
    answer = call("run", finished / "recipe.yaml", "--out", copied)
    assert answer.exit_code == 0
    assert f"{folder}/{path.name}: " in answer.stderr and words in answer.stderr
    assert "the data set is written again" in answer.stderr
    assert path.read_bytes() == kept


def test_large_sets_are_compared_by_size_and_it_is_said(finished, copied, monkeypatch):
    monkeypatch.setattr(placing, "HASHED", 1000)
    path = next((copied / "data").glob("*.parquet"))
    flip(path)
    _, said = run_and_listen(finished / "recipe.yaml", copied)
    assert "compared the sizes of its 3 files, not their content" in said
    assert f"factory verify {copied} reads them" in said
    cut(path)
    _, said = run_and_listen(finished / "recipe.yaml", copied)
    assert f"data/{path.name}: " in said and "bytes instead of" in said
    assert call("verify", copied).exit_code == 0


# --- disks ---------------------------------------------------------------------------------------


class FailingDisk:
    """Local storage whose `number`-th write fails with an error of the system, streams among it."""

    def __init__(self, monkeypatch, code: int) -> None:
        self.code, self.number, self.count = code, 0, 0
        self.names: list[str] = []
        for owner, name in (
            (files, "replace_file"),
            (files, "create_file"),
            (Path, "replace"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, self.spoil(name, getattr(owner, name)))
        init, disk = StoreStream.__init__, self

        class Spoilt:
            def __init__(self, stream) -> None:
                self.stream, self.write = stream, disk.spoil("stream", stream.write)

            def __getattr__(self, name):
                return getattr(self.stream, name)

        def open_spoilt(self, stream, edge, mode):
            init(self, Spoilt(stream) if "w" in mode else stream, edge, mode)

        monkeypatch.setattr(StoreStream, "__init__", open_spoilt)

    def spoil(self, name: str, call):
        def call_or_fail(*arguments, **options):
            if threading.current_thread().name == "lease":  # it writes as time passes
                return call(*arguments, **options)
            self.count += 1
            self.names.append(name)
            if self.count == self.number:
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return call_or_fail

    def arm(self, number: int) -> None:
        self.number, self.count = number, 0


@pytest.mark.stranger
def test_a_full_disk_ends_in_words_and_is_resumed(tmp_path, monkeypatch):
    disk = FailingDisk(monkeypatch, errno.ENOSPC)
    built: list[str] = []  # half of the time, and each run's is alike

    def build(facts):
        built[:] = built or [build_croissant(facts)]
        return built[0]

    monkeypatch.setattr(documents, "build_croissant", build)
    counts = {"conditions": [{"kind": "class", "per_class": {"tumor": 5}}]}
    recipe = write_recipe(tmp_path, **RECIPE, **counts)
    disk.arm(0)
    assert call("run", recipe, "--out", tmp_path / "whole").exit_code == 0
    expected, names = list_identities(tmp_path / "whole"), list(disk.names)
    first = {name: names.index(name) + 1 for name in names}
    last = {name: len(names) - names[::-1].index(name) for name in names}
    assert set(first) >= {"replace_file", "stream", "replace", "fsync"}
    for number in sorted({*first.values(), *last.values(), *range(7, len(names), len(names) // 6)}):
        out = tmp_path / "run"
        disk.arm(number)
        answer = call("run", recipe, "--out", out)
        assert answer.exit_code == 3, number
        assert "No space left on device: free space" in answer.stderr.splitlines()[-1]
        disk.arm(0)
        resumed = call("run", recipe, "--out", out)
        assert resumed.exit_code == 0, (number, resumed.stderr)
        assert list_identities(out) == expected
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "this file system is read-only"),
        (errno.EACCES, "no permission: fix the access rights"),
        (errno.EIO, "check the disk"),
        (errno.EDQUOT, "raise the quota"),
    ],
)
def test_each_failure_of_a_disk_has_its_words(finished, tmp_path, monkeypatch, code, words):
    disk = FailingDisk(monkeypatch, code)
    for number in (1, 5, 25):
        disk.arm(number)
        answer = call("run", finished / "recipe.yaml", "--out", tmp_path / f"run{number}")
        assert answer.exit_code == 3
        assert words in answer.stderr.splitlines()[-1]
        assert ("free space" in answer.stderr) is (code == errno.EDQUOT)


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """Fails every file that is opened to be written below the folder that it yields, as it is."""
    folder = tmp_path / "full"
    folder.mkdir()

    def refuse(call):
        def open_or_fail(file, mode="r", *arguments, **options):
            if set(mode) & set("wxa") and str(file).startswith(str(folder)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            return call(file, mode, *arguments, **options)

        return open_or_fail

    monkeypatch.setattr(io, "open", refuse(io.open))
    monkeypatch.setattr(builtins, "open", refuse(builtins.open))
    return folder


@pytest.mark.stranger
@pytest.mark.parametrize(
    "words",
    [
        ("export", "RUN", "--to", "imagefolder", "--out", "OUT"),
        ("export", "RUN", "--to", "webdataset", "--out", "OUT"),
        ("preview", "RECIPE", "-n", "2", "--out", "OUT"),
        ("calibrate", "RECIPE", "-n", "2", "--out", "OUT"),
        ("regenerate", "RUN", "ROW", "--out", "OUT/image.webp"),
        ("init", "OUT"),
        ("recipes", "copy", "quickstart", "OUT/mine.yaml"),
        ("schema", "--out", "OUT/schema.json"),
        ("report", "RUN", "--out", "OUT/report.html"),
        ("merge", "ASSETS", "RUN", "--out", "OUT"),
        ("train", "classifier", "--data", "ASSETS", "--encoder", "color-texture", "--out", "OUT"),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:4]) if words[0] == "export" else words[0],
)
def test_a_full_disk_ends_every_command_in_words(finished, full_disk, words):
    (row, _), *_ = sorted(list_identities(finished / "run"))
    places = {
        "OUT": full_disk / "out",
        "RUN": finished / "run",
        "RECIPE": finished / "recipe.yaml",
        "ASSETS": ASSETS / "pcam" / "train",
        "ROW": row,
    }
    given = ["/".join(str(places.get(part, part)) for part in each.split("/")) for each in words]
    answer = call(*given)
    assert answer.exit_code == 3, answer.output
    line = answer.stderr.strip().splitlines()[-1]
    assert f"error: {full_disk / 'out'}" in line
    assert "No space left on device: free space, then run the same command again" in line
    assert "Traceback" not in answer.output and "unexpected" not in answer.output


# --- what is there already -----------------------------------------------------------------------


@pytest.mark.stranger
def test_a_finished_run_says_so(finished, copied, monkeypatch):
    monkeypatch.setattr("factory.engine.shard.Worker.__init__", None)
    result, said = run_and_listen(finished / "recipe.yaml", copied)
    assert (result.exit_code, said) == (0, COMPLETE)


@pytest.mark.slow("test_a_finished_run_says_so")
@pytest.mark.stranger
def test_a_finished_run_asks_for_no_device(finished, copied):
    """torch is what takes the time; choosing an executor would ask it for GPUs."""
    code = (
        "import sys; from factory.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'ray', 'diffusers'} & set(sys.modules)))"
    )
    overrides = ["--set", "workers.executor=auto"]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", finished / "recipe.yaml", "--out", copied, *overrides],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "already complete: 23 of 23" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_failed_first_try_does_not_claim_its_folder(tmp_path, monkeypatch):
    def fail(self, jobs):
        raise StoreError("the network went away")

    out = tmp_path / "run"
    first = write_recipe(tmp_path / "first")
    second = write_recipe(tmp_path / "second", seed=8)
    monkeypatch.setattr(FakeGenerator, "generate", fail)
    assert call("run", first, "--out", out).exit_code == 3
    monkeypatch.undo()
    answer = call("run", second, "--out", out)
    assert answer.exit_code == 0
    assert "another recipe began here and committed nothing: begun anew" in answer.stderr
    assert call("run", first, "--out", out).exit_code == 2


def test_a_first_try_with_bad_input_leaves_nothing(tmp_path, monkeypatch):
    from factory.core.errors import SourceError

    def fail(self, order):
        raise SourceError("weights cannot be read")

    monkeypatch.setattr("factory.engine.shard.Worker.__init__", fail)
    answer = call("run", write_recipe(tmp_path), "--out", tmp_path / "run")
    assert answer.exit_code == 2
    assert not (tmp_path / "run").exists()
