"""What of a real image is seen: a small crop is told, and nothing that keeps mpp is enlarged."""

import numpy as np
import pytest
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import SourceError
from factory.core.notes import listen
from factory.data.images import check_fit, fit_image, fit_source, list_images, read_fitted
from tests.data.test_sources import make_pixels
from tests.running import call, read_rows, write_recipe


def write_set(root, size, width=None):
    for number in range(12):
        path = root / ("normal", "tumor")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = make_pixels(number, size)[:, : width or size]
        Image.fromarray(pixels // 2 + 100 * (number % 2)).save(path)
    return root


def list_arguments(command, root, tmp_path, size, fit="crop"):
    """One line of each command that brings real images to a size."""
    reference = {"kind": "reference", "images": str(root), "per_class": 2, "shots": 2, "fit": fit}
    realism = {"kind": "realism", "images": str(root), "fit": fit, "min_realism_quantile": 0.0}
    generator = {"model": "fake", "width": size, "height": size}
    if command in ("validate", "plan", "run"):
        recipe = write_recipe(tmp_path, conditions=[reference], filters=[], generator=generator)
        more = {"validate": [], "plan": ["--no-calibrate"], "run": ["--out", tmp_path / "out"]}
        return [command, recipe, *more[command]]
    if command == "realism":
        classes = {"kind": "class", "per_class": {"normal": 1, "tumor": 1}}
        return [
            "validate",
            write_recipe(tmp_path, conditions=[classes], filters=[realism], generator=generator),
        ]
    if command == "classifier":
        options = ["--size", size, "--fit", fit, "--out", tmp_path / "out", "--force"]
        return ["train", "classifier", "--data", root, *options]
    sets = ["--real", root, "--synthetic", root, "--size", size, "--fit", fit]
    return ["evaluate", "copies", *sets]


COMMANDS = ["validate", "plan", "run", "realism", "classifier", "copies"]


@pytest.mark.stranger
@pytest.mark.parametrize("command", COMMANDS)
def test_a_crop_of_little_is_told(tmp_path, command):
    root = write_set(tmp_path / "real", 128)
    result = call(*list_arguments(command, root, tmp_path, 32))
    lines = [line for line in result.stderr.splitlines() if "`fit: crop` shows the centre" in line]
    assert len(lines) == 1, result.output
    assert "32 x 32 px, 6.2% of the area of an image of 128 x 128 px" in lines[0]
    assert "`fit: resize` (--fit resize) shows all, at another scale (mpp)" in lines[0]
    resized = call(*list_arguments(command, root, tmp_path / "resized", 32, "resize"))
    assert "shows the centre" not in resized.stderr
    assert resized.exit_code in (0, 1), resized.output


def test_a_crop_of_a_quarter_is_no_news(tmp_path):
    images = list_images(write_set(tmp_path, 64))
    with listen() as notes:
        check_fit(images, 32, 32, "crop", "real")
        check_fit(images, 31, 32, "crop", "real")
    assert len(notes) == 1
    assert "24.2%" in notes[0]


@pytest.mark.stranger
@pytest.mark.parametrize("command", ["validate", "plan", "run", "realism", "classifier"])
def test_a_crop_enlarges_nothing(tmp_path, command):
    root = write_set(tmp_path / "real", 64, width=48)
    result = call(*list_arguments(command, root, tmp_path, 64))
    assert result.exit_code == 2, result.output
    assert "48 x 64 px, but 64 x 64 px are asked for" in result.stderr
    assert "take `fit: resize` (--fit resize), larger images, or a smaller size" in result.stderr
    resized = call(*list_arguments(command, root, tmp_path / "resized", 64, "resize"))
    assert resized.exit_code in (0, 1), resized.output


def test_what_is_large_enough_is_fitted_as_before(tmp_path):
    images = list_images(write_set(tmp_path, 64))
    pixels = images[0].read_pixels()
    for fit in ("crop", "resize"):
        expected = fit_image(pixels, 32, 48, fit)
        assert np.array_equal(read_fitted(images[0], 32, 48, fit), expected)
        assert np.array_equal(fit_source(pixels, 32, 48, fit, "x"), expected)
    with pytest.raises(SourceError, match=r"x: 64 x 64 px, but 32 x 65 px are asked for"):
        fit_source(pixels, 32, 65, "crop", "x")


def test_a_classifier_that_sees_little_or_enlarges_is_told(tmp_path):
    root = write_set(tmp_path / "real", 64)
    out = tmp_path / "classifier"
    assert call("train", "classifier", "--data", root, "--out", out, "--force").exit_code == 0
    conditions = [{"kind": "class", "per_class": {"normal": 1, "tumor": 1}}]
    filters = [{"kind": "classifier", "model": str(out), "min_probability": 0.0}]
    for size, said in ((256, "6.2% of the area of an image of 256 x 256"), (32, "are enlarged")):
        generator = {"model": "fake", "width": size, "height": size}
        recipe = write_recipe(tmp_path, conditions=conditions, filters=filters, generator=generator)
        result = call("validate", recipe)
        assert result.exit_code == 0, result.output
        assert said in result.stderr


@pytest.mark.stranger
@pytest.mark.parametrize("name", ["nano-he", "nano-he-base"])
def test_shipped_models_state_their_scale(name, tmp_path):
    entry = load_catalogs().find_model(name)
    assert entry.mpp is None
    assert "lymph node about 1 µm per pixel" in entry.scale
    assert "oral mucosa not known" in entry.scale
    assert "scale: 'mixed: lymph node" in call("models", "show", name).stdout.replace("\n ", "")


def test_the_card_states_the_scale(tmp_path):
    conditions = [{"kind": "class", "per_class": {"normal": 2}}]
    generator = {"model": "nano-he", "steps": 2, "width": 64, "height": 64}
    recipe = write_recipe(tmp_path, conditions=conditions, filters=[], generator=generator)
    assert call("run", recipe, "--out", tmp_path / "out").exit_code == 0
    assert len(read_rows(tmp_path / "out")) == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- scale of its training images: mixed: lymph node about 1 µm per pixel" in card
