"""`factory publish` against a Hub on loopback that fails, is cut off and killed, and to folders."""

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from factory.cli import main
from factory.core.errors import InputError, LicenceError, PublishError, StoreError
from factory.core.places import list_places, replace_places, shorten_places
from factory.engine.dataset import open_dataset
from factory.publish.hub import FolderTarget, Publication, prepare_publication, publish_items
from factory.publish.hub.hub import HubOptions, HubTarget
from factory.publish.hub.paths import has_places
from factory.publish.hub.steps import compare
from factory.publish.verify import VerifyOptions, verify_set
from tests import ROOT, forked
from tests.hub import TOKEN, open_hub
from tests.running import read_json, read_rows, run, write_recipe

REPO = "me/lymph-node"


def quiet(line: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished run: three files of accepted rows, some of rejected ones, three tars."""
    folder = tmp_path_factory.mktemp("made")
    output = {"rows_per_file": 8, "formats": ["parquet", "webdataset"]}
    assert run(write_recipe(folder, output=output), folder / "run").exit_code == 0
    return folder / "run"


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the run to spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process talks to; its waits are noted and not waited for."""
    from huggingface_hub import constants

    with open_hub() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        assert not server.leaks, "the token was sent to where bytes are stored"


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that were waited for, none of them really."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


@functools.cache
def prepare(folder: Path, with_tars=False, url=None) -> Publication:
    """What is published of a run that no test changes: checked and hashed once."""
    return prepare_publication(folder, with_tars=with_tars, url=url)


def send(hub, folder: Path, publication=None, replace=False, files=2, **options):
    """Publishes to the Hub in this process."""
    found = publication or prepare(folder)
    options.setdefault("tag", f"factory-{found.digest[:12]}")
    target = HubTarget(HubOptions(REPO, endpoint=hub.endpoint, **options), quiet)
    return publish_items(found.items, target, found.recipe_sha256, quiet, files, replace)


def list_files(folder: Path) -> list[str]:
    """Names that belong into the published set, without tars."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if name.parts[0] not in (".factory", "webdataset"))


def assert_whole(hub, folder: Path) -> None:
    """The repository holds the run, each file added by one commit and uploaded once at most."""
    repo = hub.repos[REPO]
    files = {name: blob.data for name, blob in repo.files.items() if name != ".gitattributes"}
    assert sorted(files) == list_files(folder)
    for name, data in files.items():
        if name.endswith(".parquet"):
            assert data == (folder / name).read_bytes()
    added = Counter(name for commit in repo.commits for name in commit.added)
    assert set(added.values()) == {1}
    card = [number for number, commit in enumerate(repo.commits) if "README.md" in commit.added]
    assert card == [len(repo.commits) - 1]
    assert repo.tags and set(repo.tags.values()) == {repo.commits[-1].oid}


def count_lfs(hub) -> Counter:
    """Size by oid of all LFS files of the repository."""
    blobs = hub.repos[REPO].files.values()
    return Counter({blob.sha256: len(blob.data) for blob in blobs if blob.is_lfs})


# --- it works ------------------------------------------------------------------------------------

LOAD = f"""
import json
from datasets import load_dataset
found = {{}}
for config, split in (("default", "train"), ("rejected", "rejected")):
    rows = load_dataset("{REPO}", config, split=split)
    found[split] = [[row["sample_id"], row["image_sha256"], row["label"], row["image"].size]
                    for row in rows]
found["names"] = load_dataset("{REPO}", split="train").features["label"].names
print(json.dumps(found))
"""


def build_environment(hub, home: Path, **more) -> dict[str, str]:
    """Environment of a process that talks to this Hub; Xet is not switched off by hand."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    hub_values = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **hub_values, **more}


def call(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow(
    "engine/test_end_to_end.py::test_from_a_recipe_to_rows_that_anybody_can_make_again"
)
def test_what_is_published_is_what_load_dataset_gives(hub, made, tmp_path):
    hub.page = 3  # listings come in pages
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    environment = build_environment(hub, tmp_path / "home")
    arguments = ["-m", "factory", "publish", str(made), "--repo", REPO, "--files-per-step", "4"]
    done = call(arguments, environment)
    assert done.returncode == 0, done.stderr
    assert f"{hub.endpoint}/datasets/{REPO}" in done.stdout
    assert_whole(hub, made)
    repo = hub.repos[REPO]
    assert repo.private
    assert f"{hub.endpoint}/datasets/{REPO}" in repo.files["CITATION.cff"].data.decode()
    recipe_sha256 = read_json(made / "summary.json")["recipe_sha256"]
    for commit in repo.commits[1:]:
        assert recipe_sha256[:12] in commit.message
        assert recipe_sha256 in commit.description
        assert len(commit.added) <= 4
    assert hub.put_bytes == count_lfs(hub)

    loaded = call(["-c", LOAD], environment)
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    for split, folder in (("train", "data"), ("rejected", "rejected")):
        rows = read_rows(made, folder)
        expected = [[row["sample_id"], row["image_sha256"], row["label"], [32, 32]] for row in rows]
        assert found[split] == expected
    assert found["names"] == ["normal", "tumor"]

    commits, requests = len(repo.commits), len(hub.requests)
    again = call([*arguments, "--json"], {**environment, "HF_DEBUG": "1"})
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["sent"], report["sent_bytes"], report["problems"]) == ([], 0, [])
    assert len(repo.commits) == commits
    assert not any(line.startswith("PUT") for line in hub.requests[requests:])

    spoken = "".join([done.stdout, done.stderr, again.stdout, again.stderr])
    assert TOKEN not in spoken
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(TOKEN.encode() not in path.read_bytes() for path in written)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_dry_run_shows_all_and_touches_nothing(hub, made, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = CliRunner().invoke(main, ["publish", str(made), "--repo", REPO, "--dry-run"])
    assert result.exit_code == 0, result.output
    for name in list_files(made):
        assert name in result.output
    digest = hashlib.sha256((made / "data/train-00000-of-00003.parquet").read_bytes()).hexdigest()
    assert digest in result.output
    assert "license: cc0-1.0" in result.output
    assert ".factory" not in result.output
    assert "webdataset/" not in result.output.partition("\n\n---")[0]
    assert not hub.requests


def test_tars_gate_and_branch_come_when_asked_for(hub, made):
    send(hub, made, prepare(made, with_tars=True), gated="manual", branch="candidate")
    repo = hub.repos[REPO]
    commit = repo.find("candidate")
    assert repo.gated == "manual"
    assert "webdataset/train-00000.tar" in commit.files
    header = commit.files["README.md"].data.decode().split("---")[1]
    assert "webdataset/" not in header
    assert sorted(repo.files) == [".gitattributes"]
    published = json.loads(commit.files["summary.json"].data)["files"]
    assert published["tars"] == 3
    assert published["sha256"] == read_json(made / "summary.json")["files"]["sha256"]


# --- it fails and goes on ------------------------------------------------------------------------

STEPS = {
    "look": r"GET /api/datasets/me/lymph-node$",
    "create": "POST /api/repos/create",
    "list": "GET .*/tree/",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/info/lfs/objects/batch",
    "put": "PUT /lfs/",
    "verify": "POST /lfs-verify",
    "commit": "POST .*/commit/",
    "yaml": "POST /api/validate-yaml",
    "rows": "GET .*/resolve/.*parquet",
    "tag": "POST .*/tag/",
}


@pytest.mark.parametrize("step", STEPS)
def test_server_errors_pass(hub, made, waits, step):
    fault = hub.fail(STEPS[step], status=503, times=2)
    assert not send(hub, made).problems
    assert fault.times == 0
    assert len(waits) >= 2
    assert_whole(hub, made)


@pytest.mark.parametrize("step", ["create", "put", "commit", "tag"])
def test_retry_after_is_honoured(hub, made, waits, step):
    hub.fail(STEPS[step], status=429, headers={"Retry-After": "37"})
    assert not send(hub, made).problems
    assert any(37 <= wait <= 40 for wait in waits)
    assert_whole(hub, made)


def test_the_hubs_own_rate_limit_header_is_honoured(hub, made, waits):
    hub.fail(STEPS["commit"], status=429, headers={"RateLimit": '"api";r=0;t=55'})
    assert not send(hub, made).problems
    assert 56 in waits


def test_a_server_that_wants_to_be_left_alone_is(hub, made, waits):
    hub.fail(STEPS["commit"], status=429, headers={"Retry-After": "7200"}, times=99)
    with pytest.raises(PublishError, match=r"wait 7200 seconds.*run the same command again"):
        send(hub, made)
    assert not waits
    hub.faults.clear()
    assert not send(hub, made).problems
    assert_whole(hub, made)


@pytest.mark.parametrize("step", ["create", "list", "batch", "put", "commit", "rows"])
def test_cut_connections_pass(hub, made, waits, step):
    fault = hub.fail(STEPS[step], cut=100)
    assert not send(hub, made).problems
    assert fault.times == 0
    assert_whole(hub, made)
    extra = 100 if step == "put" else 0
    assert hub.put_bytes.total() == count_lfs(hub).total() + extra


@pytest.mark.parametrize("step", ["create", "put", "commit", "tag"])
def test_an_answer_that_is_lost_is_not_done_twice(hub, made, waits, step):
    fault = hub.fail(STEPS[step], after=lambda: None)
    assert not send(hub, made).problems
    assert fault.times == 0
    assert_whole(hub, made)
    if step != "put":  # a PUT whose answer is lost has to be sent again
        assert hub.put_bytes == count_lfs(hub)


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_that_another_one_overtook_is_made_again(hub, made, waits, status):
    hub.fail(STEPS["commit"], status=status, message="A commit has happened since")
    assert not send(hub, made).problems
    assert_whole(hub, made)


def test_a_repository_that_comes_up_meanwhile_is_used(hub, made, waits):
    send(hub, made)
    missing = {"X-Error-Code": "RepoNotFound"}
    hub.fail(STEPS["look"], status=404, headers=missing, times=2)
    assert not send(hub, made).sent
    assert hub.count(STEPS["create"]) == 2
    assert_whole(hub, made)


def test_a_hub_that_stays_down_is_given_up_and_gone_on_with(hub, made, waits):
    hub.fail(STEPS["put"], status=500, skip=3, times=10_000)
    with pytest.raises(PublishError, match="run the same command again to go on") as caught:
        send(hub, made)
    assert caught.value.exit_code == 3
    assert "HTTP 500" in str(caught.value)
    assert "README.md" not in hub.repos[REPO].files
    assert not hub.repos[REPO].tags
    hub.faults.clear()
    there = Counter(hub.objects.keys())
    result = send(hub, made)
    assert not result.problems
    assert_whole(hub, made)
    assert all(hub.put_bytes[oid] == len(hub.objects[oid]) for oid in there)


def test_a_wrong_token_says_what_to_do(hub, made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"HTTP 401.*HF_TOKEN.*write access") as caught:
        send(hub, made)
    assert "hf_wrong" not in str(caught.value)
    assert not hub.repos


def test_missing_rights_say_what_to_do(hub, made):
    hub.writers = {"others"}
    with pytest.raises(InputError, match=r"HTTP 403.*permission to write.*gated"):
        send(hub, made)
    assert not hub.repos


def test_rights_lost_amid_end_as_a_broken_run(hub, made):
    hub.fail(STEPS["commit"], status=403, message=f"token {TOKEN} was revoked", skip=1)
    with pytest.raises(PublishError, match=r"HTTP 403: token \*\*\* was revoked"):
        send(hub, made)
    assert not send(hub, made).problems
    assert_whole(hub, made)


def test_without_a_token_nobody_is_asked(hub, made, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match="no token: set HF_TOKEN"):
        send(hub, made)
    assert not hub.requests


def test_the_token_of_a_login_is_used(hub, made, monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert not send(hub, made).problems


def test_offline_mode_is_named(hub, made, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="unset HF_HUB_OFFLINE"):
        send(hub, made)


# --- it is killed --------------------------------------------------------------------------------

KILLS = {
    "amid an upload": ("put", "before", 2),
    "between upload and commit": ("commit", "before", 0),
    "after a commit": ("commit", "after", 1),
    "before the card": ("yaml", "before", 0),
    "before the tag": ("tag", "before", 0),
}


def publish_elsewhere(endpoint: str, folder: Path, log: Path) -> None:
    """Publishes as the command line does, in a process of its own."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = constants.HF_HUB_DISABLE_XET = False
    forked.write_to(log)
    found = prepare_publication(folder, url=f"{endpoint}/datasets/{REPO}")
    options = HubOptions(REPO, endpoint=endpoint, tag=f"factory-{found.digest[:12]}")
    publish_items(found.items, HubTarget(options, print), found.recipe_sha256, print, 2, False)


@pytest.mark.parametrize(
    "moment",
    [
        "between upload and commit",
        "before the tag",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("amid an upload", "after a commit", "before the card")
        ),
    ],
)
def test_a_killed_upload_is_finished_without_sending_twice(hub, made, tmp_path, moment):
    step, phase, skip = KILLS[moment]
    started: list[BaseProcess] = []

    def kill():
        started[0].kill()

    hub.fail(STEPS[step], skip=skip, **{phase: kill})
    log = tmp_path / "log"
    started.append(forked.start(publish_elsewhere, hub.endpoint, made, log, HF_TOKEN=TOKEN))
    assert forked.wait(started[0]) == -signal.SIGKILL, log.read_text()
    repo = hub.repos[REPO]
    assert ("README.md" in repo.files) == (moment == "before the tag")
    assert not repo.tags
    finished = {oid: len(data) for oid, data in hub.objects.items()}
    url = f"{hub.endpoint}/datasets/{REPO}"  # as the command line gives it
    result = send(hub, made, prepare_publication(made, url=url))
    assert not result.problems
    assert_whole(hub, made)
    assert {oid: hub.put_bytes[oid] for oid in finished} == finished
    if moment != "amid an upload":
        assert hub.put_bytes == count_lfs(hub)
    assert TOKEN not in log.read_text()


# --- what is there already -----------------------------------------------------------------------


def test_a_public_repository_is_not_published_to_unasked(hub, made):
    send(hub, made, public=True)
    assert not hub.repos[REPO].private
    with pytest.raises(InputError, match=r"exists and is public: add --public"):
        send(hub, made)
    assert not send(hub, made, public=True).sent


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another, smaller data set."""
    folder = tmp_path_factory.mktemp("other")
    conditions = [{"kind": "class", "per_class": {"normal": 4}}]
    assert run(write_recipe(folder, conditions=conditions), folder / "run").exit_code == 0
    return folder / "run"


def test_other_data_is_replaced_only_when_asked_and_never_mixed(hub, made, other):
    send(hub, made)
    repo = hub.repos[REPO]
    commits = len(repo.commits)
    with pytest.raises(InputError, match=r"holds other data, e\.g\. data/train.*add --replace"):
        send(hub, other)
    assert len(repo.commits) == commits
    old = repo.commits[-1]
    assert not send(hub, other, replace=True).problems
    first, last = repo.commits[commits], repo.commits[-1]
    assert "README.md" in first.deleted
    assert "data/train-00000-of-00003.parquet" in first.deleted
    assert "README.md" in last.added
    assert sorted(name for name in repo.files if name.startswith(("data/", "rejected/"))) == sorted(
        f"{part}/{path.name}" for part in ("data", "rejected") for path in (other / part).iterdir()
    )
    assert len(repo.tags) == 2
    assert old.oid in repo.tags.values()


def test_a_tag_of_something_else_is_refused_first(hub, made, other):
    send(hub, made, tag="v1")
    commits = len(hub.repos[REPO].commits)
    with pytest.raises(InputError, match="the tag v1 is there and marks other files"):
        send(hub, other, replace=True, tag="v1")
    assert len(hub.repos[REPO].commits) == commits
    send(hub, other, replace=True, tag="v2")
    assert set(hub.repos[REPO].tags) == {"v1", "v2"}


def test_a_new_card_alone_sends_no_data(hub, copied):
    send(hub, copied)
    sent = hub.put_bytes.total()
    card = copied / "README.md"
    card.write_text(card.read_text() + "\nMore was learned.\n")
    result = send(hub, copied, prepare_publication(copied))
    assert result.sent == ("README.md",)
    assert hub.put_bytes.total() == sent
    assert b"More was learned." in hub.repos[REPO].files["README.md"].data


def test_what_differs_at_the_hub_is_found(hub, made, waits):
    publication = prepare(made)
    target = HubTarget(HubOptions(REPO, endpoint=hub.endpoint), quiet)
    publish_items(publication.items, target, publication.recipe_sha256, quiet)
    files = hub.repos[REPO].files
    name = "data/train-00001-of-00003.parquet"
    good = files[name]
    files[name] = type(good)(good.data[:-1] + b"x", True)
    del files["recipe.json"]
    files["data/extra.parquet"] = good
    assert set(compare(publication.items, target)) == {
        f"{name}: another hash",
        "recipe.json: missing",
        "data/extra.parquet: not of this data set",
    }


# --- what is refused -----------------------------------------------------------------------------


def forget_summary(folder: Path) -> None:
    (folder / "summary.json").unlink()


def change_summary(folder: Path, **changes) -> None:
    summary = read_json(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}))


def flip_byte(folder: Path) -> None:
    path = folder / "data/train-00001-of-00003.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (forget_summary, InputError, "not finished: has no summary.json"),
        (lambda run: change_summary(run, missing_shards=2), InputError, "2 shards are missing"),
        (lambda run: change_summary(run, accepted=24), StoreError, "24 accepted"),
        (flip_byte, StoreError, "train-00001-of-00003.parquet: damaged: sha256"),
        (
            lambda run: (run / "data/train-00002-of-00003.parquet").unlink(),
            StoreError,
            "1 data files are missing, e.g. data/train-00002",
        ),
        (
            lambda run: (run / "data/more.parquet").write_bytes(b"x"),
            StoreError,
            "not of it, e.g. data/more.parquet",
        ),
        (
            lambda run: next((run / ".factory/shards").glob("*.json")).unlink(),
            InputError,
            "not finished",
        ),
        (lambda run: (run / "merge.json").write_text("{}"), InputError, "a merged set"),
        (
            lambda run: (run / "README.md").write_text("---\nlicense: [\n---\n"),
            InputError,
            "its YAML header cannot be read",
        ),
    ],
)
def test_what_is_not_finished_or_damaged_is_refused(hub, copied, spoil, error, message):
    spoil(copied)
    with pytest.raises(error, match=message):
        send(hub, copied)
    assert not hub.requests


