"""Disturbs runs in every way that a month on a cluster brings, and looks whether anything is lost.

Usage: python -m tests.chaos [--rounds N] [--seed S] [--only NAME,NAME]

Each round takes the next kind of disturbance, with a moment and a place drawn from the seed, lets a
run suffer it, then runs the same command again in peace. The data set must be the undisturbed one:
the same (sample_id, image_sha256). A run that stops has to say why, in words. Real processes, real
signals, a real S3 server (moto), a real Ray. Prints a table.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from factory.core.files.store import FileStore
from tests import ROOT, forked, killer, objectstore, store_killer, throttle
from tests.running import call, write_recipe

RECIPE: dict[str, Any] = {
    "conditions": [{"kind": "class", "per_class": {"normal": 12, "tumor": 12}}],
    "output": {"shard_size": 4},
    "budget": {"attempts": 8, "retries": 2},
    "catalogs": ["catalog"],
    "generator": {"model": "slow"},
}
RAY = ("workers.executor=ray", "workers.count=2", "workers.cpus=0.5", "budget.retries=30")
PATIENCE = 600.0
"""Seconds until a run that neither ends nor dies counts as hung."""


@dataclass(slots=True)
class Suffered:
    """What a disturbance did: signals that were sent, and how its runs ended."""

    kills: int = 0
    codes: list[int | None] = field(default_factory=list)
    mend: Callable[[], None] = lambda: None
    """Takes the disturbance away, where the run cannot go on with it."""
    is_final: bool = False
    """Nothing goes on: the disturbance has looked itself whether all is well."""


@dataclass(slots=True)
class Scene:
    """One round: where it plays, and by what chance."""

    folder: Path
    recipe: Path
    chance: random.Random
    out: str
    store: dict[str, str]
    """Variables that lead to the S3 server."""
    logs: list[Path] = field(default_factory=list)

    @property
    def place(self) -> Path:
        """The run folder on disk."""
        return Path(self.out)

    def start(
        self,
        *overrides: str,
        prepare: Callable[[random.Random], None] | None = None,
        run: Callable[..., Any] | None = None,
        first: tuple[Any, ...] = (),
        **variables: str,
    ) -> BaseProcess:
        """Begins the command in a process of its own; `run` takes `first` and its words."""
        words = ["run", str(self.recipe), "--out", self.out]
        for each in overrides:
            words += ["--set", each]
        log = self.folder / f"log-{len(self.logs)}"
        log.touch()
        self.logs.append(log)
        environment = {**self.store, "PYTHONPATH": str(ROOT), **variables}
        seed = self.chance.random()
        return forked.start(_play, log, prepare, seed, run, (*first, words), **environment)

    def wait(self, process: BaseProcess, suffered: Suffered) -> int | None:
        """Waits for the end of a run, and looks whether it said why it ended."""
        code = forked.wait(process, PATIENCE)
        suffered.codes.append(code)
        said = self.logs[-1].read_text()
        assert code is not None, f"hung:\n{said}"
        assert "Traceback" not in said, said
        if code not in (0, -signal.SIGKILL):
            words = ("error: ", "stopped", "QUARANTINED", "SHORTFALL")
            assert any(each in said for each in words), f"ended with {code} without a word: {said}"
        return code

    def wait_for_begin(self, process: BaseProcess) -> None:
        """Waits until the run folder is there, then for a moment that is drawn."""
        deadline = time.monotonic() + PATIENCE
        begun = [Path(f"{self.logs[-1]}.begun"), self.place / ".factory"]
        while process.is_alive() and not all(path.exists() for path in begun):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(self.chance.uniform(0.0, 1.0))

    def wait_for_shards(self, process: BaseProcess, count: int) -> None:
        """Waits until so many shards are committed, or the run has ended."""
        deadline = time.monotonic() + PATIENCE
        while process.is_alive() and len(list(self.place.glob(".factory/shards/*.json"))) < count:
            assert time.monotonic() < deadline, self.logs[-1].read_text()
            time.sleep(0.02)


def _play(log: Path, prepare: Any, seed: float, run: Any, arguments: tuple[Any, ...]) -> None:
    """Runs in the process of a run."""
    from factory.cli import main

    forked.write_to(log)
    Path(f"{log}.begun").touch()
    if prepare is not None:
        prepare(random.Random(seed))
    if run is None:
        main(arguments[-1])
    else:
        run(*arguments)


# --- drivers and writers -------------------------------------------------------------------------


def driver_killed(scene: Scene) -> Suffered:
    """SIGKILL at a moment of chance, several times over."""
    suffered = Suffered()
    for _ in range(scene.chance.randint(2, 4)):
        process = scene.start()
        scene.wait_for_begin(process)
        suffered.kills += process.is_alive()
        process.kill()
        scene.wait(process, suffered)
    return suffered


def writer_killed(scene: Scene) -> Suffered:
    """SIGKILL before, amid or after a durable write."""
    suffered = Suffered()
    for _ in range(2):
        moment = scene.chance.randint(1, 24), scene.chance.choice(["before", "amid", "after"])
        process = scene.start(run=killer.run_armed, first=moment)
        suffered.kills += scene.wait(process, suffered) == -signal.SIGKILL
    return suffered


def driver_stopped(scene: Scene) -> Suffered:
    """SIGTERM or SIGINT, once or twice."""
    suffered = Suffered()
    process = scene.start()
    scene.wait_for_begin(process)
    for _ in range(scene.chance.randint(1, 2)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, scene.chance.choice([signal.SIGTERM, signal.SIGINT]))
        time.sleep(scene.chance.uniform(0.0, 0.1))
    assert scene.wait(process, suffered) in (0, 3)
    return suffered


def two_drivers(scene: Scene) -> Suffered:
    """Two commands want one folder, and the clocks of both are wrong; one of them is killed."""
    suffered = Suffered()
    first = scene.start(prepare=jump_clock)
    time.sleep(scene.chance.uniform(0.0, 0.3))
    second = scene.start(prepare=jump_clock)
    if scene.chance.random() < 0.5:
        scene.wait_for_begin(first)
        suffered.kills += first.is_alive()
        first.kill()
    first.join(PATIENCE)
    assert scene.wait(second, suffered) in (0, 2, 3)
    return suffered


def clock_jumps(scene: Scene) -> Suffered:
    """The clock jumps by up to a day, to and fro, while a run is made."""
    suffered = Suffered()
    process = scene.start(prepare=jump_clock)
    scene.wait(process, suffered)
    return suffered


def jump_clock(chance: random.Random) -> None:
    """Makes `time.time` jump."""
    true, state = time.time, {"offset": 0.0}

    def tell() -> float:
        if chance.random() < 0.2:
            state["offset"] = chance.uniform(-86_400, 86_400)
        return true() + state["offset"]

    time.time = tell


# --- disks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mount(place: Path, size: str) -> Iterator[Callable[..., None]]:
    """A small disk of its own; yields what mounts it again with other options."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    try:
        yield change
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def can_mount() -> bool:
    """Whether this process may have a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mount(Path(folder) / "disk", "64k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def disk_full(scene: Scene) -> Suffered:
    """The disk has no room left; where none may be mounted, files are limited."""
    suffered = Suffered()
    if not can_mount():
        scene.wait(scene.start(prepare=limit_files), suffered)
        return suffered
    size = scene.chance.choice([8, 32, 64, 96, 128, 160, 256])
    with contextlib.ExitStack() as stack:
        change = stack.enter_context(mount(scene.folder / "disk", f"{size}k"))
        scene.out = str(scene.folder / "disk" / "run")
        scene.wait(scene.start(), suffered)
        change("size=64m")
        suffered.mend = stack.pop_all().close
    return suffered


def folder_read_only(scene: Scene) -> Suffered:
    """The file system, or where none may be mounted the folder, is read-only for a while."""
    suffered = Suffered()
    if not can_mount():
        scene.wait(scene.start(), suffered)
        for mode in (0o555, 0o755):
            scene.place.chmod(mode)
            (scene.place / ".factory").chmod(mode)
            scene.wait(scene.start(), suffered)
        return suffered
    with contextlib.ExitStack() as stack:
        change = stack.enter_context(mount(scene.folder / "disk", "64m"))
        scene.out = str(scene.folder / "disk" / "run")
        process = scene.start()
        scene.wait_for_begin(process)
        process.kill()
        scene.wait(process, suffered)
        change("ro")
        assert scene.wait(scene.start(), suffered) != 0
        change("rw")
        suffered.mend = stack.pop_all().close
    return suffered


def limit_files(chance: random.Random) -> None:
    """Lets no file grow above a few kilobytes."""
    most = chance.choice([3_000, 6_000, 12_000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def files_damaged(scene: Scene) -> Suffered:
    """Markers, data and records are cut, changed, emptied or gone."""
    suffered = Suffered()
    process = scene.start()
    if scene.chance.random() < 0.7:
        scene.wait_for_shards(process, scene.chance.randint(1, 6))
        process.kill()
        suffered.kills = 1
    scene.wait(process, suffered)
    kept = scene.folder / "kept"
    shutil.copytree(scene.place, kept)
    names = sorted(path for path in scene.place.rglob("*") if path.is_file())
    names = [path for path in names if path.name != "lease.json"]
    for path in scene.chance.sample(names, min(len(names), scene.chance.randint(1, 3))):
        _damage(path, scene.chance)
    if scene.wait(scene.start(), suffered) in (2, 3):  # refused: bring back what was there
        shutil.copytree(kept, scene.place, dirs_exist_ok=True)
    return suffered


def _damage(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    how = chance.choice(["cut", "change", "empty", "remove"])
    if how == "remove":
        path.unlink()
    elif how == "empty" or not data:
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: chance.randrange(len(data))])
    else:
        data[chance.randrange(len(data))] ^= 0x55
        path.write_bytes(data)


# --- models --------------------------------------------------------------------------------------


def model_raises(scene: Scene) -> Suffered:
    """Some batches fail."""
    suffered = Suffered()
    scene.wait(scene.start(prepare=make_raise), suffered)
    return suffered


def model_hangs(scene: Scene) -> Suffered:
    """A batch never ends; the second signal ends the command."""
    suffered = Suffered()
    process = scene.start(prepare=make_hang)
    scene.wait_for_begin(process)
    time.sleep(1.0)
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGTERM)
        time.sleep(0.3)
    assert scene.wait(process, suffered) in (0, 3)
    return suffered


def model_leaks(scene: Scene) -> Suffered:
    """Every image leaves 8 MB behind, until there is no memory left."""
    suffered = Suffered()
    scene.wait(scene.start(prepare=make_leak), suffered)
    return suffered


def model_is_nan(scene: Scene) -> Suffered:
    """Every image is NaN: none is accepted, and that is told."""
    suffered = Suffered(is_final=True)
    assert scene.wait(scene.start("budget.attempts=2", prepare=make_nan), suffered) == 1
    assert "nonfinite" in scene.logs[-1].read_text()
    assert not read_identities(scene.out)
    return suffered


def _change_model(act: Callable[[Any, Any], Any]) -> None:
    """Has the model make an image by `act`, which gets what makes it as it is, and the job."""
    from factory.models.generators.families import fake

    [kind] = [each for each in vars(fake).values() if hasattr(each, "_draw_channels")]
    make = kind.make
    kind.make = lambda self, job: act(lambda: make(self, job), job)


def make_raise(chance: random.Random) -> None:
    """Raises for some images."""

    def act(make: Any, job: Any) -> Any:
        if chance.random() < 0.06:
            raise RuntimeError("device-side assert triggered")
        return make()

    _change_model(act)


def make_hang(chance: random.Random) -> None:
    """Hangs from some image on, deaf to signals that raise."""
    from factory.engine import drain

    drain.HARD, left = 0.5, [chance.randint(0, 40)]

    def act(make: Any, job: Any) -> Any:
        left[0] -= 1
        while left[0] < 0:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)
        return make()

    _change_model(act)


def make_leak(chance: random.Random) -> None:
    """Leaks, below a limit of memory."""
    kept: list[bytes] = []
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))

    def act(make: Any, job: Any) -> Any:
        kept.append(bytes(8 << 20))
        return make()

    _change_model(act)


def make_nan(chance: random.Random) -> None:
    """Gives nothing finite."""
    from dataclasses import replace

    _change_model(lambda make, job: replace(make(), nonfinite_fraction=1.0))


# --- object stores -------------------------------------------------------------------------------

MOMENTS = [
    ("pipe_file", ".parquet"), ("pipe_file", "-r0.json"), ("pipe_file", "lease.json"),
    ("close", "build/data/"), ("cp_file", "/data/train-00000"), ("rm_file", "build/"),
    ("pipe_file", "/summary.json"), ("pipe_file", "/README.md"),
]  # fmt: skip


def store_writer_killed(scene: Scene) -> Suffered:
    """SIGKILL before or after a call of S3."""
    scene.out, suffered = f"s3://{objectstore.BUCKET}/{scene.chance.getrandbits(64):x}", Suffered()
    for method, part in scene.chance.sample(MOMENTS, 2):
        moment = method, part, scene.chance.choice(["before", "after"])
        process = scene.start(run=store_killer.run_armed, first=moment)
        suffered.kills += scene.wait(process, suffered) == -signal.SIGKILL
    return suffered


def store_throttled(scene: Scene) -> Suffered:
    """S3 answers many calls with 503, SlowDown."""
    scene.out, suffered = f"s3://{objectstore.BUCKET}/{scene.chance.getrandbits(64):x}", Suffered()
    share = scene.chance.choice([0.02, 0.1, 0.3, 0.9])
    with throttle.serve(scene.store["AWS_ENDPOINT_URL"], share, scene.chance.random()) as endpoint:
        scene.wait(scene.start(AWS_ENDPOINT_URL=endpoint), suffered)
    return suffered


# --- Ray -----------------------------------------------------------------------------------------


def hasten(chance: random.Random) -> None:
    """Shortens the waits of a driver."""
    from factory.engine.executors import pulse, ray

    pulse.SILENCE, ray.RESIZE = 10.0, 1.0


def ray_workers_killed(scene: Scene) -> Suffered:
    """SIGKILL of a worker whenever another shard was committed."""
    return _hurt_workers(scene, signal.SIGKILL, 5)


def ray_worker_frozen(scene: Scene) -> Suffered:
    """SIGSTOP of a worker: it holds its shard, and says nothing any more."""
    return _hurt_workers(scene, signal.SIGSTOP, 1)


def _hurt_workers(scene: Scene, number: signal.Signals, times: int) -> Suffered:
    suffered = Suffered()
    process = scene.start(*RAY, prepare=hasten)
    for shards in range(times):
        scene.wait_for_shards(process, shards + 1)
        for victim in scene.chance.sample(found := find_named(process, "RayWorker"), bool(found)):
            with contextlib.suppress(psutil.Error):
                victim.send_signal(number)
                suffered.kills += 1
    assert scene.wait(process, suffered) == 0
    return suffered


def ray_daemon_killed(scene: Scene) -> Suffered:
    """SIGKILL of raylet, GCS or driver: nothing of that Ray is left, and the run goes on later."""
    suffered = Suffered()
    wanted = ["raylet", "gcs_server", "driver"]
    for _ in range(6):  # a busy machine does not always let a Ray start
        process = scene.start(*RAY, prepare=hasten)
        done = len(list(scene.place.glob(".factory/shards/*.json")))
        scene.wait_for_shards(process, done + 1)
        children = find_named(process, "")
        is_driver = wanted[0] == "driver" and process.is_alive()
        victims = [psutil.Process(process.pid)] if is_driver else []
        for victim in victims or find_named(process, wanted[0])[:1]:
            victim.kill()
            suffered.kills += 1
            wanted.pop(0)
        scene.wait(process, suffered)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive, alive
        if not wanted:
            break
    return suffered


def ray_node_killed(scene: Scene) -> Suffered:
    """SIGKILL of the second node of a cluster, amid the work; a third one joins."""
    from ray.cluster_utils import Cluster

    suffered = Suffered()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    second = cluster.add_node(num_cpus=1)
    try:
        where = "workers.executor=ray", f"workers.address={cluster.address}", "budget.retries=30"
        process = scene.start(*where, prepare=hasten)
        scene.wait_for_shards(process, 2)
        cluster.remove_node(second, allow_graceful=False)
        suffered.kills = 1
        cluster.add_node(num_cpus=1)
        assert scene.wait(process, suffered) == 0
    finally:
        cluster.shutdown()
    return suffered


def find_named(process: BaseProcess, name: str) -> list[psutil.Process]:
    """Returns the processes below a run whose command begins with a name, or holds it."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(child.cmdline()[:1]):
                    found.append(child)
    return found


