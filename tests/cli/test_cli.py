"""The command line: every command, exit codes, messages, JSON, and no heavy import too early."""

import gc
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from PIL import Image

from factory.cli import COMMANDS, main
from factory.core.errors import RecipeError
from factory.core.yaml.reader import read_document
from factory.engine.continuing import only_decides
from tests import ROOT
from tests.mutations import SOUND, iterate_broken_files, iterate_mutations
from tests.running import call, list_identities, read_json, read_rows, write_recipe

HEAVY = (
    *("torch", "ray", "diffusers", "datasets", "pyarrow", "sklearn", "transformers", "open_clip"),
    *("matplotlib", "scipy", "pandas", "jinja2", "fsspec", "numpy"),
)
SHORT = ("--set", "budget.attempts=1")
"""One attempt each: about half of the normals that `fake` draws are rejected."""


def call_process(*arguments, code=None):
    """Runs a command as users do; `code` replaces the entry point."""
    start = ["-m", "factory"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)], cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def list_commands(group=main, path=()):
    """Every (words, command), groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from list_commands(command, (*path, name))


COMMAND_LINES = [(" ".join(words), command) for words, command in list_commands()]
LINE_IDS = [line for line, _ in COMMAND_LINES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that tests only read: recipe, run folder, and what the command gave."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder)
    return recipe, folder / "run", call("run", recipe, "--out", folder / "run")


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


# --- help and documentation ----------------------------------------------------------------------


def test_help_lists_every_command():
    result = call("--help")
    assert result.exit_code == 0
    listed = re.findall(r"^  ([a-z]+)  ", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)
    assert "Exit codes" in result.stdout


@pytest.mark.parametrize(("line", "command"), COMMAND_LINES, ids=LINE_IDS)
def test_every_command_has_help(line, command):
    result = call(*line.split(), "--help")
    assert result.exit_code == 0
    assert re.match(rf"Usage: \S+ {line}\b", result.stdout)
    assert command.help and command.help.strip()[0].isupper()
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert all(each.help for each in options), [each.name for each in options if not each.help]


def test_there_are_subcommands():
    assert {"models list", "models show", "models check", "train generator"} <= set(LINE_IDS)


@pytest.mark.parametrize("line", LINE_IDS)
def test_every_command_stands_in_the_pages(line):
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    lines = page.partition("## Every option")[0].splitlines()
    group, _, name = line.partition(" ")
    assert any(f"factory {group}" in each for each in lines)
    beside = [each for each in lines if f"`factory {group} " in each]
    whole = any(re.search(rf"\bfactory {line}\b", each) for each in lines)
    assert whole or any(re.search(rf"`{name}\b", each) for each in beside)


def test_version():
    assert re.fullmatch(r"factory, version \d+\.\d+\.\d+\S*\n", call("--version").stdout)


def test_a_misspelt_command_is_suggested():
    result = call("rnu", "recipe.yaml")
    assert result.exit_code == 2
    assert "'rnu'" in result.stderr
    assert "did you mean 'run'" in result.stderr
    assert "did you mean" not in call("xyzzy").stderr


# --- imports and speed ---------------------------------------------------------------------------

LIST_HEAVY = f"""
import json, sys
from click.testing import CliRunner
from factory.cli import main

found = []
for line in sys.argv[1:]:
    done = CliRunner().invoke(main, line.split())
    found.append([line, done.exit_code, done.output, sorted(set({HEAVY}) & set(sys.modules))])