def forbid_commerce(folder: Path) -> None:
    summary = read_json(folder / "summary.json")
    for maker in summary["makers"]:
        maker["licence"] |= {"id": "cc-by-nc-4.0", "commercial_use": False}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_licence_gate_comes_before_anything_is_sent(hub, copied):
    forbid_commerce(copied)
    with pytest.raises(LicenceError, match=r"generator fake.*forbids it"):
        send(hub, copied, prepare_publication(copied, "cc-by-4.0"))
    assert not hub.requests
    before = (copied / "README.md").read_bytes()
    send(hub, copied, prepare_publication(copied, "cc-by-nc-4.0"))
    card = hub.repos[REPO].files["README.md"].data.decode()
    assert "license: cc-by-nc-4.0" in card
    assert (copied / "README.md").read_bytes() == before


def test_an_override_is_published_in_the_card(copied, tmp_path):
    forbid_commerce(copied)
    approval = "Approved by A. Miller, 3 Nov 2026"
    arguments = ["publish", str(copied), "--to", str(tmp_path / "out"), "--license", "cc-by-4.0"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*arguments, "--override-terms", approval])
    assert done.exit_code == 0, done.output
    assert approval in (tmp_path / "out/summary.json").read_text()
    assert approval in (tmp_path / "out/README.md").read_text()


