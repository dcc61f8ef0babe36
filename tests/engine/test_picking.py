"""Picking N of M, and verdicts by a rule, through real runs."""

import numpy as np
import pytest

from factory.api import refilter
from factory.catalog.acceptance import parse_rule
from factory.core.errors import InputError, RecipeError
from factory.engine.diversity import count_kept, count_pool, pick_best, pick_diverse
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from factory.recipe.recipe import BestPick
from tests.running import FILTERS, list_identities, read_rows, run, write_recipe

LOOSE = [{"kind": "finite"}, {"kind": "tissue", "min_fraction": 0.0}]


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "accepting", "holds"),
    [
        ("tissue", {"tissue"}, True),
        ("tissue and (classifier or stain)", {"tissue", "stain"}, True),
        ("tissue and (classifier or stain)", {"classifier", "stain"}, False),
        ("tissue and not stain", {"tissue"}, True),
        ("tissue and not stain", {"tissue", "stain"}, False),
    ],
)
def test_rule_is_boolean(text, accepting, holds):
    assert parse_rule(text).holds(lambda kind: kind in accepting) is holds


def test_rule_names_all_its_filters():
    assert parse_rule("not a and (b or c) or a").kinds == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "needed"),
    [("a", "a"), ("a and b", "ab"), ("a or b", ""), ("a and (b or c)", "a"), ("not a or b", ""),
     ("a and not b", "a"), ("(a or b) and (a or not b)", "a")],
)  # fmt: skip
def test_rule_tells_whose_rejections_stand(text, needed):
    assert [kind for kind in "abc" if parse_rule(text).needs(kind)] == list(needed)


@pytest.mark.parametrize("text", ["tissue and", "tissue > 1", "f(x)", "tissue & stain", "", "1"])
def test_rule_refuses_anything_else(text):
    with pytest.raises(ValueError, match="and, or, not"):
        parse_rule(text)


def test_rule_decides_a_run_and_is_changed_by_refilter(tmp_path):
    """Contrast rejects half of the normals; `or` lets all of them in, and stores every score."""
    filters = [*FILTERS[:2], {"kind": "stain", "min_plausibility": 0.0}]
    recipe = write_recipe(tmp_path / "a", filters=filters, accept="finite or tissue")
    assert run(recipe, tmp_path / "out").exit_code == 0
    assert read_rows(tmp_path / "out", "rejected") == [] or all(
        row["status"] == "spare" for row in read_rows(tmp_path / "out", "rejected")
    )
    result = refilter(str(tmp_path / "out"), ["accept=finite and tissue"])
    assert result.exit_code == 1
    rejected = [r for r in read_rows(tmp_path / "out", "rejected") if r["status"] == "rejected"]
    assert rejected and {row["rejected_by"] for row in rejected} == {"finite"}
    assert all(
        {"contrast", "tissue_fraction", "stain_plausibility"} <= row["scores"].keys()
        for row in rejected
    )
    result = refilter(str(tmp_path / "out"), ["accept=not stain"])
    assert result.summary.accepted == 0
    rows = read_rows(tmp_path / "out", "rejected")
    assert {row["reason"] for row in rows} == {"not: not stain"}


def test_rule_of_unknown_filters_is_refused(tmp_path):
    for rule, message in (
        ("finite and colour", "no filter 'colour' in the recipe: it has finite, tissue"),
        ("finite and dedup", "always counts"),
        ("finite +", "no expression"),
    ):
        path = write_recipe(tmp_path, accept=rule)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)


# --- picking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1.01, 1.1, 1.3, 2.0, 2.3, 3.7, 99.9])
def test_pool_is_inverted_exactly(pool):
    pick = BestPick(keep="best", by="x", pool=pool)
    for count in (*range(1, 300), 999_999_937):
        assert count_kept(count_pool(count, pick), pick) == count


def test_best_are_the_highest_and_ties_go_to_the_earlier():
    scores = np.array([0.5, np.nan, 0.9, 0.5, 0.1])
    assert pick_best(scores, 2, highest=True).tolist() == [0, 2]
    assert pick_best(scores, 2, highest=False).tolist() == [0, 4]
    assert pick_best(scores, 5, highest=True).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["facility_location", "kmeans"])
