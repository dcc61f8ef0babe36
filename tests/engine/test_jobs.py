"""Ray jobs for real: a head with a token, a submitted recipe, the rows of an in-process run."""

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from tests import ROOT
from tests.running import list_identities, run, write_recipe

SUBMIT, ONE_MACHINE = ROOT / "jobs" / "submit.sh", ROOT / "jobs" / "one-machine.sh"
OPTIONS = ("--workers", "1", "--set", "workers.cpus=0.5", "--set", "workers.gpus=0")
RECIPE = {
    "generator": {"model": "patterns"},
    "catalogs": ["catalog"],
    "conditions": [{"kind": "class", "per_class": {"normal": 8, "tumor": 8}}],
    "workers": {},
}
"""The model stands in a catalog beside the recipe, so both must reach the cluster."""


def build_environment(**changes):
    """The tests' interpreter and checkout first, and nothing of Ray from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), kept["PATH"]))
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def write_job(folder):
    """A recipe and the catalog that it names, in a folder of their own."""
    models = folder / "catalog" / "models"
    models.mkdir(parents=True)
    text = (ROOT / "catalogs/models/fake.yaml").read_text().replace("id: fake", "id: patterns")
    (models / "patterns.yaml").write_text(text)
    return write_recipe(folder, **RECIPE)


def call(script, *arguments, environment, cwd):
    return subprocess.run(
        [script, *map(str, arguments)], cwd=cwd, env=environment, check=False,
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip


def wait_until(is_true, seconds):
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.2)
    return is_true()


def answers(address):
    """Whether a web server is there; an open port alone may be a probe that met itself."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, http.client.HTTPException):
        return False
    return True


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    assert run(write_job(folder), folder / "run", overrides=["workers.executor=local"]).url
    return list_identities(folder / "run")


@pytest.fixture
def cluster():
    """A head with a token, in a process group of its own that ends with the test."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        port, client_port = one.getsockname()[1], two.getsockname()[1]
    folder = Path(tempfile.mkdtemp())  # tmp_path is too long for Ray's sockets
    environment = build_environment(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_ADDRESS=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    head = subprocess.Popen(
        [
            "ray", "start", "--head", "--block", "--port=0", f"--temp-dir={folder}",
            "--include-dashboard=true", f"--dashboard-port={port}",
            "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client_port}",
            "--min-worker-port=0", "--max-worker-port=0", "--num-cpus=2", "--num-gpus=0",
            "--disable-usage-stats",
        ],
        env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert wait_until(
            lambda: answers(environment["RAY_ADDRESS"]) or head.poll() is not None, 60
        )
        assert head.poll() is None, "the head did not start"
        yield environment
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait(5)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow("engine/test_ray.py::test_two_workers_give_the_same_rows")
def test_submitted_job_gives_the_same_rows(expected, cluster, tmp_path):
    recipe = write_job(tmp_path / "recipe with a space")
    done = call(SUBMIT, recipe, "run", *OPTIONS, environment=cluster, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 of 16 accepted" in done.stdout
    assert list_identities(tmp_path / "run") == expected

    wrong = {**cluster, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = call(SUBMIT, recipe, "other", *OPTIONS, environment=wrong, cwd=tmp_path)
    assert refused.returncode == 3
    assert "the job was not started" in refused.stderr
    assert "token" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow("test_bad_calls_are_refused")
def test_one_machine_starts_and_stops_its_own_ray(tmp_path):
    """One attempt each leaves a shortfall: the exit code of `factory run` comes back as well."""
    recipe, scratch = write_job(tmp_path / "recipe"), Path(tempfile.mkdtemp())
    single = ("--set", "budget.attempts=1")
    local = run(recipe, tmp_path / "local", overrides=["workers.executor=local", single[1]])
    assert local.exit_code == 1
    try:
        done = call(
            ONE_MACHINE, recipe, tmp_path / "run", *OPTIONS, *single,
            environment=build_environment(TMPDIR=str(scratch)), cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        assert "SHORTFALL normal" in done.stdout
        assert list_identities(tmp_path / "run") == list_identities(tmp_path / "local")
        assert wait_until(lambda: not list_naming(scratch), 10), list_naming(scratch)
        assert not list(scratch.iterdir())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def list_naming(folder):
    """Live processes whose command line names a folder: a Ray's session stands in each of its."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_without_a_token_submit_says_what_is_missing(tmp_path):
    recipe = write_job(tmp_path / "recipe")
    environment = build_environment(HOME=str(tmp_path))
    done = call(SUBMIT, recipe, tmp_path / "run", environment=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN is not set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((), {}, "usage: jobs/submit.sh RECIPE OUT"),
        (("no-such.yaml", "out"), {}, "no-such.yaml: no such recipe"),
        (("job.yaml", "out"), {"FACTORY_WORKING_DIR": "missing"}, "no such folder"),
        (("job.yaml", "out"), {"FACTORY_WORKING_DIR": "../tests"}, "lies outside"),
    ],
)
def test_bad_calls_are_refused(arguments, changes, message):
    environment = build_environment(RAY_AUTH_TOKEN="0" * 64, **changes)
    for script in (SUBMIT, ONE_MACHINE)[: 1 if arguments else 2]:
        done = call(script, *arguments, environment=environment, cwd=ROOT / "jobs")
        assert done.returncode == 2
        assert message in done.stderr


def test_scripts_parse_and_name_what_is_there():
    scripts = [*sorted((ROOT / "jobs").glob("*.sh")), ROOT / ".ci" / "run"]
    assert {SUBMIT, ONE_MACHINE} < set(scripts)
    for script in scripts:
        assert os.access(script, os.X_OK), script
        assert "set -euo pipefail" in script.read_text()
        subprocess.run(["bash", "-n", script], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", script], check=True)
        lines = script.read_text().splitlines()
        calls = [line for line in lines if "ray stop" in line and not line.strip().startswith("#")]
        assert not calls, "`ray stop` ends every Ray on the host"
    readme = (ROOT / "jobs" / "README.md").read_text()
    for path in (ROOT / "jobs").iterdir():
        assert path.name == "README.md" or path.name in readme


def test_the_job_keeps_the_token_to_itself():
    job = yaml.safe_load((ROOT / "jobs" / "job.yaml").read_text())
    assert set(job) == {"env_vars", "excludes"}
    assert not [name for name in job["env_vars"] if "TOKEN" in name and "RAY" in name]
    assert all(isinstance(value, str) for value in job["env_vars"].values())