# --- all of it -----------------------------------------------------------------------------------

LIGHT = [
    driver_killed, writer_killed, driver_stopped, two_drivers, clock_jumps, files_damaged,
    model_raises, model_hangs, model_leaks, model_is_nan, store_writer_killed, store_throttled,
]  # fmt: skip
DISKS = [disk_full, folder_read_only]
ON_RAY = [ray_workers_killed, ray_worker_frozen, ray_daemon_killed, ray_node_killed]
KINDS = {each.__name__: each for each in (*LIGHT, *DISKS, *ON_RAY)}


@dataclass(slots=True)
class Line:
    """What became of one kind."""

    rounds: int = 0
    kills: int = 0
    stopped: int = 0
    whole: int = 0
    seconds: float = 0.0


def read_identities(url: str) -> set[tuple[str, str]]:
    """Returns (sample_id, image_sha256) of all accepted rows; asserts that none is there twice."""
    files, rows = FileStore(url), []
    for name in files.list("data"):
        data = io.BytesIO(files.read(f"data/{name}"))
        rows += pq.read_table(data, columns=["sample_id", "image_sha256"]).to_pylist()
    found = {(row["sample_id"], row["image_sha256"]) for row in rows}
    assert len(found) == len(rows)
    return found


def write_scene(folder: Path, seconds: float) -> Path:
    """Writes the recipe, and the catalog whose model pauses for every image."""
    models = folder / "catalog" / "models"
    models.mkdir(parents=True)
    text = (ROOT / "catalogs" / "models" / "fake.yaml").read_text().replace("id: fake", "id: slow")
    text += f"\npipeline_arguments: {{seconds_per_image: {seconds}}}\n"
    (models / "slow.yaml").write_text(text)
    return write_recipe(folder, **RECIPE)


