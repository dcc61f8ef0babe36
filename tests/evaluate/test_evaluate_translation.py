"""`factory evaluate translation`: pairs by name, each figure beside its controls."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import factory
from factory.core.errors import EvaluationError, FactoryError, InputError
from factory.core.images import encode_image
from factory.evaluate.translation.study import find_otsu
from tests.data.test_sources import make_pixels
from tests.engine.test_channels import write_mif
from tests.running import call, run

CHANNELS = ("DAPI", "CD8", "PanCK")
PAIRS = 24


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """DAPI is predicted with noise, CD8 by chance, PanCK at half its strength."""
    folder, draw = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for name in ("predicted", "target", "masks"):
        (folder / name).mkdir()
    mask = np.zeros((32, 32), np.uint16)
    for number in range(9):
        top, left = 2 + 10 * (number // 3), 2 + 10 * (number % 3)
        mask[top : top + 7, left : left + 7] = number + 1
    lines = ["key,patient,slide"]
    for row in range(PAIRS):
        smooth = [gaussian_filter(draw.random((32, 32)), 3) for _ in range(4)]
        real = np.stack(smooth[:3]) * (1 + 2 * draw.random((3, 1, 1)))
        made = real.copy()
        made[0] += draw.normal(0, 0.05, (32, 32))
        made[1] = smooth[3] * (1 + 2 * draw.random())
        made[2] /= 2
        np.save(folder / "predicted" / f"k{row}.npy", made.astype(np.float32))
        np.save(folder / "target" / f"k{row}.npy", real.astype(np.float32))
        Image.fromarray(mask).save(folder / "masks" / f"k{row}.png")
        lines.append(f"k{row},P{row // 4},S{row // 2}")
    np.save(folder / "target" / "alone.npy", real)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "keyless.csv").write_text("name\nk0\n")
    (folder / "twice.csv").write_text("key\nk0\nk0\n")
    (folder / "short.csv").write_text("key,patient\nk0,P0\nk1\n")
    return folder


@pytest.fixture(scope="module")
def found(pairs):
    out = pairs / "translation.json"
    sides = ["--predicted", str(pairs / "predicted"), "--target", str(pairs / "target")]
    known = ["--table", str(pairs / "table.csv"), "--masks", str(pairs / "masks")]
    words = ["evaluate", "translation", *sides, *known, "--channels", ",".join(CHANNELS)]
    result = call(*words, "--json", str(out))
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text()), result


def read_means(folder, channel):
    arrays = [np.load(folder / f"k{row}.npy")[channel] for row in range(PAIRS)]
    return np.array([each.mean() for each in arrays])


def test_figures_are_those_of_scipy_and_scikit_learn(pairs, found):
    result, _ = found
    for place, name in enumerate(CHANNELS):
        x, y = (read_means(pairs / side, place) for side in ("predicted", "target"))
        told = result["channels"][name]
        assert told["pearson_patch"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
        slides = [each.reshape(-1, 2).mean(1) for each in (x, y)]
        assert told["pearson_slide"]["slides"] == PAIRS // 2
        assert told["pearson_slide"]["value"] == pytest.approx(np.corrcoef(*slides)[0, 1], abs=1e-6)
    mask = np.asarray(Image.open(pairs / "masks" / "k0.png"))
    made, real = (
        np.array(
            [
                [np.load(pairs / side / f"k{row}.npy")[1][mask == n].mean() for n in range(1, 10)]
                for row in range(PAIRS)
            ]
        )
        for side in ("predicted", "target")
    )
    told = result["channels"]["CD8"]
    limit = told["positive_share"]["threshold"]
    assert limit == pytest.approx(find_otsu(real.ravel()), abs=1e-6)
    auroc = roc_auc_score(real.ravel() > limit, made.ravel())
    assert told["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    assert told["positive_share"]["real"] == pytest.approx((real > limit).mean())


def test_a_good_channel_beats_its_controls_and_chance_does_not(found):
    result, _ = found
    good, chance = result["channels"]["DAPI"], result["channels"]["CD8"]
    assert good["pearson_patch"]["p"] < 0.01 < 0.05 < chance["pearson_patch"]["p"]
    assert chance["pearson_patch"]["low"] < 0 < chance["pearson_patch"]["high"]
    assert chance["auroc"]["low"] < 0.5 < chance["auroc"]["high"]
    for control in ("mean image", "shuffled"):
        controls = result["controls"]["DAPI"][control]
        assert good["psnr"]["low"] > controls["psnr"]["high"]
    assert good["ssim"]["low"] > result["controls"]["DAPI"]["shuffled"]["ssim"]["high"]
    half = result["channels"]["PanCK"]
    assert half["pearson_patch"]["value"] > 0.999
    assert half["psnr"]["value"] < result["controls"]["PanCK"]["mean image"]["psnr"]["value"]


def test_what_is_passed_over_is_counted_and_said(found):
    result, shown = found
    assert result["passed_over"] == {"only predicted": 0, "only target": 1}
    assert "1 images only target: passed over" in shown.stderr
    assert "95 % over 6 patients" in shown.output
    assert (result["pairs"]["pairs"], result["pairs"]["nuclei"]) == (PAIRS, 9 * PAIRS)
    assert result["settings"]["unit"] == "group"


def test_labels_of_a_table_are_ranked_by_the_prediction(pairs, tmp_path):
    x, y = (read_means(pairs / side, 0) for side in ("predicted", "target"))
    hits = y > np.median(y)
    lines = [f"k{row},P{row // 4},{int(hit)}" for row, hit in enumerate(hits)]
    (tmp_path / "t.csv").write_text("key,patient,label_DAPI\n" + "\n".join(lines))
    settings = {"table": tmp_path / "t.csv", "channels": CHANNELS}
    found = factory.evaluate_translation(pairs / "predicted", pairs / "target", settings)
    assert found["channels"]["DAPI"]["auroc"]["value"] == pytest.approx(roc_auc_score(hits, x))
    assert "auroc" not in found["channels"]["CD8"]
    assert "pearson_slide" not in found["channels"]["DAPI"]


def test_rows_of_a_run_are_known_by_the_images_that_they_translate(tmp_path):
    for index in range(4):
        path = tmp_path / "sources" / f"P{index}_a.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(make_pixels(index * 3 + 1, 64), "png"))
    conditions = [{"kind": "reference", "images": "sources", "per_class": 4, "strength": 0.5}]
    run(write_mif(tmp_path, conditions=conditions, filters=[]), tmp_path / "run")
    (tmp_path / "target").mkdir()
    dataset = factory.open_dataset(tmp_path / "run")
    for row in dataset.iterate_rows("data/train-00000-of-00001.parquet"):
        from factory.core.hashing import hash_bytes

        (key,) = (
            path.stem
            for path in (tmp_path / "sources").iterdir()
            if hash_bytes(path.read_bytes()) == row.values["reference_sha256"]
        )
        np.save(tmp_path / "target" / f"{key}.npy", row.values["channels"])
    settings = {"sources": tmp_path / "sources", "group_pattern": r"^(P\d)_"}
    found = factory.evaluate_translation(tmp_path / "run", tmp_path / "target", settings)
    assert list(found["channels"]) == ["DAPI", "CD8", "PanCK", "Ki67"]
    assert found["channels"]["CD8"]["pearson_patch"]["value"] == pytest.approx(1)
    assert found["channels"]["CD8"]["ssim"]["value"] == pytest.approx(1)
    path = tmp_path / "sources" / "P0_a.png"
    path.write_bytes(encode_image(make_pixels(50, 64), "png"))
    found = factory.evaluate_translation(tmp_path / "run", tmp_path / "target", settings)
    assert "1 images of a run from none of the sources: passed over" in found["warnings"]
    with pytest.raises(InputError, match="--sources"):
        factory.evaluate_translation(tmp_path / "run", tmp_path / "target")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": ("a", "b")}, "2 names, the targets have 3 channels"),
        ({"masks": "target"}, "has no mask of 'k0'"),
        ({"channels": ("a", "b", "a")}, "a name stands twice"),
        ({"table": "translation.json"}, "want a table that ends in .csv or .tsv"),
        ({"table": "keyless.csv"}, "needs the column key"),
        ({"table": "twice.csv"}, "twice.csv:3: 'k0' stands twice"),
        ({"table": "short.csv"}, "short.csv:3: 1 fields, but the header names 2"),
        ({"group_pattern": "(x)"}, "finds no group"),
    ],
)
def test_what_does_not_fit_is_told(pairs, found, change, said):
    is_path = {"masks", "table"}
    given = {name: pairs / value if name in is_path else value for name, value in change.items()}
    with pytest.raises(FactoryError, match=said):
        factory.evaluate_translation(pairs / "predicted", pairs / "target", given)


def write_sides(folder, shape, levels):
    """Both sides vary by chance about the level of their patient."""
    draw = np.random.default_rng(3)
    for side in ("predicted", "target"):
        (folder / side).mkdir()
        for row, level in enumerate(levels):
            np.save(folder / side / f"k{row}.npy", level + draw.random(shape, np.float32))


def test_few_patients_apart_are_no_evidence_and_slides_are_those_of_their_patient(tmp_path):
    write_sides(tmp_path, (1, 16, 16), [100.0 * (row % 3) for row in range(24)])
    lines = [f"k{row},P{row % 3},S{row // 3 % 2},1" for row in range(24)]
    (tmp_path / "t.csv").write_text("key,patient,slide,label_CD8\n" + "\n".join(lines))
    settings = {"table": tmp_path / "t.csv"}
    found = factory.evaluate_translation(tmp_path / "predicted", tmp_path / "target", settings)
    told = found["channels"]["channel 0"]
    assert told["pearson_patch"]["value"] > 0.99
    assert told["pearson_patch"]["p"] > 0.05
    assert found["pairs"]["slides"] == told["pearson_slide"]["slides"] == 6
    assert (found["settings"]["unit"], found["pairs"]["groups"]) == ("image", 3)
    assert found["warnings"] == ["label_CD8: no channel of that name, but channel 0: not read"]
    named = {**settings, "channels": ("CD8",)}
    found = factory.evaluate_translation(tmp_path / "predicted", tmp_path / "target", named)
    assert found["warnings"] == ["label_CD8: 24 labels, of one kind or under 3: no AUROC"]


def test_images_without_a_pixel_are_refused_and_small_ones_have_no_ssim(tmp_path):
    write_sides(tmp_path, (1, 6, 6), [0.0] * 4)
    found = factory.evaluate_translation(tmp_path / "predicted", tmp_path / "target")
    told = found["channels"]["channel 0"]
    assert told["ssim"] == {"value": None, "refused": "never varies, or images under 11 px"}
    assert told["psnr"]["value"] > 0
    np.save(tmp_path / "target" / "k2.npy", np.zeros((1, 0, 6), np.float32))
    with pytest.raises(FactoryError, match=r"k2\.npy: want \(C, H, W\), got \(1, 0, 6\)"):
        factory.evaluate_translation(tmp_path / "predicted", tmp_path / "target")


def test_too_few_pairs_are_refused(pairs, tmp_path):
    np.save(tmp_path / "k0.npy", np.zeros((3, 32, 32), np.float32))
    with pytest.raises(EvaluationError, match="1 pairs"):
        factory.evaluate_translation(tmp_path, pairs / "target")
