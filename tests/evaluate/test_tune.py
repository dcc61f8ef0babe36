"""`factory tune`: what is planted is found, what is useless adds nothing, stopped it goes on."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import factory
from factory.core.duration import parse_duration
from factory.core.errors import InputError, RecipeError
from factory.data.shots import list_real
from factory.evaluate.base import Context
from factory.evaluate.fewshot import tuners
from factory.evaluate.fewshot.providers import Provided
from factory.evaluate.fewshot.synthetic import read_synthetic
from factory.evaluate.tune import search, study
from factory.evaluate.tune.asking import open_base, write_making
from factory.evaluate.tune.bed import Bed, Task, cut_repeats, describe_base
from factory.evaluate.tune.search import Clock, Trial
from factory.evaluate.tune.settings import TuneSettings
from factory.evaluate.tune.space import build_default, read_space
from factory.recipe.file import load_recipe
from tests import ROOT
from tests.documents import list_blocks
from tests.evaluate.test_evaluate_fewshot import CLASSES, write_images
from tests.running import ask, call, read_json, read_rows, write_recipe

PATTERN = r"-(s\d+p\d+)_"
REFERENCE = {"kind": "reference", "images": "nowhere", "shots": 8, "per_class": 5}
CLASSIFIER = {"kind": "classifier", "model": "@shots", "min_probability": 0.0}


@dataclass
class Here:
    """Searches in this process, without Ray: every fold of every trial, in order."""

    task: Task
    make: object
    workers: int
    tell: object
    stop_after = None
    begun = 0

    def run(self, configurations, splits, clock, halves_from):
        bed = Bed(self.task, Context(lambda line: None, self.make))
        for configuration in configurations:
            trial, done = Trial(bed, configuration, splits), False
            while not done and not clock.is_over():
                if Here.stop_after is not None and Here.begun == Here.stop_after:
                    raise KeyboardInterrupt
                Here.begun += 1
                result = trial.step()
                done, gain = result["done"], None if result["failed"] else result["gain"]
                self.tell(configuration, result["folds"], gain, result["failed"])

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    """Takes `Here` in the place of Ray."""
    monkeypatch.setattr(study, "RaySearcher", Here)
    monkeypatch.setattr(Here, "stop_after", None)
    monkeypatch.setattr(Here, "begun", 0)
    return Here


def draw_shot(rng, class_name):
    """A patch in a colour of its patient's; tumour has stripes, weaker than the noise."""
    pixels = np.array([150, 110, 150]) + rng.uniform(-60, 60, 3) + rng.normal(0, 10, (32, 32, 3))
    pixels[::2] += 8 * (class_name == "tumor")
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_shots(folder, count, seed, flip=False):
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        label = CLASSES[1 - CLASSES.index(name)] if flip else name
        for number in range(count):
            path = folder / label / f"{name}-s{seed}p{number}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_shot(rng, name)).save(path)
    return folder


