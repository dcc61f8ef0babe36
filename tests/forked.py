"""Processes that may be killed: forked off a server that has loaded what is heavy, once a session.

Where all tests run, that server is a copy of the process that they run in, made before the first.

What a test kills is a process of its own, with memory and signals of its own; it only begins where
a new interpreter is after ten seconds of imports.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LIBRARIES = (
    "factory.cli.runs",
    "factory.api.making",
    "factory.publish.card",
    "datasets",
    "mlcroissant",
    "factory.train.encoder.loop",
    "factory.train.generator.train",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "sklearn.linear_model",
)
"""What the server has loaded before it forks."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(LIBRARIES))
_SPAWN = util.spawnv_passfds


def load() -> None:
    """Begins the server as a copy of this process, which has done nothing yet but import.

    A new interpreter would import all of it again: 10 s of CPU.
    """
    resource_tracker.ensure_running()  # a new interpreter, as ever
    util.spawnv_passfds = _copy
    try:
        process = _CONTEXT.Process(target=int)
        process.start()
    finally:
        util.spawnv_passfds = _SPAWN
    process.join()


def _copy(path: bytes, arguments: list[str], passed: list[int]) -> int:
    """Does what `spawnv_passfds` does for `python -c`, with the modules of this process."""
    process = os.fork()
    if process == 0:
        try:
            _forget()
            for low, high in pairwise(sorted([2, *passed, util.MAXFD])):
                if high > low + 1:
                    os.closerange(low + 1, high)
            exec(arguments[-1], {})
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    return process


def _forget() -> None:
    """Undoes in a copy what pytest and the beginning of the server have set in the process."""
    util.spawnv_passfds = _SPAWN
    forkserver._forkserver.__init__()  # its lock is held
    resource_tracker._resource_tracker._pid = None
    faulthandler.disable()
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """Begins a process that calls a function of a module; its variables are those of the test."""
    variables = {**os.environ, **environment}
    process = _CONTEXT.Process(target=_call, args=(variables, function, arguments))
    process.start()
    return process


def start_command(words: list[str], log: Path | None = None, **environment: str) -> BaseProcess:
    """Begins a process that runs the command line; all that it says goes to `log`."""
    return start(_run_command, words, log, **environment)


def wait(process: BaseProcess, seconds: float = 120) -> int | None:
    """Returns the exit code as `subprocess` gives it: negative for a signal; None if it lives."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def stop_at_checkpoint(
    words: list[str], out: Path, number: signal.Signals = signal.SIGKILL
) -> int | None:
    """Begins a training, and sends a signal once there is a checkpoint; returns the exit code."""
    process = start_command([*words, "--out", str(out)])
    deadline = time.monotonic() + 120
    while find_step(out) == 0:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid or 0, number)
    return wait(process)


def find_step(out: Path) -> int:
    """Returns the step of a training's last checkpoint, 0 without any."""
    found = sorted((out / "training").glob("checkpoint-*"))
    return int(found[-1].name.removeprefix("checkpoint-")) if found else 0


def _run_command(words: list[str], log: Path | None) -> None:
    from factory.cli import main

    if log is not None:
        write_to(log)
    main(words)


def write_to(log: Path) -> None:
    """Leads all that this process says to a file, from now on."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _call(variables: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(variables)
    function(*arguments)
