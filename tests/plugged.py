"""Plug-in packages as an installer leaves them, and processes in which they are installed."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests import ROOT

PLUGINS = ROOT / "tests" / "plugins"


def install(
    plugin: str, site: Path, broken: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> None:
    """Installs a package of `tests/plugins`; `broken`: group -> kind -> what does not load."""
    folder = PLUGINS / plugin
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    made = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    made.mkdir(parents=True)
    for path in folder.glob("*.py"):
        shutil.copy(path, site)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (made / "METADATA").write_text(head)
    lines = []
    for group, entries in project["entry-points"].items():
        both = {**entries, **broken.get(group, {})}
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in both.items())]
    (made / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run_python(site: Path, *words: str, folder: Path, code: int = 0) -> str:
    """Runs Python in a folder, where what lies in `site` is installed; returns what it prints."""
    paths = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def call(*words: str, code: int = 0) -> str:
    """Runs a command in this process; returns all that it prints."""
    from click.testing import CliRunner

    from factory.cli import main

    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (words, result.output, result.exception)
    return result.output + result.stderr
