"""The guard against judging a model by the encoder that taught or conditions it."""

import json

import pytest
import yaml
from click.testing import CliRunner

from factory.catalog.catalog import load_catalogs
from factory.cli import main
from factory.recipe.file import load_recipe
from factory.recipe.judge_overlap import find_circles, list_encoders
from tests.models.test_encoder_catalog import LICENCE

REAL = [{"kind": "realism", "images": "real", "encoder": "color-texture", "min_realism": 0.01}]


def write_model(root, part):
    folder = root / "mine" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    entry = load_catalogs().find_model("fake").model_dump(mode="json", exclude_none=True)
    entry |= {"id": "taught", "components": [{"licence": LICENCE, **part}]}
    (folder / "taught.yaml").write_text(yaml.safe_dump(entry))


def write_recipe(root, filters, model="taught", **more):
    recipe = {
        "name": "x",
        "catalogs": ["mine"],
        "generator": {"model": model},
        "conditions": [{"kind": "class", "per_class": {"normal": 2}}],
        "filters": filters,
        **more,
    }
    (root / "r.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe(root / "r.yaml")


def find(loaded):
    return find_circles(loaded.recipe, loaded.session)


@pytest.mark.parametrize("encoder", ["uni2-h", "timm:hf-hub:MahmoodLab/UNI2-h"])
@pytest.mark.parametrize(
    ("role", "told"), [("teacher", "taught"), ("image_encoder", "conditions the generator")]
)
def test_a_judge_that_made_the_model_is_found(tmp_path, encoder, role, told):
    write_model(tmp_path, {"role": role, "source": "MahmoodLab/UNI2-h"})
    filters = [{"kind": "realism", "images": "real", "encoder": encoder, "min_realism": 0.1}]
    [text] = find(write_recipe(tmp_path, filters))
    assert "filter realism judges with MahmoodLab/UNI2-h" in text
    assert told in text


def test_what_picks_is_a_judge_too(tmp_path):
    write_model(tmp_path, {"role": "teacher", "source": "color-texture"})
    pick = {"keep": "diverse", "encoder": "color-texture", "pool": 2}
    [text] = find(write_recipe(tmp_path, [], pick=pick))
    assert text.startswith("pick judges with color-texture")


def test_others_are_left_alone(tmp_path):
    write_model(tmp_path, {"role": "teacher", "source": "owkin/phikon"})
    assert find(write_recipe(tmp_path, REAL)) == ()
    write_model(tmp_path, {"role": "vae", "source": "color-texture"})
    assert find(write_recipe(tmp_path, REAL)) == ()


def test_classifiers_tell_their_encoder(tmp_path):
    write_model(tmp_path, {"role": "teacher", "source": "x/y"})
    loaded = write_recipe(tmp_path, [{"kind": "classifier", "model": "pcam"}])
    [used] = list_encoders(loaded.recipe, loaded.session)
    assert (used.used_by, used.weights) == ("filter classifier", "classifiers/pcam")


def test_commands_warn_and_the_card_says_so(tmp_path):
    from PIL import Image

    write_model(tmp_path, {"role": "teacher", "source": "color-texture"})
    (tmp_path / "real").mkdir()
    for seed in range(12):
        image = Image.effect_noise((64, 64), 20 + seed).convert("RGB")
        image.save(tmp_path / "real" / f"{seed}.png")
    filters = [{"kind": "realism", "images": "real", "max_centroid_distance": 1e6}]
    write_recipe(tmp_path, filters)
    run, out = CliRunner().invoke, str(tmp_path / "out")
    told = run(main, ["plan", str(tmp_path / "r.yaml"), "--no-calibrate"])
    assert "warning: filter realism judges with color-texture" in told.output
    told = run(main, ["run", str(tmp_path / "r.yaml"), "--out", out])
    assert told.exit_code == 0, told.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["encoders"][0]["weights"] == "color-texture"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Not independent**: filter realism judges with color-texture, which taught" in card
    told = run(main, ["refilter", out, "--set", "filters.realism.max_centroid_distance=900000"])
    assert told.exit_code == 0, told.output
    assert "**Not independent**" in (tmp_path / "out" / "README.md").read_text()
