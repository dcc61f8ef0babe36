"""Tests, in folders like the packages; a package, since torch-fidelity installs another `tests`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"
