"""Runs in an object store: killed and resumed, refused in words, published; nothing waits for ever.

The store is moto's S3 server on loopback, in a process of its own.
"""

import http.server
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from factory.api import refilter
from factory.core.errors import InputError, MissingError, StoreError
from factory.core.files.edge import check_bucket
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.engine.dataset import Dataset
from factory.engine.lease import hold
from factory.engine.run import read_status
from factory.publish.verify import VerifyOptions, verify_set
from tests import ROOT, forked, store_killer
from tests.objectstore import build_environment
from tests.running import call, run, write_recipe

CLEAN = {
    "conditions": [{"kind": "class", "per_class": {"normal": 5, "tumor": 6}}],
    "output": {"shard_size": 4, "rows_per_file": 6, "formats": ["parquet", "webdataset"]},
}
FOLDERS = ("data", "rejected", "webdataset")


def ask(*arguments):
    """Runs the command line here; returns exit code and all that it printed."""
    done = call(*arguments)
    return done.exit_code, done.output


def is_sound(url) -> bool:
    """What `verify` says of a folder that holds rows at all."""
    try:
        return verify_set(Dataset(url), VerifyOptions()).is_sound
    except InputError as error:
        assert "holds no data" in str(error)
        return False


def hash_files(files: FileStore) -> dict[str, str]:
    """Returns the hash of each file of the data set, by its name."""
    names = (f"{folder}/{name}" for folder in FOLDERS for name in files.list(folder))
    return {name: hash_bytes(files.read(name)) for name in names}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A recipe, and the run of it on a disk that was never interrupted."""
    folder = tmp_path_factory.mktemp("local")
    recipe = write_recipe(folder, **CLEAN)
    assert run(recipe, folder / "run").exit_code == 0
    return recipe, folder / "run"


MOMENTS = [
    ("pipe_file", "-r0.json", "before"),  # data object without its marker
    ("pipe_file", "-r0.json", "after"),
    ("close", "build/data/", "after"),  # amid the repacking
    ("cp_file", "/data/train-00000", "after"),  # amid the move: copied, not removed
    ("rm_file", "build/webdataset/train-00001", "after"),  # all moved, no summary yet
    ("pipe_file", "/README.md", "before"),  # summary, no card
]


@pytest.mark.spine
@pytest.mark.stranger
@pytest.mark.parametrize(
    "moments",
    [pytest.param(MOMENTS[3:4], id="one"), pytest.param(MOMENTS, id="all", marks=pytest.mark.slow)],
)
def test_killed_in_an_object_store_and_resumed(moments, local, s3):
    recipe, folder = local
    command = ["run", str(recipe), "--out", s3]
    for method, part, phase in moments:
        killed = forked.start(store_killer.run_armed, method, part, phase, command)
        assert forked.wait(killed) == -signal.SIGKILL, (method, part)
        assert read_status(s3)["finalized"] is (part == "/README.md")
        assert is_sound(s3) is (part == "/README.md"), (method, part)
    assert forked.wait(forked.start_command(command)) == 0
    files = FileStore(s3)
    assert hash_files(files) == hash_files(FileStore(str(folder)))
    assert files.read("recipe.json") == (folder / "recipe.json").read_bytes()
    assert not files.list(".factory/build")
    assert read_status(s3)["finalized"]
    assert is_sound(s3)
    report = verify_set(Dataset(s3), VerifyOptions(regenerate=1, near_duplicates=True))
    assert report.is_sound
    assert ask("status", s3)[1].rstrip().endswith("\nfinalized")


@pytest.mark.slow("test_a_recipe_names_its_place_in_a_store")
@pytest.mark.stranger
def test_commands_on_a_run_in_a_store(local, s3, tmp_path):
    recipe, folder = local
    assert run(recipe, s3).exit_code == 0
    name = next(iter(Dataset(s3).iterate_rows(Dataset(s3).list_tables("data")[0]))).sample_id
    copy, there = tmp_path / "copy", f"{s3}-published"
    for arguments in (
        ("status", s3), ("verify", s3), ("card", s3), ("report", s3, "--no-real"),
        ("regenerate", s3, name, "--out", tmp_path / "a.png"),
        ("export", s3, "--to", "imagefolder", "--out", tmp_path / "images"),
        ("refilter", s3, "--set", "filters.finite.min_contrast=0.1435"),
        ("publish", s3, "--to", copy), ("publish", s3, "--to", there), ("verify", there),
        ("publish", copy, "--to", there),
    ):  # fmt: skip
        code, output = ask(*arguments)
        assert code == 0, (arguments, output)
    published = hash_files(FileStore(str(copy)))
    assert published == hash_files(FileStore(there))
    assert published.items() <= hash_files(FileStore(str(folder))).items()
    for arguments in (
        ("merge", tmp_path, s3, "--out", tmp_path / "merged"),
        ("merge", tmp_path, copy, "--out", s3),
        ("evaluate", "fidelity", "--real", tmp_path, "--synthetic", s3),
        ("export", s3, "--to", "imagefolder", "--out", there),
        ("preview", recipe, "--out", s3),
        ("judge", "--data", s3, "--recipe", recipe, "--out", tmp_path / "judged"),
    ):
        code, output = ask(*arguments)
        assert (code, output.count("\n")) == (2, 1), (arguments, output)
        assert "not a URL" in output
    assert not Path("s3:").exists()


def test_a_recipe_names_its_place_in_a_store(s3, tmp_path):
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "class", "per_class": {"normal": 2}}],
        output={"path": s3},
        filters=[],
    )
    assert ask("run", recipe)[0] == 0
    assert FileStore(s3).exists("summary.json")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_no_listing_is_believed(tmp_path, monkeypatch):
    """A store may list late: files of an earlier data set go away, those there now are read."""
    url = f"memory://{uuid.uuid4()}"
    assert run(write_recipe(tmp_path, **CLEAN), url).exit_code == 0
    before = hash_files(FileStore(url))
    listed = FileStore.list
    monkeypatch.setattr(FileStore, "list", lambda self, folder: ())
    refilter(url, ["filters.finite.min_contrast=0.9"])
    assert is_sound(url)
    monkeypatch.setattr(FileStore, "list", listed)
    after = hash_files(FileStore(url))
    assert len(after) < len(before)
    assert set(after) == set(read_json_of(url)["files"]["sha256"])


def read_json_of(url):
    """Reads the summary of a run in a store."""
    import json

    return json.loads(FileStore(url).read("summary.json"))


# --- what goes wrong with a store -----------------------------------------------------------------


@pytest.fixture
def at(monkeypatch):
    """Leads this process to another endpoint; its keys are there or not."""

    def lead(endpoint, **changes):
        for name, value in {**build_environment(endpoint), **changes}.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    yield lead
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def refusing():
    """The endpoint of a server that answers everything with 403."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue"

        def do_GET(self):
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def write_stream(files):
    with files.open("a/b", "wb") as stream:
        stream.write(b"1")