print(json.dumps(found))
"""
"""Runs commands one after the other and lists what heavy is there after each."""
LIGHT = (
    "--help",
    "--version",
    "run --help",
    "validate recipes/quickstart.yaml recipes/dry-run.yaml",
    "validate --no-files recipes/few-shot-variations.yaml",
    "models list",
    "schema",
)


def test_light_commands_import_nothing_heavy():
    *light, (_, _, said, heavy) = json.loads(
        call_process(*LIGHT, "status nowhere", code=LIST_HEAVY).stdout
    )
    assert [line for line, *_ in light] == list(LIGHT)
    for line, code, output, found in light:
        assert found == [], line
        assert code == 0 or "the weights of nano-he are missing" in output, (line, output)
    assert "pyarrow" in heavy, f"the check can fail: {said}"


def test_help_answers_at_once():
    call_process("--help")  # a new installation compiles what it imports, once
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert call_process("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    assert seconds < 2.0, "CPU seconds; well under one on a machine at rest"


# --- bad recipes ---------------------------------------------------------------------------------


def test_the_sound_recipe_runs(tmp_path):
    (tmp_path / "recipe.yaml").write_text(SOUND)
    result = call("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert result.exit_code in (0, 1), result.stderr
    assert (tmp_path / "out" / "summary.json").exists()


def test_broken_recipes_are_refused_by_file_line_and_field(tmp_path):
    """Every tenth of those that tests/recipe/test_mutations.py has checked one by one."""
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    where = re.compile(re.escape(str(path)) + r":\d+:\d+: \S")
    place = re.compile(re.escape(str(path)) + r":\d+:\d+: [a-z_]+[\w.\[\]\"-]*: \S")
    texts = [(name, text.encode()) for name, text in iterate_mutations()]
    cases = [*texts[::10], *iterate_broken_files()]
    assert len(cases) > 30
    with_field = 0
    for name, content in cases:
        path.write_bytes(content)
        result = call("run", path, "--out", out)
        assert result.exit_code == 2, (name, result.stderr, result.exception)
        assert isinstance(result.exception, SystemExit), name
        assert result.stdout == "", name
        assert list(tmp_path.iterdir()) == [path], (name, "something was touched")
        lines = result.stderr.removeprefix("error: ").splitlines()
        assert lines, name
        assert all(where.match(line) for line in lines), (name, lines)
        try:
            read_document(path)
        except RecipeError:
            continue  # no YAML at all: a place, but no field
        assert all(place.match(line) for line in lines), (name, lines)
        with_field += 1
    assert with_field > 20


@pytest.mark.parametrize("command", ["plan", "run", "validate"])
def test_all_problems_come_at_once(command, tmp_path):
    recipe = write_recipe(tmp_path, seed=-1, budget={"attempts": 0}, card={"license": "nope"})
    result = call(command, recipe)
    assert result.exit_code == 2
    assert "seed: " in result.stderr
    assert "budget.attempts: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run missing.yaml", "missing.yaml"),
        ("status .", "not a run folder"),
        ("card .", "no finalized run"),
        ("refilter .", "not a run folder"),
        ("models show fkae", "did you mean 'fake'"),
        ("models list --catalog missing", "no such catalog folder"),
        ("run", "Missing argument"),
    ],
)
def test_bad_input_is_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


# --- run -----------------------------------------------------------------------------------------


def test_a_good_run_ends_with_0(finished):
    _, out, result = finished
    assert result.exit_code == 0, result.stderr
    assert "normal: 10 of 10" in result.stdout
    assert "23 of 23 accepted" in result.stdout
    assert "load_dataset" in result.stdout
    assert len(read_rows(out)) == 23


@pytest.mark.slow("docs/test_installation.py::test_the_built_wheel_runs_the_quickstart_anywhere")
def test_a_real_process_gives_the_same(finished, tmp_path):
    recipe, out, _ = finished
    done = call_process("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "generating" in done.stderr
    assert list_identities(tmp_path / "run") == list_identities(out)


def test_a_shortfall_ends_with_1_and_says_why(tmp_path):
    result = call("run", write_recipe(tmp_path), "--out", tmp_path / "run", *SHORT)
    assert result.exit_code == 1
    short = 10 - sum(row["class_name"] == "normal" for row in read_rows(tmp_path / "run"))
    assert short > 0
    line = next(each for each in result.stderr.splitlines() if each.startswith("SHORTFALL"))
    assert line.startswith(f"SHORTFALL normal: {short} short of 10; ")
    assert re.search(rf"rejected for: finite[^,]*\({short}\)", line)
    assert "raise budget.attempts" in result.stderr
    assert "SHORTFALL tumor" not in result.stderr


def test_a_shortfall_may_forbid_the_data_set(tmp_path):
    options = (*SHORT, "--set", "budget.on_shortfall=error")
    result = call("run", write_recipe(tmp_path), "--out", tmp_path / "run", *options)
    assert result.exit_code == 1
    assert "no data set was written" in result.stderr
    assert not (tmp_path / "run" / "data").exists()


def test_another_recipe_in_the_folder_ends_with_2(finished, run_copy):
    before = list_identities(run_copy), (run_copy / "README.md").read_bytes()
    result = call("run", finished[0], "--out", run_copy, "--set", "seed=8")
    assert result.exit_code == 2
    assert "seed" in result.stderr and "8" in result.stderr
    assert (list_identities(run_copy), (run_copy / "README.md").read_bytes()) == before


def test_growing_needs_consent(finished, run_copy):
    more = ("--set", "conditions[0].per_class.tumor=15")
    refused = call("run", finished[0], "--out", run_copy, *more)
    assert refused.exit_code == 2
    assert "--extend" in refused.stderr
    grown = call("run", finished[0], "--out", run_copy, *more, "--extend")
    assert grown.exit_code == 0, grown.stderr
    assert list_identities(finished[1]) < list_identities(run_copy)


def test_a_broken_run_ends_with_3_and_resumes(finished, tmp_path):
    """Storage fails for real: a file stands where the folder of shards belongs."""
    recipe, out, _ = finished
    shutil.copytree(out / ".factory", tmp_path / "run" / ".factory")
    blocker = tmp_path / "run" / ".factory" / "shards"
    shutil.rmtree(blocker)
    blocker.write_text("in the way")
    result = call("run", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 3, (result.exit_code, result.stderr)
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run" / "data").exists()
    blocker.unlink()
    assert call("run", recipe, "--out", tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") == list_identities(out)


def test_quarantined_shards_end_with_3_and_are_named(tmp_path, monkeypatch):
    from factory.models.generators.families.fake import FakeGenerator

    generate = FakeGenerator.generate

    def fail_on_the_first(self, jobs):
        if any(job.request.ordinal == 0 for job in jobs):
            raise RuntimeError("no driver")
        return generate(self, jobs)

    recipe, out = write_recipe(tmp_path, budget={"max_error_rate": 1.0}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(FakeGenerator, "generate", fail_on_the_first)
        result = call("run", recipe, "--out", out)
    assert result.exit_code == 3, result.stderr
    assert re.search(r"QUARANTINED \S+: RuntimeError: no driver", result.stderr)
    assert "run the same command again" in result.stderr
    status = call("status", out)
    assert "quarantined" in status.stdout
    assert call("run", recipe, "--out", out).exit_code == 0
    assert "quarantined" not in call("status", out).stdout


def test_out_is_the_recipes_own_path_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "recipes", output={"path": "mine"})
    assert call("run", recipe).exit_code == 0
    assert len(read_rows(tmp_path / "recipes" / "mine")) == 23
    bare = write_recipe(tmp_path / "bare")
    refused = call("run", bare)
    assert refused.exit_code == 2
    assert "give --out" in refused.stderr


def test_executor_and_workers_reach_the_recipe(tmp_path):
    recipe = write_recipe(tmp_path, workers={"executor": "ray", "count": 99})
    result = call("run", recipe, "--out", tmp_path / "run", "--executor", "local", "--workers", "1")
    assert result.exit_code == 0
    bad = call("run", recipe, "--out", tmp_path / "other", "--workers", "many")
    assert bad.exit_code == 2
    assert "workers.count" in bad.stderr
    assert not (tmp_path / "other").exists()


def test_set_reaches_any_field_and_says_what_it_lacks(tmp_path):
    recipe = write_recipe(tmp_path)
    options = ("--set", "conditions.0.per_class={normal: 2}", "--set", "output.image_format=png")
    assert call("run", recipe, "--out", tmp_path / "run", *options).exit_code == 0
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 2
    assert all(row["image"]["bytes"].startswith(b"\x89PNG") for row in rows)
    for wrong in ("budget.atempts=3", "budget.attempts", "budget.attempts=none"):
        result = call("run", recipe, "--out", tmp_path / "other", "--set", wrong)
        assert result.exit_code == 2, wrong
        assert wrong in result.stderr
        assert not (tmp_path / "other").exists()


# --- JSON ----------------------------------------------------------------------------------------


def test_json_of_run_and_status_agree(tmp_path):
    run = call("run", write_recipe(tmp_path), "--out", tmp_path / "run", "--json")
    assert (run.exit_code, run.stderr) == (0, "")
    report = json.loads(run.stdout)
    assert report["accepted"] == report["asked"] == 23
    assert report["url"] == str(tmp_path / "run")
    assert {key: report[key] for key in ("series", "generated")} == {
        key: read_json(tmp_path / "run" / "summary.json")[key] for key in ("series", "generated")
    }
    status = json.loads(call("status", tmp_path / "run", "--json").stdout)
    assert (status["done"], status["shards"], status["finalized"]) == (7, 7, True)
    assert [part["asked"] for part in status["series"]] == [10, 13]
    assert status["generated"] == report["generated"]


def test_json_of_a_shortfall_parses(tmp_path):
    result = call("run", write_recipe(tmp_path), "--out", tmp_path / "run", "--json", *SHORT)
    assert result.exit_code == 1
    series = {part["label"]: part for part in json.loads(result.stdout)["series"]}
    assert series["normal"]["short"] > 0
    assert series["tumor"]["short"] == 0


def test_json_of_validate(tmp_path):
    good, bad = write_recipe(tmp_path / "good"), write_recipe(tmp_path / "bad", seed=-1)
    result = call("validate", good, bad, "--json")
    assert result.exit_code == 2
    first, second = json.loads(result.stdout)
    assert first == {"recipe": str(good), "problems": [], "notes": []}
    assert second["recipe"] == str(bad)
    assert "seed" in second["problems"][0]


def test_json_of_models():
    entries = {entry["id"]: entry for entry in json.loads(call("models", "list", "--json").stdout)}
    assert {"fake", "nano-he"} <= set(entries)
    shown = json.loads(call("models", "show", "fake", "--json").stdout)
    assert shown == entries["fake"]


# --- plan, preview, refilter, status, card -------------------------------------------------------


def test_plan_of_a_hundred_million_takes_no_time(tmp_path):
    counts = "conditions.0.per_class={normal: 50000000, tumor: 50000000}"
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = call("plan", write_recipe(tmp_path), "--no-calibrate", "--set", counts, "--json")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["images"] == 100_000_000
    assert report["shards"] == 25_000_000
    assert report["disk_gib"] == pytest.approx(1e8 * 2 * (32 * 32 * 3 + 4096) / 2**30)
    assert report["calibration"] is None
    assert after.ru_utime - before.ru_utime < 5.0
    assert after.ru_maxrss - before.ru_maxrss < 200_000, "KiB: the plan is never materialised"
    text = call("plan", tmp_path / "recipe.yaml", "--no-calibrate", "--set", counts).stdout
    assert "100,000,000 images" in text and "not calibrated" in text


def test_plan_calibrates_on_the_model(finished):
    recipe, _, run = finished
    result = call("plan", recipe, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["calibration"]["candidates"] == 8
    assert 0.5 <= report["acceptance"] < 1.0, "of normals about half, of tumors all"
    assert 23 < report["expected_candidates"] <= report["max_candidates"]
    assert report["seconds_per_candidate"] > 0
    assert run.exit_code == 0
    text = call("plan", recipe)
    assert re.search(r"calibrated on 8 candidates: acceptance \d+%", text.stdout)
    assert "loading the model fake and what filters: finite" in text.stderr
    assert "loading" not in result.stderr


def test_plan_needs_a_sound_recipe_only(tmp_path):
    result = call("plan", write_recipe(tmp_path, generator={"model": "fkae"}), "--no-calibrate")
    assert result.exit_code == 2
    assert "did you mean 'fake'" in result.stderr


def test_preview_writes_images_scores_and_a_sheet(finished, tmp_path):
    recipe, out, _ = finished
    result = call("preview", recipe, "--out", tmp_path / "look", "-n", "6", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert rows == read_json(tmp_path / "look" / "preview.json")
    assert [row["label"] for row in rows] == ["normal", "tumor"] * 3
    names = {row["file"] for row in rows} | {"preview.json", "preview.png"}
    assert {path.name for path in (tmp_path / "look").iterdir()} == names
    for row in rows:
        assert set(row["scores"]) and row["accepted"] is (row["rejected_by"] is None)
        with Image.open(tmp_path / "look" / row["file"]) as image:
            assert image.size == (32, 32)
    with Image.open(tmp_path / "look" / "preview.png") as sheet:
        assert sheet.width > 6 * 32
    tried = {row["seed"] for row in read_rows(out)} | {
        row["seed"] for row in read_rows(out, "rejected")
    }
    assert {row["seed"] for row in rows} <= tried, "the very tries that a run makes first"


def test_preview_prints_verdicts(finished, tmp_path):
    result = call("preview", finished[0], "--out", tmp_path / "look", "-n", "8")
    lines = result.stdout.splitlines()
    assert len(lines) == 9
    kept = sum(line.endswith("accepted") for line in lines[:-1])
    assert lines[-1].startswith(f"{kept} of 8 accepted; look at ")
    assert "loading the model fake and what filters: finite, tissue; " in result.stderr
    assert all("rejected by " in line for line in lines[:-1] if not line.endswith("accepted"))


def test_refilter_changes_the_data_set_without_generating(finished, run_copy):
    contrast = sorted(row["scores"]["contrast"] for row in read_rows(run_copy))
    threshold = contrast[len(contrast) // 4]
    assert contrast[0] < threshold
    option = f"filters.finite.min_contrast={threshold}"
    result = call("refilter", run_copy, "--set", option, "--json")
    assert result.exit_code == 1, "fewer are left than were asked for"
    report, kept = json.loads(result.stdout), read_rows(run_copy)
    assert report["accepted"] == len(kept) < 23
    assert all(row["scores"]["contrast"] >= threshold for row in kept)
    assert {row["sample_id"] for row in kept} < {row["sample_id"] for row in read_rows(finished[1])}
    assert report["generated"] == read_json(finished[1] / "summary.json")["generated"]
    for field in ("seed", "filters"):
        bad = call("refilter", run_copy, "--set", f"{field}={8 if field == 'seed' else []}")
        assert bad.exit_code == 2
        assert f"{field}: refilter changes thresholds" in bad.stderr
    unknown = call("refilter", run_copy, "--set", "filters.stain.min_plausibility=1")
    assert unknown.exit_code == 2
    assert "no filter 'stain'" in unknown.stderr


def test_a_run_with_other_thresholds_names_refilter(finished, run_copy):
    contrast = sorted(row["scores"]["contrast"] for row in read_rows(run_copy))
    option = ("--set", f"filters.finite.min_contrast={contrast[len(contrast) // 4]}")
    refused = call("run", finished[0], "--out", run_copy, *option)
    assert refused.exit_code == 2 and "belongs to another recipe" not in refused.stderr
    command = next(line for line in refused.stderr.splitlines() if "factory refilter" in line)
    words = shlex.split(command)
    assert words == ["factory", "refilter", str(run_copy), *option]
    assert call(*words[1:]).exit_code == 1
    assert len(read_rows(run_copy)) < 23
    other = call("run", finished[0], "--out", run_copy, *option, "--set", "seed=99")
    assert "belongs to another recipe" in other.stderr and "refilter" not in other.stderr


def test_scores_of_another_filter_are_not_decided_over():
    """A filter's model or images shape its scores: `refilter` has only those that are stored."""
    assert only_decides("filters.3.min_probability.tumor") and only_decides("pick.by")
    for field in ("filters.3.model", "filters.1.neighbours", "filters", "pick.pool", "seed"):
        assert not only_decides(field)


