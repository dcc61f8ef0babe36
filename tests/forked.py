"""Processes that may be killed: forked off a server that has loaded what is heavy, once a session.

What a test kills is a process of its own, with memory and signals of its own; it only begins where
a new interpreter is after ten seconds of imports.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
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


def load() -> None:
    """Begins the server, and returns when it has loaded all."""
    process = _CONTEXT.Process(target=int)
    process.start()
    process.join()


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
