"""evaluate all: one table of four tiers from the parts' own results; what is missing is named."""

import json

import numpy as np
import pytest
from PIL import Image

from factory.cli.evaluate.command import show
from factory.engine.dataset import Dataset
from factory.evaluate import EVALUATIONS
from factory.evaluate.base import COPIES, TIERS, Context, Drawing, Evaluation
from factory.evaluate.control import Control
from factory.evaluate.everything import AllSettings, Everything, build_tiers, list_rows
from factory.publish.card.evaluations import write_evaluation
from factory.publish.card.facts import write_again
from tests.running import call, run, write_recipe


def paint(name, seed, size=32):
    cells = {"coarse": 4, "fine": 16}[name]
    draw = np.random.default_rng(seed)
    grid = draw.integers(90, 230, (cells, cells, 3))
    return grid.repeat(size // cells, 0).repeat(size // cells, 1).astype(np.uint8)


def write_set(root, count, first):
    for name in ("coarse", "fine"):
        (root / name).mkdir(parents=True)
        for seed in range(first, first + count):
            Image.fromarray(paint(name, seed)).save(root / name / f"{seed}.png")
    return root


@pytest.fixture
def sets(tmp_path):
    return [
        write_set(tmp_path / name, count, first)
        for name, count, first in (("train", 30, 0), ("test", 20, 100), ("synthetic", 16, 200))
    ]


def invoke(sets, *more):
    names = ("--real", "--test", "--synthetic")
    given = [text for pair in zip(names, map(str, sets), strict=True) for text in pair]
    small = ["--shots", "2", "--seeds", "2", "--steps", "8", "--size", "32", "--force"]
    small += ["--encoder", "color-texture"]
    small += ["--fewshot-encoder", "color-texture"]
    return call("evaluate", "all", *given, *small, *more)


def test_every_part_fills_its_tier(sets, tmp_path):
    out = tmp_path / "out"
    told = invoke(sets, "--out", str(out))
    assert told.exit_code == 0, told.output
    table = json.loads((out / "tiers.json").read_text())
    assert list(table["tiers"]) == [*TIERS, COPIES]
    counts = {tier: len(found) for tier, found in table["tiers"].items()}
    assert counts == {**dict.fromkeys(TIERS, 0), TIERS[0]: 4, TIERS[1]: 1, TIERS[2]: 2, COPIES: 4}
    assert table["not_measured"]["retrieval"] == "needs --pairs"
    assert table["not_measured"]["control"].startswith("synthetic: no image has a caption")
    fewshot = json.loads((out / "fewshot.json").read_text())
    paired = fewshot["paired"]["real+synthetic - real"]
    [shown] = [v for k, v in table["tiers"][TIERS[2]].items() if "real+synthetic - real (" in k]
    assert (shown["value"], shown["low"], shown["high"]) == tuple(paired.values())
    assert (out / "copies.png").is_file()
    assert f"{TIERS[3]}" in told.output
    begin = told.output.split("\n== ")[0]
    assert "6 arms x 2 draws = 12 trainings of a linear head on color-texture" in begin
    assert "fidelity: all images encoded by color-texture" in begin
    assert "retrieval" not in begin
    assert "not measured: retrieval: needs --pairs" in told.output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {},
            "6 arms x 5 draws = 30 trainings of ResNet-18 at 64 px, 400 or more steps each",
        ),
        ({}, "roughly 50 min of one CPU core"),
        ({"steps": 40, "size": 128, "seeds": 1}, "ResNet-18 at 128 px, 40 steps each: roughly 4 m"),
    ],
)
def test_a_long_study_says_beforehand_what_it_takes(more, told):
    settings = AllSettings(real="real", test="test", synthetic="synthetic", pairs="pairs", **more)
    kinds = {name: EVALUATIONS.get(name) for name in ("fewshot", "retrieval")}
    work = {name: kind(kind.adapt(settings)).describe_work() for name, kind in kinds.items()}
    assert told in work["fewshot"]
    assert "tiny tuned for 5 passes" in work["retrieval"]


