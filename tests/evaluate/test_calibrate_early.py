"""What `factory calibrate` says of `early`: bounds that pay, and by how much."""

import json
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter

from factory.cli.calibrate import _print_early
from factory.data.records import FORESEEN
from factory.evaluate import calibrate
from factory.evaluate.calibrate.foresight import SHARES, can_watch, list_shares, propose_early
from factory.evaluate.calibrate.scored import NO_CLASS, Scored, read_table
from factory.evaluate.calibrate.thresholds import Decider
from factory.models.session import Session
from factory.recipe.early import Early
from factory.recipe.file import load_recipe
from factory.recipe.recipe import AnyFilter
from tests.running import call, read_json, read_rows, run, write_recipe

FINITE = {"kind": "finite", "min_contrast": 0.2}


@pytest.fixture(scope="module")
def decider():
    filters = [FINITE, {"kind": "tissue", "min_fraction": 0.0}]
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(filters)
    return Decider(parsed, Session.open(), None)


def draw_tries(count, noise, group="normal", passed=0.3, seed=0):
    """Tries of which a share passes; their contrast is foreseen with noise of each share."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        final = 0.2 + draw.uniform(-(1 - passed), passed) / 10
        scores = {"contrast": final, "tissue_fraction": 0.5, "saturated_fraction": 0.0}
        looks = {
            share: {**scores, "contrast": round(final + draw.normal() * noise(share), 4)}
            for share in SHARES
        }
        found.append(Scored("synthetic", str(number), group, "s", scores, looks))
    return found


def test_the_best_share_and_bound_are_found_and_their_gain_is_that_of_a_run(decider):
    rows = draw_tries(400, lambda share: 0.002 if share >= 0.3 else 1.0)
    found = propose_early(decider, rows)
    best = found["proposed"]
    assert (best["at"], [*best["early"]["min"]]) == (0.33, ["contrast"])
    assert max(each["gain"] for each in found["choices"] if each["at"] < 0.3) < 1.1
    early = load_early(best["set"])
    assert early.model_dump(exclude_defaults=True) == best["early"]
    others = draw_tries(20_000, lambda share: 0.002, seed=1)
    accepted = cost = 0.0
    for number, row in enumerate(others):
        is_hopeless = early.is_hopeless(
            {f"{FORESEEN}contrast": row.looks[0.33]["contrast"]}, "normal"
        )
        is_stopped = is_hopeless and not early.is_checked(number)
        cost += early.at if is_stopped else 1.0
        accepted += row.scores["contrast"] >= 0.2 and not is_stopped
    whole = np.mean([row.scores["contrast"] >= 0.2 for row in others])
    assert accepted / cost / whole == pytest.approx(best["gain"], rel=0.06)
    lost = best["false_stops"]
    assert lost["low"] <= lost["share"] <= lost["high"] and lost["share"] < 0.15


def load_early(line):
    name, _, text = line.partition("=")
    assert name == "early"
    return Early.model_validate(yaml.safe_load(text))


def test_bounds_are_told_of_tries_that_did_not_choose_them(decider):
    """Of noise alone, the extreme of the good is passed by about one more good one in so many."""
    lost = gains = 0
    for seed in range(6):
        found = propose_early(decider, draw_tries(150, lambda share: 9.9, seed=seed))
        assert found["proposed"] is None
        lost += sum(each["false_stops"]["accepted"] for each in found["choices"])
        gains += sum(each["gain"] > 1.08 for each in found["choices"])
    assert lost > 0 and gains < 4


def test_each_class_has_its_own_bound_and_one_that_few_pass_has_none(decider):
    sure = {"noise": lambda share: 0.001}
    many = draw_tries(150, **sure), draw_tries(150, **sure, group="tumor", passed=0.5, seed=1)
    few = draw_tries(60, **sure, group="stroma", passed=0.05, seed=2)
    found = propose_early(decider, [*many[0], *many[1], *few])
    best, counts = found["proposed"], found["few"]
    assert set(counts) == {"stroma"} and counts["stroma"] < found["least"]
    assert set(best["early"]["min"]["contrast"]) == {"normal", "tumor"}
    alone = propose_early(decider, many[0])["proposed"]["early"]
    assert isinstance(alone["min"]["contrast"], float)
    without = draw_tries(150, **sure, group=NO_CLASS)
    mixed = propose_early(decider, [*many[0], *without])["proposed"]["early"]
    assert isinstance(mixed["min"]["contrast"], float)
    assert propose_early(decider, [Scored("synthetic", "0", "normal", "s", {})]) is None


def test_the_line_to_copy_passes_a_shell_whatever_classes_are_called(decider, capsys):
    sure = {"noise": lambda share: 0.001}
    rows = [*draw_tries(150, **sure, group="1"), *draw_tries(150, **sure, group="it's", seed=1)]
    found = propose_early(decider, rows)
    _print_early(found)
    name, line = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (name, line) == ("--set", found["proposed"]["set"])
    assert load_early(line).model_dump(exclude_defaults=True) == found["proposed"]["early"]


def test_what_is_seen_is_what_a_run_sees_and_is_kept_for_reuse(tmp_path):
    few = [{"kind": "class", "per_class": {"normal": 2, "tumor": 2}}]
    same = {"filters": [{**FINITE, "min_contrast": 0.1435}], "conditions": few}
    recipe, out = write_recipe(tmp_path / "a", **same), tmp_path / "out"
    first = call("calibrate", recipe, "-n", 4, "--out", out)
    assert "stopping hopeless tries part-way (early)" in first.stdout
    assert "tries of normal pass, and 20 choose a bound: raise -n)" in first.stdout
    early = read_json(out / "calibration.json")["early"]
    assert {*early["few"]} == {"normal", "tumor"} and not early["choices"]
    table = pq.read_table(out / "scores.parquet").to_pylist()
    seen = {row["key"]: dict(row["looks"])[0.33]["contrast"] for row in table}
    looked = {"at": 0.33, "min": {"contrast": 0.05}, "check": 1.0}
    run(write_recipe(tmp_path / "b", **same, early=looked), tmp_path / "run")
    rows = [*read_rows(tmp_path / "run"), *read_rows(tmp_path / "run", "rejected")]
    told = {str(row["seed"]): row["scores"][f"{FORESEEN}contrast"] for row in rows}
    assert len(seen) == 4 and seen.items() <= told.items()
    again = load_recipe(recipe, [f"early={json.dumps(looked)}"])  # the bounds are pasted
    _, kept = read_table(out, calibrate._digest_content(again))
    assert {row.key: row.looks[0.33]["contrast"] for row in kept} == seen


def test_models_that_cannot_be_stopped_are_not_looked_at(tmp_path):
    def ask(name, **generator):
        return can_watch(load_recipe(write_recipe(tmp_path / name, generator=generator)))

    assert ask("a")
    assert not ask("b", model="stable-diffusion-1-5", prompt_template="{class_name}")
    assert not ask("c", model="he-multi-base", cache="taylorseer")


def test_few_steps_are_stopped_where_they_end_only(decider, tmp_path, capsys):
    def ask(steps):
        generator = {"model": "nano-he", "steps": steps, "width": 64, "height": 64}
        return list_shares(load_recipe(write_recipe(tmp_path / str(steps), generator=generator)))

    assert [ask(1), ask(2), ask(4)] == [(), (0.5,), (0.25, 0.5)]
    assert ask(12) == SHARES
    rows = draw_tries(150, lambda share: 0.001)
    assert {each["at"] for each in propose_early(decider, rows, (0.5,))["choices"]} == {0.5}
    _print_early(propose_early(decider, rows[:4], ()))  # more tries would not help
    assert "(the model takes too few steps" in capsys.readouterr().out
