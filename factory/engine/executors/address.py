"""Addresses of Ray clusters: whether one is well formed, and whether a Ray answers there."""

import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

from factory.core.errors import InputError, RunBrokenError

CONNECT = 45.0
"""Seconds that a given cluster may take to be joined."""
REACH = 5.0
"""Seconds that its port may take to answer."""
IMPORT = 120.0
"""Seconds that a process may take to import Ray, from a slow disk."""


_PROBE = """
import logging, signal, sys
import ray
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))  # SIGALRM ends the process
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
"""
"""Joins a cluster in a process that can be killed: Ray's own tries go on for many minutes."""


def check_address(address: str, where: str) -> None:
    """Looks whether something listens at an address.

    Raises:
        InputError: an address that is none.
        RunBrokenError: nothing listens there.
    """
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("gcs", "ray") or not host or not port:
        raise InputError(
            f"{where}: got {address!r}, expected host:port, ray://host:port, auto, or local for "
            "this machine"
        )
    try:
        socket.create_connection((host, port), timeout=REACH).close()
    except OSError as error:
        raise RunBrokenError(describe_dead(address, where, str(error))) from error


def probe_cluster(address: str, where: str) -> None:
    """Joins and leaves a cluster in another process, within bounds.

    Raises:
        RunBrokenError: it cannot be joined.
    """
    environment = dict(os.environ)
    environment.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)  # it belongs to this process
    process = subprocess.Popen(
        [sys.executable, "-c", _PROBE, address, str(CONNECT)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            said, _ = process.communicate(timeout=IMPORT + CONNECT)
        except subprocess.TimeoutExpired:
            said = ""
        finally:
            process.kill()
    if process.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        is_late = process.returncode < 0 or not lines
        why = f"no answer within {CONNECT:g} s" if is_late else lines[-1]
        raise RunBrokenError(describe_dead(address, where, why))


def describe_dead(address: str, where: str, why: str) -> str:
    """Says that no Ray answers at an address, why, and what to do."""
    return (
        f"{where}: {address}: no Ray answers there ({why}): start that cluster, name another, or "
        f"leave {where} out to work on this machine; then run the same command again"
    )