OPERATIONS = {
    "exists": lambda files: files.exists("a"),
    "read": lambda files: files.read("a"),
    "find": lambda files: files.find("a"),
    "write": lambda files: files.write("a", b"1"),
    "create": lambda files: files.create("a", b"1"),
    "list": lambda files: files.list("a"),
    "remove": lambda files: files.remove("a"),
    "move": lambda files: files.move("a", "b"),
    "stream to read": lambda files: files.open("a", "rb").read(),
    "stream to write": write_stream,
    "parquet": lambda files: files.open_parquet("a").__enter__(),
}


@pytest.mark.stranger
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_fails_in_words(operation, refusing, at):
    at(refusing)
    with pytest.raises(StoreError, match=r"^s3://b/run/[ab].*: access is denied .*rights") as e:
        OPERATIONS[operation](FileStore("s3://b/run"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("question", ["exists", "find"])
def test_what_never_answers_is_given_up(question, at, monkeypatch):
    monkeypatch.setattr("factory.core.files.store._PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        at(f"http://127.0.0.1:{server.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"cannot be reached .*endpoint and network"):
            getattr(FileStore("s3://bucket/run"), question)("a")
        assert time.monotonic() - began < 15


@pytest.mark.stranger
@pytest.mark.parametrize("command", ["run", "status", "verify"])
def test_commands_on_a_store_that_is_not_there(command, local, s3, at):
    recipe, _ = local
    arguments = ("run", recipe, "--out") if command == "run" else (command,)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    dead = "http://127.0.0.1:9"  # no server gets so low a port by chance
    for leads, words, expected in (
        ({"endpoint": dead}, "cannot be reached", 3),
        ({"endpoint": endpoint, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
         "no credentials", 3),
        ({"endpoint": endpoint}, "bucket does not exist", 2),
    ):  # fmt: skip
        at(**leads)
        began = time.monotonic()
        code, output = ask(*arguments, f"s3://{uuid.uuid4()}/run")
        lines = [line for line in output.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) == (expected, 1), output
        assert words in lines[0]
        assert "Traceback" not in output
        assert time.monotonic() - began < 30


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("s3://b/r", "s3fs", "s3"), ("gs://b/r", "gcsfs", "gcs"), ("abfs://b/r", "adlfs", "azure")],
)
def test_a_missing_package_is_named(url, module, extra, local, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, url.partition("://")[0], raising=False)
    for arguments in (("run", local[0], "--out", url), ("status", url), ("verify", url)):
        code, output = ask(*arguments)
        assert (code, output.count("\n")) == (2, 1), output
        assert f'pip install "factory-pathology[{extra}]"' in output


@pytest.mark.stranger
@pytest.mark.parametrize(
    "url", ["s3://", "s3:///run", "s3://A B/run", "s3://a_!/r", "gs://", "az://-"]
)
def test_an_impossible_bucket_is_refused_first(url, local, monkeypatch):
    monkeypatch.setattr("factory.engine.run.plan_recipe", None)
    monkeypatch.setattr("fsspec.core.url_to_fs", None)
    commands = [("run", local[0], "--out", url), ("run", local[0], "--set", f"output.path={url}")]
    for arguments in (*commands, ("status", url), ("verify", url), ("refilter", url)):
        code, output = ask(*arguments)
        assert (code, output.count("\n")) == (2, 1), output
        assert f"{url}: names no bucket" in output or "can be no bucket" in output


def test_the_hub_can_be_no_run_folder(local, monkeypatch):
    """Its `pipe_file` is fsspec's own, which looks and then writes: any number of callers win."""
    from fsspec.spec import AbstractFileSystem
    from huggingface_hub import HfFileSystem

    assert HfFileSystem.pipe_file is AbstractFileSystem.pipe_file
    monkeypatch.setattr("factory.engine.run.plan_recipe", None)
    monkeypatch.setattr("fsspec.core.url_to_fs", None)
    url = "hf://datasets/me/run"
    for arguments in (("--out", url), ("--set", f"output.path={url}")):
        code, output = ask("run", local[0], *arguments)
        assert (code, output.count("\n")) == (2, 1), output
        assert f"{url}: hf:// can be no run folder" in output
        assert "factory publish RUN" in output


def test_no_lease_is_taken_on_the_hub():
    files = FileStore("memory://held")
    files.url = "hf://datasets/me/run"
    with pytest.raises(InputError, match="no run folder"), hold(files, "lease", "run", print):
        pass
    assert not files.list_sizes()


def test_names_that_some_store_takes_are_left_to_it():
    for url in ("s3://b/r", "s3://Old_Name.x/r", "abfs://box@account.dfs.core.windows.net/r"):
        check_bucket(url)
    check_bucket("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/r")
    check_bucket("memory://")


def test_what_is_missing_is_told_from_what_is_damaged(s3):
    files = FileStore(s3)
    files.write("a.parquet", b"PAR1")
    with pytest.raises(MissingError, match=r"b\.parquet: is not there"):
        files.read("b.parquet")
    with pytest.raises(StoreError, match=r"a\.parquet: not a readable parquet"):
        files.open_parquet("a.parquet").__enter__()


def test_only_the_store_asks_a_file_system():
    """Elsewhere its errors would be those of a client."""
    outside = [path for path in (ROOT / "factory").rglob("*.py") if path.parent.name != "store"]
    assert len(outside) > 100
    assert not [path for path in outside if re.search(r"files?\.fs\b", path.read_text())]
