"""The last handler: an error that nobody foresaw becomes one line, and its traceback a file."""

import hashlib
import os
import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAMED = ("torch", "diffusers", "datasets", "pyarrow", "ray", "numpy", "click")
"""Packages whose versions stand in the file."""
LONGEST = 300
"""Characters of an error's own words in the line."""


def describe_crash(error: BaseException) -> str:
    """Writes the traceback of `error` to a file; returns the one line that says so."""
    kind = type(error).__name__
    words = _read_words(error)
    said = f"{kind}: {words}" if words else kind
    written = _write_log(_write_report(error))
    where = f"the traceback is in {written}" if written else "no file could be written for it"
    return (
        f"unexpected {said} ({where}). What was finished is kept: run the same command again to go "
        "on; if this comes again, report it with that file"
    )


def _read_words(error: BaseException) -> str:
    """Returns what an error says, on one line; of a traceback in it only the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return ""
    is_traced = any(line.startswith("Traceback (") for line in lines) or "ray::" in lines[0]
    text = lines[-1] if is_traced else lines[0]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _write_report(error: BaseException) -> str:
    lines = [
        f"factory {_read_version('factory-pathology')}, Python {platform.python_version()}, "
        f"{platform.platform()}",
        ", ".join(f"{name} {_read_version(name)}" for name in NAMED),
        f"command: {sys.argv}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines)


def _read_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _write_log(text: str) -> Path | None:
    """Writes where programs keep their state, or else among temporary files.

    The name is the content's hash, so that the same crash again takes no more room.
    """
    data = text.encode("utf-8", "backslashreplace")
    name = f"crash-{hashlib.sha256(data).hexdigest()[:12]}.log"
    for folder in _list_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_bytes(data)
        except (OSError, RuntimeError):
            continue
        return path
    return None


def _list_folders() -> list[Path]:
    """Returns the folders to try: the XDG state folder, then the one for temporary files."""
    folders = []
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        folders.append((Path(state) if state else Path.home() / ".local" / "state") / "factory")
        folders.append(Path(tempfile.gettempdir()) / "factory")
    except (OSError, RuntimeError):  # no home, or no folder for temporary files
        pass
    return folders
