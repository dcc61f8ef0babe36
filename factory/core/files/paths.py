"""Paths as people write them in recipes."""

from pathlib import Path


def resolve_path(base: Path, path: Path | str) -> Path:
    """Returns a recipe's path as one that can be opened: `~` expanded, relative to `base`."""
    return base / Path(path).expanduser()