def test_diverse_picks_one_of_each_cluster(method):
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(8, 16)) * 20
    sizes = [60, 3, 3, 3, 3, 3, 3, 3]
    owners = np.repeat(np.arange(8), sizes)
    features = (centres[owners] + generator.normal(size=(81, 16))).astype(np.float32)
    kept = pick_diverse(features, 8, method, seed=1)
    assert sorted(owners[kept]) == list(range(8))
    assert np.array_equal(kept, pick_diverse(features, 8, method, seed=1))
    assert len(set(pick_diverse(features, 40, method, seed=1).tolist())) == 40
    assert pick_diverse(np.zeros((5, 3), np.float32), 3, method, seed=1).shape == (3,)
    assert pick_diverse(features, 81, method, seed=1).tolist() == list(range(81))


def test_run_keeps_the_best_of_its_pool(tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 3}
    result = run(write_recipe(tmp_path / "a", pick=pick, filters=LOOSE), tmp_path / "out")
    assert [(s.asked, s.accepted) for s in result.summary.series] == [(10, 10), (13, 13)]
    kept, others = read_rows(tmp_path / "out"), read_rows(tmp_path / "out", "rejected")
    assert len(kept) == 23
    for name in ("normal", "tumor"):
        worst = min(r["scores"]["contrast"] for r in kept if r["class_name"] == name)
        rest = [r for r in others if r["class_name"] == name and r["rejected_by"] == "pick"]
        assert len(rest) == 2 * (10 if name == "normal" else 13)
        assert max(r["scores"]["contrast"] for r in rest) <= worst
        assert {r["status"] for r in rest} == {"spare"}
    plain = run(write_recipe(tmp_path / "b", filters=LOOSE), tmp_path / "plain")
    assert plain.exit_code == 0
    everything = {r["sample_id"] for r in (*kept, *others)}
    assert {r["sample_id"] for r in read_rows(tmp_path / "plain")} <= everything


def test_refilter_picks_by_another_score(tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 2}
    run(write_recipe(tmp_path / "a", pick=pick, filters=LOOSE), tmp_path / "out")
    best = list_identities(tmp_path / "out")
    refilter(str(tmp_path / "out"), ["pick.by=-contrast"])
    worst = list_identities(tmp_path / "out")
    assert len(best) == len(worst) == 23 and not best & worst
    refilter(str(tmp_path / "out"), ["pick.by=contrast"])
    assert list_identities(tmp_path / "out") == best
    with pytest.raises(InputError, match=r"pick\.by and pick\.method only"):
        refilter(str(tmp_path / "out"), ["pick.pool=3"])


def test_run_picks_diverse_images_whatever_the_shards(tmp_path):
    pick = {"keep": "diverse", "pool": 2}
    for name, size in (("a", 4), ("b", 7)):
        recipe = write_recipe(
            tmp_path / name, pick=pick, filters=LOOSE, output={"shard_size": size}
        )
        assert run(recipe, tmp_path / f"out-{name}").summary.accepted == 23
    assert list_identities(tmp_path / "out-a") == list_identities(tmp_path / "out-b")
    refilter(str(tmp_path / "out-a"), ["pick.method=kmeans"])
    assert len(list_identities(tmp_path / "out-a")) == 23
    card = (tmp_path / "out-a" / "README.md").read_text()
    assert "one of 2 accepted images is kept, chosen to cover the others by kmeans" in card


def test_pool_that_stays_short_is_said_only_below_what_was_asked(tmp_path):
    """Half of the normals are rejected and there is one attempt: the pool of 20 still holds 10."""
    pick = {"keep": "best", "by": "tissue_fraction", "pool": 2}
    recipe = write_recipe(
        tmp_path / "a",
        pick=pick,
        filters=FILTERS[:2],
        budget={"attempts": 1},
        conditions=[{"kind": "class", "per_class": {"normal": 40}}],
    )
    series = run(recipe, tmp_path / "out").summary.series[0]
    assert series.asked == 40
    assert series.accepted == min(40, series.generated - series.rejected["finite"])
    assert series.short == 40 - series.accepted


def test_pick_by_a_score_that_nothing_writes_is_refused(tmp_path):
    path = write_recipe(tmp_path, pick={"keep": "best", "by": "contrasts"})
    loaded = load_recipe(path)
    with pytest.raises(RecipeError, match=r"pick\.by.*did you mean 'contrast'"):
        check_recipe(loaded)
