"""Conditions: series of requests that grow only at their end."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.catalog.captions.file import read_captions
from factory.catalog.catalog import CaptionGrid, load_catalogs
from factory.core.errors import SourceError
from factory.core.images import encode_image
from factory.data.images import SourceImage
from factory.data.streams import Caption, Reference
from factory.recipe.conditions.caption import ListSeries
from factory.recipe.conditions.class_name import ClassSeries
from factory.recipe.conditions.grids import (
    ExpandedSeries,
    GridSeries,
    WeightedSeries,
    fix_class,
    open_grid,
    permute,
)
from factory.recipe.conditions.reference import ReferenceSeries
from factory.recipe.conditions.shots import choose_shots

GRID = CaptionGrid(
    id="small",
    templates=("{organ} with {density} nuclei", "H&E, {organ}"),
    attributes={
        "organ": {"node": ("lymph node", "nodal tissue"), "skin": ("skin",)},
        "density": {"low": ("few",), "high": ("many", "crowded")},
    },
    class_attribute="organ",
)


def identify(series):
    requests = [series.request_at(i) for i in range(series.count)]
    return [(r.condition.key, r.ordinal) for r in requests]


@given(st.integers(1, 1500), st.integers(0, 2**62))
@settings(max_examples=25)
def test_permutation_is_one_to_one(total, seed):
    assert sorted(permute(i, total, seed) for i in range(total)) == list(range(total))


def test_permutation_of_a_huge_grid_is_immediate():
    assert 0 <= permute(10**15, 10**18, 3) < 10**18


@pytest.mark.parametrize("count", [1, 7, 12, 40])
def test_grid_requests_are_distinct_and_grow_at_the_end(count):
    series, more = GridSeries(GRID, 5, count), GridSeries(GRID, 5, count + 9)
    assert len(set(identify(series))) == count
    assert identify(more)[:count] == identify(series)
    assert series.key == more.key


def test_grid_gives_each_caption_before_any_twice():
    series = GridSeries(GRID, 5, 12)
    assert {r.ordinal for r in map(series.request_at, range(12))} == {0}
    assert series.class_names == ("node", "skin")
    assert series.request_at(0).condition.class_name in {"node", "skin"}


WEIGHTED = CaptionGrid.model_validate(
    {
        **GRID.model_dump(),
        "weights": {"organ": {"node": 3, "skin": 1}},
        "given": {"density": {"organ": {"node": {"low": 1, "high": 4}, "skin": {"low": 1}}}},
    }
)


def test_weighted_requests_are_distinct_and_grow_at_the_end():
    series, more = WeightedSeries(WEIGHTED, 5, 40), WeightedSeries(WEIGHTED, 5, 49)
    assert len(set(identify(series))) == 40
    assert identify(more)[:40] == identify(series)
    assert series.key == more.key != GridSeries(GRID, 5, 40).key
    assert identify(WeightedSeries(WEIGHTED, 6, 40)) != identify(series)


def test_weighted_requests_follow_the_joint_distribution_closely():
    series = open_grid(WEIGHTED, 5, 256)
    said = [dict(series.request_at(i).condition.get(Caption).attributes) for i in range(256)]
    joint = Counter((each["organ"], each.get("density")) for each in said)
    shares = {("node", "low"): 0.075, ("node", "high"): 0.3, ("skin", "low"): 0.125}
    shares |= {("node", None): 0.375, ("skin", None): 0.125}  # one template in two says no density
    assert joint.keys() == shares.keys()
    assert all(abs(joint[pair] - 256 * share) < 3 for pair, share in shares.items())


def test_a_class_is_expanded_into_captions_that_go_with_it():
    grid = load_catalogs().find_captions("crc-nct")
    series = ExpandedSeries(grid.reweigh(*fix_class(grid, "MUS")), 5, 64, "MUS")
    conditions = [series.request_at(i).condition for i in range(64)]
    assert {each.class_name for each in conditions} == {"MUS"} == set(series.class_names)
    assert all("muscle" in each.caption or "muscularis" in each.caption for each in conditions)
    densities = Counter(dict(each.get(Caption).attributes).get("density") for each in conditions)
    assert densities.keys() == {"low", "medium", None}
    assert abs(densities["low"] - 0.6 * (densities["low"] + densities["medium"])) < 3
    assert series.shares["density"] == pytest.approx(
        {"none": 0, "low": 0.6, "medium": 0.4, "high": 0}
    )
    assert "tissue" not in series.shares
    other = ExpandedSeries(grid.reweigh(*fix_class(grid, "ADI")), 5, 64, "ADI")
    assert other.key != series.key


def test_equal_captions_of_a_file_give_different_images():
    series = ListSeries("f", ("a", "b", "a"), (None, None, None), 9)
    assert len(set(identify(series))) == 9


def test_order_of_a_file_does_not_change_identities():
    first = ListSeries("f", ("a", "b", "a"), (None,) * 3, 6)
    turned = ListSeries("f", ("a", "a", "b"), (None,) * 3, 6)
    assert set(identify(first)) == set(identify(turned))


def test_class_series_ignores_other_classes():
    assert identify(ClassSeries("tumor", 3)) == identify(ClassSeries("tumor", 9))[:3]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "txt", "parquet"])
def test_caption_files(tmp_path, suffix):
    path = tmp_path / f"captions.{suffix}"
    rows = [{"caption": "many nuclei", "kind": "x"}, {"caption": "few, pale", "kind": "y"}]
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "txt":
        path.write_text("many nuclei\nfew, pale\n")
    else:
        mark = "\t" if suffix == "tsv" else ","
        path.write_text(f'caption{mark}kind\nmany nuclei{mark}x\n"few, pale"{mark}y\n')
    captions, classes = read_captions(path, "caption", None if suffix == "txt" else "kind")
    assert captions == ("many nuclei", "few, pale")
    assert classes == ((None, None) if suffix == "txt" else ("x", "y"))


@pytest.fixture
def images(tmp_path):
    found = []
    for index in range(12):
        pixels = np.full((8, 8, 3), 20 * index, np.uint8)
        path = tmp_path / f"{index}.png"
        path.write_bytes(encode_image(pixels, "png"))
        found.append(SourceImage(path.name, "tumor", f"P{index // 4}", path))
    return found


def test_shots_are_nested_and_ignore_file_order(images):
    five = [sha for _, sha in choose_shots(images, 5, 7, "x")]
    ten = [sha for _, sha in choose_shots(images[::-1], 10, 7, "x")]
    assert ten[:5] == five
    assert [sha for _, sha in choose_shots(images, 5, 8, "x")] != five


def test_shots_are_spread_over_groups(images):
    assert {image.group for image, _ in choose_shots(images, 3, 7, "x")} == {"P0", "P1", "P2"}


def test_identical_files_count_once(images, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].path.read_bytes())
    twice = [*images, SourceImage("copy.png", "tumor", "P0", copy)]
    assert len(choose_shots(twice, None, 7, "x")) == 12
    with pytest.raises(SourceError, match="13 asked for, but it has 12"):
        choose_shots(twice, 13, 7, "x")


def test_a_broken_shot_is_named_before_any_sampling(images):
    images[3].path.write_bytes(images[3].path.read_bytes()[:50])
    with pytest.raises(SourceError, match=r"3\.png: not a readable image"):
        choose_shots(images, 12, 7, "x")


def test_reference_series_takes_turns(images):
    shots = choose_shots(images, 3, 7, "x")
    references = tuple(Reference(image, sha, 0.6) for image, sha in shots)
    series = ReferenceSeries("tumor", references, None, 7)
    assert len(set(identify(series))) == 7
    tries = [(i, attempt) for i in range(7) for attempt in range(5)]
    requests = {i: series.request_at(i) for i in range(7)}
    shas = [requests[i].condition_at(attempt).get(Reference).sha256 for i, attempt in tries]
    assert shas[:4] == [references[turn % 3].sha256 for turn in range(4)]
    assert len({requests[i].derive_seed(7, attempt) for i, attempt in tries}) == len(tries)
    assert requests[4].condition == requests[4].condition_at(0) == series.conditions[1]
    other = tuple(Reference(image, sha, 0.7) for image, sha in shots)
    assert ReferenceSeries("tumor", other, None, 7).key != series.key
