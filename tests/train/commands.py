"""What the commands that train from a recipe must do alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forked
from tests.running import ask, call


def write_recipe(recipe: dict[str, Any], folder: Path, **changes: Any) -> Path:
    """Writes a recipe with other values of its sections; returns its file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path


def make_trained(save: Callable[[Path], None], write: Callable[[Path], Path], name: str) -> Any:
    """A fixture of a module: the folder of a translator that is trained, and what was told."""

    @pytest.fixture(scope="module")
    def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("trained")
        save(folder)
        out = folder / name
        return out, ask("train", "translator", write(folder), "--out", out)

    return trained


def train_elsewhere(kind: str, recipe: dict[str, Any], folder: Path) -> list[str]:
    """Trains two steps by a recipe whose paths start from its own folder; returns the command.

    A section with a misspelt name is refused, and nothing of it trained.
    """
    path, section = folder / "recipe.yaml", "views" if "views" in recipe else "network"
    command = ["train", kind, str(path), "--out", str(folder / "out"), "--json"]
    path.write_text(yaml.safe_dump({**recipe, f"{section}s": {}}))
    refused = call(*command)
    assert refused.exit_code == 2
    assert f"{section}s" in refused.output and f"did you mean '{section}'" in refused.output
    assert not (folder / "out").exists()
    path.write_text(yaml.safe_dump(recipe))
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 2
    return command


def kill_and_go_on(
    kind: str, recipe: dict[str, Any], train: Callable[[Path], object], folder: Path
) -> tuple[Path, Path]:
    """Kills a command after a checkpoint, goes on, and trains another at one go; returns both."""
    path, killed, whole = folder / "recipe.yaml", folder / "killed", folder / "whole"
    path.write_text(yaml.safe_dump(recipe))
    forked.stop_at_checkpoint(["train", kind, str(path)], killed)
    assert forked.find_step(killed) < recipe["training"]["steps"]
    for each in (killed, whole):
        train(each)
    return killed, whole
