"""Caption grids that state how often values occur, and what no caption says together."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from factory.catalog.captions.grid import (
    CaptionGrid,
    caption_at,
    count_captions,
    draw_caption,
    list_shares,
)
from factory.catalog.catalog import load_catalogs
from factory.core.errors import RecipeError
from tests.catalog.test_caption_grid import load

LINES = """\
id: mine
templates: ["{density}, {size}", "{organ} with {size}"]
attributes:
  organ: {node: [], skin: [the skin, a skin]}
  density: {low: [few], high: [many, crowded]}
  size: {small: [], large: []}
never_together: [{density: [high], size: [large]}]
weights:
  density: {low: 1, high: 3}
given:
  size: {density: {low: {small: 1, large: 1}, high: {small: 1}}}
"""


def test_shares_are_those_of_tables_and_rules(tmp_path: Path) -> None:
    shares = list_shares(load(tmp_path, LINES))
    assert shares["density"] == pytest.approx({"low": 0.25, "high": 0.75})
    assert shares["organ"] == pytest.approx({"node": 0.5, "skin": 0.5})
    # One template says the density too, the other does not; both follow P(size | density).
    assert shares["size"] == pytest.approx({"small": 0.875, "large": 0.125})


def test_rules_count_among_what_a_caption_says_only(tmp_path: Path) -> None:
    grid = load(tmp_path, LINES.partition("weights:")[0])
    found = [caption_at(grid, index) for index in range(count_captions(grid))]
    captions = [caption for caption, _ in found]
    assert len(set(captions)) == len(captions) == 4 + 6
    assert {"few, large", "many, small", "the skin with large"} <= set(captions)
    assert not {"many, large", "crowded, large"} & set(captions)
    assert not any(
        {"density": "high", "size": "large"}.items() <= said.items() for _, said in found
    )


OPEN = r"(open space|fat or empty|bright gaps|clear spaces|empty areas|white background)$"
LITTLE = r"^(sparse tissue|little tissue|only a small|tissue in a small|scant|a mostly empty)"
WHOLE = r"^(tissue throughout|a field full|complete tissue|tissue over|a completely|wall-to-wall)"
GAPS = r"^(tissue in part|a partly|partial tissue|tissue with gaps|incomplete|a field partly)"
CROWDED = (
    r"(dense(ly packed)? nuclei$|high cellularity|crowded|many nuclei|high nuclear|packed|hyper)"
)
CROWDED = rf"^(?!moder).*{CROWDED}|^numerous"
FEW = r"^(few|sparse|scattered|widely spaced|only occasional) nuclei|^low (cell|nuclear d)|hypoc"
FEW = rf"{FEW}|^no nuclei"
CONTRADICTIONS = (
    (WHOLE, rf"^(?!no ).*{OPEN}"),
    (rf"{LITTLE}|{GAPS}", rf"^no .*{OPEN}"),
    (LITTLE, CROWDED),
    (rf"^(much|large|wide) .*{OPEN}", CROWDED),
    (r"low magnification|low power|low-power|wide field|overview", r"nuclei .*diameter|-sized nuc"),
    (r"chronic inflammation|infiltrate$|^lymphocytes$", FEW),
    (r"fibrosis|scar tissue|necro|debris|haemorrhage|extravasated|adipose|glass$|mucus", CROWDED),
    (r"carcinoma epithelium|malignant colonic", FEW),
    (
        r"^no nuclei|hardly any nucleus",
        r"nuclear stain|(moderate|strong) haematox|(some|much) blue",
    ),
    (
        r"^empty glass|^slide background|^no tissue|^nothing",
        r"nuclear stain|(pale|moderate|strong) (haem|eosin)",
    ),
    (r"^empty glass|^slide background|^no tissue|^nothing", r"^(little|some|much) (blue|pink)"),
    (r"tissue$|debris|lymph|mucus|mucin|muscle|colon|stroma", r"^no (haem|eosin|blue|pink)"),
    (r"fat tissue$|adipose|muscle|stroma|mucosa|crypts|carcinoma|debris", r"^no tissue|^nothing"),
)
"""Phrases that one image cannot show both: written by hand, not taken from the grids' rules."""


def list_said_together(grid: CaptionGrid) -> set[frozenset[tuple[str, str]]]:
    """Every pair of (attribute, value) that any caption says."""
    pairs = set()
    for template in grid.layout:
        for tied in template.tied:
            for values in tied.combinations:
                said = zip(tied.names, values, strict=True)
                pairs |= {frozenset(pair) for pair in itertools.combinations(said, 2)}
        for one, other in itertools.combinations(template.tied, 2):  # free of each other
            pairs |= {
                frozenset(pair)
                for pair in itertools.product(_list_values(one), _list_values(other))
            }
    return pairs


def _list_values(tied: Any) -> set[tuple[str, str]]:
    return {each for values in tied.combinations for each in zip(tied.names, values, strict=True)}


def find_contradictions(grid: CaptionGrid) -> set[tuple[str, str]]:
    """Pairs of phrases that some caption says, and that `CONTRADICTIONS` holds apart."""
    found = set()
    for pair in list_said_together(grid):
        (one, first), (other, second) = sorted(pair)
        texts = (
            grid.attributes[one][first] or (first,),
            grid.attributes[other][second] or (second,),
        )
        for phrases in itertools.product(*texts):
            for rule in CONTRADICTIONS:
                if any(
                    re.search(rule[0], a) and re.search(rule[1], b)
                    for a, b in (phrases, phrases[::-1])
                ):
                    found.add(phrases)
    return found


