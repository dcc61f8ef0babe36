"""Fidelity on real files: planted sets, floor, refusals, circularity, cache, the command."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from factory.catalog.catalog import load_catalogs
from factory.cli.evaluate.command import build_command
from factory.core.errors import EvaluationError, InputError, SourceError
from factory.core.stats.resampling import bootstrap_groups, cut_parts, number_groups, pick_halves
from factory.data.pairs import METRICS, Side, measure_pair
from factory.evaluate import DEFAULT_ENCODER
from factory.evaluate.features import encode_set, fit_scaling
from factory.evaluate.fidelity import FidelitySettings, describe_result
from factory.evaluate.fidelity.study import evaluate_fidelity
from factory.evaluate.image_sets import list_set
from factory.evaluate.judge_overlap import find_parts, read_making, read_model
from factory.models.encoders import load_encoder
from factory.models.encoders.small_resnet import SmallResNet
from tests import ROOT
from tests.running import run, write_recipe

HAND_MADE = "color-texture"


def draw_patch(draw, name):
    """Stained texture, bluer and finer for tumor."""
    sigma, colour = (1.0, (120, 70, 160)) if name == "tumor" else (2.5, (210, 140, 180))
    texture = gaussian_filter(draw.normal(size=(40, 40)), sigma * draw.uniform(0.8, 1.2))
    texture = texture / texture.std() * 18 + draw.normal() * 6
    return np.clip(np.array(colour) + texture[..., None], 0, 255).astype(np.uint8)


def write_set(root, count, seed, names=("normal", "tumor"), make=draw_patch):
    draw = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = make(draw, name)
            Image.fromarray(pixels).save(root / name / f"p{number % 8}_{number:03d}.png")
    return root


def draw_noise(draw, name):
    return draw.integers(0, 256, (40, 40, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {
        "real": write_set(root / "real", 40, 0),
        "same": write_set(root / "same", 40, 0),
        "good": write_set(root / "good", 24, 1),
        "noise": write_set(root / "noise", 24, 2, make=draw_noise),
    }


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a small network of random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(SmallResNet((8, 12)).state_dict(), folder / "encoder.safetensors")
    described = {"architecture": "small-resnet", "channels": [8, 12]}
    (folder / "encoder.json").write_text(json.dumps(described))
    return str(folder)


def get(result, name="fd", class_name=None, place=0):
    found = [each for each in result["figures"] if each["class"] == class_name]
    return found[place]["metrics"][name]["value"]


def test_identical_sets_are_at_no_distance_and_noise_is_far_away(sets):
    settings = FidelitySettings(encoders=(HAND_MADE,), force=True, size=40, group_pattern=r"(p\d)_")
    synthetic = [sets["same"], sets["good"], sets["noise"]]
    result = evaluate_fidelity(sets["real"], synthetic, settings)
    assert get(result, "fd") == pytest.approx(0.0, abs=1e-3)
    assert get(result, "cmmd") == pytest.approx(0.0, abs=1e-6)
    assert get(result, "precision") == get(result, "recall") == get(result, "coverage") == 1.0
    assert get(result, "precision", place=2) == get(result, "recall", place=2) == 0.0
    assert get(result, "density", place=2) == get(result, "coverage", place=2) == 0.0
    for name in ("kid", "cmmd", "fd"):
        assert get(result, name, place=0) < get(result, name, place=1) < get(result, name, place=2)
    assert {each["class"] for each in result["figures"]} == {None, "normal", "tumor"}
    assert not result["warnings"]


def test_good_images_lie_near_the_floor_and_every_figure_says_what_it_is(sets, learned):
    settings = FidelitySettings(encoders=(HAND_MADE, learned), group_pattern=r"(p\d)_")
    result = evaluate_fidelity(sets["real"], [sets["good"]], settings)
    assert len(result["figures"]) == 6
    for figure in result["figures"]:
        count = 40 if figure["class"] else 80
        assert (figure["n_real"], figure["size"], figure["fit"]) == (count, 40, "crop")
        assert figure["n_synthetic"] == (24 if figure["class"] else 48)
        assert figure["encoder"]["preprocessing"]
        floor = figure["floor"]
        assert floor["groups_disjoint"]
        assert all(
            n + m == count for n, m in zip(floor["n_real"], floor["n_held_back"], strict=True)
        )
        for name in METRICS[1:]:
            metric = figure["metrics"][name]
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert "group" in metric["unit"] or metric["unit"] == "image"
        assert figure["metrics"]["recall"]["unit"] == "group"
        assert figure["metrics"]["precision"]["unit"] == "image"
        kid = figure["metrics"]["kid"]
        assert kid["low"] < 3 * max(floor["metrics"]["kid"]["high"], 1e-3)
    hand, network = result["figures"][0]["encoder"], result["figures"][3]["encoder"]
    assert hand["weights_sha256"] is None
    assert "deviation of the real set" in hand["scaling"]
    assert len(network["weights_sha256"]) == 64
    assert network["scaling"] == "none"


def test_fd_of_few_images_is_refused_and_marked_when_forced(sets):
    few = FidelitySettings(encoders=(HAND_MADE,), max_images=20)
    result = evaluate_fidelity(sets["real"], [sets["good"]], few)
    fd = result["figures"][0]["metrics"]["fd"]
    assert fd["value"] is None
    assert "20 images are fewer than" in fd["refused"]
    assert "REFUSED (N < features)" in "\n".join(describe_result(result))
    forced = FidelitySettings(encoders=(HAND_MADE,), force=True)
    result = evaluate_fidelity(sets["real"], [sets["good"]], forced)
    fd = result["figures"][0]["metrics"]["fd"]
    assert fd["value"] > 0
    assert fd["flag"].startswith("MEANINGLESS")
    assert "flag" in result["figures"][0]["floor"]["metrics"]["fd"]
    assert "MEANINGLESS" in "\n".join(describe_result(result))


def test_fd_of_many_images_is_given():
    draw = np.random.default_rng(0)
    side = Side(draw.normal(size=(30, 4)), (None,) * 30)
    found = measure_pair(side, Side(draw.normal(size=(20, 4)), (None,) * 20), False, 0, "")
    assert found["fd"]["value"] > 0
    assert "flag" not in found["fd"]
    tiny = measure_pair(side, Side(draw.normal(size=(5, 4)), (None,) * 5), True, 0, "")
    assert all(tiny[name]["value"] is None for name in METRICS)
    assert "too few images" in tiny["kid"]["refused"]


@pytest.mark.slow("test_good_images_lie_near_the_floor_and_every_figure_says_what_it_is")
def test_intervals_of_kernel_distances_hold_the_truth_as_often_as_they_say():
    """KID of two Gaussians that differ, its truth measured on many images; 95 % within error."""
    draw = np.random.default_rng(0)

    def sample(count, shift):
        return Side(draw.normal(size=(count, 3)) + shift, (None,) * count)

    truth = measure_pair(sample(4000, 0.0), sample(4000, 0.7), False, 0, "")["kid"]["value"]
    held = []
    for seed in range(40):
        kid = measure_pair(sample(60, 0.0), sample(60, 0.7), False, seed, "")["kid"]
        held.append(kid["low"] <= truth <= kid["high"])
    assert 0.85 <= np.mean(held) <= 1.0


def test_groups_stay_whole_in_parts_and_halves():
    groups = [f"p{row % 6}" for row in range(60)]
    keys = [f"{row}.png" for row in range(60)]
    parts = cut_parts(keys, groups, 22, 0)
    assert [int(part.sum()) for part in parts] == [20, 20, 20]
    assert not (np.sum(parts, axis=0) > 1).any()
    for part in parts:
        inside = {group for group, is_in in zip(groups, part, strict=True) if is_in}
        assert not inside & {group for group, is_in in zip(groups, part, strict=True) if not is_in}
    assert cut_parts(keys, ["p0"] * 60, 20, 0) == ()
    halves = cut_parts(keys, [None] * 60, 30, 0)
    assert [int(half.sum()) for half in halves] == [30] * 5
    assert len({half.tobytes() for half in (*halves, *(~half for half in halves))}) == 10
    assert len(cut_parts(keys, ["p0", "p1"] * 30, 30, 0)) == 2
    assert [int(part.sum()) for part in cut_parts(keys, [None] * 60, 7, 0)] == [7] * 5
    numbers = number_groups(groups)
    halves = pick_halves(60, numbers, 0, "x")
    assert set(halves.sum(axis=1)) == {30}
    assert all(len(set(half[numbers == 2])) == 1 for half in halves)
    assert number_groups(["a", "b", "c"]) is None
    assert number_groups([*groups, None]) is None
    values = np.array([float(number) for number in numbers])
    assert bootstrap_groups(values, numbers, 0).mean == pytest.approx(values.mean())
    wide, narrow = bootstrap_groups(values, numbers, 0), bootstrap_groups(values, None, 0)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_other_classes_and_mixes_are_told(sets, tmp_path):
    only = write_set(tmp_path / "only", 12, 5, names=("tumor", "other"))
    mixed = write_set(tmp_path / "mixed", 30, 6, names=("normal",))
    write_set(tmp_path / "more", 10, 7, names=("tumor",))
    (tmp_path / "more" / "tumor").rename(mixed / "tumor")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (only / "tumor").glob("*.png"):
        path.rename(flat / path.name)
    write_set(tmp_path / "again", 12, 5, names=("tumor",))
    (tmp_path / "again" / "tumor").rename(only / "tumor2")
    settings = FidelitySettings(encoders=(HAND_MADE,), size=48)
    result = evaluate_fidelity(sets["real"], [only, mixed, flat], settings)
    text = "\n".join(result["warnings"])
    wanted = (
        "has no normal, tumor",
        "has other, tumor2, which no real image is",
        "another mix of classes",
        "has no classes, so it is compared as a whole only",
        "80 images are smaller than 48 px and were enlarged",
        "NO PATIENT OR SLIDE GROUPS",
    )
    assert [each for each in wanted if each not in text] == []


# --- circularity ---------------------------------------------------------------------------------


def test_an_encoder_that_filtered_the_run_is_named(sets, learned, tmp_path):
    folder = tmp_path / "recipe"
    realism = {"kind": "realism", "images": str(sets["real"]), "encoder": "color-texture"}
    recipe = write_recipe(folder, filters=[{"kind": "finite"}, realism])
    run(recipe, tmp_path / "run")
    result = evaluate_fidelity(
        sets["real"], [tmp_path / "run"], FidelitySettings(encoders=(HAND_MADE, learned))
    )
    told = [text for text in result["warnings"] if text.startswith("CIRCULAR")]
    assert len(told) == 1
    assert "color-texture must not judge" in told[0]
    assert "filter realism judged with it" in told[0]
    circular = {each["encoder"]["spec"]: each["circular"] for each in result["figures"]}
    assert circular == {"color-texture": ["filter realism judged with it"], learned: []}
    assert "CIRCULAR, NOT INDEPENDENT" in "\n".join(describe_result(result))


def test_teachers_and_weights_under_another_name_are_found(tmp_path):
    catalogs = load_catalogs()
    summary = {
        **json.loads((ROOT / "tests/contracts/v0.1/run/summary.json").read_text()),
        "encoders": [
            {
                "used_by": "filter zero_shot",
                "spec": "quiltnet-b-32",
                "weights": "wisdomik/QuiltNet-B-32",
            }
        ],
        "makers": [
            {
                "score_names": [],
                "generator": {"model": "mupad-256"},
                "components": [
                    {"role": "teacher", "source": "paige-ai/Virchow2"},
                    {"role": "vae", "source": "some/vae"},
                ],
                "filters": [
                    {"kind": "realism", "encoder": "../mine", "weights_sha256": "ab" * 32},
                    {"kind": "classifier", "model": "pcam"},
                ],
            }
        ],
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    making = read_making(tmp_path, catalogs)

    def find(spec, sha256=None):
        return find_parts(spec, {"id": spec, "weights_sha256": sha256}, making, catalogs)

    assert find("open_clip:hf-hub:wisdomik/QuiltNet-B-32") == ("filter zero_shot judged with it",)
    assert find("virchow2") == ("it taught the generator (mupad-256)",)
    assert find("anything", "ab" * 32) == ("filter realism judged with it",)
    assert find("/elsewhere/mine", "00" * 32) == ("filter realism judged with it",)
    folder = catalogs.find_classifier_folder("pcam")
    sha256 = json.loads((folder / "classifier.json").read_text())["encoder_description"]
    assert find("x", sha256["weights_sha256"]) == ("filter classifier judged with it",)
    assert find("color-texture") == find("some/vae") == ()
    assert not read_making(tmp_path / "no run", catalogs).is_known
    assert read_model(tmp_path) == "mupad-256"
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "judged": True}))
    assert read_model(tmp_path) is read_model(tmp_path / "no run") is None
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(SourceError, match=r"summary\.json: damaged"):
        read_making(tmp_path, catalogs)
    with pytest.raises(SourceError, match=r"summary\.json: damaged"):
        read_model(tmp_path)


# --- features ------------------------------------------------------------------------------------


class Counting:
    """An encoder that counts the images it is asked for."""

    def __init__(self, revision="1"):
        self.dim, self.asked, self.revision = 2, 0, revision

    def describe(self):
        named = {"id": "counting", "revision": self.revision, "weights_sha256": None}
        return {**named, "dim": 2, "preprocessing": "none"}

    def encode(self, images):
        self.asked += len(images)
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)


def test_features_are_kept_by_pixels_and_encoder_and_damage_is_computed_anew(sets, tmp_path):
    images, encoder = list_set(sets["real"], size=36), Counting()
    first = encode_set(images, encoder, tmp_path)
    assert encoder.asked == 80
    assert first.values.shape == (80, 2)
    assert len(set(first.pixels_sha256)) == 80
    again = encode_set(images, encoder, tmp_path)
    assert encoder.asked == 80
    assert np.array_equal(again.values, first.values)
    for damage in (lambda data: data[:-3], lambda data: b"", lambda data: data[:-1] + b"x"):
        file = sorted(tmp_path.rglob("*.npy"))[0]
        file.write_bytes(damage(file.read_bytes()))
        before = encoder.asked
        assert np.array_equal(encode_set(images, encoder, tmp_path).values, first.values)
        assert encoder.asked in (before + 64, before + 16)
        assert encode_set(images, encoder, tmp_path).pixels_sha256 == first.pixels_sha256
    other, size = Counting("2"), list_set(sets["real"], size=40)
    encode_set(images, other, tmp_path)
    assert other.asked == 80
    before = encoder.asked
    encode_set(size, encoder, tmp_path)
    assert encoder.asked == before + 80
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_encoders_that_fail_are_named(sets):
    images = list_set(sets["real"], size=36, max_images=3)
    broken = Counting()
    broken.encode = lambda images: np.full((len(images), 2), np.nan, np.float32)
    with pytest.raises(EvaluationError, match="counting: gave features that are not finite"):
        encode_set(images, broken)
    with pytest.raises(InputError, match="32"):
        encode_set(list_set(sets["real"], size=16), load_encoder("color-texture"))
    with pytest.raises(EvaluationError, match="look alike"):
        fit_scaling(np.ones((4, 3), np.float32), Counting().describe())


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_the_same_twice(sets, tmp_path):
    arguments = ["--real", str(sets["real"]), "--synthetic", str(sets["good"])]
    arguments += ["--cache", str(tmp_path / "cache"), "--group-pattern", r"(p\d)_", "--json"]
    arguments[:0] = ["--encoder", HAND_MADE]
    outputs = []
    for name in ("one.json", "two.json"):
        result = CliRunner().invoke(build_command("fidelity"), [*arguments, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]
    for part in ("encoder color-texture revision 1", "40 px, crop", "N synthetic", "floor: real"):
        assert part in result.output
    assert list(tmp_path.rglob("*.npy"))
    kid = json.loads(outputs[0])["figures"][0]["metrics"]["kid"]["value"] * 1000
    assert f"{kid:.2f} [" in result.output


def test_the_default_encoder_is_an_embedded_one_that_no_filter_of_ours_uses(sets):
    result = evaluate_fidelity(sets["real"], [sets["good"]], FidelitySettings(max_images=20))
    encoder = result["figures"][0]["encoder"]
    assert encoder["spec"] == DEFAULT_ENCODER
    assert len(encoder["weights_sha256"]) == 64
    recipes = [path.read_text() for path in (ROOT / "recipes").rglob("*.yaml")]
    assert recipes
    assert not [text for text in recipes if f"encoder: {DEFAULT_ENCODER}" in text]


def test_what_is_not_there_is_named(sets, tmp_path):
    runner = CliRunner()
    result = runner.invoke(
        build_command("fidelity"), ["--real", str(sets["real"]), "--synthetic", str(tmp_path / "x")]
    )
    assert result.exit_code == 2
    assert "does not exist" in result.output
    arguments = ["--real", str(sets["real"]), "--synthetic", str(sets["good"]), "--encoder", "nope"]
    assert isinstance(runner.invoke(build_command("fidelity"), arguments).exception, InputError)