@pytest.mark.parametrize("command", ["status", "refilter", "report"])
def test_a_folder_of_images_is_no_run(command, tmp_path):
    (tmp_path / "normal").mkdir()
    told = call(command, tmp_path)
    assert told.exit_code == 2
    assert "not a run folder (holds normal): name one that `factory run`" in told.stderr
    assert "--out" not in told.stderr


@pytest.mark.stranger
def test_a_refilter_is_told_by_status_and_not_undone_by_a_run(finished, run_copy):
    contrast = sorted(row["scores"]["contrast"] for row in read_rows(run_copy))
    option = f"filters.finite.min_contrast={contrast[len(contrast) // 4]}"
    assert call("refilter", run_copy, "--set", option).exit_code == 1
    kept = list_identities(run_copy)
    told = json.loads(call("status", run_copy, "--json").stdout)
    assert sum(part["filled"] for part in told["series"]) == len(kept) < 23
    again = call("run", finished[0], "--out", run_copy)
    assert again.exit_code == 2
    assert "was refiltered (filters.0.min_contrast: 0.1435 ->" in again.stderr
    assert list_identities(run_copy) == kept
    assert call("refilter", run_copy).exit_code == 0
    assert call("run", finished[0], "--out", run_copy).exit_code == 0
    assert len(list_identities(run_copy)) == 23


