"""The plan: counts, shards and identities that do not depend on how it is cut."""

import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from factory.core.errors import MismatchError
from factory.engine.plan import Generation, build_plan, choose_shard_size, extend_plan
from factory.models.session import Session
from factory.recipe.recipe import NOT_CONTENT, Recipe, compute_recipe_digest

SESSION = Session.open()


def make_recipe(counts, shard_size=64, **changes):
    data = {
        "name": "test",
        "seed": 7,
        "generator": {"model": "fake"},
        "conditions": [{"kind": "class", "per_class": counts}],
        "output": {"shard_size": shard_size},
    }
    return Recipe.model_validate({**data, **changes})


def make_plan(counts, shard_size=64):
    return build_plan(make_recipe(counts, shard_size), SESSION)


def list_identities(plan):
    by_key = {part.key: part for part in plan.series}
    found = []
    for shard in plan.iterate_shards():
        for index in range(shard.start, shard.stop):
            request = by_key[shard.series].request_at(index)
            found.append((request.condition.key, request.ordinal, request.derive_seed(7, 0)))
    return found


COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1)


@given(COUNTS, st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=30)
def test_counts_hold_ids_are_unique_and_shard_size_does_not_matter(counts, size, other):
    plan = make_plan(counts, size)
    identities = list_identities(plan)
    assert len(identities) == len(set(identities)) == sum(counts.values()) == plan.count_requests()
    assert len(list(plan.iterate_shards())) == plan.count_shards()
    assert set(identities) == set(list_identities(make_plan(counts, other)))
    assert len({seed for _, _, seed in identities}) == len(identities)


@given(COUNTS, st.integers(1, 30))
@settings(max_examples=30)
def test_adding_a_class_or_raising_a_count_changes_no_other_request(counts, more):
    before = set(list_identities(make_plan(counts)))
    raised = {name: count + more for name, count in counts.items()} | {"new": 3}
    assert before <= set(list_identities(make_plan(raised)))


@given(COUNTS, st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30)
def test_growing_keeps_every_shard(counts, more, size, later_size):
    old = make_plan(counts, size)
    raised = {name: count + more for name, count in counts.items()} | {"new": 3}
    grown = extend_plan(make_plan(raised, later_size), old.generations, True, "x")
    shards = list(grown.iterate_shards())
    assert shards[: old.count_shards()] == list(old.iterate_shards())
    assert len(shards) == grown.count_shards()
    fresh = make_plan(raised)
    assert sorted(list_identities(grown)) == sorted(list_identities(fresh))


@given(COUNTS, *3 * [st.integers(1, 9)], st.integers(0, 50), st.integers(1, 50), st.integers(0, 50))
@example({"a": 2}, 1, 2, 1, 1, 1, 1)  # a range beyond a cut, amid a shard
@settings(max_examples=15)
def test_shards_of_a_range_are_those_of_a_walk(counts, more, size, later_size, start, wide, end):
    old = make_plan(counts, size)
    raised = {name: count + more for name, count in counts.items()} | {"new": 3}
    grown = extend_plan(make_plan(raised, later_size), old.generations, True, "x")
    for plan in (grown, grown.cut({grown.series[0].key: end})):
        for part in plan.series:
            walked = [
                shard
                for shard in plan.iterate_shards()
                if shard.series == part.key and shard.start < start + wide and shard.stop > start
            ]
            assert [*plan.find_shards(part.key, start, start + wide)] == walked


def test_shrinking_or_growing_unasked_is_refused_with_a_diff():
    old = make_plan({"a": 5, "b": 5})
    with pytest.raises(MismatchError, match=r"series a: 5 -> 4.*only grow"):
        extend_plan(make_plan({"a": 4, "b": 5}), old.generations, True, "x")
    with pytest.raises(MismatchError, match="--extend"):
        extend_plan(make_plan({"a": 6, "b": 5}), old.generations, False, "x")
    same = extend_plan(make_plan({"a": 5, "b": 5}, 3), old.generations, False, "x")
    assert same.generations == old.generations


@pytest.mark.usefixtures("usual_gc")
def test_a_hundred_million_images_plan_in_constant_memory():
    tracemalloc.start()
    began = time.perf_counter()
    plan = make_plan({"a": 60_000_000, "b": 40_000_000})
    assert plan.count_requests() == 100_000_000
    assert plan.count_shards() == 937_500 + 625_000
    assert plan.series[0].request_at(59_999_999).ordinal == 59_999_999
    assert next(plan.iterate_shards()).stop == 64
    elapsed, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < 5
    assert peak < 10 * 2**20


def list_changes():
    """Every recipe field with another value, and whether it shapes the content."""
    yield "description", "x", False
    yield "card", {"license": "mit"}, False
    yield "workers", {"count": 3}, False
    yield "output", {"path": "elsewhere"}, False
    yield "output", {"shard_size": 5}, False
    yield "output", {"formats": ["webdataset"]}, False
    yield "output", {"rows_per_file": 5}, False
    yield "output", {"image_format": "png"}, True
    yield "output", {"keep_rejected": "scores"}, True
    yield "budget", {"retries": 9}, False
    yield "budget", {"on_shortfall": "error"}, False
    yield "budget", {"max_error_rate": 0.5}, False
    yield "budget", {"attempts": 9}, True
    yield "name", "other", True
    yield "seed", 8, True
    yield "generator", {"model": "fake", "steps": 3}, True
    yield "generator", {"model": "fake", "batch_size": 3}, True
    yield "filters", [{"kind": "tissue"}], True
    yield "conditions", [{"kind": "class", "per_class": {"a": 6}}], True


def test_moved_files_are_the_same_recipe():
    def describe(place):
        block = {"kind": "reference", "images": f"{place}/real", "per_class": 3}
        filters = [
            {"kind": "training_copy", "images": f"{place}/real"},
            {"kind": "classifier", "model": f"{place}/classifier"},
        ]
        generator = {"model": f"{place}/weights"}
        recipe = make_recipe({}, generator=generator, conditions=[block], filters=filters)
        return compute_recipe_digest(recipe)

    assert describe("./here") == describe("/there")
    assert describe("./here") != compute_recipe_digest(make_recipe({"a": 1}))


@pytest.mark.parametrize(("field", "value", "matters"), list(list_changes()))
def test_fingerprint_covers_exactly_what_shapes_content(field, value, matters):
    plain = compute_recipe_digest(make_recipe({"a": 5}))
    assert (compute_recipe_digest(make_recipe({"a": 5}, **{field: value})) != plain) is matters


def test_table_of_exclusions_names_real_fields():
    recipe = make_recipe({"a": 5}).model_dump()
    for section, fields in NOT_CONTENT.items():
        assert section in recipe
        assert fields is None or fields <= set(recipe[section])


def test_generations_keep_the_order_of_series():
    plan = make_plan({"b": 1, "a": 1})
    assert plan.class_names == ("b", "a")
    assert isinstance(plan.generations[0], Generation)


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("requests", "batch", "workers", "size"),
    [
        (48, 8, 2, 8),
        (48, 8, "auto", 16),
        (48, 16, 1, 32),
        (400, 16, "auto", 32),
        (100_000, 8, "auto", 64),
        (100_000, 48, 8, 48),
        (100_000, 256, 8, 256),
        (1, 1, "auto", 2),
    ],
)
def test_a_small_run_has_smaller_shards(requests, batch, workers, size):
    changes = {
        "generator": {"model": "fake", "batch_size": batch},
        "workers": {"count": workers},
    }
    assert choose_shard_size(make_recipe({"a": requests}, None, **changes), requests) == size
