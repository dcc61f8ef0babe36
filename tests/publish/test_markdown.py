"""Names, reasons and descriptions stay text in every document that factory writes."""

import html
import json
import re

import pytest
import yaml
from markdown_it import MarkdownIt

from factory.core.markdown import (
    escape,
    fence,
    soften,
    split_header,
    write_code,
    write_inert_json,
    write_line,
    write_yaml,
)
from factory.evaluate.image_sets import list_set
from factory.publish.merge.card import build_card as build_merge_card
from factory.publish.report import build_report
from factory.train.classifier.card import describe_classifier
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests.evaluate.test_evaluate_all import write_set
from tests.running import call, run, write_recipe

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- factory:end -->",
    "![x](http://evil/x.png)",
    "[a](javascript:alert(1))",
    "[a](http://evil)",
    "<http://evil>",
    "http://evil",
    "a | b",
    "a\\|b",
    "`",
    "``` x",
    "two\nlines\n\n# heading",
    "# heading",
    "- list",
    "1. list",
    "> quote",
    "**bold** _em_ ~~gone~~ $x$",
    "k: v # no comment",
    "\"quoted\" 'twice'",
    "{braces} [brackets]: x",
    "&lt;b&gt; &#60;i&#62;",
    "\u202egnp.exe",
)
CLASSES = tuple(each for each in ATTACKS if "\n" not in each)
"""A recipe takes no class of two lines."""
DESCRIPTION = tuple(each for each in ATTACKS if "http" not in each)
"""Links to pages are Markdown that a description may have."""
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OWN = ("<code>", "</code>")


def list_tokens(text):
    for token in MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


def check_inert(text, pictures=(), may_name=False):
    """Asserts that Markdown holds no HTML, no foreign picture and no link but to pages."""
    if text.startswith("---\n"):
        _, head, text = text.split("---\n", 2)
        assert isinstance(yaml.safe_load(head), dict)
        check_inert(head, may_name=True)  # some pages show it as text
    for token in list_tokens(text):
        if token.type in ("html_inline", "html_block"):
            marks = token.content.strip()
            assert marks in OWN or re.fullmatch(r"<!-- (factory:(begin|end)|Written).*-->", marks)
        if token.type == "image":
            assert token.attrs["src"] in pictures
        if token.type == "link_open":
            assert "evil" not in token.attrs["href"] and "script" not in token.attrs["href"]
    lines = text.split("\n")
    for token in MARKDOWN.parse(text):
        if token.type == "fence":
            lines[slice(*token.map)] = [""] * (token.map[1] - token.map[0])
    told = re.sub(r"`[^`\n]*`", "", "\n".join(lines).replace("\\`", ""))
    assert may_name or "http://evil" not in told  # which pages make a link of


def show(text):
    """Returns what a reader sees of Markdown."""
    rendered = MARKDOWN.render(text)
    return html.unescape(re.sub(r"<[^>]*>", "", rendered)).strip()


@pytest.mark.parametrize("attack", ATTACKS)
def test_escaped_text_shows_as_it_is(attack):
    wanted = " ".join(attack.replace("\u202e", "").split())
    for shown in (escape(attack), f"- {escape(attack)}", write_code(attack)):
        check_inert(shown)
        assert " ".join(show(shown).split()) == wanted
    table = f"| a | b |\n| --- | --- |\n| {escape(attack).replace('|', chr(92) + '|')} | 1 |"
    cells = [t.content for t in MARKDOWN.parse(table) if t.type == "inline"]
    assert len(cells) == 4
    assert cells[3] == "1"