@pytest.fixture
def planted(monkeypatch, tmp_path, here):
    """Images that help at one strength alone, and have wrong labels at others."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    write_shots(good, 24, 90)
    write_shots(bad, 24, 91, flip=True)
    monkeypatch.setitem(tuners.VALUES, "logistic", (0.1,))

    def provide(self, configuration, draw, held):
        helps = configuration["strength"] == planted_strength[0]
        return Provided(read_synthetic(good if helps else bad), None), ""

    planted_strength = [0.5]
    monkeypatch.setattr(Bed, "_provide", provide)
    return planted_strength


def tune(folder, code, *options, **changes):
    recipe = write_recipe(folder / "recipe", **{"conditions": [REFERENCE], **changes})
    given = ["--real", folder / "real", "--out", folder / "best.yaml"]
    fast = ["--features", "color-texture", "--filter-encoder", "color-texture", "--size", "32"]
    return ask("tune", recipe, *given, *fast, *options, code=code)


def write_space(folder, **choices):
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(choices))
    return ("--space", path)


# --- what it answers -----------------------------------------------------------------------------


def test_a_planted_setting_is_found_and_written(tmp_path, planted):
    write_shots(tmp_path / "real", 12, 1)
    options = write_space(tmp_path, mix=["pooled"], strength=[0.3, 0.5], per_class=[4, 24])
    changes = {"conditions": [{**REFERENCE, "shots": 12}], "filters": [{"kind": "finite"}]}
    shown = tune(tmp_path, 0, *options, "--heads", "logistic", "--folds", "2", **changes)
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["answer"] == "recipe" and found["version"] == 1
    assert found["chosen"]["strength"] == 0.5
    assert found["checked"]["gain"]["low"] > 0
    difference = found["searched"]["gain"]["mean"] - found["checked"]["gain"]["mean"]
    assert found["searched"]["optimism"] == pytest.approx(difference, abs=1e-5)
    assert found["states"]["measured"] == found["planned"] == len(found["trials"]) == 4
    means = [(e["configuration"]["strength"], e["gain"]["mean"]) for e in found["trials"]]
    assert all(mean < found["searched"]["gain"]["mean"] for at, mean in means if at != 0.5)
    assert f"next: factory run {tmp_path / 'best.yaml'}" in shown
    text = (tmp_path / "best.yaml").read_text()
    assert "Chosen by factory tune inside 24 shots: mix pooled, per class 24, strength 0.5" in text
    assert "factory run best.yaml" in text
    written = factory.load_recipe(tmp_path / "best.yaml").recipe
    assert written.conditions[0].strength == 0.5
    assert written.conditions[0].per_class == dict.fromkeys(CLASSES, found["chosen"]["per_class"])
    assert not Path(written.conditions[0].images).is_absolute()
    table = (tmp_path / "best-tune" / "tune.md").read_text()
    assert table.count("| measured |") == 4


def test_a_useless_generator_adds_nothing(tmp_path, planted):
    planted[0] = None
    write_shots(tmp_path / "real", 8, 1)
    options = write_space(tmp_path, mix=["pooled"], strength=[0.3, 0.5])
    shown = tune(tmp_path, 1, *options, "--heads", "logistic", filters=[{"kind": "finite"}])
    assert "ADD NOTHING: " in shown
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["answer"] == "add nothing" and found["recipe"] is None
    assert len(found["trials"]) == 2
    assert not (tmp_path / "best.yaml").exists()


def test_what_gains_by_choice_alone_adds_nothing(tmp_path, planted, monkeypatch):
    """Images that help on the folds of the choice, and on no others, are found out."""
    write_shots(tmp_path / "real", 8, 1)
    good, bad = tmp_path / "good", tmp_path / "bad"

    def provide(self, configuration, draw, held):
        return Provided(read_synthetic(good if draw.seed < 2 else bad), None), ""

    monkeypatch.setattr(Bed, "_provide", provide)
    options = write_space(tmp_path, mix=["pooled"], strength=[0.3])
    shown = tune(tmp_path, 1, *options, "--heads", "logistic", filters=[{"kind": "finite"}])
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["searched"]["gain"]["low"] > 0 and found["checked"]["gain"]["mean"] < 0
    assert found["searched"]["optimism"] > 0.1
    assert "is not above zero" in shown


# --- stopped, it goes on -------------------------------------------------------------------------


def test_stopped_it_goes_on_and_measures_nothing_twice(tmp_path, planted, here, monkeypatch):
    write_shots(tmp_path / "real", 8, 1)
    options = (*write_space(tmp_path, mix=["pooled"], strength=[0.3, 0.5]), "--heads", "logistic")
    changes = {"filters": [{"kind": "finite"}]}
    asked, provide = [], Bed._provide

    def count(self, configuration, draw, held):
        asked.append((configuration["strength"], draw.seed, draw.images.digest))
        return provide(self, configuration, draw, held)

    monkeypatch.setattr(Bed, "_provide", count)
    here.stop_after = 4
    shown = tune(tmp_path, 3, *options, **changes)
    assert "run the same command again" in shown
    here.stop_after = None
    tune(tmp_path, 0, *options, **changes)
    assert len(asked) == len(set(asked)) == 2 * 6 + 6, "two trials, and the check of one"
    first = (tmp_path / "best.yaml").read_bytes()
    tune(tmp_path, 0, *options, **changes)
    assert len(asked) == 18
    assert (tmp_path / "best.yaml").read_bytes() == first
    with pytest.raises(AssertionError, match="was begun with other settings"):
        tune(tmp_path, 0, *options, "--folds", "2", **changes)


def test_the_budget_ends_it(tmp_path, planted, monkeypatch):
    write_shots(tmp_path / "real", 8, 1)
    options = (*write_space(tmp_path, mix=["pooled"], strength=[0.3, 0.5]), "--heads", "logistic")
    shown = tune(tmp_path, 3, *options, "--budget", "0.001s", filters=[{"kind": "finite"}])
    assert "no configuration was measured on all folds within 0.001s" in shown
    clock = Clock(time.monotonic() + 60, kept=6, slowest=9.0)
    assert not clock.is_over()
    clock.slowest = 11.0
    assert clock.is_over(), "what the check takes is kept for it"
    clock, fold = Clock(time.monotonic() + 60, check=6), {"seconds": 11.0, "failed": ""}
    clock.note({**fold, "done": False})
    assert not clock.is_over(), "nothing to check: a call that is run again gets on"
    clock.note({**fold, "done": True})
    assert clock.is_over()
    assert [parse_duration(text) for text in ("90s", "30m", "1.5h")] == [90, 1800, 5400]
    for text in ("", "0m", "30", "-1m", "2 days"):
        with pytest.raises(InputError, match="such as 90s, 30m or 2h"):
            parse_duration(text)


def test_relative_paths_mean_the_same_in_every_trial_of_an_actor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "Bed", lambda task, context: None)
    kind = search._build_trainable()
    actor = kind.__new__(kind)
    actor.setup({"configuration": {}}, None, None, (), tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert actor.reset_config({"configuration": {}})
    assert Path.cwd() == tmp_path


def test_a_check_that_time_cuts_short_says_so(tmp_path, planted, here, monkeypatch):
    write_shots(tmp_path / "real", 8, 1)
    run, asked = here.run, []

    def cut(self, configurations, splits, clock, halves_from):
        asked.append(len(splits))
        run(self, configurations, splits[: 3 if halves_from is None else None], clock, halves_from)

    monkeypatch.setattr(here, "run", cut)
    options = (*write_space(tmp_path, mix=["pooled"], strength=[0.5]), "--heads", "logistic")
    shown = tune(tmp_path, 0, *options, filters=[{"kind": "finite"}])
    assert asked == [6, 6]
    assert "there was time for 1 of 2 repeats: the same command goes on" in shown
    monkeypatch.setattr(here, "run", run)
    shown = tune(tmp_path, 0, *options, filters=[{"kind": "finite"}])
    assert "repeats" not in shown


# --- folds ---------------------------------------------------------------------------------------


def test_patients_are_whole_and_each_shot_is_held_out_once(tmp_path):
    shots = list_real(write_images(tmp_path, 12, 1, groups=5), group_pattern=PATTERN)
    repeats = cut_repeats(shots, 3, 3)
    assert len({each[0].seed for each in repeats}) == 3
    groups = [image.group for image in shots.images]
    for splits in repeats:
        assert sorted(row for split in splits for row in split.held) == list(range(len(shots)))
        for split in splits:
            assert not {groups[row] for row in split.held} & {groups[row] for row in split.known}
            assert {shots.images[row].class_name for row in split.known} == set(CLASSES)
    later = cut_repeats(shots, 3, 3, repeats[-1][0].seed + 1)
    assert not {each[0].seed for each in later} & {each[0].seed for each in repeats}
    one = list_real(write_images(tmp_path / "one", 6, 1, groups=1), group_pattern=PATTERN)
    with pytest.raises(InputError, match=r"too few shots or patients .*normal 1, tumor 1"):
        cut_repeats(one, 1, 3)


def test_images_are_made_of_the_training_shots_and_the_test_is_not_read(tmp_path, here):
    """The whole way with the fake model: fit, run, decide anew, tune; `test/` cannot be decoded."""
    write_images(tmp_path / "real" / "train", 6, 1)
    for name in CLASSES:
        (tmp_path / "real" / "test" / name).mkdir(parents=True)
        (tmp_path / "real" / "test" / name / "a.png").write_bytes(b"no image")
    options = write_space(
        tmp_path, mix=["pooled"], strength=[0.9], filter=["none", 0.6], per_class=[1, 2]
    )
    options += ("--repeats", "1", "--folds", "2", "--trials", "3")
    reference = {**REFERENCE, "shots": 4}
    tune(tmp_path, 1, *options, conditions=[reference], filters=[CLASSIFIER])
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["states"]["measured"] == 3, found["trials"]
    assert found["settings"]["shots"]["per_class"] == dict.fromkeys(CLASSES, 4)
    draws = sorted((tmp_path / "best-tune" / "draws").iterdir())
    for folder in draws:
        own = {Path(path).stem for path in folder.glob("shots/*/*")}
        runs = [path for path in folder.glob("run-*") if "filter" not in path.name]
        assert len(runs) == 1, "count and filter share their candidates"
        for run in folder.glob("run-*"):
            rows = read_rows(run)
            assert {row["reference_sha256"][:24] for row in rows} <= own
        milder = {row["sample_id"] for row in read_rows(runs[0], "rejected")}
        milder |= {row["sample_id"] for row in read_rows(runs[0])}
        for copy in folder.glob("run-*-filter-none"):
            rows = read_rows(copy)
            assert {row["sample_id"] for row in rows} <= milder
            assert {row["attempt"] for row in rows} == {0}, "nothing is rejected"


# --- what is tried -------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    recipe = write_recipe(tmp_path / "recipe", conditions=[REFERENCE], filters=[CLASSIFIER])
    return open_base(recipe, TuneSettings(real=tmp_path, out=tmp_path / "best.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strenght: [0.5]", "space.yaml:1:1: strenght: no such key: did you mean 'strength'"),
        ("\nstrength: [2]", "space.yaml:2:12: strength[0]: must be <= 1, got 2"),
        ("strength: 0.5", "strength: must be a list"),
        ("strength: []", "strength: "),
        ("mix: [pooled, pooled]", "mix: name each choice once"),
        ("mix: [two-stage]", "heads without gradient descent know no stages: add sgd or network"),
        ("way: [token]", "give --adapt BASE"),
        ("way: [guided]", "no classifier can lead this model"),
        ("filter: [high]", "space.yaml:1:10: filter[0]"),
        (
            "generator.stepz: [4]",
            'space.yaml:1:19: "generator.stepz"[0]: 4: generator.stepz: unknown field',
        ),
        ("conditions.3.strength: [0.4]", "has 1 entries, numbered from 0"),
        ("generator.steps: 4", "must be a list of choices, got 4"),
        ("seed: [1, 2]", "shapes no image, or is given by tune: remove it"),
        ("{}", "names nothing to try"),
    ],
)
def test_a_wrong_space_is_said_with_file_line_and_field(base, tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_space(path, base)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_space_of_the_guide_is_one(tmp_path):
    [block] = [
        each
        for each in list_blocks((ROOT / "docs" / "guides" / "tune.md").read_text("utf-8"))
        if each.language == "yaml"
    ]
    (tmp_path / "space.yaml").write_text(block.text)
    settings = TuneSettings(real=tmp_path, out=tmp_path / "best.yaml")
    base = open_base(ROOT / "recipes" / "few-shot-variations.yaml", settings)
    assert len(read_space(tmp_path / "space.yaml", base).choices) == 5


def test_what_is_drawn_differs_and_does_not_depend_on_order(base, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("strength: [0.3, 0.5]\ngenerator.steps: [2, 4]\nper_class: [4, 8]\n")
    turned = tmp_path / "turned.yaml"
    turned.write_text("per_class: [8, 4]\ngenerator.steps: [4, 2]\nstrength: [0.5, 0.3]\n")
    spaces = [read_space(each, base) for each in (path, turned)]
    assert [space.count(base) for space in spaces] == [8, 8]
    drawn = [[json.dumps(each, sort_keys=True) for each in space.draw(base, 5)] for space in spaces]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 5
    making = write_making({"generator.steps": 4, "strength": 0.5, "filter": "none"}, base, 0.6)
    assert "generator.steps=4" in making.overrides
    assert "conditions[0].strength=0.5" in making.overrides
    assert "filters.classifier.min_probability=0.6" in making.overrides
    assert making.fit_filter


def test_the_default_space_is_what_the_recipe_can_do(base, tmp_path):
    assert {*build_default(base).choices} == {"strength", "way", "filter", "mix", "per_class"}
    assert build_default(base).choices["way"] == ("variations", "between"), "nothing leads it"
    token = {"kind": "class", "per_class": {"normal": 2}}
    plain = write_recipe(tmp_path / "plain", conditions=[token, REFERENCE], filters=[])
    settings = TuneSettings(real=tmp_path, out=tmp_path / "best.yaml")
    assert {*build_default(open_base(plain, settings)).choices} == {"strength", "way", "mix"}
    recipe = factory.copy_recipe("few-shot-variations", tmp_path / "flow.yaml")
    settings = settings.model_copy(update={"adapt": "nano-he-base"})
    flow = open_base(recipe, settings)
    space = build_default(flow)
    assert space.choices["way"] == ("variations", "guided", "adapted", "token")
    drawn = space.draw(flow, 10_000)
    assert len(drawn) == space.count(flow) == (3 * 4 + 1) * 3 * 2 * 3, "a token has no strength"
    guided = write_making({"way": "guided"}, flow, None)
    assert guided.filter_encoder != guided.guide_encoder
    assert guided.adapt is None
    others = settings.model_copy(update={"unlabelled": tmp_path})
    beside = open_base(recipe, others)
    ways = build_default(beside).choices["way"]
    assert ways[4:] == ("stained", "translated", "neighbours")
    for way in ways[4:]:
        making = write_making({"way": way}, beside, 0.7)
        made = load_recipe(recipe, making.overrides).recipe
        [block] = made.blocks
        assert block.is_per_class and str(block.unlabelled[0].path) == str(tmp_path)
        assert "training_copy" not in {each.kind for each in made.filters}, "nor has its recipe"
        assert (made.dedup is None) == (way != "neighbours")
    asked = write_making({"way": "token"}, flow, None)
    assert asked.adapt == "nano-he-base"
    assert 'filters.training_copy.images="@shots"' in asked.overrides


def test_a_way_of_other_conditions_suits_any_recipe(tmp_path):
    token = {"kind": "class", "per_class": {"normal": 2}}
    path = write_recipe(tmp_path / "recipe", conditions=[token, {**REFERENCE, "fit": "resize"}])
    content = yaml.safe_load(path.read_text())
    del content["filters"]
    path.write_text(yaml.safe_dump(content))
    settings = TuneSettings(real=tmp_path, out=tmp_path / "best.yaml", unlabelled=tmp_path)
    base = open_base(path, settings)
    for way in ("stained", "neighbours"):
        making = write_making({"way": way, "strength": 0.35}, base, None)
        [block] = load_recipe(path, making.overrides).recipe.blocks
        assert (block.settings.strength, block.settings.fit) == (0.35, "resize")
    other = settings.model_copy(update={"unlabelled": tmp_path / "other"})
    assert describe_base(open_base(path, other)) != describe_base(base), "another search"


def test_a_folder_of_other_things_and_bad_options_are_refused(tmp_path, here):
    write_images(tmp_path / "real", 6, 1)
    assert "--budget" in call("tune", "--help").output
    changes = {"conditions": [{**REFERENCE, "shots": 4}], "filters": [CLASSIFIER]}
    assert "such as 90s, 30m or 2h" in tune(tmp_path, 2, "--budget", "soon", **changes)
    assert "no classifier 'svm'" in tune(tmp_path, 2, "--heads", "svm", **changes)
    assert "shots: 400 asked for" in tune(tmp_path, 2, "--shots", "400", **changes)
    (tmp_path / "best.yaml").write_text("name: mine")
    assert "is there, and no search wrote it" in tune(tmp_path, 2, **changes)
    assert not (tmp_path / "best-tune").exists(), "nothing was touched"


def test_a_way_that_fails_is_told_and_the_others_go_on(tmp_path, planted, monkeypatch):
    write_shots(tmp_path / "real", 8, 1)
    provide = Bed._provide

    def fail(self, configuration, draw, held):
        if configuration["strength"] == 0.3:
            raise InputError("this model does not do that")
        return provide(self, configuration, draw, held)

    monkeypatch.setattr(Bed, "_provide", fail)
    options = (*write_space(tmp_path, mix=["pooled"], strength=[0.3, 0.5]), "--heads", "logistic")
    shown = tune(tmp_path, 0, *options, filters=[{"kind": "finite"}])
    assert "FAILED mix pooled, strength 0.3: this model does not do that" in shown
    found = read_json(tmp_path / "best-tune" / "tune.json")
    states = {each["configuration"]["strength"]: each["state"] for each in found["trials"]}
    assert states == {0.3: "failed", 0.5: "measured"}


def test_without_time_for_a_check_nothing_is_decided(tmp_path, planted, here, monkeypatch):
    write_shots(tmp_path / "real", 8, 1)
    run = here.run

    def cut(self, configurations, splits, clock, halves_from):
        if halves_from is not None:  # the search, not the check
            run(self, configurations, splits, clock, halves_from)

    monkeypatch.setattr(here, "run", cut)
    options = (*write_space(tmp_path, mix=["pooled"], strength=[0.5]), "--heads", "logistic")
    shown = tune(tmp_path, 1, *options, filters=[{"kind": "finite"}])
    assert "UNDECIDED: the best one gained" in shown and "run the same command again" in shown
    found = read_json(tmp_path / "best-tune" / "tune.json")
    assert found["answer"] == "undecided" and found["recipe"] is found["checked"] is None
    monkeypatch.setattr(here, "run", run)
    assert "next: factory run" in tune(tmp_path, 0, *options, filters=[{"kind": "finite"}])
