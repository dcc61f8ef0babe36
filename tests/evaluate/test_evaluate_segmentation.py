"""`factory evaluate segmentation`: arms of one budget, test images of other patients, intervals."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import factory
from factory.cli import main
from factory.core.errors import EvaluationError, InputError, MismatchError
from factory.evaluate.everything import AllSettings
from factory.evaluate.segmentation import ARMS, METRICS, Segmentation
from factory.evaluate.segmentation.pairs import Reading, read_masked, refuse_shared
from factory.evaluate.segmentation.segmenter import Segmenter
from factory.evaluate.segmentation.study import _resample
from tests.running import run, write_recipe

SIZE = 32
TRAINED = {"steps": 30, "seeds": 2, "size": SIZE, "batch_size": 8, "width": 8}
SETTINGS = TRAINED | {"group_pattern": r"^(\w+?)_", "learning_rate": 0.01}


def draw_mask(draw):
    y, x = np.indices((SIZE, SIZE))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for row, column in draw.integers(4, SIZE - 4, (4, 2)):
        mask[(y - row) ** 2 + (x - column) ** 2 < draw.integers(10, 25)] = 1
    return mask


def write_set(root, masks, patients, seed):
    """Dark nuclei on pink, two images of each patient."""
    draw = np.random.default_rng(seed)
    for folder in (root, masks):
        folder.mkdir()
    for patient in patients:
        for number in range(2):
            mask, name = draw_mask(draw), f"{patient}_{number}.png"
            image = np.where(mask[..., None] > 0, (90, 60, 140), (230, 180, 205))
            noisy = np.clip(image + draw.normal(0, 12, image.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / name)
            Image.fromarray(mask).save(masks / name)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "real", folder / "masks", ("A", "B", "C", "D"), 0)
    write_set(folder / "test", folder / "test_masks", ("E", "F", "G", "H", "I"), 1)
    block = {"kind": "mask", "masks": str(folder / "masks"), "palette": {1: "nucleus"}}
    block |= {"per_mask": 1, "group_pattern": SETTINGS["group_pattern"]}
    block["licence"] = {"id": "cc0-1.0", "date_read": "2026-11-26"}
    generator = {"model": "fake", "width": SIZE, "height": SIZE, "batch_size": 4}
    plain = {"generator": generator, "filters": [], "budget": {"attempts": 1}}
    run(write_recipe(folder / "recipe", conditions=[block], **plain), folder / "run")
    return folder


def measure(sets, **changes):
    given = {"masks": sets / "masks", "test_masks": sets / "test_masks", **SETTINGS, **changes}
    places = [given.pop(name, sets / name) for name in ("real", "test", "run")]
    return factory.evaluate_segmentation(*places, given)


@pytest.fixture(scope="module")
def found(sets):
    out, file = sets / "out", sets / "run" / "evaluation" / "segmentation.json"
    words = ["--real", sets / "real", "--masks", sets / "masks", "--test", sets / "test"]
    words += ["--test-masks", sets / "test_masks", "--synthetic", sets / "run", "--json", file]
    for name, value in {**SETTINGS, "out": out}.items():
        words += [f"--{name.replace('_', '-')}", value]
    result = CliRunner().invoke(main, ["evaluate", "segmentation", *map(str, words)])
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text()), result.output


def test_arms_are_tested_on_other_patients_and_paired(found):
    result, output = found
    assert list(result["arms"]) == list(ARMS)
    assert [result["arms"][arm]["images"] for arm in ARMS] == [8, 8, 16]
    for arm in ARMS:
        for metric in METRICS:
            figure = result["arms"][arm][metric]
            assert figure["low"] <= figure["mean"] <= figure["high"]
            assert np.mean(result["by_seed"][arm][metric]) == pytest.approx(figure["mean"], abs=0.1)
    assert result["arms"]["real"]["dice"]["mean"] > 0.8
    for metric in METRICS:
        real, both = (result["arms"][arm][metric]["mean"] for arm in ("real", "real+synthetic"))
        assert result["paired"]["real+synthetic - real"][metric]["mean"] == pytest.approx(
            both - real
        )
        share = result["arms"]["synthetic"][metric]["mean"] / real
        assert result["share"]["synthetic / real"][metric]["mean"] == pytest.approx(share)
    assert result["test"]["groups"] == 5
    assert "10 real test images" in output
    assert "95 % over 5 patients or slides and seeds" in output
    assert not result["warnings"]


def test_what_is_done_is_kept(sets, found, monkeypatch):
    def fail(*given):
        raise AssertionError("trained again")

    monkeypatch.setattr(Segmenter, "fit_predict", fail)
    again = measure(sets, out=sets / "out")
    assert again["arms"] == found[0]["arms"]


@pytest.mark.parametrize("name", ["masks", "test_masks"])
def test_what_was_done_with_other_masks_is_not_taken(sets, found, tmp_path, name):
    shutil.copytree(sets / name, tmp_path / "other")
    first = min((tmp_path / "other").iterdir())
    Image.fromarray(draw_mask(np.random.default_rng(9))).save(first)
    with pytest.raises(MismatchError, match="masks"):
        measure(sets, out=sets / "out", **{name: tmp_path / "other"})


def test_the_table_of_all_and_the_card_show_it(sets, found):
    rows = list(Segmentation.list_rows(found[0]))
    assert len(rows) == 15
    assert {row.tier for row in rows} == {"diagnostic utility"}
    factory.card(sets / "run")
    card = (sets / "run" / "README.md").read_text()
    assert "aggregated Jaccard index" in card
    assert "real+synthetic - real" in card
    command = Segmentation.write_command("segmentation", found[0], "RUN")
    assert f"--masks {sets / 'masks'} --test {sets / 'test'}" in command


def test_all_needs_the_masks(sets):
    given = {"real": sets / "real", "test": sets / "test", "synthetic": sets / "run"}
    with pytest.raises(InputError, match="--masks, --test-masks"):
        Segmentation.adapt(AllSettings(**given))
    masks = {"masks": sets / "masks", "test_masks": sets / "test_masks"}
    adapted = Segmentation.adapt(AllSettings(**given, **masks, steps=7))
    assert (adapted.steps, adapted.seeds, adapted.masks) == (7, 5, sets / "masks")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 48}, "multiple of 32"),
        ({"test": "real", "test_masks": "masks"}, "share 8 images"),
        ({"test_masks": "masks"}, "has no mask of 'E_0'"),
        ({"masks": None}, "A_0.png: has no mask"),
        ({"ids": (2,)}, "real: no mask marks anything"),
        ({"ids": (0, 1)}, "ids"),
        ({"values": "objects", "ids": (1,)}, "have no ids"),
        ({"values": "coded"}, "code no id"),
    ],
)
def test_sets_that_do_not_fit_are_refused(sets, change, said):
    places = {k: sets / v if isinstance(v, str) and k != "values" else v for k, v in change.items()}
    with pytest.raises((InputError, EvaluationError), match=said):
        measure(sets, **places)


def test_masks_of_test_patients_are_refused_whichever_way_they_are_turned(sets, tmp_path):
    for name in ("test", "test_masks"):
        shutil.copytree(sets / name, tmp_path / name)
    places = {name: tmp_path / name for name in ("test", "test_masks")}
    mask = Image.open(sets / "masks" / "B_1.png").rotate(90)
    mask.save(tmp_path / "test_masks" / "E_0.png")
    with pytest.raises(InputError, match="share 1 masks"):
        measure(sets, **places)
    image = Image.open(tmp_path / "test" / "E_0.png")
    image.save(tmp_path / "test" / "C_7.png")
    Image.fromarray(draw_mask(np.random.default_rng(5))).save(tmp_path / "test_masks" / "C_7.png")
    with pytest.raises(InputError, match="share 1 patient or slide"):
        measure(sets, **places)
    unknown = {"group_pattern": None}
    with pytest.raises(InputError, match="share 1 masks"):
        measure(sets, **places, **unknown)


def test_a_mask_that_was_cut_otherwise_is_known(sets):
    run = read_masked(sets / "run", None, Reading(SIZE, "crop"))
    other = read_masked(sets / "test", sets / "test_masks", Reading(SIZE // 2, "crop"))
    refuse_shared(run, other)
    asked = sets / "real", sets / "masks"
    with pytest.raises(InputError, match="share 8 masks"):
        refuse_shared(run, read_masked(*asked, Reading(SIZE // 2, "crop")))


def test_masks_that_mark_all_or_nothing_may_lie_on_both_sides(tmp_path):
    """Tiles within one region of tissue: their masks tell nothing of them."""
    sides = []
    for seed, side in enumerate(("one", "two")):
        folder = tmp_path / side
        write_set(folder, tmp_path / f"{side}-masks", (side,), seed)
        for number, value in enumerate((0, 1)):
            mask = np.full((SIZE, SIZE), value, np.uint8)
            Image.fromarray(mask).save(tmp_path / f"{side}-masks" / f"{side}_{number}.png")
        sides.append(read_masked(folder, tmp_path / f"{side}-masks", Reading(SIZE, "crop")))
    refuse_shared(*sides)


def test_objects_are_those_of_the_masks(tmp_path):
    """Two that touch are two where the mask tells them apart, else one; specks are none."""
    labels = np.zeros((64, 64), np.uint16)
    labels[4:20, 4:20], labels[4:20, 20:36], labels[60:62, 60:62] = 1, 2, 3
    for name, values in (("i", labels), ("m", labels), ("c", np.where(labels, labels + 1000, 0))):
        (tmp_path / name).mkdir()
        kept = np.repeat(values[..., None], 3, 2).astype(np.uint8) if name == "i" else values
        Image.fromarray(kept).save(tmp_path / name / "x.png")
    told = {}
    for values, folder, ids in (
        ("ids", "m", ()),
        ("ids", "m", (2,)),
        ("objects", "m", ()),
        ("coded", "c", (1,)),
    ):
        reading = Reading(64, "crop", values, ids)
        read = read_masked(tmp_path / "i", tmp_path / folder, reading)
        told[values, ids] = (int(read.objects.max()), int(read.is_object.sum()))
    assert told == {
        ("ids", ()): (2, 516),  # ids of two names never join
        ("ids", (2,)): (1, 256),
        ("objects", ()): (2, 516),
        ("coded", (1,)): (2, 516),
    }
    halved = read_masked(tmp_path / "i", tmp_path / "m", Reading(32, "resize", "objects"))
    assert halved.pixels.shape == (1, 32, 32, 3)
    assert (int(halved.objects.max()), int(halved.is_object.sum())) == (2, 129)


def test_patients_are_resampled_whole():
    """Images of a patient are alike, so eight of two images tell as much as eight images."""
    draw = np.random.default_rng(0)
    values = np.repeat(draw.random(8), 2)
    table = np.stack([np.stack([values, np.ones(16)], 1)] * 3, 1)[None]  # one seed
    groups = np.repeat(np.arange(8), 2)
    spreads = {}
    for name, units, rows in (
        ("whole", groups, slice(None)),
        ("images", None, slice(None)),
        ("eight", None, slice(0, None, 2)),
    ):
        samples = _resample({"real": table[:, rows]}, units, 0)["real"]["dice"]
        assert samples[0] == pytest.approx(values.mean())
        spreads[name] = samples[1:].std()
    assert spreads["whole"] == pytest.approx(spreads["eight"], rel=0.1)
    assert spreads["images"] == pytest.approx(spreads["eight"] / np.sqrt(2), rel=0.1)


def test_panoptic_quality_is_of_all_images_together():
    """iou .9 of weight 1, and 0 of weight 4: .9 / 5 and not the mean of .9 and 0."""
    table = np.array([[[0.5, 1], [0.5, 1], [0.9, 1]], [[0.7, 1], [0.1, 1], [0.0, 4]]])[None]
    found = _resample({"real": table}, None, 0)["real"]
    assert {name: found[name][0] for name in METRICS} == pytest.approx(
        {"dice": 0.6, "aji": 0.3, "pq": 0.18}
    )


def test_a_seed_trains_the_same_network_again(sets):
    settings = SimpleNamespace(
        **TRAINED | {"steps": 3}, learning_rate=0.01, mix="pooled", device="cpu"
    )
    read = read_masked(sets / "real", sets / "masks", Reading(SIZE, "crop"))
    given = (read.pixels, read.is_object, np.zeros(len(read), bool), read.pixels)
    one, again, other = (Segmenter(settings).fit_predict(*given, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
