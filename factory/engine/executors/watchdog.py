"""Ends the processes of a Ray that we started once its driver is gone; a process of its own.

Usage: python watchdog.py TOKEN PID. Whatever carries TOKEN in its environment is killed when
standard input ends or the driver PID is gone, whichever comes first. It imports nothing of factory,
since that would take seconds.
"""

import contextlib
import os
import select
import sys
import time

import psutil

VARIABLE = "FACTORY_RAY_TOKEN"
"""Environment variable that marks the processes of one Ray."""
LOOK_EVERY = 1.0
PATIENCE = 60.0
"""Seconds to look for processes that are left, at most."""


def list_processes(token: str) -> list[psutil.Process]:
    """Returns the processes that carry a token, but neither this one nor zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and process.environ().get(VARIABLE) == token and process.pid != os.getpid():
                found.append(process)
    return found


def end_processes(token: str) -> None:
    """Kills what carries a token, again until nothing is left: dying ones may have children."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = list_processes(token)
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=LOOK_EVERY)


def watch(token: str, driver: psutil.Process | None) -> None:
    """Waits for the driver to close the pipe or to die, then ends what carries the token."""
    while driver is not None and driver.is_running():
        if driver.status() == psutil.STATUS_ZOMBIE:
            break
        if select.select([sys.stdin], [], [], LOOK_EVERY)[0]:
            break
    end_processes(token)


def _find(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


if __name__ == "__main__":
    watch(sys.argv[1], _find(int(sys.argv[2])))
