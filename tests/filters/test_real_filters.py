"""Filters that compare with real images: `realism`, and what a held-out set forbids."""

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import LedoitWolf, ShrunkCovariance
from sklearn.neighbors import NearestNeighbors

from factory.api import refilter
from factory.core.errors import FilterError, InputError, RecipeError, SourceError
from factory.core.hashing import hash_bytes
from factory.data.images import fit_image, list_images
from factory.data.records import Condition, Sample
from factory.data.splits import find_leaks
from factory.filters import build_filters, decide_all, score_all
from factory.filters.real.classes import RealClasses, pick_classes
from factory.filters.real.neighbours import NEAREST, RealNeighbours
from factory.filters.real.scores import SCORES, RealScores, find_quantile
from factory.models.session import Session
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.conditions.shots import choose_shots
from factory.recipe.file import load_recipe
from factory.recipe.recipe import AnyFilter, Recipe, compute_recipe_digest
from tests import ASSETS, run_alone
from tests.running import find_messages, read_rows, run, write_recipe

PCAM = ASSETS / "pcam"


def draw_features(count=60, dim=6, seed=0):
    """Two classes of correlated features, apart in the first, and classes in turn."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = draw.normal(size=(count, dim)) @ draw.normal(size=(dim, dim))
    features[:, 0] += 3 * labels
    return features, labels


# --- agreement with outside references, on fixed arrays ------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbour_distance_is_that_of_scikit_learn(k):
    real, queries = draw_features()[0], draw_features(seed=1)[0]
    among = NearestNeighbors(n_neighbors=k).fit(real)
    unit = np.median(among.kneighbors()[0][:, -1])  # without arguments: of others than itself
    expected = among.kneighbors(queries)[0][:, -1] / unit
    found = RealNeighbours(real, k)
    np.testing.assert_allclose(found.score(queries).neighbour_distance, expected, rtol=1e-9)
    own = among.kneighbors()[0][:, -1] / unit
    np.testing.assert_allclose(found.leave_one_out().neighbour_distance, own, rtol=1e-9)
    distances, places = among.kneighbors(queries[:1])
    nearest = found.find_nearest(queries[0], k)
    assert [place for place, _ in nearest] == places[0].tolist()
    np.testing.assert_allclose([d for _, d in nearest], distances[0] / unit, rtol=1e-9)


def compute_realism(real, query, k):
    """Kynkaanniemi et al. 2019, eq. 3, with their pruning, in few lines."""
    radii = np.sort(cdist(real, real), axis=1)[:, k]  # column 0 is the distance to itself
    small = radii <= np.median(radii)
    return (radii[small] / cdist(real, query[None])[small, 0]).max()


def compute_authenticity(real, query):
    """Alaa et al. 2022: distance to the nearest real one over that one's to its nearest."""
    nearest = cdist(real, query[None])[:, 0].argmin()
    others = np.delete(real, nearest, axis=0)
    return np.linalg.norm(real[nearest] - query) / cdist(others, real[nearest][None]).min()


@pytest.mark.parametrize("k", [1, 3])
def test_realism_and_authenticity_are_those_of_the_papers(k):
    real, queries = draw_features()[0], draw_features(seed=1)[0]
    found = RealNeighbours(real, k).score(queries)
    expected = [compute_realism(real, query, k) for query in queries]
    np.testing.assert_allclose(found.realism, expected, rtol=1e-9)
    expected = [compute_authenticity(real, query) for query in queries]
    np.testing.assert_allclose(found.authenticity, expected, rtol=1e-9)
    assert 0 < np.mean(found.realism >= 1) < 1


