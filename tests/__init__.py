"""Tests, in folders like the packages; a package, since torch-fidelity installs another `tests`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"


def run_alone(code: str) -> None:
    """Runs code in an interpreter of its own, where nothing is imported yet; it must not fail."""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
