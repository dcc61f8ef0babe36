"""Copies on real files: planted copies are found, honest images are not, leaks are told."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from factory.cli.evaluate.command import build_command
from factory.core.errors import EvaluationError
from factory.core.hashing import hash_bytes
from factory.data.images import list_images
from factory.data.records import Condition, Sample
from factory.evaluate import DEFAULT_ENCODER
from factory.evaluate.copies import CopySettings, describe_copies
from factory.evaluate.copies.gallery import draw_gallery
from factory.evaluate.copies.similarity import CopySearch, turn_like
from factory.evaluate.copies.study import study_copies
from factory.filters import build_filters
from factory.filters.training_copy import TrainingCopyFilter
from factory.models.session import Session
from tests import ASSETS
from tests.running import run, save_again, write_recipe


def draw_patches(count, seed, side=48):
    """Stained texture with structure at several scales."""
    draw = np.random.default_rng(seed)
    patches = []
    for _ in range(count):
        layers = [gaussian_filter(draw.normal(size=(side, side)), sigma) for sigma in (1, 2, 4)]
        texture = sum(each / each.std() * draw.uniform(6, 14) for each in layers)
        colour = np.array([180, 110, 170]) + draw.normal(size=3) * 8
        patches.append(np.clip(colour + texture[..., None], 0, 255).astype(np.uint8))
    return patches


def save(patches, root, pattern="p{group}_{number:03d}.png"):
    root.mkdir(parents=True)
    for number, pixels in enumerate(patches):
        name = pattern.format(number=number, group=number % 6)
        Image.fromarray(pixels).save(root / name)
    return root


def recompress(pixels, quality=90):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


TRAIN = draw_patches(80, 0)
PATCHES = ASSETS / "pcam"
HAND_MADE = "color-texture"
GROUPED = {"group_pattern": r"^(\w\d)_"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    poses = [np.rot90(TRAIN[row], row % 4)[:, :: 1 - 2 * (row % 2)] for row in range(60)]
    return {
        "train": save(TRAIN, root / "train"),
        "held_out": save(draw_patches(60, 1), root / "held", "q{group}_{number:03d}.png"),
        "copied": save([recompress(each) for each in poses], root / "copied"),
        "honest": save(draw_patches(60, 2), root / "honest"),
    }


@pytest.fixture(scope="module")
def copied(sets):
    settings = CopySettings(encoder=HAND_MADE, cells=1, **GROUPED)
    return study_copies(sets["train"], sets["copied"], sets["held_out"], settings)


def test_planted_copies_are_found_by_every_measure(copied):
    result = copied.result
    assert result["authpct"]["synthetic"]["value"] < 5
    assert result["authpct"]["usual"]["value"] > 30
    assert result["c_t"]["value"] < -8
    assert result["c_t"]["value"] == pytest.approx(result["c_t"]["z"])
    assert result["distance"]["ratio"]["high"] < 0.7
    assert result["distance"]["nearer_than_0.01"]["low"] > 0.5
    assert result["similarity"]["synthetic"]["above"] == 60
    assert result["similarity"]["synthetic"]["share_above"]["low"] > 0.9
    assert result["similarity"]["held_out"]["above"] == 0
    assert result["scope"] == f"checked against reference set {copied.train.name} only"
    assert not result["warnings"]


def test_every_copy_is_paired_with_its_original_in_its_pose(sets, copied):
    for by in ("by_similarity", "by_distance"):
        pairs = copied.result["pairs"][by]
        assert len(pairs) == 12
        assert all(pair["real"] == pair["synthetic"] for pair in pairs)  # named alike here
        assert all(pair["similarity"] > 0.95 for pair in pairs)
    for pair in copied.result["pairs"]["by_similarity"]:
        made = copied.synthetic.images[pair["row"]].read_pixels()
        real = copied.train.images[pair["position"]].read_pixels()
        assert np.abs(turn_like(real, made).astype(int) - made).mean() < 6
    picture = Image.open(io.BytesIO(draw_gallery(copied.result, copied.train, copied.synthetic)))
    assert picture.width > 1000
    assert np.asarray(picture).std() > 20


def test_honest_images_are_like_held_out_ones(sets):
    study = study_copies(
        sets["train"],
        sets["honest"],
        sets["held_out"],
        CopySettings(encoder=HAND_MADE, cells=1, **GROUPED),
    )
    result = study.result
    assert abs(result["c_t"]["value"]) < 3
    ratio = result["distance"]["ratio"]
    assert ratio["low"] < 1 < ratio["high"]
    authentic, usual = result["authpct"]["synthetic"], result["authpct"]["usual"]
    assert authentic["low"] <= usual["high"] and usual["low"] <= authentic["high"]
    assert result["similarity"]["synthetic"]["above"] == 0


def test_without_held_out_images_there_is_no_c_t_and_the_training_set_says_what_is_usual(sets):
    study = study_copies(sets["train"], sets["copied"], None, CopySettings(encoder=HAND_MADE))
    assert study.result["c_t"] == {
        "value": None,
        "refused": "needs --held-out: real images that no training used",
    }
    assert study.result["usual"] == "training images, left out one by one"
    assert (
        study.result["authpct"]["synthetic"]["value"]
        < 5
        < study.result["authpct"]["usual"]["value"]
    )
    assert "REFUSED (needs --held-out" in "\n".join(describe_copies(study.result))


def test_similarity_is_that_of_the_filter(tmp_path):
    """At the synthetic images' own sizes, real ones by crop and by resize."""
    mixed = [TRAIN[row][4:44, 4:44] for row in range(5)]  # at the centre: a crop
    mixed += [np.asarray(Image.fromarray(TRAIN[row]).resize((40, 40))) for row in range(5, 9)]
    mixed += draw_patches(4, 9, 36)
    train = save(TRAIN, tmp_path / "train", "{number:03d}.png")
    images = list_images(save(mixed, tmp_path / "mixed", "{number:03d}.png"))
    found = CopySearch(list_images(train)).search_images(images)
    recipe = TrainingCopyFilter.Settings(kind="training_copy", images=train)
    (judge,) = build_filters((recipe,), Session.open(tmp_path))
    pixels = [image.read_pixels() for image in images]
    samples = [Sample(pixels=each, prompt=None, tokens={}, batch_size=1) for each in pixels]
    scores = judge.score(samples, [Condition()] * len(samples))["copy_similarity"]
    assert found.similarity.tolist() == scores.tolist()
    assert (found.similarity[:9] > 0.95).all()
    assert found.fits[:5] == ("crop",) * 5
    assert found.fits[5:9] == ("resize",) * 4
    assert found.position[:9].tolist() == list(range(9))


