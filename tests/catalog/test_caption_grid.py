"""Caption grids whose attributes are measured: what is accepted, and what is told where."""

from pathlib import Path

import pytest

from factory.catalog.captions.grid import CaptionGrid, Measure, caption_at, count_captions
from factory.catalog.catalog import load_catalogs
from factory.core.errors import RecipeError

LINES = """\
id: mine
templates: ["{density} {size}"]
attributes:
  density: {low: [few], medium: [], high: [many, crowded]}
  size: {small: [], large: []}
measures:
  density: {by: nuclear_density, edges: [0.2, 0.4]}
  size: {by: nuclear_size, edges: [8]}
"""


def load(folder: Path, text: str) -> CaptionGrid:
    path = folder / "captions" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return load_catalogs([folder]).find_captions("mine")


def test_a_measured_grid_is_read(tmp_path: Path) -> None:
    grid = load(tmp_path, LINES)
    assert grid.measures == {
        "density": Measure(by="nuclear_density", edges=(0.2, 0.4)),
        "size": Measure(by="nuclear_size", edges=(8.0,)),
    }
    assert count_captions(grid) == 8
    assert caption_at(grid, 7) == ("crowded large", {"density": "high", "size": "large"})


def test_measures_are_optional_and_may_be_few(tmp_path: Path) -> None:
    before = LINES.partition("measures:")[0]
    assert load(tmp_path / "none", before).measures == {}
    one = LINES.replace("  size: {by: nuclear_size, edges: [8]}\n", "")
    assert set(load(tmp_path / "one", one).measures) == {"density"}


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("by: nuclear_size", "by: nuclear_sise", "size.by", "did you mean 'nuclear_size'"),
        ("by: nuclear_size", "by: 7", "size.by", "must be text"),
        ("edges: [8]", "edges: [8, 9]", None, "'size' has 2 value(s) and takes 1 edge(s), got 2"),
        ("edges: [0.2, 0.4]", "edges: [0.2]", None, "3 value(s) and takes 2 edge(s), got 1"),
        ("[0.2, 0.4]", "[0.4, 0.2]", "density.edges", "must increase, got [0.4, 0.2]"),
        ("[0.2, 0.4]", "[0.2, 0.2]", "density.edges", "must increase"),
        ("[0.2, 0.4]", "[0.2, .nan]", "density.edges[1]", "finite"),
        ("[0.2, 0.4]", "[0.2, much]", "density.edges[1]", "a number"),
        ("edges: [8]", "edges: []", "size.edges", "must not be empty"),
        ("edges: [8]", "edgse: [8]", "size.edgse", "unknown field"),
        ("  size: {by", "  sise: {by", None, "'sise' is no attribute: did you mean 'size'?"),
    ],
)
def test_wrong_measures_are_told_with_their_place(
    tmp_path: Path, old: str, new: str, field: str | None, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, LINES.replace(old, new))
    found = {problem.field: problem for problem in caught.value.problems}
    name = "measures" if field is None else f"measures.{field}"
    assert name in found, str(caught.value)
    assert words in found[name].message
    assert found[name].line is not None and 6 <= found[name].line <= 8
