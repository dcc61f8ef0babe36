"""A user's whole way: recipe, run, evaluate, card, publish, load, verify, regenerate."""

import json
import random
from contextlib import ExitStack

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from tests.commands import open_commands
from tests.hub import open_hub
from tests.publish.test_publish import REPO, build_environment, call
from tests.running import read_rows

RECIPE = {
    "name": "whole-way",
    "seed": 3,
    "conditions": [{"kind": "class", "per_class": {"normal": 8, "tumor": 8}}],
    "filters": [{"kind": "finite"}, {"kind": "tissue", "min_fraction": 0.1}],
    "workers": {"executor": "local"},
    "card": {"license": "cc-by-4.0", "pretty_name": "The whole way"},
}
LOAD = """
import sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train")
print(sorted(rows["sample_id"]))
"""


def write_real(folder):
    """Something to compare with; what it shows does not matter here."""
    for name in ("normal", "tumor"):
        (folder / name).mkdir(parents=True)
        for seed in range(12):
            draw = np.random.default_rng([seed, name == "tumor"])
            pixels = draw.integers(90, 230, (16, 16, 3)).repeat(4, 0).repeat(4, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed}.png")
    return folder


@pytest.mark.spine
@pytest.mark.parametrize(
    "generator",
    [
        pytest.param({"model": "fake", "width": 64, "height": 64}, id="fake"),
        pytest.param({"model": "nano-he", "steps": 4}, id="nano-he", marks=pytest.mark.slow),
    ],
)
def test_from_a_recipe_to_rows_that_anybody_can_make_again(generator, tmp_path):
    recipe = {**RECIPE, "generator": {**generator, "batch_size": 4}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    real, made = write_real(tmp_path / "real"), tmp_path / "made"
    with ExitStack() as running:
        environment = build_environment(running.enter_context(open_hub()), tmp_path / "home")
        ask = running.enter_context(open_commands(environment))

        def factory(*arguments):
            done = ask(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        factory("run", tmp_path / "recipe.yaml", "--out", made)
        result = made / "evaluation" / "fidelity.json"
        judge = ("--encoder", "color-texture", "--force", "--json", result)
        factory("evaluate", "fidelity", "--real", real, "--synthetic", made, *judge)
        factory("card", made)
        card = (made / "README.md").read_text()
        assert "### fidelity" in card and "color-texture" in card
        assert DatasetCard(card).data.license == "cc-by-4.0"
        assert "synthetic" in DatasetCard(card).data.tags
        told = factory("publish", made, "--repo", REPO, "--tag", "v1")
        assert f"/datasets/{REPO}" in told
        rows = read_rows(made)
        loaded = call(["-c", LOAD, REPO], environment)
        assert loaded.stdout.strip() == str(sorted(row["sample_id"] for row in rows)), loaded.stderr
        report = json.loads(factory("verify", f"{REPO}@v1", "--json"))
        assert report["sound"]
        row, again = random.Random(0).choice(rows), tmp_path / "again.webp"
        assert "exact" in factory("regenerate", REPO, row["sample_id"], "--out", again)
        assert again.read_bytes() == row["image"]["bytes"]