@pytest.mark.parametrize("k", [1, 3])
def test_a_real_image_is_scored_as_if_it_were_not_there(k):
    real = draw_features(41)[0]
    own = RealNeighbours(real, k).leave_one_out()
    rest = [(np.delete(real, row, axis=0), real[row]) for row in range(len(real))]
    expected = [compute_realism(others, one, k) for others, one in rest]
    np.testing.assert_allclose(own.realism, expected, rtol=1e-9)
    expected = [compute_authenticity(others, one) for others, one in rest]
    np.testing.assert_allclose(own.authenticity, expected, rtol=1e-9)


def test_a_copy_is_no_division_by_zero():
    real = draw_features()[0]
    real[1] = real[0]
    found = RealNeighbours(real, 1).score(np.stack([real[0], real[5]]))
    assert found.authenticity.tolist() == pytest.approx([0, 0], abs=1e-4)
    assert np.isfinite(found.realism).all()
    assert found.realism.max() <= 1 / NEAREST * 1.0001


def test_mahalanobis_is_that_of_scikit_learn_and_scipy():
    (real, labels), queries = draw_features(), draw_features(seed=1)[0]
    means = np.stack([real[labels == c].mean(0) for c in (0, 1)])
    residuals = real - means[labels]
    fitted = LedoitWolf(assume_centered=True).fit(residuals)
    found = RealClasses(real, labels)
    assert found.shrinkage == pytest.approx(fitted.shrinkage_, rel=1e-9)
    distances, _ = found.score(queries)
    for c, mean in enumerate(means):
        squares = fitted.mahalanobis(queries - mean)
        np.testing.assert_allclose(distances[:, c], np.sqrt(squares), rtol=1e-8)
        expected = [mahalanobis(query, mean, fitted.precision_) for query in queries]
        np.testing.assert_allclose(distances[:, c], expected, rtol=1e-8)


def test_fewer_images_than_features_still_give_a_covariance():
    real, labels = draw_features(12, 40)
    assert np.isfinite(RealClasses(real, labels).score(draw_features(9, 40, 1)[0])[0]).all()
    double = np.concatenate([real[:, :3], real[:, :3]], axis=1)  # singular, if not shrunk
    assert np.isfinite(RealClasses(double, labels).score(double)[0]).all()


def test_leaving_one_out_equals_fitting_again_without_it():
    real, labels = draw_features(40)
    found = RealClasses(real, labels)
    own_mahalanobis, own_centroid = found.leave_one_out()
    scatter = found._scatter
    for row in range(len(real)):
        rest, kept = np.delete(real, row, axis=0), np.delete(labels, row)
        means = np.stack([rest[kept == c].mean(0) for c in (0, 1)])
        fitted = ShrunkCovariance(assume_centered=True, shrinkage=0).fit(rest - means[kept])
        target = found.shrinkage * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        covariance = (1 - found.shrinkage) * fitted.covariance_ + target
        off = real[row] - means[labels[row]]
        expected = np.sqrt(off @ np.linalg.solve(covariance, off))
        assert own_mahalanobis[row] == pytest.approx(expected, rel=1e-8)
        unit = found.spreads[labels[row]]
        assert own_centroid[row] == pytest.approx(np.linalg.norm(off) / unit, rel=1e-8)


def test_centroid_distance_is_relative_to_the_class():
    real, labels = draw_features()
    distances = RealClasses(real, labels).score(real)[1]
    for c in (0, 1):
        assert distances[labels == c, c].mean() == pytest.approx(1.0)
    nearest = pick_classes(distances, [None] * len(real))
    np.testing.assert_array_equal(nearest, distances.min(axis=1))
    np.testing.assert_array_equal(pick_classes(distances, [1] * len(real)), distances[:, 1])


@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 0.99, 1.0])
def test_a_quantile_is_the_inverse_of_numpys(share):
    values = np.sort(np.random.default_rng(0).normal(size=37))
    assert find_quantile(float(np.quantile(values, share)), values) == pytest.approx(share)
    assert find_quantile(values[0] - 1e-9, values) < 0
    assert find_quantile(values[-1] + 1e-9, values) > 1


