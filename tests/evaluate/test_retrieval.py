"""`factory evaluate retrieval`: answers, ties, leaks, open_clip's loader, and a whole study."""

import functools
import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import binomtest

from factory.cli import main
from factory.core.errors import (
    EvaluationError,
    InputError,
    MismatchError,
    SourceError,
    TrainingError,
)
from factory.core.hashing import hash_bytes
from factory.core.images import hash_pixels
from factory.data.images.image import Wanted
from factory.data.varied import Varied
from factory.evaluate.retrieval import loader
from factory.evaluate.retrieval.gallery import build_gallery
from factory.evaluate.retrieval.loader import Loading, count_steps, iterate_epoch, iterate_plainly
from factory.evaluate.retrieval.model import TINY_FOLDER, count_alike, find_start, load_clip
from factory.evaluate.retrieval.packing import pack_pairs
from factory.evaluate.retrieval.pairs import drop_leaks, pick_pairs, read_pairs
from factory.evaluate.retrieval.ranks import find_chance, score_queries
from factory.evaluate.retrieval.settings import METRICS, RetrievalSettings
from factory.evaluate.retrieval.study import RetrievalOptions, evaluate_retrieval, shuffle_captions
from factory.evaluate.retrieval.summary import resample_means, summarise_arms, write_notes
from factory.evaluate.retrieval.tuning import build_optimizer, compute_share, tune_clip
from factory.models.encoders.learned import hash_weights
from tests.running import read_json, run, write_recipe

COLOURS = {
    "red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 200), "yellow": (230, 220, 60),
    "black": (20, 20, 20), "white": (240, 240, 240), "purple": (140, 50, 160),
    "orange": (240, 140, 30),
}  # fmt: skip


