"""FLUX.2 on a tiny twin with the layers that its call reads: adopted, asked by a recipe, rerun."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from click.testing import CliRunner

from factory.cli import main
from tests.parts import make
from tests.pipelines import build_pipeline, fill

LAYERS = (9, 18, 27)
"""Of the text encoder, whose states its call joins where nothing else is said."""


def save_klein(name: str, folder: Path) -> Path:
    """A FLUX.2 klein of random weights that needs no arguments of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build_pipeline(name)
        before = pipeline.text_encoder
        encoder = make(type(before).__name__, "Flux2Klein", num_hidden_layers=LAYERS[-1])
        width = len(LAYERS) * before.config.hidden_size
        config = {**pipeline.transformer.config, "joint_attention_dim": width}
        transformer = diffusers.Flux2Transformer2DModel.from_config(config)
        pipeline.register_modules(text_encoder=encoder, transformer=transformer)
        for component in (encoder, transformer, pipeline.vae):
            component.eval()
            fill(component)
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (words, result.output, result.stderr)
    return result.stdout


@pytest.mark.slow("models/test_adopt.py::test_a_stream_that_is_not_heeded_is_named")
@pytest.mark.parametrize("name", ["Flux2KleinPipeline"])
def test_klein_is_adopted_and_its_rows_are_made_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_klein(name, tmp_path / "klein")
    small = ["--width", "64", "--height", "64", "--steps", "1", "--largest-batch", "1"]
    said = call("models", "adopt", "klein", "--out", "mine/models/klein.yaml", *small, code=1)
    assert "proven      caption: exchanging it changes the image" in said, said
    written = yaml.safe_load(Path("mine/models/klein.yaml").read_text())
    assert written["family"] == "diffusers" and written["one_per_call"] is True
    assert {"caption", "reference"} <= set(written["optional"])
    recipe: dict[str, Any] = {
        "name": "x",
        "catalogs": ["mine"],
        "generator": {"model": "klein", "width": 64, "height": 64, "steps": 1},
        "conditions": [{"kind": "class", "per_class": {"tumor": 2}}],
        "output": {"path": "run"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    call("run", "r.yaml")
    verified = json.loads(call("verify", "run", "--regenerate", "2", "--base", ".", "--json"))
    assert verified["sound"] and "exact" in json.dumps(verified)