def test_quantiles_follow_the_asked_class_and_hold_the_units_apart():
    real, labels = draw_features(200)
    names = [("a", "b")[label] for label in labels]
    plain = RealScores(real.astype(np.float32), names, 3)
    scaled = RealScores((real * [1, 10, 100, 1, 1, 1] + 5).astype(np.float32), names, 3)
    for name in SCORES:
        np.testing.assert_allclose(plain.own[name], scaled.own[name], rtol=1e-3)
    asked_other = plain.score(real[:20].astype(np.float32), [1] * 20)["centroid_distance_quantile"]
    asked_right = plain.score(real[:20].astype(np.float32), labels[:20].tolist())
    wrong = labels[:20] == 0
    assert (asked_other[wrong] > asked_right["centroid_distance_quantile"][wrong]).mean() > 0.6
    new, new_labels = draw_features(200, seed=0)
    found = plain.score((new + 1e-3).astype(np.float32), new_labels.tolist())
    assert np.median(found["mahalanobis_distance_quantile"]) == pytest.approx(0.5, abs=0.1)


def test_images_that_look_alike_are_refused():
    with pytest.raises(FilterError, match="look alike to the encoder: take another"):
        RealScores(np.ones((9, 4), np.float32), [None] * 9, 3)


# --- the filter ----------------------------------------------------------------------------------


def paint(seed, size=48):
    """Patches that differ in texture and stain; class b is coarser and bluer."""
    draw = np.random.default_rng(seed)
    noise = gaussian_filter(draw.normal(size=(size, size)), 1 + seed % 2)
    stain = [60, 120, 40] if seed % 2 else [90, 110, 60]
    density = np.clip(0.5 + noise / noise.std() / 4, 0, 1)[..., None] * stain
    return (245 - density * draw.uniform(0.8, 1.2, 3)).clip(0, 255).astype(np.uint8)


def write_real(root, count=16, first=0):
    for seed in range(first, first + count):
        folder = root / "ab"[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(seed)).save(folder / f"p{seed // 4}_{seed}.png")
    return root


def build(base, *described):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(described)
    return build_filters(parsed, Session.open(base))


def make_judge(tmp_path, **settings):
    write_real(tmp_path / "real")
    return build(tmp_path, {"kind": "realism", "images": "real", **settings})[0]


def score(judge, images, names):
    conditions = [Condition(class_name=name) for name in names]
    return score_all([judge], [Sample(image) for image in images], conditions)