def test_a_part_that_fails_is_named_and_the_others_are_kept(sets, tmp_path):
    out = tmp_path / "out"
    told = invoke(sets, "--out", str(out), "--skip", "copies", "--shots", "1000")
    assert told.exit_code == 1, told.output
    table = json.loads((out / "tiers.json").read_text())
    assert "1000" in table["not_measured"]["fewshot"]
    assert table["not_measured"]["copies"] == "left out by --skip"
    assert len(table["tiers"][TIERS[0]]) == 4
    assert "NOT MEASURED: " in told.output


def test_a_runs_card_shows_the_results(sets, tmp_path):
    recipe = {"conditions": [{"kind": "class", "per_class": {"coarse": 12, "fine": 12}}]}
    folder = tmp_path / "made"
    run(write_recipe(tmp_path, **recipe), folder)
    told = invoke([*sets[:2], folder], "--skip", "fewshot", "--skip", "copies")
    assert told.exit_code == 0, told.output
    card = (folder / "README.md").read_text()
    assert "pixel fidelity" in card
    assert "color-texture" in card


def test_nothing_measured_is_said_of_every_tier():
    table = build_tiers({}, {"fidelity": "no real images"})
    assert [row[:2] for row in list_rows(table)] == [(t, "not measured") for t in (*TIERS, COPIES)]
    assert table["not_measured"] == {"fidelity": "no real images"}


@pytest.mark.parametrize("is_foreign", [True, False])
def test_a_plug_in_that_fails_leaves_the_others_their_table(
    sets, tmp_path, monkeypatch, is_foreign
):
    def fail(evaluation, context):
        raise ZeroDivisionError("of its own")

    plugin = "package bright 1.0, entry point control = bright:Control" if is_foreign else None
    monkeypatch.setattr(Control, "measure", fail)
    monkeypatch.setattr(EVALUATIONS, "find_plugin", lambda name: plugin)
    names = dict(zip(("real", "test", "synthetic"), sets, strict=True))
    skip = ("fidelity", "fewshot", "copies")
    every = Everything(AllSettings(**names, out=tmp_path / "out", skip=skip))
    if not is_foreign:
        with pytest.raises(ZeroDivisionError):
            every.take(Context(print, run))
        return
    said = every.take(Context(print, run)).not_measured["control"]
    assert "package bright 1.0" in said
    assert "ZeroDivisionError: of its own" in said


class Bright(Evaluation):
    """As a plug-in would: nothing of its own but what each test breaks."""

    kind = "control"

    def measure(self, context):
        return {}


@pytest.mark.parametrize(
    "broken", ["list_rows", "write_lines", "show", "list_marks", "write_command", None]
)
def test_a_plug_in_that_cannot_show_its_result_is_named_and_shown_plainly(
    monkeypatch, capsys, broken
):
    def fail(*given):
        raise AttributeError("of its own")

    plugin = "package bright 1.0, entry point control = bright:Bright"
    found = type("Broken", (Bright,), {} if broken is None else {broken: classmethod(fail)})
    monkeypatch.setattr(EVALUATIONS, "find_plugin", lambda name: plugin if name else None)
    monkeypatch.setattr(EVALUATIONS, "get", lambda name: found)
    result = {"kind": "control", "figures": {"density": {"value": 0.25, "low": 0.2, "high": 0.3}}}
    said = f"'control' is broken ({plugin}): AttributeError: of its own"
    (row,) = (row for row in list_rows(build_tiers({"control": result}, {})) if row[2])
    assert "0.25 [0.2, 0.3]" in row
    assert (said in row[4]) is (broken in ("list_rows", "show"))
    card = write_evaluation("control", result)
    assert "0.25 [0.2, 0.3]" in card and "test_evaluate_all.py" not in card
    assert (f"**Shown plainly:** {said}" in card) is (broken in ("show", "list_marks"))
    command = "factory evaluate control --synthetic made --json made/evaluation/control.json"
    again = write_again(Dataset("made"), "control", result)
    assert again == ("" if broken == "write_command" else command)
    show("control", result)
    printed = capsys.readouterr()
    assert "0.25 [0.2, 0.3]" in printed.out
    is_told = f"shown plainly: {said} ({__file__}:" in printed.err
    assert is_told is (broken in ("write_lines", "show"))


def test_a_drawing_that_no_report_can_show_is_refused_with_the_class():
    with pytest.raises(TypeError, match=r"gallery\.gif.*\.svg or \.png"):
        type("Drawn", (Bright,), {"drawings": (Drawing("gallery.gif", "pairs"),)})
