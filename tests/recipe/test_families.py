"""Counterfactual families: one seed, one thing varied, whole or not at all."""

import json
from collections import defaultdict

import pytest

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.data.streams import Vector
from factory.recipe.conditions.family import FamilySeries
from factory.recipe.conditions.grids import open_grid
from tests.filters.test_conformal import write_calibration
from tests.running import ask, find_messages, read_json, read_rows, run, write_recipe

VARY = {"density": ["low", "medium", "high"], "scale": [1.0, 0.25]}
BLOCK = {"kind": "caption", "captions": "he-attributes-2", "count": 6, "vary": VARY}


def write_families(folder, filters=(), **changes):
    changes = {"conditions": [BLOCK], "budget": {"attempts": 1}, **changes}
    return write_recipe(folder, filters=list(filters), **changes)


def group(rows):
    found = defaultdict(list)
    for row in rows:
        found[row["family_id"]].append(row)
    return found


def test_members_share_seed_and_all_but_one_thing(tmp_path):
    assert run(write_families(tmp_path), tmp_path / "out").exit_code == 0
    rows = read_rows(tmp_path / "out")
    families = group(rows)
    assert len(rows) == 30 and len(families) == 12
    grid = load_catalogs().find_captions("he-attributes-2")
    for members in families.values():
        (varied,) = {row["varied"] for row in members}
        assert len({row["seed"] for row in members}) == 1
        said = [json.loads(row["provenance"])["attributes"] for row in members]
        others = [{k: v for k, v in each.items() if k != varied} for each in said]
        assert all(each == others[0] for each in others)
        if varied == "scale":
            assert [row["asked_mpp"] for row in members] == [1.0, 0.25]
            assert len({row["caption"] for row in members}) == 1
            continue
        assert [row["value"] for row in members] == VARY["density"]
        assert [each["density"] for each in said] == VARY["density"]
        for row in members:
            wordings = grid.attributes["density"][row["value"]]
            assert any(each in row["caption"] for each in wordings)
        assert len({row["image_sha256"] for row in members}) == 3
    report = json.loads(ask("verify", tmp_path / "out", "--regenerate", 4, "--json"))
    assert {each["status"] for each in report["regenerated"]} == {"exact"}


def test_other_values_and_shards_change_no_image(tmp_path):
    run(write_families(tmp_path / "a"), tmp_path / "a/out")
    more = {**BLOCK, "count": 7, "vary": {"density": ["high", "low"]}}
    recipe = write_families(tmp_path / "b", conditions=[more], output={"shard_size": 5})
    run(recipe, tmp_path / "b/out")
    before = {row["sample_id"]: row for row in read_rows(tmp_path / "a/out")}
    after = [row for row in read_rows(tmp_path / "b/out") if row["ordinal"] == 0]
    shared = [row for row in after if row["sample_id"] in before]
    assert len(shared) == 12
    for row in shared:
        assert row["family_id"] == before[row["sample_id"]]["family_id"]
        assert row["image_sha256"] == before[row["sample_id"]]["image_sha256"]


def test_a_family_that_lacks_a_member_is_left_out_and_counted(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.1435}]
    out = tmp_path / "out"
    assert run(write_families(tmp_path, filters), out).exit_code == 1
    kept, dropped = read_rows(out), read_rows(out, "rejected")
    assert kept and dropped and len(kept) + len(dropped) == 30
    sizes = {name: len(members) for name, members in group(kept).items()}
    wanted = {row["family_id"]: len(VARY[row["varied"]]) for row in kept}
    assert sizes == wanted
    mine = [row for row in dropped if row["rejected_by"] == "family"]
    assert mine
    for row in mine:
        (others,) = [each for name, each in group(dropped).items() if name == row["family_id"]]
        assert any(each["rejected_by"] == "finite" for each in others)
    (series,) = read_json(out / "summary.json")["series"]
    assert series["rejected"]["family"] == len(mine)
    assert series["accepted"] == len(kept) and series["short"] == len(dropped)
    ask("verify", out)
    # a threshold that lets all pass makes every family whole again
    ask("refilter", out, "--set", "filters.finite.min_contrast=0.0")
    assert len(read_rows(out)) == 30


