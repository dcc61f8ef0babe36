"""Filters: good and bad images, scores that are stored, and decisions from stored scores alone."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from scipy.ndimage import gaussian_filter

from factory.core.color import to_lab
from factory.core.errors import FilterError, InputError
from factory.core.hashing import hash_bytes
from factory.core.thumbnails import compare_all, describe_images
from factory.data.images import SourceImage, list_images, read_fitted
from factory.data.records import SCORE_DECIMALS, Condition, Sample
from factory.data.streams import Reference
from factory.engine.dedup import SimilarityIndex, compare_pairs
from factory.filters import FILTERS, build_filters, decide_all, score_all
from factory.filters.focus import measure_blur
from factory.models.session import Session
from factory.recipe.recipe import AnyFilter
from tests import ASSETS, run_alone

PCAM = ASSETS / "pcam"
ORAL = ASSETS / "oral-oscc"

NOTHING = Condition()
NEEDS_MODELS = {"python", "classifier", "agreement", "zero_shot", "alignment", "realism"}
NEEDS_MODELS |= {"channel_signal", "structure", "domain_reached", "conformal"}
ALL_KINDS = [
    {"kind": "finite"},
    {"kind": "channel_signal", "channels": {"DAPI": {"min_positive": 0.01}}},
    {"kind": "tissue"},
    {"kind": "focus", "max_blur": 0.65, "min_sharpness": 0.001},
    {"kind": "stain"},
    {"kind": "color_cast"},
    {"kind": "classifier", "model": "none"},
    {"kind": "agreement", "models": ["none", "neither"], "min_agreement": 0.5},
    {"kind": "zero_shot", "encoder": "open_clip:none/none", "classes": "pcam"},
    {"kind": "alignment", "encoder": "open_clip:none/none"},
    {"kind": "realism", "images": "none", "min_realism": 0.5},
    {"kind": "training_copy"},
    {"kind": "mask_agreement"},
    {"kind": "structure", "min_correlation": 0.1},
    {"kind": "domain_reached", "source": "none", "target": "none"},
    {"kind": "python", "path": "own.py", "class_name": "Own"},
    {"kind": "review"},
    {"kind": "conformal", "model": "none", "images": "none", "max_mislabelled": 0.5},
]


def build(*described, base=Path()):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(described)
    return build_filters(parsed, Session.open(base))


def judge(described, pixels, condition=NOTHING, base=Path(), **sample):
    filters = build(described, base=base)
    scores = score_all(filters, [Sample(pixels, **sample)], [condition])[0]
    return scores, decide_all(filters, scores)


def paint_tissue(seed, size=64):
    """Draws violet nuclei on pink stroma beside a gap: H&E enough for every pixel filter."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    nuclei = np.zeros((size, size))
    for _ in range(size * size // 120):
        centre, radius = generator.uniform(0, size, 2), generator.uniform(2.5, 4.5)
        nuclei += np.hypot(rows - centre[0], columns - centre[1]) < radius
    haematoxylin = 0.9 * gaussian_filter(np.minimum(nuclei, 1), 0.7)
    haematoxylin *= generator.uniform(0.7, 1.3, nuclei.shape)
    eosin = 0.25 + 0.1 * gaussian_filter(generator.normal(size=nuclei.shape), 1.5)
    density = haematoxylin[..., None] * [0.65, 0.70, 0.29]
    density = density + np.maximum(eosin, 0)[..., None] * [0.3, 0.9, 0.4]
    density[: size // 8] *= 0.05  # a gap in the section
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)


def save_jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return np.asarray(Image.open(buffer))


def read_patches(root, count, size=64, seed=0):
    images = list_images(root)
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    cut = []
    for index in sorted(chosen):
        pixels = images[index].read_pixels()
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        cut.append(pixels[top : top + size, left : left + size])
    return np.stack(cut)


GREY = np.repeat(paint_tissue(1).mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
BLANK = np.full((64, 64, 3), 244, np.uint8)


# --- the whole set -------------------------------------------------------------------------------


def test_every_kind_of_the_recipe_is_built_with_distinct_score_names():
    filters = build(*ALL_KINDS)
    assert [each.kind for each in filters] == [each["kind"] for each in ALL_KINDS]
    assert sorted(each.kind for each in filters) == sorted(FILTERS.names)
    names = [name for each in filters for name in each.score_names]
    assert len(names) == len(set(names))


def test_deciding_imports_neither_torch_nor_sklearn():
    code = (
        "import sys; from pathlib import Path; from pydantic import TypeAdapter;"
        "from factory.recipe.recipe import AnyFilter;"
        "from factory.models.session import Session;"
        "from factory.filters import build_filters, decide_all;"
        f"kinds = TypeAdapter(tuple[AnyFilter, ...]).validate_python({ALL_KINDS!r});"
        "filters = build_filters(kinds, Session.open(Path()));"
        "scores = {n: 0.5 for f in filters for n in f.score_names} | {'nonfinite_fraction': 0.0};"
        "assert not decide_all(filters, {**scores, 'tissue_fraction': 0.1}).accepted;"
        "assert decide_all(filters, scores).accepted;"
        "heavy = {'torch', 'sklearn', 'pandas', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run_alone(code)


def test_scores_are_rounded_plain_and_decide_the_same_after_storage():
    kinds = [each for each in ALL_KINDS if each["kind"] not in NEEDS_MODELS]
    filters = build(*kinds)
    images = [paint_tissue(seed) for seed in range(4)] + [BLANK, GREY]
    rows = score_all(filters, [Sample(image) for image in images], [NOTHING] * len(images))
    for row in rows:
        assert all(type(value) is float for value in row.values())
        kept = [value for value in row.values() if not math.isnan(value)]
        assert kept == [round(value, SCORE_DECIMALS) for value in kept]
        stored = json.loads(json.dumps(row))
        assert decide_all(filters, stored) == decide_all(filters, row)
    verdicts = [decide_all(filters, row) for row in rows]
    assert [verdict.accepted for verdict in verdicts] == [True] * 4 + [False] * 2
    assert [verdict.filter for verdict in verdicts[4:]] == ["finite", "stain"]


def test_scores_do_not_depend_on_who_shares_the_batch():
    filters = build(*[each for each in ALL_KINDS if each["kind"] not in NEEDS_MODELS])
    images = [paint_tissue(seed) for seed in range(5)] + [paint_tissue(9, 96)]
    samples = [Sample(image) for image in images]
    together = score_all(filters, samples, [NOTHING] * 6)
    alone = [score_all(filters, [sample], [NOTHING])[0] for sample in samples]
    np.testing.assert_equal(together, alone)


def test_first_rejecting_filter_in_recipe_order_is_named():
    scores = {"tissue_fraction": 0.0, "stain_plausibility": 0.0}
    both = ({"kind": "tissue"}, {"kind": "stain"})
    assert decide_all(build(*both), scores).filter == "tissue"
    assert decide_all(build(*both[::-1]), scores).filter == "stain"


def test_a_threshold_is_inclusive_and_the_reason_has_both_numbers():
    filters = build({"kind": "tissue", "min_fraction": 0.3})
    assert decide_all(filters, {"tissue_fraction": 0.3}).accepted
    verdict = decide_all(filters, {"tissue_fraction": 0.2999})
    assert (verdict.filter, verdict.reason) == ("tissue", "tissue_fraction 0.2999 < 0.3")


def test_a_score_that_was_never_stored_is_an_error_not_a_verdict():
    with pytest.raises(FilterError, match="tissue: no stored score tissue_fraction"):
        decide_all(build({"kind": "tissue"}), {"contrast": 0.5})


def test_unequal_numbers_of_samples_and_conditions_are_refused():
    with pytest.raises(FilterError, match="1 samples but 2 conditions"):
        score_all(build({"kind": "tissue"}), [Sample(BLANK)], [NOTHING, NOTHING])


def test_no_samples_give_no_rows():
    assert score_all(build(*ALL_KINDS), [], []) == []


# --- finite, tissue, focus -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "nonfinite", "reason"),
    [
        (paint_tissue(0), 1e-9, "nonfinite_fraction 0.0001 > 0"),
        (np.zeros((64, 64, 3), np.uint8), 1.0, "nonfinite_fraction 1 > 0"),
        (np.zeros((64, 64, 3), np.uint8), 0.0, "contrast 0 < 0.01"),
        (BLANK, 0.0, "contrast 0 < 0.01"),
        (np.where(paint_tissue(0) > 160, 255, 0).astype(np.uint8), 0.0, "saturated_fraction 1 > "),
    ],
)
def test_finite_rejects(pixels, nonfinite, reason):
    _, verdict = judge({"kind": "finite"}, pixels, nonfinite_fraction=nonfinite)
    assert not verdict.accepted
    assert verdict.reason.startswith(reason)


def test_tissue_fraction_is_the_share_that_is_stained():
    pixels = np.full((64, 64, 3), 250, np.uint8)
    pixels[:16] = paint_tissue(0)[16:32]
    scores, verdict = judge({"kind": "tissue"}, pixels)
    assert 0.2 < scores["tissue_fraction"] <= 0.25
    assert verdict.reason.startswith("tissue_fraction")
    assert judge({"kind": "tissue"}, BLANK)[0]["tissue_fraction"] == 0.0
    assert judge({"kind": "tissue"}, paint_tissue(0))[1].accepted


def test_blur_lowers_sharpness_every_time():
    sharp = paint_tissue(3)
    blurred = [gaussian_filter(sharp, (sigma, sigma, 0)) for sigma in (0.7, 1.5, 3.0)]
    focus = {"kind": "focus", "min_sharpness": 0.002}
    values = [judge(focus, pixels)[0]["sharpness"] for pixels in [sharp, *blurred]]
    assert values == sorted(values, reverse=True)
    assert judge(focus, sharp)[1].accepted
    assert not judge(focus, blurred[1])[1].accepted
    effects = [judge(focus, pixels)[0]["blur_effect"] for pixels in [sharp, *blurred]]
    assert effects == sorted(effects) and 0 < effects[0] < effects[-1] < 1
    most = {"kind": "focus", "max_blur": 0.65}
    assert judge(most, sharp)[1].accepted
    assert judge(most, blurred[1])[1].reason.startswith("blur_effect ")
    assert judge(most, np.full((32, 32, 3), 200, np.uint8))[0]["blur_effect"] == 1.0


def test_blur_effect_is_that_of_scikit_image():
    """The numbers that `skimage.measure.blur_effect(grey, h_size=5)` (0.26) gives."""
    grey = np.random.default_rng(3).random((40, 30)).astype(np.float32)
    assert measure_blur(grey) == pytest.approx(0.24613, abs=1e-5)
    assert measure_blur(gaussian_filter(grey, 1.5)) == pytest.approx(0.55396, abs=1e-5)


@pytest.mark.parametrize("name", ["pcam", "oral-oscc", "cervix-lbc4", "crc-val-7k"])
def test_real_patches_are_sharp_and_blurred_ones_not(name):
    images = list_images(ASSETS / name / "test")
    drawn = np.random.default_rng(0).permutation(len(images))[:40]
    fit = "crop" if name == "pcam" else "resize"
    focus = {"kind": "focus", "max_blur": 0.65}
    kept = spoilt = 0
    for index in drawn:
        pixels = read_fitted(images[index], 64, 64, fit)
        kept += judge(focus, pixels)[1].accepted
        spoilt += not judge(focus, gaussian_filter(pixels, (2, 2, 0)))[1].accepted
    assert min(kept, spoilt) >= 0.94 * len(drawn)


# --- colour cast ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_lab_is_that_of_published_colours(color, expected):
    np.testing.assert_allclose(to_lab(np.array([color], np.uint8))[0], expected, atol=0.02)


def paint_glass(tint):
    """Tissue on the left, glass of the tint on the right half."""
    pixels = np.empty((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (170, 90, 160), tint
    return pixels


@pytest.mark.parametrize(
    ("tint", "accepted"),
    [
        ((250, 248, 251), True),
        ((240, 225, 238), True),
        ((255, 240, 150), False),
        ((190, 255, 190), False),
    ],
)
def test_tinted_glass_is_rejected(tint, accepted):
    scores, verdict = judge({"kind": "color_cast"}, paint_glass(tint))
    assert verdict.accepted == accepted, scores
    assert scores["color_cast"] >= 0
    if not accepted:
        assert verdict.reason.startswith("color_cast ")


def test_tissue_without_glass_says_nothing_of_the_light():
    scores, verdict = judge({"kind": "color_cast"}, paint_glass((170, 90, 160)))
    assert math.isnan(scores["color_cast"])
    assert verdict.accepted


def test_real_patches_have_no_cast_and_tinted_ones_do():
    images = list_images(PCAM / "test")
    pixels = [read_fitted(each, 64, 64, "crop") for each in images]
    found = np.array([judge({"kind": "color_cast"}, each)[0]["color_cast"] for each in pixels])
    bright = ~np.isnan(found)
    assert bright.mean() > 0.5
    assert (found[bright] <= 25).mean() > 0.97
    yellow = [np.clip(each * (1.0, 0.98, 0.6), 0, 255).astype(np.uint8) for each in pixels]
    cast = np.array([judge({"kind": "color_cast"}, each)[0]["color_cast"] for each in yellow])
    assert (cast[~np.isnan(cast)] > 25).mean() > 0.9


# --- stain ---------------------------------------------------------------------------------------


def make_wrong_colours():
    tissue, generator = paint_tissue(5), np.random.default_rng(0)
    noise = generator.integers(0, 256, tissue.shape, dtype=np.uint8)
    blue = generator.integers(0, 90, tissue.shape, dtype=np.uint8)
    blue[..., 2] = generator.integers(100, 256, tissue.shape[:2])
    return {
        "blank": BLANK,
        "black": np.zeros_like(tissue),
        "grey": GREY,
        "green": (GREY * np.array([0.6, 1.0, 0.6])).astype(np.uint8),
        "inverted": 255 - tissue,
        "noise": noise,
        "blue noise": blue,
        "blue": np.tile(np.array([40, 80, 200], np.uint8), (64, 64, 1)),
        "yellow": (GREY * np.array([1.0, 0.95, 0.5])).astype(np.uint8),
    }


@pytest.mark.parametrize("name", list(make_wrong_colours()))
def test_stain_rejects_wrong_colours(name):
    scores, verdict = judge({"kind": "stain"}, make_wrong_colours()[name])
    assert not verdict.accepted, scores
    assert verdict.reason.startswith("stain_plausibility ")


def test_stain_does_not_depend_on_the_amount_of_stain():
    tissue = paint_tissue(5).astype(float)
    for power in (0.6, 1.0, 1.5):
        pixels = (255 * (tissue / 255) ** power).astype(np.uint8)
        assert judge({"kind": "stain"}, pixels)[0]["stain_plausibility"] > 0.9


def test_stain_accepts_real_patches_and_rejects_their_grey_copies():
    real = [*read_patches(PCAM / "test", 20), *read_patches(ORAL / "test", 8)]
    grey = [np.repeat(image[..., 1:2], 3, axis=-1) for image in real]
    filters = build({"kind": "stain"})
    rows = score_all(filters, [Sample(image) for image in real + grey], [NOTHING] * 56)
    accepted = [decide_all(filters, row).accepted for row in rows]
    assert np.mean(accepted[:28]) >= 0.96
    assert not any(accepted[28:])


# --- copies --------------------------------------------------------------------------------------


def save_reference(folder, pixels, name="reference.png"):
    path = folder / name
    Image.fromarray(pixels).save(path)
    image = SourceImage(name, "a", None, path)
    return Condition(None, None, Reference(image, hash_bytes(path.read_bytes()), 0.6))


COPIES = {
    "same": lambda p: p,
    "flipped": lambda p: p[:, ::-1],
    "turned": np.rot90,
    "turned and flipped": lambda p: np.rot90(p, 3)[::-1],
    "JPEG": lambda p: save_jpeg(p, 60),
    "recoloured": lambda p: np.clip(p * np.array([0.9, 1.05, 1.0]) + 5, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", list(COPIES))
def test_copies_of_the_reference_are_rejected(tmp_path, name):
    pixels = paint_tissue(7)
    condition = save_reference(tmp_path, pixels)
    copied = np.ascontiguousarray(COPIES[name](pixels))
    scores, verdict = judge({"kind": "training_copy"}, copied, condition)
    assert scores["copy_similarity"] > 0.97
    assert verdict.filter == "training_copy"
    assert verdict.reason.startswith("copy_similarity ")


def test_other_images_are_no_copies_and_no_reference_means_not_applicable(tmp_path):
    condition = save_reference(tmp_path, paint_tissue(7))
    scores, verdict = judge({"kind": "training_copy"}, paint_tissue(8), condition)
    assert scores["copy_similarity"] < 0.7
    assert verdict.accepted
    scores, verdict = judge({"kind": "training_copy"}, paint_tissue(8))
    assert math.isnan(scores["copy_similarity"])
    assert verdict.accepted


def test_named_images_are_compared_beside_the_reference_from_the_recipes_folder(tmp_path):
    (tmp_path / "real").mkdir()
    for seed in range(3):
        Image.fromarray(paint_tissue(seed, 96)).save(tmp_path / "real" / f"{seed}.png")
    condition = save_reference(tmp_path, paint_tissue(7))
    described = {"kind": "training_copy", "images": "real"}
    filters = build(described, base=tmp_path)
    centre = np.rot90(paint_tissue(2, 96)[16:80, 16:80])
    whole = np.asarray(Image.fromarray(paint_tissue(1, 96)).resize((64, 64)))
    images = [centre, whole, paint_tissue(7), paint_tissue(9)]
    conditions = [NOTHING, condition, condition, condition]
    rows = score_all(filters, [Sample(np.ascontiguousarray(p)) for p in images], conditions)
    similar = [row["copy_similarity"] for row in rows]
    assert min(similar[:3]) > 0.97
    assert similar[3] < 0.7


def test_describe_follows_the_content_of_the_named_images(tmp_path):
    Image.fromarray(paint_tissue(1)).save(tmp_path / "a.png")
    described = {"kind": "training_copy", "images": "."}
    before = build(described, base=tmp_path)[0].describe()
    Image.fromarray(paint_tissue(2)).save(tmp_path / "a.png")
    after = build(described, base=tmp_path)[0].describe()
    assert before["images_sha256"] != after["images_sha256"]


def test_named_images_that_are_gone_are_an_infrastructure_failure(tmp_path):
    filters = build({"kind": "training_copy", "images": "gone"}, base=tmp_path)
    with pytest.raises(FilterError, match="no such file or folder"):
        score_all(filters, [Sample(BLANK)], [NOTHING])


def test_real_patches_of_other_slides_are_clearly_apart_from_copies():
    train, test = read_patches(PCAM / "train", 28), read_patches(PCAM / "test", 20)
    known = describe_images(train).astype(np.float32)
    others = compare_all(describe_images(test), known)
    copies = np.stack([save_jpeg(image[:, ::-1], 75) for image in train])
    assert np.quantile(others, 0.99) < 0.85
    assert np.quantile(compare_all(describe_images(copies), known), 0.05) > 0.95


@pytest.mark.parametrize("size", [8, 16, 40, 64, 100])
def test_descriptor_of_any_size_has_length_one_and_ignores_flips(size):
    pixels = np.random.default_rng(size).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    descriptors = describe_images(pixels)
    assert descriptors.shape == (2, 256)
    assert descriptors.dtype == np.float16
    turned = describe_images(np.rot90(pixels, 1, (1, 2))[:, ::-1])
    np.testing.assert_allclose(compare_pairs(descriptors, turned), 1.0, atol=2e-3)


def test_blank_images_are_like_each_other_and_like_nothing_else():
    blank = describe_images(np.stack([BLANK, BLANK - 40, paint_tissue(0)]))
    assert compare_pairs(blank[:1], blank[1:2])[0] > 0.99
    assert compare_pairs(blank[:1], blank[2:])[0] < 0.3


# --- near-duplicates -----------------------------------------------------------------------------


def make_descriptors(count, seed, repeats):
    """Random patterns, and turned noisy repeats of earlier ones at known places."""
    generator = np.random.default_rng(seed)
    base = generator.normal(size=(count, 16, 16))
    for place, source in repeats.items():
        turned = np.rot90(base[source], generator.integers(4))
        base[place] = turned[:, ::-1] + 0.1 * generator.normal(size=(16, 16))
    flat = base.reshape(count, 256)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float16)


def find_duplicates_plainly(descriptors, max_similarity):
    kept, found = [], []
    for row, descriptor in enumerate(descriptors):
        many = np.repeat(descriptor[None], len(kept), axis=0)
        similar = compare_pairs(many, descriptors[kept]) if kept else np.zeros(0)
        hits = np.flatnonzero(similar > max_similarity)
        found.append(kept[hits[0]] if len(hits) else -1)
        if not len(hits):
            kept.append(row)
    return found


def find_duplicates(descriptors, max_similarity):
    """Returns the row that each repeats, or -1, asking an index for one after the other."""
    index, kept, found = SimilarityIndex(max_similarity), [], []
    for row in range(len(descriptors)):
        (repeated,) = index.find(descriptors[row : row + 1])
        found.append(-1 if repeated < 0 else kept[repeated])
        if repeated < 0:
            index.add(descriptors[row : row + 1])
            kept.append(row)
    assert len(index) == len(kept)
    return found


@settings(max_examples=15)
@given(st.data())
def test_index_equals_the_plain_greedy_rule(data):
    count = data.draw(st.integers(1, 40))
    places = data.draw(st.lists(st.integers(1, 39), max_size=12, unique=True))
    repeats = {p: data.draw(st.integers(0, p - 1)) for p in sorted(places) if p < count}
    threshold = data.draw(st.sampled_from([0.2, 0.6, 0.9, 0.97, 1.0]))
    descriptors = make_descriptors(count, count, repeats)
    expected = find_duplicates_plainly(descriptors, threshold)
    assert find_duplicates(descriptors, threshold) == expected


def test_duplicates_across_blocks_of_a_large_set_are_found_in_chunks():
    repeats = {2500: 3, 2900: 1100, 2999: 2998}
    descriptors = make_descriptors(3000, 5, repeats)
    index = SimilarityIndex(0.97)
    index.add(descriptors)
    found = index.find(descriptors)
    assert {place: source for place, source in enumerate(found.tolist()) if place != source} == (
        repeats
    )


def test_a_repeat_of_a_removed_image_is_kept_if_like_nothing_kept():
    first = np.random.default_rng(0).normal(size=256)
    step = 0.22 * np.random.default_rng(1).normal(size=256)
    chain = np.stack([first, first + step, first + 2 * step])
    chain /= np.linalg.norm(chain, axis=1, keepdims=True)
    assert find_duplicates(chain.astype(np.float16), 0.95) == [-1, 0, -1]


# --- classifier: see test_train_classifier.py for a fitted one -----------------------------------


def test_missing_classifier_is_named_with_what_to_do(tmp_path):
    filters = build({"kind": "classifier", "model": "gone"}, base=tmp_path)
    with pytest.raises(
        InputError, match=r"gone.*not a classifier folder.*factory train classifier"
    ):
        score_all(filters, [Sample(BLANK)], [Condition(class_name="a")])


def test_condition_without_a_class_is_not_applicable_and_loads_nothing(tmp_path):
    scores, verdict = judge({"kind": "classifier", "model": "gone"}, BLANK, base=tmp_path)
    assert all(math.isnan(value) for value in scores.values())
    assert verdict.accepted
