"""Pages fit: the report at any width, the card's tables, commands of README and pages."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from factory.evaluate import EVALUATIONS
from factory.publish.card.evaluations import write_evaluation
from factory.publish.report import build_report
from tests.documents import list_blocks, list_pages
from tests.running import run, write_recipe

WIDEST = 96
"""Characters of a line of code that a page shows whole beside a side bar, at 1280 px."""
PHONE = 390 / 15
"""Width of a phone in units of the report's letters (rem)."""


class Boxes(HTMLParser):
    """Finds tables and pictures, each with the classes of all that it lies in."""

    def __init__(self):
        super().__init__()
        self.open, self.found = [], []

    def handle_starttag(self, tag, attrs):
        classes = dict(attrs).get("class") or ""
        if tag in ("table", "svg"):
            self.found.append((tag, classes, [name for _, name in self.open]))
        if tag not in ("meta", "img", "br", "wbr", "line", "path", "circle"):
            self.open.append((tag, classes))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    kinds = ["finite", "tissue", "focus", "stain", "color_cast"]
    filters = [{"kind": kind} for kind in kinds]
    filters[2]["max_blur"] = 1.0
    names = {"normal": 6, "high-grade squamous intraepithelial lesion": 6}
    recipe = write_recipe(
        folder, conditions=[{"kind": "class", "per_class": names}], filters=filters
    )
    run(recipe, folder / "out")
    return build_report(str(folder / "out"))[1]


@pytest.mark.stranger
def test_nothing_of_the_report_is_wider_than_its_page(page):
    boxes = Boxes()
    boxes.feed(page)
    tables = [around for tag, _, around in boxes.found if tag == "table"]
    assert tables
    assert all("scroll" in around for around in tables)
    assert not any("scroll" in around for tag, _, around in boxes.found if tag == "svg")
    style = page.split("<style>")[1].split("</style>")[0]
    assert "overflow-x: auto" in style
    for size, unit in re.findall(r"(?<!max-)(?<!-)(?:min-)?width:\s*([\d.]+)(rem|px)", style):
        assert float(size) / (1 if unit == "rem" else 15) < PHONE
    narrow = style.split("@media (max-width: 48rem)")[1]
    assert "attr(data-name)" in narrow
    for name in ("asked", "accepted", "short", "candidates", "color_cast", "spare"):
        assert page.count(f'<td data-name="{name}"') == 3  # two series, and all
    assert "color_<wbr>cast" in page
    for rule, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        is_header = re.search(r"\bth\b|\.key|data-name", rule)
        assert not (is_header and "anywhere" in body), f"splits words of headers:{rule}"
    assert 'content="width=device-width, initial-scale=1"' in page


@pytest.mark.stranger
def test_tables_of_a_card_are_in_words_and_apart():
    share = {"value": 0.01, "low": 0.0, "high": 0.02}
    arms = {"real": {"auroc": share, "macro_f1": share}, "synthetic": {"auroc": share}}
    arms["synthetic"]["macro_f1"] = share
    result = {
        "c_t": share,
        "authpct": {"synthetic": share, "usual": share},
        "distance": {"ratio": share, "nearer_than_0.01": share},
        "arms": arms,
        "paired": {"real+synthetic - real": share},
    }
    text = write_evaluation("copies", result)
    for key in ("c_t", "nearer_than", "authpct", "macro_f1"):
        assert key not in text
    for words in ("C_T (below 0: copies)", "share nearer than 99% of the usual", "macro F1"):
        assert words in text
    blocks = text.split("\n\n")
    for before, block in itertools.pairwise(blocks):
        assert not (before.startswith("|") and block.startswith("|"))
    assert sum(block.startswith("|") for block in blocks) == 3


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("i2t_r@10", "image to text: recall at 10"),
        ("balanced_accuracy", "balanced accuracy"),
        ("of_one's_own", "of one's own"),
    ],
)
def test_names_of_measures(key, words):
    assert EVALUATIONS.get("retrieval").name_measure(key) == words


@pytest.mark.stranger
def test_lines_of_code_in_pages_fit():
    blocks = [block for page in list_pages() for block in list_blocks(page.read_text("utf-8"))]
    lines = [line for block in blocks for line in block.text.splitlines()]
    assert len(lines) > 50
    assert [line for line in lines if len(line) > WIDEST] == []
