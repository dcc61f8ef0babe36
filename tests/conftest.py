"""Test settings that must stand before any heavy library is imported: no network, one thread."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import forked
from tests.budget import Budget, import_libraries

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray gives way to all else by default: with a test on every CPU its workers would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves the CPU to others
# A busy machine is no fault of an example.
BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("daily", max_examples=25, **BUSY)
settings.register_profile("full", max_examples=200, **BUSY)
settings.load_profile("full" if os.environ.get("FACTORY_CI") == "full" else "daily")


def skip_fsync(file):
    """Awaits no disk: no test cuts the power, and what a killed process wrote the system has."""
    os.fstat(file if isinstance(file, int) else file.fileno())


os.fsync = skip_fsync
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
USUAL_GC = gc.get_threshold()
# Pipelines of models' own code are copied there: no process of tests reads those of another.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="modules-")
if WORKER is None:
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
else:  # Ray notes there which cluster runs; each process of tests sees its own only.
    os.environ["RAY_TMPDIR"] += f"/{WORKER}"
    Path(os.environ["RAY_TMPDIR"]).mkdir()


def pytest_xdist_auto_num_workers(config):
    """One process more than there are CPUs; none beside this one where files are named.

    Some tests wait, for leases, signals or Ray: of two CPUs a half stood idle at times.
    """
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, 8)


def pytest_configure(config):
    """Meters the tests; where all of them run, those that take far too long fail.

    Libraries are imported before, and the server of forked processes is begun: pytest has not
    taken the streams yet.
    """
    config.pluginmanager.register(Budget(strict=WORKER is not None), "budget")
    if WORKER is not None:
        import_libraries()
        forked.load()


def pytest_collection_finish():
    """What was imported stays: it need not be looked through for garbage again and again.

    Nor is the rest looked through after every 700 new objects: of 47 s of tests that took 4 s.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_unconfigure():
    """Takes Ray's folder away when all processes have ended."""
    if WORKER is None:
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture
def usual_gc():
    """Garbage is looked for as often as in a command, where what a test holds is memory."""
    before = gc.get_threshold()
    gc.set_threshold(*USUAL_GC)
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="session")
def s3_environment():
    """Variables that lead clients to an S3-compatible server of this session."""
    from tests.objectstore import serve

    with serve() as environment:
        yield environment


@pytest.fixture
def s3(s3_environment, monkeypatch):
    """The URL of a folder of its own in that server's bucket, and the way there."""
    import uuid

    import fsspec

    from tests.objectstore import BUCKET

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    # Clients are kept by bucket, not by endpoint: one of another test's server is not asked.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return f"s3://{BUCKET}/{uuid.uuid4()}"