@pytest.mark.stranger
@pytest.mark.parametrize("name", ["summary.json", "data/x.png", ".factory/run.json", "README.md"])
def test_no_option_writes_over_a_data_set(run_copy, name):
    before = sorted((path, path.stat().st_mtime_ns) for path in run_copy.rglob("*"))
    row = read_rows(run_copy)[0]["sample_id"]
    for words in (
        ("regenerate", run_copy, row, "--out", run_copy / name),
        ("evaluate", "copies", "--real", run_copy, "--synthetic", ".", "--json", run_copy / name),
    ):
        result = call(*words)
        assert result.exit_code == 2
        assert "of a run folder is its own" in result.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in run_copy.rglob("*")) == before


def test_status_of_a_finished_run(finished):
    result = call("status", finished[1])
    assert result.exit_code == 0
    assert "7 of 7 shards" in result.stdout
    assert "normal: 10 of 10 filled" in result.stdout
    assert result.stdout.splitlines()[-1] == "finalized"
    assert call("status", finished[1], "--watch").exit_code == 0, "ends when all is done"


def test_card_writes_the_readme_again(run_copy):
    before = (run_copy / "README.md").read_bytes()
    (run_copy / "README.md").unlink()
    result = call("card", run_copy)
    assert result.exit_code == 0, result.stderr
    assert (run_copy / "README.md").read_bytes() == before
    assert str(run_copy / "README.md") in result.stdout


