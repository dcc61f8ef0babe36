"""`mask_agreement`: nuclei of an image against the mask that it was asked for."""

import io

import numpy as np
import pytest
from PIL import Image

from factory.core.errors import FilterError
from factory.core.images import decode_image
from factory.core.stains import segment_nuclei
from factory.data.images import list_images
from factory.data.label_maps import decode_labels, encode_labels, hash_labels
from factory.data.records import Condition, Sample
from factory.data.streams import Control
from factory.data.streams.control import KeptMask
from factory.engine.dataset import open_dataset
from factory.filters import build_filters
from factory.filters.mask_agreement import MaskAgreementFilter, compute_dice
from factory.models.session import Session
from factory.publish.card.grid import draw_sample_grid
from tests import ASSETS
from tests.recipe.test_masks import NUCLEI
from tests.running import call, read_rows, run, write_recipe

MASKS = ASSETS / "masks"


def ask(labels, palette=((1, "nucleus"),)):
    source = KeptMask(encode_labels(labels), f'{{"sha256":"{hash_labels(labels)}"}}')
    return Condition(None, None, Control(source, palette))


def score(pixels, conditions, **settings):
    chosen = MaskAgreementFilter.Settings(kind="mask_agreement", **settings)
    judge = MaskAgreementFilter(chosen, Session.open(ASSETS))
    return judge.score([Sample(each) for each in pixels], conditions)["mask_dice"]


@pytest.fixture(scope="module")
def pairs():
    found = []
    for image in list_images(MASKS / "images"):
        mask = MASKS / "nuclei" / image.class_name / f"{image.path.stem}.png"
        pixels = decode_image(image.read_bytes(), image.place)
        found.append((pixels, decode_labels(mask.read_bytes(), str(mask))))
    return found


def test_dice_is_that_of_its_formula():
    one = np.array([[1, 1, 0, 0]], bool)
    other = np.array([[0, 1, 1, 1]], bool)
    assert compute_dice(one, other) == 2 * 1 / (2 + 3)
    assert compute_dice(one, one) == 1.0
    assert compute_dice(one, ~one) == 0.0
    assert compute_dice(one & ~one, one & ~one) == 1.0


def test_real_nuclei_agree_with_their_own_mask_better_than_with_any_other(pairs):
    pixels = [each for each, _ in pairs]
    own = score(pixels, [ask(labels) for _, labels in pairs])
    for shift in range(1, len(pairs)):
        turned = [pairs[(row + shift) % len(pairs)][1] for row in range(len(pairs))]
        others = score(pixels, [ask(labels) for labels in turned])
        assert (others < own).all()
    assert own.mean() > 0.6


def test_names_choose_what_counts_as_nuclei(pairs):
    pixels, labels = pairs[0]
    both = labels.copy()
    both[:40] = np.where(both[:40] > 0, 1, 2)
    palette = ((1, "nucleus"), (2, "stroma"))
    chosen, everything = (
        score([pixels], [ask(both, palette)], **names)[0] for names in ({"names": ["nucleus"]}, {})
    )
    assert chosen == score([pixels], [ask(labels)])[0]
    assert everything == compute_dice(both > 0, segment_nuclei(pixels[None])[0])
    assert everything != chosen
    with pytest.raises(FilterError, match="names: none is in the palette, which has nucleus"):
        score([pixels], [ask(labels)], names=["gland"])


def test_it_does_not_apply_without_a_mask(pairs):
    found = score([pairs[0][0]] * 2, [Condition("tumor"), ask(pairs[0][1])])
    assert np.isnan(found[0]) and not np.isnan(found[1])
    settings = MaskAgreementFilter.Settings(kind="mask_agreement", min_dice=0.9)
    judge = build_filters((settings,), Session.open(ASSETS))[0]
    assert judge.decide({"mask_dice": None}, None).accepted
    assert not judge.decide({"mask_dice": 0.2}, None).accepted


def test_a_run_keeps_what_agrees_and_shows_masks_beside_images(tmp_path):
    recipe = write_recipe(
        tmp_path,
        generator={"model": "fake", "width": 64, "height": 64, "batch_size": 4},
        conditions=[{**NUCLEI, "per_mask": None, "count": 2}],
        filters=[{"kind": "mask_agreement", "min_dice": 0.7}],
        budget={"attempts": 2},
    )
    run(recipe, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 2
    assert all(0.7 <= row["scores"]["mask_dice"] <= 1 for row in rows)
    result = call("preview", str(recipe), "--out", str(tmp_path / "p"), "-n", "2")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "p" / "preview.png") as sheet:
        assert sheet.width == 2 * (64 + 2 + 64 + 6)
        cell = np.asarray(sheet)[3:67, 3 + 66 : 3 + 130]
    assert set(np.unique(cell)) == {0, 255}, "the mask, black and white, right of the first image"
    result = call("report", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert "mask_dice" in (tmp_path / "run" / "report.html").read_text()


def test_without_any_mask_the_recipe_is_refused(tmp_path):
    recipe = write_recipe(tmp_path, filters=[{"kind": "mask_agreement"}])
    told = call("validate", str(recipe))
    assert told.exit_code == 2
    assert "filters[0]: no condition has a mask: remove the filter" in told.output


def test_names_that_no_mask_of_a_block_has_are_told_with_the_near_one(tmp_path):
    mask = {"column": "mask", "palette": {1: "gland"}}
    table = {"kind": "vector", "vectors": "v.csv", "per_row": 1, "columns": {"control": mask}}
    layout = {"kind": "layout", "layout": "nuinsseg", "per_class": 1}
    (tmp_path / "v.csv").write_text("MYC,mask\n1,a.png\n")
    recipe = write_recipe(
        tmp_path,
        conditions=[NUCLEI, table, layout],
        filters=[{"kind": "mask_agreement", "names": ["nucleos"]}],
    )
    told = call("validate", str(recipe), "--no-files").output
    place = "filters[0].names: masks mark none of nucleos: "
    assert told.count(place + "did you mean 'nucleus'?") == 1, told
    assert told.count(place + "known: gland") == 1, told
    recipe.write_text(recipe.read_text().replace("nucleos", "nucleus"))
    told = call("validate", str(recipe), "--no-files").output
    assert told.count("masks mark none of") == 1, told


def test_the_card_shows_masks_right_of_images(tmp_path):
    recipe = write_recipe(
        tmp_path,
        generator={"model": "fake", "width": 64, "height": 64, "batch_size": 4},
        conditions=[
            {**NUCLEI, "per_mask": None, "count": 2},
            {"kind": "class", "per_class": {"stroma": 1}},
        ],
        filters=[],
    )
    run(recipe, tmp_path / "run")
    grid = draw_sample_grid(open_dataset(str(tmp_path / "run")))
    with Image.open(io.BytesIO(grid)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colours = {tuple(each) for each in pixels.reshape(-1, 3)}
    assert (0, 0, 0) in colours, "black of a mask, which the ground of no image is"
