"""Runs of weighted grids: what is accepted follows what was stated, however filters reject."""

from collections import Counter
from pathlib import Path

from scipy.stats import chi2_contingency, chisquare

from factory.catalog.captions.grid import list_shares
from factory.catalog.catalog import load_catalogs
from factory.data.provenance import read_provenance
from factory.publish.report import build_report
from factory.recipe.conditions.grids import fix_class
from tests.running import read_rows, run, write_recipe

GRID = """\
id: mine
templates: ["{stain} {density}"]
attributes:
  density: {low: [few nuclei], high: [many nuclei]}
  stain: {pale: [], balanced: [], strong: []}
weights: {density: {low: 1, high: 2}}
given:
  stain:
    density:
      low: {pale: 2, balanced: 1, strong: 1}
      high: {balanced: 1, strong: 3}
"""
JOINT = {
    ("low", "pale"): 2 / 12,
    ("low", "balanced"): 1 / 12,
    ("low", "strong"): 1 / 12,
    ("high", "balanced"): 2 / 12,
    ("high", "strong"): 6 / 12,
}
FILTER = """\
from typing import Literal

import numpy as np

from factory.filters.base import Filter, FilterSettings, Score


class Uneven(Filter):
    '''Refuses at random, and strong stains several times as often as others.'''

    kind = "uneven"
    scores = (Score("chance", at_least="min_chance"),)

    class Settings(FilterSettings):
        '''Refuses unevenly.'''

        kind: Literal["uneven"]
        min_chance: float = 0.75

    def score(self, samples, conditions):
        chances = [int(each.pixels.sum()) % 97 / 96 for each in samples]
        lifts = [0.0 if "strong" in each.caption else 0.7 for each in conditions]
        return {"chance": np.add(chances, lifts)}
"""


def test_what_is_accepted_follows_the_stated_distribution(tmp_path: Path) -> None:
    (tmp_path / "own" / "captions").mkdir(parents=True)
    (tmp_path / "own" / "captions" / "mine.yaml").write_text(GRID)
    (tmp_path / "uneven.py").write_text(FILTER)
    recipe = write_recipe(
        tmp_path,
        catalogs=["own"],
        conditions=[{"kind": "caption", "captions": "mine", "count": 72}],
        filters=[{"kind": "python", "path": "uneven.py", "class_name": "Uneven"}],
        budget={"attempts": 50},
        generator={"width": 16, "height": 16, "batch_size": 64},
        output={"shard_size": 64},
    )
    run(recipe, tmp_path / "out")

    def count(folder: str) -> Counter[tuple[str, str]]:
        said = (read_provenance(row).attributes for row in read_rows(tmp_path / "out", folder))
        return Counter((each["density"], each["stain"]) for each in said)

    accepted, refused = count("data"), count("rejected")
    assert accepted.total() == 72 and set(accepted) <= set(JOINT)
    expected = [72 * share for share in JOINT.values()]
    assert chisquare([accepted[pair] for pair in JOINT], expected).pvalue > 0.05
    # Filters did refuse unevenly: candidates, unlike accepted images, are far from what was stated.
    table = [[counts[pair] for pair in JOINT] for counts in (accepted, refused)]
    assert chi2_contingency(table).pvalue < 1e-6


def test_attributes_of_classes_follow_what_is_stated_of_each(tmp_path: Path) -> None:
    """P(attribute | class) of accepted images, whose filter refuses strong eosin most."""
    source = FILTER.replace('"strong" in each.caption', '"strong" in each.caption or "much" in '
                            'each.caption or "intense" in each.caption')  # fmt: skip
    (tmp_path / "uneven.py").write_text(source)
    per_class = {"LYM": 64, "MUS": 64, "STR": 64}
    recipe = write_recipe(
        tmp_path,
        conditions=[
            {"kind": "class", "classes": "crc-nct", "per_class": per_class, "expand": "crc-nct"}
        ],
        filters=[{"kind": "python", "path": "uneven.py", "class_name": "Uneven"}],
        budget={"attempts": 50},
        generator={"width": 16, "height": 16, "batch_size": 64},
        output={"shard_size": 64},
    )
    assert run(recipe, tmp_path / "out").exit_code == 0
    grid = load_catalogs().find_captions("crc-nct")
    said: dict[str, list[dict[str, str]]] = {name: [] for name in per_class}
    for row in read_rows(tmp_path / "out"):
        said[row["class_name"]].append(read_provenance(row).attributes)
    refused = [read_provenance(row).attributes for row in read_rows(tmp_path / "out", "rejected")]
    for name, rows in said.items():
        assert len(rows) == per_class[name]
        shares = list_shares(grid.reweigh(*fix_class(grid, name)))
        for attribute in ("density", "eosin", "haematoxylin"):
            mine = [row[attribute] for row in rows if attribute in row]
            expected = {value: share for value, share in shares[attribute].items() if share}
            assert set(mine) <= set(expected)
            if len(expected) > 1:
                counts = [mine.count(value) for value in expected]
                wanted = [share * len(mine) for share in expected.values()]
                assert chisquare(counts, wanted).pvalue > 0.05, (name, attribute)
    # Not what any classes would give: what MUS asks for is far from what LYM got.
    other = list_shares(grid.reweigh(*fix_class(grid, "MUS")))["eosin"]
    counts = [[r.get("eosin") for r in said["LYM"]].count(value) for value in other]
    wanted = [share * sum(counts) for share in other.values()]
    assert chisquare(counts, [each or 1e-9 for each in wanted], sum_check=False).pvalue < 1e-6
    strong = [row.get("eosin") == "strong" for row in refused]
    assert sum(strong) > len(strong) / 2  # the filter did refuse unevenly


def test_asked_and_accepted_shares_are_told(tmp_path: Path) -> None:
    (tmp_path / "own" / "captions").mkdir(parents=True)
    (tmp_path / "own" / "captions" / "mine.yaml").write_text(GRID)
    caption = {"kind": "caption", "captions": "mine", "count": 12}
    recipe = write_recipe(
        tmp_path,
        catalogs=["own"],
        conditions=[caption, {"kind": "class", "per_class": {"normal": 2}}],
        filters=[{"kind": "finite"}],
        generator={"width": 16, "height": 16},
        pick={"keep": "best", "by": "contrast", "pool": 2},
    )
    out = tmp_path / "out"
    result = run(recipe, out)
    weighted, plain = result.summary.series
    assert plain.attributes is None
    rows = [row for row in read_rows(out) if row["caption"]]
    said = Counter(read_provenance(row).attributes["density"] for row in rows)
    told = weighted.attributes["density"]
    assert {value: share.images for value, share in told.items()} == dict(said)
    assert sum(share.images for share in told.values()) == 12  # those picked alone
    assert told["high"].asked == round(2 / 3, 4)
    assert told["high"].accepted == round(said["high"] / 12, 4)
    card = (out / "README.md").read_text()
    assert "| density | high | 66.7% |" in card and "| stain | pale | 16.7% |" in card
    numbers, page = build_report(str(out))
    assert numbers["series"][0]["attributes"]["stain"]["pale"]["asked"] == 0.1667
    assert "attributes" not in numbers["series"][1]
    assert "Asked and accepted of captions mine" in page and "66.7%" in page