def test_either_a_repository_or_a_place_is_named(made):
    for arguments in ([], ["--repo", REPO, "--to", "x"]):
        result = CliRunner().invoke(main, ["publish", str(made), *arguments])
        assert result.exit_code == 2
        assert "either --repo OWNER/NAME or --to URL" in result.output


# --- no place of this machine --------------------------------------------------------------------


def read_texts(folder: Path) -> str:
    """All that stands in the published files, columns of parquet files included."""
    texts = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            rows = pq.read_table(path).drop_columns(["image"]).to_pylist()
            texts.append(json.dumps(rows))
            texts.append(str(pq.read_schema(path).metadata))
        elif path.is_file():
            texts.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(texts)


def test_no_path_of_this_machine_is_published(made, tmp_path):
    real = tmp_path / "real"
    for number, row in enumerate(read_rows(made)[:4]):
        (real / "normal").mkdir(parents=True, exist_ok=True)
        (real / "normal" / f"{number}.webp").write_bytes(row["image"]["bytes"])
    filters = [{"kind": "training_copy", "max_similarity": 1.0, "images": str(real)}]
    recipe = write_recipe(
        tmp_path / "recipe",
        filters=filters,
        conditions=[{"kind": "class", "per_class": {"normal": 3}}],
        output={"path": str(tmp_path / "elsewhere")},
    )
    run(recipe, tmp_path / "run")
    assert str(tmp_path) in read_texts(tmp_path / "run/data")
    publication = prepare_publication(tmp_path / "run")
    out = tmp_path / "out"
    result = publish_items(publication.items, FolderTarget(str(out), quiet), "0" * 64, quiet)
    assert not result.problems
    text = read_texts(out)
    assert str(tmp_path) not in text
    assert ".../real" in text
    drop = ("provenance",)
    for folder in ("data", "rejected"):
        before, after = read_rows(tmp_path / "run", folder), read_rows(out, folder)
        assert [{**row, **dict.fromkeys(drop)} for row in before] == [
            {**row, **dict.fromkeys(drop)} for row in after
        ]
    path = next((out / "data").iterdir())
    assert pq.read_schema(path).equals(
        pq.read_schema(tmp_path / "run/data" / path.name), check_metadata=True
    )
    report = verify_set(open_dataset(str(out)), VerifyOptions())
    assert report.failures == []
    published = read_json(out / "summary.json")["files"]["sha256"]
    assert published == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in published
    }


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("/home/me/models/mine", ".../mine"),
        ("/home/me/models/mine/", ".../mine"),
        ("~/models/mine", ".../mine"),
        ("C:\\Users\\me\\mine", ".../mine"),
        ("timm:/home/me/mine", "timm:.../mine"),
        ("open_clip:local-dir:/home/me/mine", "open_clip:local-dir:.../mine"),
        ("file:///home/me/mine", "file://.../mine"),
        ("https://www.apache.org/licenses/LICENSE-2.0", None),
        ("s3://bucket/mine", None),
        ("owner/name", None),
        ("../data/pcam", None),
        ("H&E patch, tumor and/or stroma", None),
        ("/ 5 per high-power field", None),
        ("~5 nuclei / field", None),
        ("/home/me/with space/mine", ".../mine"),
        ("hf-hub:owner/name", None),
    ],
)
def test_paths_are_told_from_other_texts(text, shortened):
    assert shorten_places({"a": [text]}) == {"a": [shortened or text]}
    assert bool(list(list_places([text]))) == (shortened is not None)