@pytest.mark.parametrize("name", ["he-attributes-2", "he-basic-2", "crc-nct-2"])
def test_no_caption_of_the_shipped_grids_contradicts_itself(name: str) -> None:
    grid = load_catalogs().find_captions(name)
    assert find_contradictions(grid) == set()
    free = grid.model_copy(update={"never_together": (), "given": {}})
    free.__dict__.pop("layout", None)
    assert len(find_contradictions(free)) > 10  # its rules and tables keep them apart
    before = load_catalogs().find_captions(name.removesuffix("-2"))
    assert grid.templates == before.templates and find_contradictions(before)
    if grid.attributes == before.attributes:
        assert 0 < count_captions(grid) < count_captions(before)


def test_every_grid_that_ships_is_asked_or_told_to_contradict_itself() -> None:
    known = set(load_catalogs().list_ids("captions"))
    asked = {"he-attributes-2", "he-basic-2", "crc-nct-2"}
    assert known - asked == {
        each.removesuffix("-2") for each in asked
    }  # as they were, for ids that follow
    for name in known - asked:
        assert find_contradictions(load_catalogs().find_captions(name))


def test_captions_of_measured_attributes_can_all_be_met_by_an_image() -> None:
    """Nuclei lie in tissue, open space outside it (`factory.core.stains`): d <= t <= 1 - f."""

    def is_possible(grid: CaptionGrid, said: dict[str, str]) -> bool:
        low, high = {}, {}
        for name in ("density", "tissue", "fat"):
            edges = (0.0, *grid.measures[name].edges, 1.0)
            place = tuple(grid.attributes[name]).index(said[name]) if name in said else None
            low[name] = 0.0 if place is None else edges[place]
            high[name] = 1.0 if place is None else edges[place + 1]
        return low["density"] < high["tissue"] and (
            max(low["density"], low["tissue"]) + low["fat"] < 1
        )

    impossible = {}
    for name in ("he-attributes", "he-attributes-2"):
        grid = load_catalogs().find_captions(name)
        said = [
            {**dict(zip(tied.names, values, strict=True))}
            for template in grid.layout
            for tied in template.tied
            for values in tied.combinations
        ]
        if name == "he-attributes":  # ties nothing: all of it goes with all of it
            rows = [grid.attributes[each] for each in ("density", "tissue", "fat")]
            said = [
                dict(zip(("density", "tissue", "fat"), values, strict=True))
                for values in itertools.product(*rows)
            ]
        impossible[name] = sum(not is_possible(grid, each) for each in said)
    assert impossible["he-attributes"] > 0 == impossible["he-attributes-2"]


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("{low: 1, high: 3}", "{low: 0, high: 0}", "weights.density", "sums to 0"),
        ("{low: 1, high: 3}", "{low: 1, hihg: 3}", "weights.density.hihg", "did you mean 'high'"),
        ("{low: 1, high: 3}", "{low: -1, high: 3}", "weights.density.low", "must be >= 0, got -1"),
        ("  density: {low: 1, h", "  densty: {low: 1, h", "weights.densty", "no attribute: did"),
        ("high: {small: 1}}", "high: {small: 0}}", "given.size.density.high", "sums to 0"),
        ("high: {small: 1}}", "high: {tiny: 1}}", "given.size.density.high.tiny", "is no value"),
        ("high: {small: 1}}", "}", "given.size.density", "has no row for density high"),
        ("high: {small: 1}}", "hi: {small: 1}}", "given.size.density.hi", "has no value 'hi'"),
        ("size: {density: {low:", "size: {colour: {low:", "given.size.colour", "is no attribute"),
        ("given:\n  size:", "given:\n  density:", "given.density", "goes in a circle"),
        ("given:\n  size:", "given:\n  density:", "given.density", "weights too"),
        ("size: [large]}]", "size: [huge]}]", "never_together[0].size", "no value 'huge'"),
        ("density: [high], size", "size", "never_together[0]", "two attributes at least"),
        ("size: [large]}]", "size: [small, large]}]", "never_together", None),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, field: str, words: str | None
) -> None:
    text = LINES.replace(old, new, 1)
    assert text != LINES
    if words is None:  # then only low density is left, which is not nothing
        assert list_shares(load(tmp_path, text))["density"]["high"] == 0
        return
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    found = [each for each in caught.value.problems if each.field == field]
    assert any(words in each.message for each in found), str(caught.value)
    assert all(each.line is not None and 7 <= each.line <= 11 for each in found)


def test_a_template_that_can_say_nothing_is_told(tmp_path: Path) -> None:
    rule = "never_together: [{density: [low, high], size: [small, large]}]"
    text = LINES.replace("never_together: [{density: [high], size: [large]}]", rule)
    with pytest.raises(RecipeError, match="can say nothing of density, size"):
        load(tmp_path, text)


def test_a_circle_of_two_is_told(tmp_path: Path) -> None:
    text = LINES.replace("weights:\n  density: {low: 1, high: 3}\n", "") + (
        "  density: {size: {small: {low: 1}, large: {low: 1}}}\n"
    )
    with pytest.raises(RecipeError, match="size -> density -> size"):
        load(tmp_path, text)


def test_the_order_of_weights_changes_no_caption(tmp_path: Path) -> None:
    turned = LINES.replace("{low: 1, high: 3}", "{high: 3, low: 1}")
    turned = turned.replace("{small: 1, large: 1}", "{large: 1, small: 1}")
    one, other = load(tmp_path / "one", LINES), load(tmp_path / "other", turned)
    assert list(one.weights["density"]) != list(other.weights["density"])
    assert one.layout == other.layout
    points = [number << 120 for number in range(0, 256, 5)]
    drawn = [draw_caption(one, point, 128) for point in points]
    assert drawn == [draw_caption(other, point, 128) for point in points]
