"""Settings of translations: fingerprints of older versions, and what would have no effect."""

import re

import numpy as np
import pytest
import yaml
from PIL import Image

from factory.api import load_recipe
from factory.core.errors import RecipeError
from factory.data.images import list_images
from factory.recipe.recipe import compute_recipe_digest
from tests import ASSETS
from tests.pipelines import save_pipeline
from tests.running import write_recipe

FROZEN = ASSETS / "oral-oscc" / "test"
OLD = "e0c98d57219a"
"""Fingerprint of a recipe without later settings, by the version that had none of them."""


def write(folder, model="fake", **block):
    return write_recipe(
        folder,
        generator={"model": str(model)},
        conditions=[{"kind": "translate", "images": str(FROZEN), "shots": 2} | block],
        filters=[],
        budget={"attempts": 1},
    )


def digest(recipe):
    return compute_recipe_digest(load_recipe(recipe).recipe)[:12]


def save_masks(folder, side=64, value=1):
    for image in list_images(FROZEN):
        path = (folder / image.key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), value, np.uint16)).save(path)
    return str(folder)


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    return save_pipeline("StableDiffusionInpaintPipeline", tmp_path_factory.mktemp("x") / "inpaint")


def test_fingerprints_without_later_settings_are_those_of_older_versions(tmp_path):
    assert digest(write(tmp_path)) == OLD
    assert digest(write(tmp_path, keep_haematoxylin=False)) == OLD
    assert digest(write(tmp_path, keep_haematoxylin=True)) != OLD


def test_where_masks_lie_is_no_content(tmp_path, inpaint, monkeypatch):
    block = {"method": "image_to_image", "to": {"caption": "pink"}}
    monkeypatch.chdir(tmp_path)
    save_masks(tmp_path / "masks")
    told = {
        digest(write(tmp_path, inpaint, **block, masks=each))
        for each in ("masks", str(tmp_path / "masks"))
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    ("side", "value", "message"),
    [
        (48, 1, "48 x 48 px, but its image 64 x 64 px: give it the size of its image"),
        (64, 300, "has the id 300, and 255 is the largest"),
    ],
)
def test_masks_that_would_mark_another_place_are_refused(tmp_path, inpaint, side, value, message):
    masks = save_masks(tmp_path / "masks", side, value)
    block = {"method": "image_to_image", "to": {"caption": "pink"}, "masks": masks}
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+:\d+: .*\.masks: .*{message}"):
        load_recipe(write(tmp_path, inpaint, **block))


def test_missing_images_are_told_once_and_not_of_the_masks(tmp_path, inpaint):
    block = {"method": "image_to_image", "to": {"caption": "pink"}, "images": str(tmp_path / "no")}
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, inpaint, **block, masks=save_masks(tmp_path / "masks")))
    assert re.findall(r"conditions\[0\]\.\w+", str(caught.value)) == ["conditions[0].images"]


def test_masks_of_a_model_that_paints_none_are_refused(tmp_path):
    model = save_pipeline("StableDiffusionPipeline", tmp_path / "plain")
    block = {"method": "image_to_image", "to": {"caption": "pink"}}
    with pytest.raises(RecipeError, match=r"\.masks: .* is not told by a mask what to make anew"):
        load_recipe(write(tmp_path, model, **block, masks=save_masks(tmp_path / "masks")))


def test_haematoxylin_of_channels_cannot_be_kept(tmp_path):
    path = tmp_path / "catalog" / "models" / "fake-mif.yaml"
    path.parent.mkdir(parents=True)
    named = [{"name": "DAPI", "window": [0, 1]}, {"name": "CD8", "window": [0, 1]}]
    entry = {"id": "fake-mif", "base": "fake", "mpp": 0.5}
    path.write_text(yaml.safe_dump({**entry, "channels": {"dtype": "float32", "named": named}}))
    recipe = write(tmp_path, "fake-mif", keep_haematoxylin=True)
    recipe.write_text(recipe.read_text() + "catalogs: [catalog]\n")
    with pytest.raises(RecipeError, match=r"\.keep_haematoxylin: .*channels.*: remove it"):
        load_recipe(recipe)