# --- init, schema, models ------------------------------------------------------------------------


def test_init_writes_a_recipe_that_validates_and_refuses_to_overwrite(tmp_path):
    folder = tmp_path / "new" / "folder"
    result = call("init", folder)
    assert result.exit_code == 0, result.stderr
    assert f"factory run {folder / 'recipe.yaml'}" in result.stdout
    assert call("validate", "--no-files", folder / "recipe.yaml").exit_code == 0
    text = (folder / "recipe.yaml").read_text()
    assert text.startswith("#") and "$schema" not in text
    (folder / "recipe.yaml").write_text("mine")
    again = call("init", folder)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert (folder / "recipe.yaml").read_text() == "mine"


def test_schema_is_the_shipped_one(tmp_path):
    shipped = (ROOT / "recipes" / "schema" / "recipe.schema.json").read_text()
    assert call("schema").stdout == shipped
    out = tmp_path / "deep" / "schema.json"
    assert call("schema", "--out", out).exit_code == 0
    assert out.read_text() == shipped


def test_models_list_shows_ids_and_licences():
    result = call("models", "list")
    assert result.exit_code == 0
    ids = {line.split()[0] for line in result.stdout.splitlines()}
    shipped = {path.stem for path in (ROOT / "catalogs" / "models").glob("*.yaml")}
    assert ids == shipped
    assert re.search(r"^fake +64x64 .*apache-2.0$", result.stdout, re.MULTILINE)
    assert any(line.endswith(", gated") for line in result.stdout.splitlines())