def test_scores_of_new_images_copies_and_noise(tmp_path):
    judge = make_judge(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    copy = np.ascontiguousarray(paint(4)[::-1])
    new, copied, spoilt = score(judge, [paint(40), copy, noise], ["a", "a", "a"])
    assert copied["authenticity_ratio"] < 0.1 < 0.4 < new["authenticity_ratio"]
    assert copied["authenticity_ratio_quantile"] == -0.01
    assert spoilt["realism"] < 0.1 < min(new["realism"], copied["realism"])
    for name in ("neighbour_distance", "mahalanobis_distance", "centroid_distance"):
        assert spoilt[name] > 2 * new[name]
        assert spoilt[f"{name}_quantile"] == 1.01
    right, wrong = score(judge, [paint(40)] * 2, ["a", "b"])
    assert wrong["centroid_distance"] > right["centroid_distance"]
    assert wrong["mahalanobis_distance"] > right["mahalanobis_distance"]
    assert wrong["realism"] == right["realism"], "the whole set, whatever is asked"
    nearest = score(judge, [paint(40)], [None])[0]
    assert nearest["centroid_distance"] == right["centroid_distance"]


def test_scores_do_not_depend_on_who_shares_the_batch(tmp_path):
    judge = make_judge(tmp_path)
    images = [paint(seed) for seed in range(40, 46)] + [paint(46, 64)]
    together = score(judge, images, ["a"] * 7)
    alone = [score(judge, [image], ["a"])[0] for image in images]
    np.testing.assert_equal(together, alone)


def test_nearest_names_image_hash_and_group(tmp_path):
    judge = make_judge(tmp_path, group_pattern=r"(p\d+)_")
    near = judge.find_nearest(paint(6)[:, ::-1])
    found = next(each for each in judge.used_images if each.source == near.image)
    assert found.sha256 == hash_bytes((tmp_path / "real" / "a" / "p1_6.png").read_bytes())
    assert found.group_sha256 == hash_bytes(b"p1")
    assert near.distance < 0.1 and near.fit == "crop"
    own = judge.leave_one_out((48, 48))
    assert all(len(own[name]) == len(judge.used_images) == 16 for name in SCORES)


@pytest.mark.parametrize(
    ("field", "value", "score_name", "bad", "good"),
    [
        ("min_realism", 0.5, "realism", 0.4, 0.5),
        ("max_neighbour_distance", 2.0, "neighbour_distance", 2.1, 2.0),
        ("max_mahalanobis_distance", 20, "mahalanobis_distance", 20.1, 20),
        ("max_centroid_distance", 1.5, "centroid_distance", 1.6, 1.5),
        ("min_authenticity", 0.3, "authenticity_ratio", 0.2, 0.3),
        ("min_realism_quantile", 0.0, "realism_quantile", -0.01, 0.0),
        ("max_centroid_distance_quantile", 1.0, "centroid_distance_quantile", 1.01, 1.0),
        ("min_authenticity_quantile", 0.05, "authenticity_ratio_quantile", 0.04, 0.05),
    ],
)
def test_each_threshold_bounds_its_score(tmp_path, field, value, score_name, bad, good):
    judge = build(tmp_path, {"kind": "realism", "images": "none", field: value})[0]
    assert judge.thresholds[field] == score_name
    assert decide_all([judge], {score_name: good}).accepted
    verdict = decide_all([judge], {score_name: bad})
    sign = "<" if field.startswith("min_") else ">"
    assert (verdict.filter, verdict.reason) == ("realism", f"{score_name} {bad:g} {sign} {value:g}")


def test_every_score_has_thresholds_and_without_any_it_only_scores(tmp_path):
    judge = build(tmp_path, {"kind": "realism", "images": "none"})[0]
    assert set(judge.thresholds.values()) == set(judge.score_names)
    assert decide_all([judge], {}).accepted


def test_describe_follows_the_images_and_says_how_many_are_used(tmp_path):
    judge = make_judge(tmp_path, limit=6)
    described = judge.describe()
    assert (described["images_used"], described["images_found"]) == (6, 16)
    assert sorted(image.class_name for image in judge.used_images) == list("aaabbb")
    assert judge.describe() == build(tmp_path, judge.settings.model_dump())[0].describe()
    other = make_judge(tmp_path, limit=6, seed=1).describe()
    assert other["images_sha256"] != described["images_sha256"]
    for path in (tmp_path / "real").rglob("*.png"):
        path.rename(path.with_name(f"renamed_{path.name}"))
    assert make_judge(tmp_path, limit=6).describe() == described, "copies count once, names not"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda real: [p.unlink() for p in real.rglob("*.png")], "holds no images"),
        (lambda real: [p.unlink() for p in real.rglob("p[1-9]*.png")], "4 different images are"),
        (lambda real: [p.unlink() for p in sorted(real.glob("b/*"))[1:]], "a single image of cl"),
        (lambda real: (real / "b" / "x.png").write_bytes((real / "a/p0_0.png").read_bytes()), "of"),
    ],
)
def test_a_real_set_that_does_not_do_is_refused(tmp_path, spoil, message):
    judge = make_judge(tmp_path)
    spoil(tmp_path / "real")
    with pytest.raises(FilterError, match=message):
        judge.describe()


def test_a_class_that_the_real_set_lacks_is_an_error_not_a_verdict(tmp_path):
    with pytest.raises(FilterError, match="real has no class 'c': it has a, b"):
        score(make_judge(tmp_path), [paint(1)], ["c"])


