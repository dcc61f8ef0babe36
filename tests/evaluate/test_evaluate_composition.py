"""`factory evaluate composition`: a head on spots, and distances beside those of real images."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

import factory
from factory.core.errors import EvaluationError, FactoryError, InputError
from factory.core.images import encode_image
from factory.evaluate.composition.spots import read_spots
from factory.evaluate.composition.study import predict
from tests.running import call

PATIENTS = ("A", "B", "C", "D")
EACH = 24
SETTINGS = {"encoder": "color-texture", "size": 32}


def draw_spot(share, draw):
    """An image whose purple share is that of tumour cells; a third type leaves no trace."""
    pixels = np.full((32, 32, 3), (230, 170, 200), np.float64)
    pixels[draw.random((32, 32)) < share] = (100, 60, 140)
    return np.clip(pixels + draw.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("spots"), np.random.default_rng(0)
    with (folder / "spots.csv").open("w", newline="") as file:
        table = csv.writer(file)
        names = ("prop_tumor", "prop_stroma", "prop_other")
        table.writerow(["image", "patient", "section", "split", *names])
        for patient in PATIENTS:
            for number in range(EACH):
                tumor, other = draw.uniform(0.1, 0.8), draw.uniform(0, 0.2)
                name = f"{patient}_{number}.png"
                (folder / name).write_bytes(encode_image(draw_spot(tumor, draw), "png"))
                split = "test" if patient in "CD" else "train"
                shares = (tumor, 1 - tumor - other, other)
                row = [name, patient, f"{patient}{number % 3}", split]
                table.writerow([*row, *(max(0.0, each) for each in shares)])
    for name, low, high in (("alike", 0.1, 0.8), ("dense", 0.5, 0.9)):
        for number in range(30):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = draw_spot(draw.uniform(low, high), draw)
            path.write_bytes(encode_image(pixels, "png"))
    return folder


def measure(spots, name, **changes):
    settings = {**SETTINGS, **changes}
    return factory.evaluate_composition(spots / name, spots / "spots.csv", settings)


def test_images_of_the_same_mix_are_as_near_as_real_ones_and_others_are_not(spots):
    alike, dense = (measure(spots, name)["cell_types"]["tumor"] for name in ("alike", "dense"))
    assert not alike["exceeds_floor"]
    assert dense["exceeds_floor"]
    assert dense["distance"]["value"] > 2 * alike["distance"]["value"]
    assert dense["means"]["synthetic"] == pytest.approx(0.7, abs=0.06)
    assert dense["means"]["given"] == pytest.approx(0.45, abs=0.08)
    assert dense["head_rho"]["low"] > 0.8
    assert dense["other_patients"]["value"] < 2 * dense["floor"]["high"]


def test_what_leaves_no_trace_in_the_images_is_marked(spots):
    found = measure(spots, "alike")
    assert found["cell_types"]["other"]["is_blind"]
    assert not found["cell_types"]["tumor"]["is_blind"]
    assert found["spots"] == {
        "train": 2 * EACH,
        "train_patients": 2,
        "held_out": 2 * EACH,
        "held_out_patients": 2,
    }
    assert found["settings"]["draw"] == EACH
    assert any(text.startswith("HEAD BLIND: other: ") for text in found["warnings"])
    assert any("2 patients are held out" in text for text in found["warnings"])


def test_the_command_prints_writes_and_names_the_blind(spots, tmp_path):
    words = ["--synthetic", str(spots / "dense"), "--spots", str(spots / "spots.csv")]
    words += ["--encoder", "color-texture", "--size", "32", "--held-out", "A,B"]
    out = tmp_path / "composition.json"
    given = ["evaluate", "composition", *words, "--json", str(out)]
    result = call(*given)
    assert result.exit_code == 0, result.output
    assert "48 spots of 2 patients, compared on 48 of 2; 24 images" in result.output
    assert "other HEAD BLIND" in result.output
    assert json.loads(out.read_text())["cell_types"]["tumor"]["exceeds_floor"]


def test_the_heads_rho_is_that_of_scipy(spots):
    from factory.evaluate.composition.study import fit_head
    from factory.evaluate.features import encode_set
    from factory.models.encoders import load_encoder

    read = read_spots(spots / "spots.csv", "prop_", "section", (), (32, "resize"))
    features = encode_set(read.images, load_encoder("color-texture")).values
    head, _ = fit_head(features[~read.is_held_out], read)
    made = predict(head, features[read.is_held_out])
    assert np.allclose(made.sum(1), 1)
    assert made.min() >= 0
    expected = spearmanr(made[:, 0], read.proportions[read.is_held_out, 0]).statistic
    found = measure(spots, "alike")["cell_types"]["tumor"]["head_rho"]
    assert found["value"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefix": "share_"}, "has no column share_"),
        ({"held_out": ("Z",)}, "no patient 'Z'"),
        ({"held_out": PATIENTS}, "one side has no spots"),
    ],
)
def test_spots_that_do_not_fit_are_refused(spots, change, said):
    with pytest.raises(InputError, match=said):
        measure(spots, "alike", **change)


def test_a_share_above_one_and_a_patient_on_both_sides_are_told(spots, tmp_path):
    lines = (spots / "spots.csv").read_text().splitlines()
    path = tmp_path / "spots.csv"
    path.write_text("\n".join([lines[0], lines[1], "x.png,A,A0,train,1.5,0,0"]))
    with pytest.raises(InputError, match=r"spots.csv:3: prop_tumor: must be a proportion"):
        read_spots(path, "prop_", "section", (), (32, "resize"))
    for cells, said in (
        ("x.png,,A0,train,0.5,0.5,0", "patient: is empty"),
        ("x.png,A,,train,0.5,0.5,0", "section: is empty"),
        ("x.png,A,A0,val,0.5,0.5,0", "split: must be train or test, got 'val'"),
        ("x.png,A,A0,train,0.5,0.5,0,1", "8 fields, but the header names 7"),
    ):
        path.write_text("\n".join([lines[0], lines[1], cells]))
        with pytest.raises(FactoryError, match=f"spots.csv:3: {said}"):
            read_spots(path, "prop_", "section", (), (32, "resize"))
    path.write_text("\n".join([lines[0], lines[1], lines[1].replace("train", "test")]))
    with pytest.raises(InputError, match="patient 'A' is on both sides"):
        read_spots(path, "prop_", "section", (), (32, "resize"))


def test_too_few_images_are_refused(spots, tmp_path):
    (tmp_path / "one.png").write_bytes((spots / "alike" / "0.png").read_bytes())
    with pytest.raises(EvaluationError, match="1 synthetic images"):
        factory.evaluate_composition(tmp_path, spots / "spots.csv", SETTINGS)
    rows = list(csv.DictReader((spots / "spots.csv").open()))
    few = [row for row in rows if row["split"] == "test"] + rows[:3]
    lines = [",".join(each) for each in (rows[0], *(row.values() for row in few))]
    (spots / "few.csv").write_text("\n".join(lines))
    with pytest.raises(EvaluationError, match="48 held-out spots and 3 of training"):
        factory.evaluate_composition(spots / "alike", spots / "few.csv", SETTINGS)


def test_the_heads_interval_is_of_whole_patients_where_there_are_four(spots, monkeypatch):
    from factory.evaluate.composition import study

    rows = list(csv.DictReader((spots / "spots.csv").open()))
    for number, row in enumerate(rows):
        row["patient"] = row["section"] = f"{row['split']}{number % 4}"
        row["section"] += f"-{number % 3}"
    lines = [",".join(each) for each in (rows[0], *(row.values() for row in rows))]
    (spots / "eight.csv").write_text("\n".join(lines))
    asked = []

    def look(x, y, groups, seed):
        asked.append(len(set(groups.tolist())))
        return study_pearson(x, y, groups, seed)

    study_pearson = study.bootstrap_pearson
    monkeypatch.setattr(study, "bootstrap_pearson", look)
    factory.evaluate_composition(spots / "alike", spots / "eight.csv", SETTINGS)
    assert asked == [4, 4, 4]
