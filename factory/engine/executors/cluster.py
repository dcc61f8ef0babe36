"""Ray, started here or joined: on this machine unless an address is given, bounded, cleaned up."""

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from factory.core.errors import RunBrokenError
from factory.engine.executors import watchdog
from factory.engine.executors.address import REACH, check_address, describe_dead, probe_cluster

GOODBYE = 15.0
"""Seconds that our own Ray may take to end before it is killed."""
HEAD_EVERY = 5.0
"""Seconds between looks at the head of a given cluster."""
HEAD_LOST = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60")) / 2  # noqa: SIM112
"""Seconds without an answer until it counts as dead; after twice as long Ray ends the process."""
_DAEMONS = ("gcs_server", "raylet")
GET_HANDLER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
SET_HANDLER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
    ("PyOS_setsig", ctypes.pythonapi)
)
"""What the system calls at a signal; Python's `signal` works in the main thread alone."""


@dataclass(slots=True)
class Cluster:
    """A Ray that is connected.

    Attributes:
        address: that was asked for, or None for this machine.
        is_ours: whether `close` disconnects from it.
    """

    address: str | None
    is_ours: bool = True
    _token: str | None = None
    _watchdog: subprocess.Popen[bytes] | None = None
    _daemons: list[psutil.Process] = field(default_factory=list)
    _head: tuple[str, int] | None = None
    _looked: float = field(default_factory=time.monotonic)
    _seen: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Looks whether the daemons of a Ray of ours live, or the head of a cluster answers.

        Raises:
            RunBrokenError: not so. Ray itself would end this process, with the code of a shortfall.
        """
        now = time.monotonic()
        if self._head is not None and now - self._looked > HEAD_EVERY:
            self._looked = now
            with contextlib.suppress(OSError):
                socket.create_connection(self._head, timeout=REACH).close()
                self._seen = now
            if now - self._seen > HEAD_LOST:
                raise RunBrokenError(
                    f"{self.address}: the head of the cluster has not answered for "
                    f"{now - self._seen:.0f} s: start it again, then run the same command again"
                )
        for process in self._daemons:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise RunBrokenError(
                    "Ray on this machine broke: one of its own processes died (was it killed, for "
                    "want of memory?): run the same command again to go on"
                )

    def close(self) -> None:
        """Disconnects; a Ray that was started here ends, with every process of it."""
        if not self.is_ours:
            return
        self.is_ours = False
        import ray

        ending = threading.Thread(target=ray.shutdown, daemon=True)
        try:
            self.check()
        except RunBrokenError:  # then a goodbye waits for answers that never come
            self._end_processes()
        ending.start()
        ending.join(GOODBYE)
        self._end_processes()

    def _end_processes(self) -> None:
        if self._token is None or self._watchdog is None:
            return
        watchdog.end_processes(self._token)
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait()
        self._token = self._watchdog = None
        self._daemons = []


def start_ray(address: str | None = None) -> Cluster:
    """Starts Ray on this machine, or joins the cluster that recipe or environment name.

    A Ray that is connected already is used, and left as it is. One that is noted in the temporary
    folder is somebody else's, and joined only if `address` is `auto`.

    Args:
        address: `workers.address`; None: what RAY_ADDRESS names, or this machine.

    Raises:
        InputError: an address that is none.
        RunBrokenError: nothing answers there, or Ray cannot start here.
    """
    import ray

    where = "workers.address" if address is not None else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        address = None
    if ray.is_initialized():
        return Cluster(address, is_ours=False)
    if address is None:
        return _start_here()
    check_address(address, where)
    if not address.startswith("ray://"):  # Ray's client has bounds of its own, half a minute
        probe_cluster(address, where)
    with _keep_signals():
        _connect(lambda why: describe_dead(address, where, why), address=address)
    if address.startswith("ray://"):
        return Cluster(address)
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return Cluster(address, _head=(host.strip("[]"), int(port)))


def end_actors(actors: Iterable[Any], cluster: Cluster) -> None:
    """Ends what was started on a cluster, and leaves it."""
    if not cluster.is_ours:  # else they end with the connection
        kill_actors(actors)
    cluster.close()


def kill_actors(actors: Iterable[Any]) -> None:
    """Ends actors, whatever they are at."""
    import ray
    from ray.exceptions import RayError

    for actor in actors:
        with contextlib.suppress(RayError):
            ray.kill(actor)


def list_nodes() -> list[dict[str, float]]:
    """Returns the resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def list_free() -> Mapping[str, float]:
    """Returns what no worker of anybody uses now, over all nodes."""
    import ray

    free: Mapping[str, float] = ray.available_resources()
    return free


def _start_here() -> Cluster:
    """Starts Ray; once more where that failed: Ray gives a busy machine half a minute."""
    try:
        return _start_once()
    except RunBrokenError:
        return _start_once()


def _start_once() -> Cluster:
    """Starts Ray on loopback alone, each process of it marked, beside one that ends them all."""
    token = secrets.token_hex(16)
    guard = subprocess.Popen(
        [sys.executable, str(Path(watchdog.__file__)), token, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    cluster = Cluster(None, True, token, guard)
    with contextlib.ExitStack() as undo:
        undo.callback(cluster.close)
        with _mark_processes(token), _use_loopback(), _keep_signals():
            _connect(
                lambda why: f"Ray could not start on this machine ({why}): run the command again",
                address="local",
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
            )
        processes = watchdog.list_processes(token)
        cluster._daemons = [each for each in processes if each.name() in _DAEMONS]
        undo.pop_all()
    return cluster


def _connect(describe: Callable[[str], str], **arguments: Any) -> None:
    import ray

    with _Explained(describe), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell is told by the error
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **arguments)


@dataclass(frozen=True, slots=True)
class _Explained:
    """Turns what Ray raises into our error: where it cannot start, that is a bare Exception."""

    describe: Callable[[str], str]

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise RunBrokenError(self.describe(" ".join(str(error).split()))) from error


@contextlib.contextmanager
def _mark_processes(token: str) -> Iterator[None]:
    """Variables that Ray's processes inherit: their mark, kept readable, and no usage reports."""
    values = {
        watchdog.VARIABLE: token,
        "SPT_NOENV": "1",  # a process that renames itself keeps its environment
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _use_loopback() -> Iterator[None]:
    """Makes Ray take 127.0.0.1 for this node, where it would look for an address of the network.

    Without a cluster, as on macOS and Windows, it listens on loopback alone; that is read when Ray
    is imported, which may be long ago.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _keep_signals() -> Iterator[None]:
    """Ray would put its own handlers of SIGTERM, which end the process without a word.

    One in Python, and one below it that aborts three seconds after the signal, whatever Python's
    does (ray-project/ray pull request 64830). Both are kept out from any thread.
    """
    from ray._private import utils

    before, below = utils.set_sigterm_handler, GET_HANDLER(signal.SIGTERM)
    utils.set_sigterm_handler = lambda sigterm_handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before
        SET_HANDLER(signal.SIGTERM, below)