def test_a_set_without_classes_counts_as_one_class(tmp_path):
    write_real(tmp_path / "real", 8)
    for path in list((tmp_path / "real").rglob("*.png")):
        path.rename(tmp_path / "real" / path.name)
    judge = build(tmp_path, {"kind": "realism", "images": "real"})[0]
    assert score(judge, [paint(9)], ["a"]) == score(judge, [paint(9)], [None])


def test_a_missing_encoder_is_named_before_any_scoring(tmp_path):
    with pytest.raises(InputError, match="encoder 'gone': no such folder"):
        make_judge(tmp_path, encoder="gone").describe()


def test_quantiles_of_real_patches_of_other_slides_are_about_even(tmp_path):
    described = {"kind": "realism", "images": str(PCAM.resolve() / "train"), "limit": 240}
    judge = build(tmp_path, described)[0]
    listed = list_images(PCAM / "test")
    drawn = [listed[i] for i in np.random.default_rng(0).permutation(len(listed))[:50]]
    images = [fit_image(image.read_pixels(), 64, 64) for image in drawn]
    names = [image.class_name for image in drawn]
    rows = score(judge, images, names)
    blurred = score(judge, [gaussian_filter(image, (2, 2, 0)) for image in images], names)
    for name, low in (("realism", True), ("mahalanobis_distance", False)):
        places = np.array([row[f"{name}_quantile"] for row in rows])
        assert 0.3 < np.median(places) < 0.7
        assert np.mean(places < 0.05 if low else places > 0.95) < 0.15
        places = np.array([row[f"{name}_quantile"] for row in blurred])
        assert np.mean(places < 0.05 if low else places > 0.95) > 0.9


# --- recipes, runs, refilter ---------------------------------------------------------------------


def test_a_run_is_judged_resumed_moved_and_refiltered_by_quantiles(tmp_path):
    """Refiltering needs neither the real images nor the encoder: they are gone by then."""
    run(write_recipe(tmp_path / "first", filters=[]), tmp_path / "first" / "out")
    for row in read_rows(tmp_path / "first" / "out"):
        folder = tmp_path / "real" / row["class_name"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row['sample_id']}.webp").write_bytes(row["image"]["bytes"])
    described = {"kind": "realism", "images": "../real", "max_neighbour_distance_quantile": 1.0}
    recipe = write_recipe(tmp_path / "it", filters=[described], seed=8, budget={"attempts": 1})
    out = tmp_path / "out"
    run(recipe, out)
    (tmp_path / "real").rename(tmp_path / "moved")
    moved = write_recipe(
        tmp_path / "it",
        filters=[{**described, "images": "../moved"}],
        seed=8,
        budget={"attempts": 1},
    )
    assert run(moved, out).summary.accepted == len(read_rows(out)) > 5
    rows = read_rows(out) + read_rows(out, "rejected")
    assert len(rows) == 23
    (tmp_path / "moved").rename(tmp_path / "gone")
    for limit in (0.4, 0.75):
        change = f"filters.realism.max_neighbour_distance_quantile={limit}"
        refilter(str(out), [change])
        expected = [r["scores"]["neighbour_distance_quantile"] <= limit for r in rows]
        assert len(read_rows(out)) == sum(expected)
    refilter(str(out), ["filters.realism.min_authenticity=0.9"])
    kept = [row["scores"] for row in read_rows(out)]
    assert 0 < len(kept) < 23
    assert all(scores["authenticity_ratio"] >= 0.9 for scores in kept)