@pytest.mark.parametrize("attack", ATTACKS)
def test_data_is_the_same_when_read_back(attack):
    value = {"class_label": {"0": attack}, attack.strip() or "k": ["n<1K", attack]}
    assert json.loads(write_inert_json(value)) == value
    header = write_yaml(yaml.safe_dump(value, allow_unicode=True))
    assert yaml.safe_load(header) == value
    check_inert(header, may_name=True)
    assert yaml.safe_load(write_line("model", attack)) == {"model": attack}
    assert "\n" not in write_line("model", {"x": [attack]})
    assert fence(attack).count("\n") == attack.count("\n") + 2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A **bold** [page](https://x.y) ![p](assets/a.png)", True),
        ("a < b and 1 <2", True),
        ("[ref]: https://x.y\n\n[ref], `code`", True),
        ("![x](http://evil/x.png)", False),
        ("![x](//evil/x.png)", False),
        ("![x][r]\n\n[r]: //evil/x.png", False),
        ("[a](java&#115;cript:alert)", False),
        ("[a](<javascript:alert(1)>)", False),
        ("[a](\x01javascript:x)", False),
        ("[q]: data:text/html,x\n\n[q]", False),
        ("<b onclick=x>", False),
    ],
)
def test_descriptions_keep_markdown_but_nothing_that_runs_or_loads(text, kept):
    assert (soften(text) == text) is kept
    kinds = {token.type for token in list_tokens(soften(text))}
    assert not kinds & {"html_inline", "html_block"}
    pictures = [t.attrs["src"] for t in list_tokens(soften(text)) if t.type == "image"]
    assert pictures in ([], ["assets/a.png"])
    targets = [t.attrs["href"] for t in list_tokens(soften(text)) if t.type == "link_open"]
    assert not any(re.match(r"\s*(javascript|data):", target) for target in targets)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A run whose every name and text is an attack."""
    folder = tmp_path_factory.mktemp("attacked")
    path = write_recipe(
        folder,
        description="\n\n".join(DESCRIPTION),
        conditions=[{"kind": "class", "per_class": dict.fromkeys(CLASSES, 1)}],
        generator={"negative_prompt": None},
        filters=[{"kind": "finite"}],
        card={
            "license": "other",
            "license_name": ATTACKS[0],
            "pretty_name": " ".join(ATTACKS),
            "description": "\n\n".join(DESCRIPTION),
            "citation": "\n".join(ATTACKS),
            "authors": list(ATTACKS),
            "tags": list(ATTACKS),
        },
        output={"shard_size": 64},
    )
    out = folder / "out"
    run(path, out)
    result = {
        "kind": ATTACKS[0],
        "data": [list_set(out).describe_data()],
        "scope": ATTACKS[3],
        "settings": {ATTACKS[0]: ATTACKS[3], "x": list(ATTACKS)},
        "marks": {ATTACKS[0]: [ATTACKS[3]]},
        "notes": list(ATTACKS),
        "circular": list(ATTACKS),
        "arms": {each: {"accuracy": {"mean": 0.5, "flag": each}} for each in ATTACKS},
        "figures": [{"class": each, each: {"value": each}} for each in ATTACKS],
    }
    (out / "evaluation").mkdir()
    (out / "evaluation" / "own.json").write_text(json.dumps(result))
    (out / "evaluation" / "<b>![x](x).json").write_text(json.dumps({**result, "data": []}))
    assert call("card", str(out), "--prov").exit_code == 0
    return out


@pytest.mark.stranger
def test_no_name_runs_loads_or_breaks_anything_in_a_card(attacked):
    card = (attacked / "README.md").read_text()
    check_inert(card, pictures={"assets/samples.png"})
    assert card.rstrip().endswith("<!-- factory:end -->")
    header = yaml.safe_load(card.split("---\n")[1])
    names = header["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]
    assert sorted(names.values()) == sorted(CLASSES)
    check_inert((attacked / "LICENSE.md").read_text())
    cff = yaml.safe_load((attacked / "CITATION.cff").read_text())
    assert len(cff["authors"]) == len(ATTACKS)
    for name in ("croissant.json", "prov.json"):
        text = (attacked / name).read_text()
        assert "<script" not in text
        json.loads(text)
    rows = [line for line in card.splitlines() if line.startswith("| ") and " | 1 | 1 | " in line]
    assert len(rows) == len(CLASSES)


def test_what_stands_outside_the_marks_survives_a_second_card(attacked):
    before = (attacked / "README.md").read_text()
    assert call("card", str(attacked), "--prov").exit_code == 0
    assert (attacked / "README.md").read_text() == before


def test_no_name_is_markup_in_the_report(attacked):
    page = build_report(str(attacked))[1]
    assert not re.search(r"<(script|img src=x|!-- f)", page)
    assert not re.search(r"(src|href)=[\"']?(http|//|javascript)", page)
    assert page.count("<!--") == 0


def test_no_class_is_markup_in_the_card_of_a_merged_set():
    sources = [
        {"is_synthetic": True, "licences": [each], "name": each, "images": 1} for each in ATTACKS
    ]
    counts = {"train": {kind: dict.fromkeys(ATTACKS, 1) for kind in ("real", "synthetic")}}
    summary = {
        "class_names": list(ATTACKS),
        "unclassed": 0,
        "splits": counts,
        "units": {"train": 1},
        "groups": True,
        "seed": 0,
        "test_synthetic": False,
        "left_out": {},
        "unplaced": 0,
        "sources": sources,
        "conflicts": dict.fromkeys(ATTACKS, 1),
    }
    for name in ATTACKS:
        card = build_merge_card(name, summary)
        check_inert(card)
    tables = [t for t in MARKDOWN.parse(card) if t.type == "th_open"]
    assert len(tables) == len(ATTACKS) + 3


def test_no_class_is_markup_in_a_classifiers_card(tmp_path):
    from factory.models.classifiers.model import read_classifier_info

    write_set(tmp_path / "real", 12, 0)
    train_classifier(
        tmp_path / "real", tmp_path / "it", ClassifierSettings(encoder="color-texture", force=True)
    )
    info = read_classifier_info(tmp_path / "it")
    for attack in ATTACKS:
        names = dict(zip(info.class_names, (attack, "b"), strict=True))
        renamed = json.loads(info.model_dump_json())
        told = json.dumps(renamed)
        for old, new in names.items():
            told = told.replace(json.dumps(old), json.dumps(new))
        card = describe_classifier(type(info).model_validate_json(told))
        check_inert(card, pictures={"reliability.png"})


@pytest.mark.parametrize(
    ("text", "header", "body"),
    [
        ("---\na: 1\nb: null\n---\nBody", {"a": 1}, "Body"),
        ("---\r\na: [x]\r\n---\r\nBody", {"a": ["x"]}, "Body"),
        ("---\nwords\n---\nBody", {}, "---\nwords\n---\nBody"),
        ("# Title\n---\na: 1\n---\n", {}, "# Title\n---\na: 1\n---\n"),
        ("", {}, ""),
    ],
)
def test_a_header_is_what_the_hub_takes_for_one(text, header, body):
    assert split_header(text) == (header, body)


@pytest.mark.parametrize("header", ["a: [", "1: x", "a: 1\na: b: c"])
def test_a_header_that_cannot_be_read_is_refused(header):
    with pytest.raises(ValueError, match="no readable YAML"):
        split_header(f"---\n{header}\n---\n")