def test_words_stay_even_where_they_look_like_paths():
    told = {"caption": "/nuclei/ large", "filters": [{"prompt": "~/x", "model": "/home/me/x"}]}
    kept = {"caption": "/nuclei/ large", "filters": [{"prompt": "~/x", "model": ".../x"}]}
    assert shorten_places(told) == kept
    assert list(list_places(told)) == ["/home/me/x"]


def test_links_stay_where_a_path_is_cut_beside_them():
    text = "see https://host/data/x, /data/x and /data/x/more, or ../data/x."
    assert replace_places(text, {"/data/x"}) == (
        "see https://host/data/x, .../x and .../x/more, or ../data/x."
    )


@pytest.mark.parametrize(
    "place", ["/home/me/x", "~/x", "C:\\x\\y", "timm:/home/x", "file:///home/x", "file:/home/x"]
)
def test_a_place_is_found_in_any_row(place):
    rows = [json.dumps({"filters": [{"model": each}]}) for each in ("owner/name", place)]
    assert has_places(pa.table({"provenance": rows}))
    assert has_places(pa.table({"model": ["x", place]}))
    assert not has_places(
        pa.table({"provenance": rows[:1], "model": pa.array([None], pa.string())})
    )


# --- folders and object stores -------------------------------------------------------------------