def draw_texture(front, back, seed):
    """(48, 48, 3) uint8: rectangles of one colour on a ground of another."""
    draw = np.random.default_rng(seed)
    pixels = np.empty((48, 48, 3))
    pixels[:] = COLOURS[back]
    for _ in range(14):
        top, left = draw.integers(0, 42, 2)
        height, width = draw.integers(4, 12, 2)
        pixels[top : top + height, left : left + width] = COLOURS[front]
    return np.clip(pixels + draw.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def encode(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_pairs(path, rows):
    """Writes (bytes, caption) rows to a parquet file."""
    columns = {
        "image": [{"bytes": data, "path": None} for data, _ in rows],
        "caption": [caption for _, caption in rows],
    }
    pq.write_table(pa.table(columns), path)
    return path


def write_textures(path, combinations, each, seed):
    rows = [
        (encode(draw_texture(front, back, seed + 1000 * number + image)),
         f"{front} squares on a {back} ground")
        for number, (front, back) in enumerate(combinations)
        for image in range(each)
    ]  # fmt: skip
    return write_pairs(path, rows)


def list_combinations():
    found = list(itertools.permutations(COLOURS, 2))
    np.random.default_rng(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training pairs, and held-out pairs of combinations of colours that training has not."""
    folder = tmp_path_factory.mktemp("pairs")
    combinations = list_combinations()
    write_textures(folder / "train.parquet", combinations[20:], 6, 0)
    write_textures(folder / "few.parquet", combinations[20:32], 3, 0)
    write_textures(folder / "other.parquet", combinations[20:], 4, 500_000)
    write_textures(folder / "held.parquet", combinations[:20], 2, 900_000)
    return folder


# --- ranks ---------------------------------------------------------------------------------------


def make_units(count, seed, dim=8):
    found = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_recall_is_open_clips_where_every_caption_has_one_image():
    from open_clip_train.train import get_clip_metrics

    images = make_units(40, 0)
    captions = images + 1.5 * make_units(40, 1)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    theirs = get_clip_metrics(torch.tensor(images), torch.tensor(captions), torch.tensor(1.0))
    right = [np.array([row]) for row in range(40)]
    for name, queries, gallery in (("image_to_text", images, captions),
                                   ("text_to_image", captions, images)):  # fmt: skip
        mine = score_queries(queries, gallery, right, (1, 5, 10))
        assert set(np.unique(mine)) <= {0.0, 1.0}
        wanted = [theirs[f"{name}_R@{k}"] for k in (1, 5, 10)]
        assert mine.mean(axis=0) == pytest.approx(wanted)
        assert 0.05 < wanted[0] < wanted[2] < 1.0


def test_ties_count_as_a_random_order_would():
    """Against the mean over every order of six entries, of which some are equally similar."""
    gallery = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [-1, 0]], np.float32)
    query, right = np.array([[0.6, 0.8]], np.float32), np.array([2, 3, 5])
    scores = np.round(query[0] @ gallery.T, 6)
    for k in range(1, 7):
        hits = [
            any(entry in right for entry in sorted(order, key=lambda entry: -scores[entry])[:k])
            for order in itertools.permutations(range(6))
        ]
        found = score_queries(query, gallery, [right], (k,))[0, 0]
        assert found == pytest.approx(np.mean(hits)), k


def test_a_model_that_finds_all_alike_scores_chance():
    alike = np.tile(make_units(1, 0), (30, 1))
    right = [np.arange(row % 3 + 1) for row in range(30)]
    found = score_queries(alike, alike, right, (1, 10, 50)).mean(axis=0)
    assert found == pytest.approx(find_chance(right, 30, (1, 10, 50)))
    assert find_chance([np.array([0])] * 5, 30, (1, 10, 50)) == pytest.approx([1 / 30, 1 / 3, 1])


# --- pairs ---------------------------------------------------------------------------------------


def test_equal_captions_and_images_are_one(tmp_path):
    first, second = (encode(draw_texture("red", "blue", seed)) for seed in (1, 2))
    rows = [(first, "Red on  blue"), (second, "red on blue"), (second, "blue"), (first, None)]
    found = read_pairs(write_pairs(tmp_path / "a.parquet", rows))
    assert (len(found.pairs), found.without_caption) == (3, 1)
    gallery = build_gallery(found.pairs)
    assert gallery.captions == ("Red on  blue", "blue")
    assert [rows.tolist() for rows in gallery.captions_of] == [[0], [0, 1]]
    assert [rows.tolist() for rows in gallery.images_of] == [[0, 1], [1]]
    assert gallery.units["i2t"].tolist() == [0, 0]
    chance = gallery.find_chance()
    assert chance["i2t_r@1"] == pytest.approx((0.5 + 1) / 2)
    assert chance["t2i_r@1"] == pytest.approx((1 + 0.5) / 2)


def test_pairs_known_from_training_are_dropped_by_reason(tmp_path):
    seen, jpeg, other, new, real = (draw_texture("red", "blue", seed) for seed in range(5))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "one.png").write_bytes(encode(real))
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "reference", "images": str(tmp_path / "real"), "per_class": 3,
                     "caption": "varied"}],
        filters=[],
    )  # fmt: skip
    run(recipe, tmp_path / "run")
    varied, pixels = read_pairs(tmp_path / "run"), hash_pixels(real)
    assert {pair.parent for pair in varied.pairs} == {Varied(hash_bytes(encode(real)), pixels)}
    train = write_pairs(
        tmp_path / "t.parquet", [(encode(seen), "a"), (encode(jpeg), "b"), (encode(other), "Known")]
    )
    held = write_pairs(
        tmp_path / "h.parquet",
        [
            (encode(seen, "BMP"), "c"),
            (encode(np.rot90(jpeg), "JPEG"), "d"),
            (encode(new), "known"),
            (encode(real), "e"),
            (encode(real, "TIFF"), "saved again"),
            (encode(draw_texture("green", "white", 9)), "f"),
        ],
    )
    kept, dropped = drop_leaks(read_pairs(held), [read_pairs(train), varied])
    assert dropped == {"image": 1, "near_copy": 1, "caption": 1, "reference": 2, "group": 0}
    assert [pair.caption for pair in kept] == ["f"]


def test_pairs_of_a_patient_in_training_are_dropped(tmp_path):
    for part, names in (("train", "ab"), ("held", "bc")):
        (tmp_path / part).mkdir()
        for number, name in enumerate(names):
            path = tmp_path / part / f"{name}_{number}.png"
            path.write_bytes(encode(draw_texture("red", "blue", len(part) * 10 + number)))
        lines = [f"{name}_{number}.png,{part} {name}" for number, name in enumerate(names)]
        (tmp_path / part / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    for columns, left in ((None, 2), (Wanted(pattern="^([a-z])_"), 1)):
        train, held = (read_pairs(tmp_path / part, columns) for part in ("train", "held"))
        kept, dropped = drop_leaks(held, [train])
        assert (len(kept), dropped["group"]) == (left, 2 - left)
    assert kept[0].caption == "held c"


def test_images_without_captions_are_refused(tmp_path):
    (tmp_path / "one.png").write_bytes(encode(draw_texture("red", "blue", 0)))
    with pytest.raises(InputError, match="none of its 1 images has a caption: give pairs"):
        read_pairs(tmp_path)
    with pytest.raises(SourceError, match="caption_column 'words'"):
        read_pairs(tmp_path, Wanted(caption="words"))


def test_the_same_pairs_are_picked_whatever_else_is_there(data):
    pairs = read_pairs(data / "train.parquet").pairs
    few = {pair.image for pair in pick_pairs(pairs, 20)}
    assert len(few) == 20
    assert few <= {pair.image for pair in pick_pairs(pairs[::-1], 40)}


def test_shuffled_captions_are_all_of_another_row():
    captions = [str(row) for row in range(50)]
    first, again, second = (shuffle_captions(captions, seed) for seed in (0, 0, 1))
    assert sorted(first) == sorted(captions)
    assert all(mine != other for mine, other in zip(first, captions, strict=True))
    assert first == again != second


# --- tars and loader -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    pairs = read_pairs(data / "train.parquet").pairs[:24]
    folder = tmp_path_factory.mktemp("packed") / "tars"
    return pairs, pack_pairs(pairs, [f"number {row}" for row in range(24)], folder, 2)


def identify(image):
    """An image as one number, and its transform: enough to tell rows apart."""
    return torch.tensor(np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1)))


def make_loading(workers=0):
    tokenize = open_clip.SimpleTokenizer(context_length=6)
    return Loading(identify, tokenize, 8, workers)


def list_rows(batches):
    return [
        (tuple(np.round(image.tolist(), 6)), tuple(tokens.tolist()))
        for images, texts in batches
        for image, tokens in zip(images, texts, strict=True)
    ]


def test_images_are_packed_as_the_loader_reads_them(tmp_path):
    pixels = draw_texture("red", "blue", 0)
    clear = Image.fromarray(np.dstack([pixels, np.zeros((48, 48), np.uint8)]))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    given = [encode(pixels, form) for form in ("PNG", "JPEG", "TIFF")] + [buffer.getvalue()]
    source = write_pairs(tmp_path / "a.parquet", [(each, "x") for each in given])
    pairs = read_pairs(source).pairs
    (path,) = pack_pairs(pairs, list("abcd"), tmp_path / "tars", 1)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        contents = [tar.extractfile(name).read() for name in names]
    images, texts = contents[::2], contents[1::2]
    assert [name.split(".")[1] for name in names[::2]] == ["png", "jpg", "png", "png"]
    assert texts == [b"a", b"b", b"c", b"d"]
    assert images[:2] == given[:2]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(images[2]))), pixels)
    assert (np.asarray(Image.open(io.BytesIO(images[3]))) == 255).all(), "alpha lies over white"
    with pytest.raises(InputError, match="in names as patterns"):
        pack_pairs(pairs, list("abcd"), tmp_path / "{a,b}", 1)


def test_open_clips_loader_gives_every_pair_once_in_the_order_of_seed_and_epoch(packed):
    pairs, tars = packed
    assert loader.describe_loader().startswith("open_clip_train.data.get_wds_dataset (")
    of = functools.partial(iterate_epoch, tars, len(pairs), make_loading())
    first, again, later, other = (list_rows(of(*key)) for key in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert len(set(first)) == 24
    assert first == again
    assert sorted(first) == sorted(later) == sorted(other)
    assert first != later and first != other


def test_open_clip_is_left_as_it_was(packed):
    from open_clip_train import data as theirs

    before = theirs.tar_file_expander
    list(iterate_epoch(packed[1], 24, make_loading(), 0, 0))
    assert theirs.tar_file_expander is before


def test_other_processes_give_the_same_pairs(packed):
    _, tars = packed
    alone = list_rows(iterate_epoch(tars, 24, make_loading(), 0, 0))
    found = list_rows(iterate_epoch(tars, 24, make_loading(workers=1), 0, 0))
    assert sorted(found) == sorted(alone)


def test_without_open_clips_loader_ours_gives_the_same_pairs(packed):
    _, tars = packed
    theirs = list_rows(iterate_epoch(tars, 24, make_loading(), 0, 0))
    ours = [list_rows(iterate_plainly(tars, make_loading(), order)) for order in (1, 2)]
    assert sorted(ours[0]) == sorted(theirs)
    assert ours[0] != ours[1]


@pytest.mark.parametrize(("pairs", "workers", "steps"), [(24, 0, 3), (25, 0, 4), (25, 3, 6)])
def test_steps_of_an_epoch(pairs, workers, steps):
    assert count_steps(pairs, 8, workers) == steps


def test_an_epoch_that_does_not_divide_is_filled_up(packed):
    _, tars = packed
    loading = Loading(identify, make_loading().tokenize, 7, 0)
    for batches in (list(iterate_epoch(tars, 24, loading, 0, 0)),
                    list(iterate_plainly(tars, loading, 0))):  # fmt: skip
        assert [len(images) for images, _ in batches] == [7] * 4


# --- model and tuning ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-16", None, "names no weights: give --pretrained"),
        ("tiny", "openai", "tiny has random weights"),
        ("local-dir:gone", None, "no open_clip model there"),
        ("hf-hub:owner/name", "openai", "has weights of its own"),
    ],
)
def test_models_that_cannot_be_meant(model, pretrained, message):
    with pytest.raises(InputError, match=message):
        find_start(model, pretrained)


def test_a_folder_without_weights_is_refused_unless_random_ones_are_asked_for(tmp_path):
    name = f"local-dir:{TINY_FOLDER}"
    with pytest.raises(InputError, match=r"could not be loaded|weights|checkpoint"):
        load_clip(find_start(name, None), 0, "cpu", "auto")
    first, again, other = (
        load_clip(find_start(name, "none"), seed, "cpu", "auto").module.visual.state_dict()
        for seed in (0, 0, 1)
    )
    same = [torch.equal(first[key], again[key]) for key in first]
    assert all(same)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.fixture(scope="module")
def tiny():
    return load_clip(find_start("tiny", None), 0, "cpu", "auto")


def test_the_tiny_model_is_tiny_and_reads_captions(tiny):
    assert 1e6 < sum(each.numel() for each in tiny.module.parameters()) < 3e6
    assert isinstance(tiny.tokenize, open_clip.SimpleTokenizer)
    assert tiny.preprocess(Image.new("RGB", (100, 80))).shape == (3, 64, 64)
    long = "word " * 100
    assert count_alike(tiny, ["a", "b", long + "c", long + "d"]) == 1


def test_only_matrices_decay(tiny):
    free, decayed = build_optimizer(tiny.module, 0.1, 0.2).param_groups
    assert (free["weight_decay"], decayed["weight_decay"]) == (0.0, 0.2)
    assert any(each is tiny.module.logit_scale for each in free["params"])
    assert all(each.ndim >= 2 for each in decayed["params"])
    count = len(list(tiny.module.parameters()))
    assert len(free["params"]) + len(decayed["params"]) == count


def test_the_rate_rises_then_falls():
    shares = [compute_share(step, 20, 0.25) for step in range(20)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in itertools.pairwise(shares[5:]))
    assert 0.0 < shares[-1] < 0.05


def test_a_loader_that_stops_early_is_noticed(packed, tiny):
    _, tars = packed
    settings = RetrievalSettings(epochs=1, batch_size=25)
    with pytest.raises(TrainingError, match="epoch 1: the loader gave 0 batches only"):
        tune_clip(tiny, tars, 25, settings, 1e-3, 0, str)


def test_tuning_lowers_the_loss_and_repeats_itself(data, tmp_path):
    pairs = read_pairs(data / "train.parquet").pairs[:32]
    tars = pack_pairs(pairs, [pair.caption for pair in pairs], tmp_path / "tars", 1)
    settings = RetrievalSettings(epochs=3, batch_size=16)
    lines, losses, weights = [], [], []
    for _ in range(2):
        clip = load_clip(find_start("tiny", None), 0, "cpu", "auto")
        tuned = tune_clip(clip, tars, 32, settings, 1e-3, 0, lines.append)
        losses.append(tuned.loss)
        weights.append(clip.module.text_projection.detach().clone())
        assert tuned.steps == 6
    assert losses[0] == losses[1]
    assert torch.equal(*weights)
    first = float(lines[0].split()[-1])
    assert losses[0] < first


# --- a whole study -------------------------------------------------------------------------------


def call(*arguments):
    return CliRunner().invoke(main, ["evaluate", "retrieval", *map(str, arguments)])


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    """The command, once: its folder, its report, and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    arguments = ("--synthetic", data / "train.parquet", "--held-out", data / "held.parquet",
                 "--epochs", 7, "--batch-size", 36, "--seeds", 1,
                 "--out", folder / "out", "--json", folder / "all.json")  # fmt: skip
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return arguments, folder, json.loads((folder / "all.json").read_text()), result


@pytest.mark.slow("test_tuning_lowers_the_loss_and_repeats_itself")
def test_true_captions_beat_chance_and_shuffled_ones_do_not(study):
    report, chance = study[2], study[2]["chance"]
    assert chance["t2i_r@10"] == pytest.approx(1 - (30 / 40) * (29 / 39), abs=0.35)
    for name in ("i2t_r@1", "t2i_r@1", "t2i_r@10"):
        true, shuffled = (report["arms"][arm][name] for arm in ("synthetic", "shuffled"))
        assert true["low"] > chance[name], name
        assert shuffled["low"] <= chance[name], name
        assert report["paired"]["synthetic - shuffled"][name]["low"] > 0, name
        assert report["paired"]["synthetic - untuned"][name]["low"] > 0, name


@pytest.mark.slow("test_pretrained_weights_are_named_and_searched_untuned_once")
def test_the_report_says_what_was_done(study):
    _, _, report, result = study
    assert set(report["arms"]) == {"untuned", "synthetic", "shuffled"}
    for of in (*report["arms"].values(), *report["paired"].values()):
        assert set(of) == set(METRICS)
        assert all(each["low"] <= each["mean"] <= each["high"] for each in of.values())
    settings = report["settings"]
    assert settings["pairs"] == 216
    assert settings["steps"] == {"untuned": 0, "synthetic": 42, "shuffled": 42}
    assert settings["weights"] == "random, of the seed"
    assert settings["data_path"].startswith("open_clip_train")
    assert report["gallery"] == {"images": 40, "captions": 20}
    assert sum(report["dropped"].values()) == 0
    assert all(len(of["i2t_r@1"]) == 1 for of in report["by_seed"].values())
    assert "gallery: 40 images, 20 captions" in result.stdout
    assert "(chance)" in result.stdout
    assert "NOTE I2T R@50: the gallery has 20, so it is 1 always" in result.stderr
    assert "NOTE the model starts from random weights" in result.stderr


def test_intervals_are_of_captions_and_exact_where_nothing_or_all_is_hit(data):
    """20 captions of two images each, every other caption found; Clopper-Pearson by scipy."""
    gallery = build_gallery(read_pairs(data / "held.parquet").pairs)
    found = [row % 2 == 0 for row in range(20)]
    hits = {
        "i2t_r@1": [0.0] * 40, "i2t_r@10": [1.0] * 40, "i2t_r@50": [1.0] * 40,
        "t2i_r@1": found, "t2i_r@10": found, "t2i_r@50": found,
    }  # fmt: skip
    arm = summarise_arms({"untuned": [{"hits": hits}]}, gallery)["arms"]["untuned"]
    exact = binomtest(0, 20).proportion_ci(0.95, "exact").high
    assert list(arm["i2t_r@1"].values()) == pytest.approx([0.0, 0.0, exact])
    assert list(arm["i2t_r@10"].values()) == pytest.approx([1.0, 1.0 - exact, 1.0])
    assert list(arm["i2t_r@50"].values()) == [1.0, 1.0, 1.0], "k reaches the whole gallery"
    hits["i2t_r@1"] = np.repeat(found, 2)
    again = summarise_arms({"untuned": [{"hits": hits}]}, gallery)["arms"]["untuned"]
    assert again["i2t_r@1"] == arm["t2i_r@1"], "two images of a caption are one unit"


def test_resampling_covers_captions_and_seeds():
    """Against the two variances written out: of the mean over captions, and of that over seeds."""
    draw = np.random.default_rng(0)
    level, units = draw.normal(0, 1, (3, 1)), draw.normal(0, 1, (1, 400))
    both = level + units
    means = resample_means(np.stack([both, np.tile(units, (3, 1)), both + 1.0]), np.ones(400)).T
    assert means[:, 0] == pytest.approx([both.mean(), units.mean(), both.mean() + 1.0])
    of_units, of_seeds = units.var() / 400, level.var() / 3
    assert means[1, 1:].var() == pytest.approx(of_units, rel=0.15)
    assert means[0, 1:].var() == pytest.approx(of_units + of_seeds, rel=0.15)
    assert means[2] - means[0] == pytest.approx(np.ones(len(means[0]))), "arms share their draws"
    weights = np.arange(400.0) + 1.0
    weighted = resample_means(both[None], weights)[0, 0]
    assert weighted == pytest.approx(np.average(both.mean(axis=0), weights=weights))


def test_controls_that_are_off_chance_are_explained():
    def make_arm(low, high):
        return {name: {"mean": (low + high) / 2, "low": low, "high": high} for name in METRICS}

    report = {
        "settings": {"pairs": 9, "synthetic": {"pairs": 9}, "real": None, "held_out": {"pairs": 9}},
        "gallery": {"images": 99, "captions": 99},
        "dropped": {"image": 0, "near_copy": 2, "caption": 1, "reference": 0, "group": 0},
        "chance": dict.fromkeys(METRICS, 0.3),
        "arms": {"untuned": make_arm(0.1, 0.2), "shuffled": make_arm(0.4, 0.5)},
    }
    dropped, alike, below, above = write_notes(report, is_random=False, alike=7)
    assert dropped.startswith("3 of 9 held-out pairs are known from training")
    assert dropped.endswith("(near copy 2, caption 1)")
    assert alike.startswith("7 captions have the same tokens as another")
    assert below.startswith("untuned is below chance (i2t_r@1, ")
    assert above.startswith("shuffled is above chance (i2t_r@1, ")
    report["arms"] = {"untuned": make_arm(0.2, 0.4), "shuffled": make_arm(0.2, 0.4)}
    assert len(write_notes(report, is_random=False, alike=0)) == 1


@pytest.mark.slow("test_stopped_in_the_middle_and_resumed_equals_not_stopped")
def test_the_same_command_goes_on_where_it_stopped(study):
    arguments, folder, report, _ = study
    (folder / "out" / "arms" / "untuned-0.json").unlink()
    again = call(*arguments)
    assert again.exit_code == 0
    assert again.stderr.count("done before") == 2
    assert "untuned, seed 0: i2t_r@1" in again.stderr
    assert json.loads((folder / "all.json").read_text()) == report


def test_stopped_in_the_middle_and_resumed_equals_not_stopped(data, tmp_path):
    """What a kill leaves behind (tars of the arm under way) does not matter."""

    def stop(line):
        if line.startswith("shuffled, seed 0: epoch 1/1"):
            raise KeyboardInterrupt

    settings = RetrievalSettings(epochs=1, batch_size=18, seeds=1)
    start = functools.partial(
        evaluate_retrieval, data / "few.parquet", data / "held.parquet", settings
    )
    kept = RetrievalOptions(out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        start(kept, say=stop)
    assert list((tmp_path / "out" / "tars").iterdir())
    lines = []
    resumed = start(kept, say=lines.append)
    assert "synthetic, seed 0: done before" in lines
    assert "shuffled, seed 0: epoch 1/1" in " ".join(lines)
    assert not list((tmp_path / "out" / "tars").iterdir())
    assert resumed == start(say=str)


@pytest.mark.slow("test_tuning_lowers_the_loss_and_repeats_itself")
def test_trainers_side_by_side_give_what_one_process_gives(data, tmp_path):
    pairs = ("--synthetic", data / "few.parquet", "--held-out", data / "held.parquet")
    common = (*pairs, "--epochs", 2, "--seeds", 1, "--batch-size", 18)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = call(*common, "--out", one)
    both = call(*common, "--workers", 2, "--out", two)
    assert (alone.exit_code, both.exit_code) == (0, 0), both.output
    assert read_json(one / "study.json") == read_json(two / "study.json")
    for arm in ("untuned", "synthetic", "shuffled"):
        here, there = (read_json(each / "arms" / f"{arm}-0.json") for each in (one, two))
        assert (here["seed"], here["steps"]) == (there["seed"], there["steps"])
        if arm == "untuned":
            assert here["hits"] == there["hits"]
        else:  # other numbers of threads add up in another order
            assert here["loss"] == pytest.approx(there["loss"], rel=0.01)
    stored = call(*common, "--workers", 2, "--out", two)
    assert stored.stderr.count("done before") == 3
    assert stored.stdout == both.stdout
    assert not list((two / "tars").iterdir())


@pytest.mark.slow("test_tuning_lowers_the_loss_and_repeats_itself")
def test_a_tuning_that_fails_on_a_trainer_says_why(data, tmp_path):
    pairs = ("--synthetic", data / "few.parquet", "--held-out", data / "held.parquet")
    wild = call(
        *pairs, "--lr", 1e9, "--epochs", 2, "--seeds", 1, "--workers", 2, "--batch-size", 18
    )
    assert wild.exit_code == TrainingError.exit_code, wild.output
    assert "lower --lr" in wild.output


@pytest.mark.slow("test_stopped_in_the_middle_and_resumed_equals_not_stopped")
def test_other_arms_keep_those_that_are_done_and_other_settings_are_refused(study):
    arguments, folder, report, _ = study
    fewer = call(*arguments, "--arms", "shuffled,untuned", "--json", folder / "two.json")
    assert fewer.stderr.count("done before") == 2
    found = json.loads((folder / "two.json").read_text())
    assert list(found["arms"]) == ["untuned", "shuffled"]
    assert found["arms"]["shuffled"] == report["arms"]["shuffled"]
    refused = call(*arguments, "--epochs", 8)
    assert refused.exit_code == MismatchError.exit_code
    assert "was begun with other settings" in refused.stderr
    assert "  epochs: 7 -> 8\n" in refused.stderr


@pytest.mark.slow("test_tuning_lowers_the_loss_and_repeats_itself")
def test_real_pairs_train_with_the_same_number_and_steps(data):
    lines = []
    report = evaluate_retrieval(
        data / "train.parquet", data / "held.parquet",
        RetrievalSettings(epochs=1, batch_size=48, seeds=1, arms=("synthetic", "real")),
        RetrievalOptions(real=data / "other.parquet"), lines.append,
    )  # fmt: skip
    assert report["settings"]["pairs"] == 144
    assert report["settings"]["steps"] == {"synthetic": 3, "real": 3}
    assert set(report["paired"]) == {"synthetic - real"}
    assert any("144 of 216 synthetic pairs" in note for note in report["notes"])


def test_pretrained_weights_are_named_and_searched_untuned_once(data, tiny, tmp_path):
    from safetensors.torch import save_file

    shutil.copy(TINY_FOLDER / "open_clip_config.json", tmp_path)
    save_file(tiny.module.state_dict(), tmp_path / "open_clip_model.safetensors")
    report = evaluate_retrieval(
        data / "train.parquet",
        data / "held.parquet",
        RetrievalSettings(model=f"local-dir:{tmp_path}", seeds=3, arms=("untuned",)),
        say=str,
    )
    settings = report["settings"]
    assert (settings["weights"], settings["learning_rate"]) == ("pretrained", 1e-5)
    assert settings["weights_sha256"] == hash_weights(tiny.module)
    assert len(report["by_seed"]["untuned"]["i2t_r@1"]) == 1
    assert not any("random weights" in note for note in report["notes"])


def test_a_model_that_filtered_the_held_out_set_is_named(data, tiny, tmp_path):
    from safetensors.torch import save_file

    clip = tmp_path / "clip"
    clip.mkdir()
    shutil.copy(TINY_FOLDER / "open_clip_config.json", clip)
    save_file(tiny.module.state_dict(), clip / "open_clip_model.safetensors")
    (tmp_path / "captions.txt").write_text("a red patch\na blue patch\na green patch\n")
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "caption", "captions": str(tmp_path / "captions.txt"), "count": 6}],
        filters=[{"kind": "alignment", "encoder": f"open_clip:local-dir:{clip}",
                  "min_similarity": -1.0}],
    )  # fmt: skip
    run(recipe, tmp_path / "run")
    settings = RetrievalSettings(model=f"local-dir:{clip}", arms=("untuned",))
    notes = evaluate_retrieval(data / "train.parquet", tmp_path / "run", settings, say=str)["notes"]
    assert notes[0].startswith(f"CIRCULAR: local-dir:{clip} had a part in {tmp_path / 'run'}: ")
    assert "filter alignment judged with it" in notes[0]
    plain = RetrievalSettings(arms=("untuned",), seeds=1)
    notes = evaluate_retrieval(data / "train.parquet", tmp_path / "run", plain, say=str)["notes"]
    assert not any("CIRCULAR" in note for note in notes)


def test_too_little_left_is_refused(data, tmp_path):
    settings = RetrievalSettings(epochs=1, seeds=1)
    train = data / "train.parquet"
    with pytest.raises(EvaluationError, match=r"0 captions are left to search, of 216 .*image 216"):
        evaluate_retrieval(train, train, settings, say=str)
    with pytest.raises(
        InputError, match=r"216 of 216 held-out pairs are known.*take --on-leak drop"
    ):
        evaluate_retrieval(train, train, settings, RetrievalOptions(on_leak="refuse"))
    with pytest.raises(InputError, match=r"216 pairs to train on .* fill no batch of 300"):
        evaluate_retrieval(train, data / "held.parquet", RetrievalSettings(batch_size=300), say=str)
    many = RetrievalSettings(batch_size=60, loaders=4)
    with pytest.raises(InputError, match="no batch of 60 in each of 4 loaders"):
        evaluate_retrieval(train, data / "held.parquet", many, say=str)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arms", "real"), "give --real"),
        (("--arms", "untuned", "--real", "."), "leaves real out"),
        (("--arms", "synthetik"), "synthetic"),
        (("--held-out", "gone"), "does not exist"),
        (("--model", "ViT-B-16"), "names no weights"),
    ],
)
def test_bad_input_ends_with_2(data, options, message):
    given = ("--synthetic", data / "train.parquet", "--held-out", data / "held.parquet")
    result = call(*given, *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_the_configuration_is_in_the_package():
    folder = Path(loader.__file__).parent / "tiny"
    assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