def play(name: str, seed: str, folder: Path, store: dict[str, str], line: Line) -> None:
    """Plays one round.

    Raises:
        AssertionError: something was lost, hung, or ended without a word.
    """
    quiet = write_scene(folder / "quiet", 0.0)
    assert call("run", quiet, "--out", folder / "expected").exit_code == 0
    pause = 0.15 if name.startswith("ray") else 0.02
    recipe = write_scene(folder / "loud", pause)
    scene = Scene(folder, recipe, random.Random(seed), str(folder / "run"), store)
    began = time.monotonic()
    suffered = KINDS[name](scene)
    try:
        if not suffered.is_final:
            code = scene.wait(scene.start("workers.executor=local"), Suffered())
            assert code == 0, f"does not go on: {scene.logs[-1].read_text()}"
            with _lead(store):
                assert read_identities(scene.out) == read_identities(str(folder / "expected"))
    finally:
        suffered.mend()
    line.rounds += 1
    line.kills += suffered.kills
    line.stopped += any(suffered.codes)
    line.whole += 1
    line.seconds += time.monotonic() - began


@contextlib.contextmanager
def _lead(store: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(store)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def play_all(rounds: int, seed: int, names: list[str]) -> dict[str, Line]:
    """Plays rounds of each kind in turn; prints each as it ends."""
    table: dict[str, Line] = defaultdict(Line)
    with objectstore.serve() as store:
        for number in range(rounds):
            name = names[number % len(names)]
            line = table[name]
            folder = Path(tempfile.mkdtemp(prefix="chaos-"))
            try:
                play(name, f"{seed}-{number}", folder, store, line)
            except AssertionError as error:
                line.rounds += 1
                print(f"{number} {name}: LOST, see {folder}: {error}", flush=True)
            else:
                print(f"{number} {name}: whole, {line.kills} signals so far", flush=True)
                shutil.rmtree(folder)
    return table


def main() -> None:
    """Reads the options, plays, prints the table; ends with 1 where something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=len(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas between")
    options = parser.parse_args()
    table = play_all(options.rounds, options.seed, options.only.split(","))
    print("\n| disturbance | rounds | signals | stopped, then went on | whole | s a round |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, line in table.items():
        each = line.seconds / max(line.whole, 1)
        shown = (name, line.rounds, line.kills, line.stopped, line.whole, f"{each:.0f}")
        print("| " + " | ".join(map(str, shown)) + " |")
    sys.exit(any(line.whole < line.rounds for line in table.values()))


if __name__ == "__main__":
    main()