def copy(folder: Path, url: str, **options):
    """Publishes to a folder in this process."""
    publication = prepare(folder)
    return publish_items(publication.items, FolderTarget(url, quiet), "0" * 64, quiet, **options)


def test_a_folder_gets_the_same_files_and_only_what_is_missing(made, tmp_path):
    out = tmp_path / "out"
    assert copy(made, str(out)).steps >= 3
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert sorted(names) == list_files(made)
    assert read_rows(out) == read_rows(made)
    assert not copy(made, str(out)).sent
    path = out / "data/train-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="--replace"):
        copy(made, str(out))
    assert set(copy(made, str(out), replace=True).sent) == {
        "data/train-00001-of-00003.parquet",
        "README.md",
    }
    assert read_rows(out) == read_rows(made)


def test_a_folder_that_a_killed_copy_left_is_gone_on_with(made, tmp_path):
    out = tmp_path / "out"
    copy(made, str(out))
    (out / "README.md").unlink()
    (out / "data/train-00002-of-00003.parquet").unlink()
    (out / "data/train-00002-of-00003.parquet.part").write_bytes(b"half")
    result = copy(made, str(out))
    assert not result.problems
    assert not list(out.rglob("*.part"))
    assert set(result.sent) == {"data/train-00002-of-00003.parquet", "README.md"}


