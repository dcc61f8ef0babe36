"""Runs the command line and kills its own process at the k-th write: before, amid or after it."""

import os
import signal
from pathlib import Path

from factory.cli import main
from factory.core.files import store as files


def die() -> None:
    """Dies as by a power cut: no handler, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(number: int, phase: str) -> None:
    """Makes the `number`-th durable write fatal."""
    write, count = files.replace_file, 0

    def write_and_die(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == number and phase == "before":
            die()
        if count == number and phase == "amid":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
            die()
        write(path, data)
        if count == number:
            die()

    files.replace_file = write_and_die


def run_armed(number: int, phase: str, arguments: list[str]) -> None:
    """Runs a command that dies at its `number`-th durable write."""
    arm(number, phase)
    main(arguments)
