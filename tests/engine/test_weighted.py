"""Runs of weighted grids: what is accepted follows what was stated, however filters reject."""

from collections import Counter
from pathlib import Path

from scipy.stats import chi2_contingency, chisquare

from factory.data.provenance import read_provenance
from factory.publish.report import build_report
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
