"""Processes that may be killed: forked off a server that has loaded what is heavy, once a session.

What a test kills is a process of its own, with memory and signals of its own; it only begins where
a new interpreter is after ten seconds of imports.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "factory.train.encoder.loop",
        "factory.train.generator.train",
        "diffusers.models.unets.unet_2d",
        "diffusers.schedulers.scheduling_flow_match_euler_discrete",
        "sklearn.linear_model",
    ]
)


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """Begins a process that calls a function of a module; its variables are those of the test."""
    variables = {**os.environ, **environment}
    process = _CONTEXT.Process(target=_call, args=(variables, function, arguments))
    process.start()
    return process


def start_command(words: list[str], **environment: str) -> BaseProcess:
    """Begins a process that runs the command line."""
    return start(_run_command, words, **environment)


def wait(process: BaseProcess, seconds: float = 120) -> int | None:
    """Returns the exit code as `subprocess` gives it: negative for a signal; None if it lives."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def kill_at_checkpoint(words: list[str], checkpoint: Path) -> None:
    """Begins a command, and kills it once its checkpoint is there."""
    process = start_command(words)
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()


def _run_command(words: list[str]) -> None:
    from factory.cli import main

    main(words)


def _call(variables: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(variables)
    function(*arguments)