def test_deciding_loads_no_library(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pydantic import TypeAdapter;"
        "from factory.recipe.recipe import AnyFilter;"
        "from factory.models.session import Session;"
        "from factory.filters import build_filters, decide_all;"
        "kinds = [{'kind': 'realism', 'images': 'none', 'min_realism_quantile': 0.05}];"
        "kinds = TypeAdapter(tuple[AnyFilter, ...]).validate_python(kinds);"
        "filters = build_filters(kinds, Session.open(Path()));"
        "assert not decide_all(filters, {'realism_quantile': 0.0}).accepted;"
        "heavy = {'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run_alone(code)


def test_validate_names_what_is_wrong_with_the_real_set(tmp_path):
    write_real(tmp_path / "real")
    described = {"kind": "realism", "images": "gone", "encoder": "colour-texture"}
    path = write_recipe(tmp_path, filters=[described])
    found = find_messages(path)
    assert "no such file or folder" in found["filters[0].images"]
    assert "encoder 'colour-texture': no such folder" in found["filters[0].encoder"]
    assert "did you mean 'color-texture'?" in found["filters[0].encoder"]
    path = write_recipe(tmp_path, filters=[{"kind": "realism", "images": "real"}])
    found = find_messages(path)
    assert "real has no class 'tumor': known: a, b" in found["conditions[0].per_class.tumor"]
    loaded = load_recipe(path)
    check_recipe(loaded, check_files=False)
    (tmp_path / "real" / "b" / "broken.png").write_bytes(b"no image")
    assert "broken.png" in find_messages(path)["filters[0].images"]


def test_recipes_without_the_new_fields_keep_their_fingerprint():
    def digest(**settings):
        recipe = {
            "name": "x",
            "generator": {"model": "fake"},
            "conditions": [{"kind": "class", "per_class": {"a": 1}}],
            "filters": [{"kind": "training_copy", "images": "real", **settings}],
        }
        return compute_recipe_digest(Recipe.model_validate(recipe))

    before = "3fde6e53f775e3528715d1f70604a12ae096761d522be58529999848a0223fd9"
    assert digest() == digest(held_out="test") == before
    assert digest(max_similarity=0.9) != before


# --- what is held out ----------------------------------------------------------------------------


def write_references(tmp_path, shots=None):
    conditions = [
        {
            "kind": "reference",
            "images": "real",
            "per_class": 4,
            "group_pattern": r"(p\d+)_",
            **({} if shots is None else {"shots": shots}),
        }
    ]
    filters = [{"kind": "training_copy", "held_out": "test"}]
    return write_recipe(tmp_path, conditions=conditions, filters=filters)


def test_references_that_are_held_out_stop_the_recipe(tmp_path):
    write_real(tmp_path / "real")
    write_real(tmp_path / "test", 8, first=100)
    path = write_references(tmp_path)
    check_recipe(load_recipe(path))
    copied = tmp_path / "test" / "a" / "p99_x.png"
    copied.write_bytes((tmp_path / "real" / "b" / "p1_5.png").read_bytes())
    message = find_messages(path)["filters[0].held_out"]
    assert "conditions[0] uses images of test: 1 image, such as " in message
    assert message.endswith(f"{tmp_path}/real/b/p1_5.png = {copied}: take others")
    copied.rename(tmp_path / "test" / "a" / "p2_x.png")
    assert "1 patient or slide (p2): take others" in find_messages(path)["filters[0].held_out"]
    (tmp_path / "test" / "a" / "p2_x.png").rename(tmp_path / "test" / "a" / "nameless.png")
    assert "finds no group" in find_messages(path)["filters[0].held_out"]


def test_shots_that_are_not_drawn_do_not_leak(tmp_path):
    write_real(tmp_path / "real", 12)
    write_real(tmp_path / "test", 4, first=100)
    first = tmp_path / "real" / "a" / "p0_0.png"
    (tmp_path / "test" / "a" / "p98_x.png").write_bytes(first.read_bytes())
    loaded = load_recipe(write_references(tmp_path, shots=1))
    leaky = []
    for seed in range(30):
        changed = load_recipe(loaded.path, [f"seed={seed}"])
        try:
            check_recipe(changed)
        except RecipeError as error:
            leaky.append(str(error))
    assert 0 < len(leaky) < 30
    assert all("filters[0].held_out" in each for each in leaky)


def test_the_real_set_of_realism_must_not_be_held_out_either(tmp_path):
    write_real(tmp_path / "real")
    filters = [
        {"kind": "realism", "images": "real"},
        {"kind": "training_copy", "held_out": "real"},
    ]
    conditions = [{"kind": "class", "per_class": {"a": 1, "b": 1}, "classes": ["a", "b"]}]
    path = write_recipe(tmp_path, conditions=conditions, filters=filters)
    assert "realism uses images of real: 16 images" in find_messages(path)["filters[1].held_out"]
    filters[1]["held_out"] = "gone"
    path = write_recipe(tmp_path, conditions=conditions, filters=filters)
    assert "no such file or folder" in find_messages(path)["filters[1].held_out"]


def test_copies_of_held_out_images_are_rejected(tmp_path):
    write_real(tmp_path / "test", 4)
    judge = build(tmp_path, {"kind": "training_copy", "held_out": "test"})[0]
    copied, new = score(judge, [np.ascontiguousarray(paint(2)[::-1]), paint(9)], ["a", "a"])
    assert decide_all([judge], copied).filter == "training_copy"
    assert decide_all([judge], new).accepted
    described = judge.describe()
    assert described["images_sha256"] is None
    Image.fromarray(paint(7)).save(tmp_path / "test" / "a" / "more.png")
    other = build(tmp_path, {"kind": "training_copy", "held_out": "test"})[0].describe()
    assert other["held_out_sha256"] != described["held_out_sha256"]


def test_leaks_are_told_in_words(tmp_path):
    one = list_images(write_real(tmp_path / "one"), group_pattern=r"(p\d+)_")
    other = list_images(write_real(tmp_path / "other", 8, first=14), group_pattern=r"(p\d+)_")
    leaks = find_leaks(one, other)
    assert bool(leaks) and leaks.groups == ("p3",)
    assert sorted(used.key for used, _ in leaks.images) == ["a/p3_14.png", "b/p3_15.png"]
    assert "2 images, such as" in str(leaks) and "1 patient or slide (p3)" in str(leaks)
    assert not find_leaks(one[:4], other)
    many = find_leaks(one, one)
    assert "4 patients or slides (p0, p1, p2, ...)" in str(many)


@pytest.mark.stranger
def test_another_file_of_the_same_image_is_a_leak_and_no_second_shot(tmp_path):
    root = write_real(tmp_path / "one", 8)
    one = list_images(root)
    again = tmp_path / "again" / "a" / "x.bmp"
    again.parent.mkdir(parents=True)
    Image.open(one[0].path).save(again)
    leaks = find_leaks(one, list_images(tmp_path / "again"))
    assert [(used.key, held.key) for used, held in leaks.images] == [(one[0].key, "a/x.bmp")]
    mine = [image for image in one if image.class_name == "a"]
    for image in mine:
        Image.open(image.path).save(image.path.with_suffix(".bmp"))
    twice = [image for image in list_images(root) if image.class_name == "a"]
    assert len(twice) == 2 * len(mine)
    chosen = [image.path.stem for image, _ in choose_shots(twice, len(mine), 0, "a")]
    assert len(set(chosen)) == len(mine)
    with pytest.raises(SourceError, match=f"it has {len(mine)} different images"):
        choose_shots(twice, len(mine) + 1, 0, "a")
    filters = [{"kind": "realism", "images": "one", "min_realism_quantile": 0.05}]
    conditions = [{"kind": "class", "per_class": {"a": 1, "b": 1}, "classes": ["a", "b"]}]
    Image.open(mine[0].path).save(root / "b" / "z.tif")
    path = write_recipe(tmp_path, conditions=conditions, filters=filters)
    assert "the same pixels as" in find_messages(path)["filters[0].images"]