def test_an_object_store_gets_the_same_files(made):
    import fsspec

    url = "memory://bucket/published"
    assert not copy(made, url).problems
    assert not copy(made, url).sent
    files = fsspec.filesystem("memory")
    name = "data/train-00000-of-00003.parquet"
    assert files.cat_file(f"/bucket/published/{name}") == (made / name).read_bytes()
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("inside", ["", "..", "published"])
def test_a_run_is_not_published_into_itself(made, inside):
    with pytest.raises(InputError, match="holds the run, or lies in it"):
        copy(made, str(made / inside))


def test_an_unknown_protocol_is_named(made):
    with pytest.raises(InputError, match="nowhere://x: cannot be opened"):
        copy(made, "nowhere://x")


@pytest.mark.slow("core/test_store.py::test_files_fit_into_a_folder_of_the_hub")
@pytest.mark.stranger
def test_a_folder_holds_no_more_files_than_the_hub_takes(tmp_path, hub, monkeypatch):
    recipe, out = write_recipe(tmp_path, output={"rows_per_file": 1}), tmp_path / "run"
    assert run(recipe, out).exit_code == 0
    monkeypatch.setattr("factory.data.writers.parquet.MAX_FILES", 12)
    hub.max_files = 12
    done = CliRunner().invoke(main, ["publish", str(out), "--repo", REPO, "--dry-run"])
    assert done.exit_code == 2
    assert "data: 23 files, and the Hub takes 12 in a folder: remove summary.json" in done.output
    with pytest.raises(InputError, match="takes 12 in a folder"):
        send(hub, out, prepare_publication(out))
    assert not hub.repos
    (out / "summary.json").unlink()
    assert run(recipe, out).exit_code == 0
    assert len(list((out / "data").iterdir())) == 12
    assert not send(hub, out, prepare_publication(out, url=hub.endpoint), files=50).problems
    assert len(list_files(out)) == len(hub.repos[REPO].files) - 1