def test_an_image_is_turned_like_another():
    for pose in range(8):
        turned = np.rot90(TRAIN[0], pose // 2)
        turned = np.ascontiguousarray(turned[:, ::-1] if pose % 2 else turned)
        assert np.array_equal(turn_like(TRAIN[0], turned), turned)


def test_blank_images_are_told_apart_from_copies(sets, tmp_path):
    blank = [np.full((48, 48, 3), 240, np.uint8)] * 3
    train = save([*TRAIN[:20], blank[0]], tmp_path / "train")
    made = save([*draw_patches(20, 4), *blank], tmp_path / "made")
    study = study_copies(train, made, None, CopySettings(encoder=HAND_MADE))
    similarity = study.result["similarity"]["synthetic"]
    assert similarity["blank"] == similarity["blank_above"] == similarity["above"] == 3
    assert similarity["largest"] < 0.95


def test_copies_of_real_patches_are_told_from_other_patches(tmp_path):
    """Recompressed and flipped training patches, and patches of other slides."""
    listed = list_images(PATCHES / "train")
    train = save([image.read_pixels() for image in listed], tmp_path / "train")
    unseen = [image.read_pixels() for image in list_images(PATCHES / "test")]
    held_out = save(unseen[::2], tmp_path / "held", "q{group}_{number:03d}.png")
    copied = [recompress(image.read_pixels()[:, ::-1]) for image in listed[:12]]
    settings = CopySettings(cells=2, **GROUPED)
    shares = []
    for name, made in (("copied", copied), ("other", unseen[1::2])):
        root = save(made, tmp_path / name)
        result = study_copies(train, root, held_out, settings).result
        assert result["encoder"]["spec"] == DEFAULT_ENCODER
        shares.append(result["similarity"]["synthetic"]["share_above"]["value"])
        if name == "copied":
            assert result["authpct"]["synthetic"]["value"] < 15
        else:
            assert result["authpct"]["synthetic"]["value"] > 40
    assert shares == [1.0, 0.0]


def test_variations_are_compared_with_the_very_image_that_they_vary(tmp_path):
    """A near copy, another image, and one whose reference is not in the set."""
    train = save(TRAIN[:10], tmp_path / "train")
    hashes = [hash_bytes(image.read_bytes()) for image in list_images(train)]
    first = list_images(train)[0].read_pixels()
    made = save([recompress(first), *draw_patches(2, 8)], tmp_path / "made", "{number}.png")
    data = [{"bytes": path.read_bytes(), "path": None} for path in sorted(made.glob("*.png"))]
    references = [hashes[0], hashes[1], "ab" * 32]
    table = pa.table({"image": data, "reference_sha256": references})
    pq.write_table(table, tmp_path / "rows.parquet")
    study = study_copies(train, tmp_path / "rows.parquet", None, CopySettings(encoder=HAND_MADE))
    own = study.result["own_reference"]
    assert (own["rows"], own["found"], own["above"]) == (3, 2, 1)
    assert own["largest"] > 0.95 > own["median"]
    assert own["share_nearest"]["value"] >= 0.5
    assert "3, of 2 the reference is there" in "\n".join(describe_copies(study.result))
    plain = study_copies(train, made, None, CopySettings(encoder=HAND_MADE))
    assert plain.result["own_reference"] is None


# --- what makes the search weak ------------------------------------------------------------------


def test_leaks_between_the_sets_are_told(sets, tmp_path):
    held_out = save(draw_patches(20, 1), tmp_path / "held")  # patients p0 to p5, as in training
    (held_out / "p0_100.png").write_bytes((sets["train"] / "p0_000.png").read_bytes())
    made = save([*draw_patches(30, 3), TRAIN[7], draw_patches(20, 1)[4]], tmp_path / "made")
    study = study_copies(sets["train"], made, held_out, CopySettings(encoder=HAND_MADE, **GROUPED))
    told = "\n".join(study.result["warnings"])
    assert "LEAK" in told
    assert "1 image, such as" in told
    assert "6 patients or slides (p0, p1, p2, ...)" in told
    name = study.train.name
    assert f"EXACT COPIES: 1 synthetic images are in {name}, pixel by pixel" in told
    assert "EXACT COPIES: 1 synthetic images are in" in told.replace(name, "")
    ungrouped = study_copies(sets["train"], made, held_out, CopySettings(encoder=HAND_MADE))
    assert any("looked for by image only" in text for text in ungrouped.result["warnings"])


def test_a_run_that_varied_held_out_images_and_knows_its_model_is_told(sets, tmp_path):
    shots = save(draw_patches(6, 5), tmp_path / "shots" / "normal")
    conditions = [
        {
            "kind": "reference",
            "images": str(shots.parent),
            "per_class": {"normal": 6},
            "strength": 0.5,
        }
    ]
    recipe = write_recipe(tmp_path / "recipe", conditions=conditions, filters=[{"kind": "finite"}])
    run(recipe, tmp_path / "run")
    settings = CopySettings(encoder=HAND_MADE, size=32)
    again = save_again(shots.parent, tmp_path / "again")
    for train, held_out in ((sets["train"], again), (again, sets["held_out"])):
        result = study_copies(train, tmp_path / "run", held_out, settings).result
        is_told = any("varies" in text for text in result["warnings"])
        assert is_told == (held_out == again)
        assert result["own_reference"]["found"] == (6 if train == again else 0)
    told = study_copies(sets["train"], tmp_path / "run", shots.parent, settings).result["warnings"]
    assert any(text.startswith("LEAK") and "varies" in text for text in told)
    assert any("fake" in text and "are not found" in text for text in told)


def test_sets_that_cannot_be_compared_are_refused(sets, tmp_path):
    single = save(TRAIN[:1], tmp_path / "single")
    with pytest.raises(EvaluationError, match="a single training image"):
        study_copies(single, sets["honest"], None, CopySettings(encoder=HAND_MADE))
    with pytest.raises(EvaluationError, match="twin in the training set"):
        study_copies(sets["train"], sets["honest"], sets["train"], CopySettings(encoder=HAND_MADE))


def test_the_command_writes_table_json_and_gallery(sets, tmp_path):
    arguments = ["--real", sets["train"], "--held-out", sets["held_out"], "--synthetic"]
    arguments += [sets["copied"], "--json", tmp_path / "c.json", "--gallery", tmp_path / "c.png"]
    arguments += ["--max-similarity", "0.9", "--cells", "2", "--encoder", HAND_MADE]
    result = CliRunner().invoke(build_command("copies"), [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "c.json").read_text())
    assert f"checked against reference set {found['train']['name']} only" in result.output
    assert found["similarity"]["max_similarity"] == 0.9
    assert len(found["c_t"]["cells"]) == 2
    assert "AuthPct" in result.output
    assert "60 of 60" in result.output
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