def test_a_table_of_vectors_is_varied(tmp_path):
    names = load_catalogs().find_model("he-multi-base").vector.names
    vector = Vector.of(dict.fromkeys(names, 0.5), missing=["HALLMARK_HYPOXIA"])
    found = vector.change("HALLMARK_HYPOXIA", -2)
    assert dict(found.values)["HALLMARK_HYPOXIA"] == -2.0 and found.missing == ()
    assert {k: v for k, v in found.values if k != "HALLMARK_HYPOXIA"} == {
        k: v for k, v in vector.values if k != "HALLMARK_HYPOXIA"
    }
    table = tmp_path / "rna.csv"
    table.write_text(",".join(names) + "\n" + ",".join(["0.5"] * len(names)) + "\n")
    block = {"kind": "vector", "vectors": str(table), "per_row": 2}
    block["vary"] = {"HALLMARK_HYPOXIA": [-2, 0, 2]}
    model = {"generator": {"model": "fake", "batch_size": 3}}
    run(write_families(tmp_path, conditions=[block], **model), tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    assert [row["value"] for row in rows] == ["-2", "0", "2"] * 2
    place = rows[0]["vector_names"].index("HALLMARK_HYPOXIA")
    assert [row["vector"][place] for row in rows] == [-2.0, 0.0, 2.0] * 2
    assert len({row["seed"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"budget": {"attempts": 2}}, "budget.attempts", "must be 1 with conditions[0].vary"),
        ({"dedup": {"max_similarity": 0.9}}, "dedup", "near-duplicates: remove it"),
        ({"pick": {"keep": "diverse"}}, "pick", "would take families apart"),
        ({"vary": {"density": ["low", "hihg"]}}, "conditions[0].vary.density", "no value 'hihg'"),
        ({"vary": {"densty": ["low", "high"]}}, "conditions[0].vary", "no template names densty"),
        ({"vary": {"densty": ["low", "high"]}}, "conditions[0].vary", "did you mean 'density'"),
        ({"vary": {"scale": [1.0, -1]}}, "conditions[0].vary.scale", "0.01 to 100.0"),
        ({"vary": {"scale": [0.5, "0.5"]}}, "conditions[0].vary.scale", "stands twice"),
        ({"vary": {"scale": [0.50000001, 0.5]}}, "conditions[0].vary.scale", "stands twice"),
    ],
)
def test_what_cannot_be_varied_is_refused(tmp_path, changes, field, words):
    block = {**BLOCK, **{k: v for k, v in changes.items() if k == "vary"}}
    others = {k: v for k, v in changes.items() if k != "vary"}
    messages = find_messages(write_families(tmp_path, conditions=[block], **others))
    assert words in messages[field]


def test_a_quota_would_take_families_apart(tmp_path):
    write_calibration(tmp_path / "real", 4)
    block = {"kind": "reference", "images": "real", "strength": 0.5, "per_class": 4}
    quotas = {"max_share_per_shot": 0.5, "vary": {"scale": [0.25, 0.5]}}
    messages = find_messages(write_families(tmp_path, conditions=[{**block, **quotas}]))
    assert "take families apart" in messages["conditions[0].max_share_per_shot"]


def test_templates_that_tie_what_is_varied_are_passed_over():
    grid = CaptionGrid(
        id="g",
        templates=["{a}", "{a} {b}", "{a} {c}", "{b} {c}"],
        attributes={"a": {"x": (), "y": ()}, "b": {"u": (), "v": ()}, "c": {"s": (), "t": ()}},
        never_together=[{"a": ["x"], "b": ["u"]}],
    )
    kept = grid.keep_naming(["a"])
    assert kept.templates == ("{a}", "{a} {c}")
    assert grid.templates == ("{a}", "{a} {b}", "{a} {c}", "{b} {c}")
    series = FamilySeries.of(open_grid(kept, 1, 4), {"a": ("x", "y")})
    asked = [series.request_at(index) for index in range(8)]
    for one, other in zip(asked[::2], asked[1::2], strict=True):
        assert one.derive_seed(5, 0) == other.derive_seed(5, 0)
        assert other.condition.caption == one.condition.caption.replace("x", "y")
    with pytest.raises(InputError, match="free of never_together"):
        grid.keep_naming(["a", "b"])