def test_models_show_and_check():
    shown = yaml.safe_load(call("models", "show", "fake").stdout)
    assert (shown["id"], shown["licence"]["commercial_use"]) == ("fake", True)
    result = call("models", "check", "fake")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("fake: loads and samples here (64x64 px")


def test_models_of_a_user_catalog(tmp_path):
    folder = tmp_path / "catalog" / "models"
    folder.mkdir(parents=True)
    text = (ROOT / "catalogs" / "models" / "fake.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("id: fake", "id: mine"))
    assert call("models", "check", "mine", "--catalog", tmp_path / "catalog").exit_code == 0
    (folder / "mine.yaml").write_text(text.replace("id: fake", "id: other"))
    wrong = call("models", "check", "mine", "--catalog", tmp_path / "catalog")
    assert wrong.exit_code == 2
    assert f"{folder / 'mine.yaml'}:" in wrong.stderr


def test_validate_knows_recipes_of_training(tmp_path):
    shipped = ROOT / "recipes" / "training" / "nano-he.yaml"
    assert call("validate", shipped).exit_code == 0
    broken = tmp_path / "training.yaml"
    broken.write_text(shipped.read_text().replace("training:", "trainin:", 1))
    result = call("validate", broken)
    assert result.exit_code == 2
    assert "training.yaml:" in result.stderr


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_command_leaves_the_garbage_collector_as_it_was(is_enabled, monkeypatch):
    was_enabled = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        call("plan", "--help")
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
