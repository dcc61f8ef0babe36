"""Bad values on the command line: one line, exit code 2, nothing written; and the last handler."""

import math
import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from factory.cli import crash, main
from factory.cli.options import NewPath, Number
from tests import ROOT
from tests.cli.test_cli import COMMAND_LINES, call, call_process
from tests.running import run, write_recipe

LEAVES = [(line, command) for line, command in COMMAND_LINES if not hasattr(command, "commands")]
PARAMETERS = [(line, each) for line, command in LEAVES for each in command.params]
NUMBERS = [
    (line, each)
    for line, each in PARAMETERS
    if isinstance(each.type, click.types.IntParamType | click.types.FloatParamType)
]
HUGE = "1" + 40 * "0"
NO_NUMBERS = ("nan", "inf", "-inf", "1e999", HUGE, f"-{HUGE}", "many")
WRITTEN = re.compile(r"--(out|json|gallery|cache|draws)$")


def name_case(case):
    return f"{case[0]} {case[1].opts[0]}"


def list_bad_numbers(kind, turn=None):
    """What is no number (of a turn: two of that), and those beside both bounds."""
    if isinstance(kind, Number):
        low = kind.min if kind.min_open else math.nextafter(kind.min, -math.inf)
        high = kind.max if kind.max_open else math.nextafter(kind.max, math.inf)
    else:
        low, high = kind.min - 1, kind.max + 1
    words = NO_NUMBERS if turn is None else [NO_NUMBERS[(turn + each) % 7] for each in (0, 3)]
    return (*words, repr(low), repr(high))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run, its recipe, and things that are not what a command wants."""
    folder = tmp_path_factory.mktemp("place")
    recipe = write_recipe(
        folder / "recipes", conditions=[{"kind": "class", "per_class": {"normal": 2}}]
    )
    assert run(recipe, folder / "run").url
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no image and no recipe")
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    return folder


def fill(line, place, **changes):
    """Arguments of a command: whatever is required, and the changes by the parameters' names."""
    command = next(command for each, command in LEAVES if each == line)
    arguments = line.split()
    for each in command.params:
        key = each.opts[0]
        if key not in changes and not each.required:
            continue
        value = changes.get(key)
        if value is None:
            value = fill_one(each, place)
        arguments += [key, value] if key.startswith("-") else [value]
    return [str(argument) for argument in arguments]


def fill_one(parameter, place):
    name, kind = parameter.name, parameter.type
    if isinstance(kind, click.Choice):
        return kind.choices[0]
    if isinstance(kind, click.IntRange):
        return kind.min
    if "recipe" in name:
        return place / "recipes" / "recipe.yaml"
    return place / "new" if name == "out" else place / "run"


def refuse(place, line, parameter, value):
    """Calls a command with one bad value, which it must refuse; returns what it said."""
    result = call(*fill(line, place, **{parameter.opts[0]: value}))
    assert result.exit_code == 2, (line, parameter.opts[0], value, result.output)
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    return result


def test_there_are_numbers_and_paths():
    assert len(NUMBERS) > 40
    assert {line for line, _ in NUMBERS} >= {"verify", "merge", "train adapter", "evaluate all"}


def test_every_number_has_both_bounds():
    for case in NUMBERS:
        kind = case[1].type
        assert isinstance(kind, click.IntRange | Number), f"{name_case(case)}: see cli/options.py"
        assert None not in (kind.min, kind.max), name_case(case)
        assert not kind.clamp, name_case(case)


@pytest.mark.stranger
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_bad_number_is_exit_code_2(place, every):
    for turn, (line, parameter) in enumerate(NUMBERS):
        for value in list_bad_numbers(parameter.type, None if every else turn):
            result = refuse(place, line, parameter, value)
            assert parameter.opts[0] in result.stderr
    assert not (place / "new").exists()


@pytest.mark.stranger
def test_a_value_that_is_no_text_is_exit_code_2(place):
    for line, parameter in PARAMETERS:
        if getattr(parameter, "is_flag", False):
            continue
        key = parameter.opts[0]
        for text, word in (("", "is empty"), ("  ", "is empty"), (os.fsdecode(b"a\xff"), "UTF-8")):
            result = refuse(place, line, parameter, text)
            assert word in result.stderr
            assert not key.startswith("-") or key in result.stderr
        if key.startswith("--"):
            result = call(*fill(line, place), f"{key}=")
            assert (result.exit_code, f"{key}: is empty" in result.stderr) == (2, True)
    assert not (place / "new").exists()


def is_written(parameter):
    named = WRITTEN.match(parameter.opts[0]) and not parameter.is_flag
    return bool(named or isinstance(parameter.type, NewPath))


@pytest.mark.stranger
def test_a_place_that_cannot_be_written_is_exit_code_2(place):
    written = [case for case in PARAMETERS if is_written(case[1])]
    assert len(written) > 20
    for line, parameter in written:
        assert isinstance(parameter.type, NewPath), f"{line}: see cli/options.py"
        wrong = place / ("notes.txt" if parameter.type.dir_okay else "empty")
        for value in (wrong, place / "notes.txt" / "below", "x" * 5000):
            refuse(place, line, parameter, value)
    assert (place / "notes.txt").read_text() == "no image and no recipe"


LIGHT = ("validate", "plan", "preview", "run", "judge", "status", "refilter", "report", "card",
         "publish", "regenerate", "verify", "merge", "export", "calibrate", "train generator",
         "train encoder")  # fmt: skip
READ = [
    (line, each)
    for line, each in PARAMETERS
    if each.required and not is_written(each) and not isinstance(each.type, click.Choice)
    and not isinstance(each.type, click.IntRange)
]  # fmt: skip


@pytest.mark.stranger
def test_an_input_that_is_not_one_is_exit_code_2(place):
    for line, parameter in READ:
        values = [place / "absent", "x" * 5000]
        if line in LIGHT:
            values += [place / "notes.txt", place / "empty", place / "bytes.yaml"]
        for value in values:
            refuse(place, line, parameter, value)
            assert not (place / "new").exists(), (line, parameter.opts, value)


# --- the last handler ----------------------------------------------------------------------------


def fail_with(error, monkeypatch):
    def load(self, name):
        raise error.with_traceback(None)

    monkeypatch.setattr("factory.catalog.catalog.Catalogs.find_model", load)
    return call("models", "show", "fake")


@pytest.mark.parametrize(
    "error",
    [ValueError("one\ntwo"), KeyError("x"), OSError(71, "Protocol error", "disk"),
     ConnectionError("no cluster"), RecursionError(), MemoryError(), AssertionError(),
     UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), TypeError("é")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.stranger
def test_what_nobody_foresaw_is_one_line_and_a_file(error, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    result = fail_with(error, monkeypatch)
    assert result.exit_code == 3
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: unexpected {type(error).__name__}")
    (file,) = (tmp_path / "state" / "factory").iterdir()
    assert str(file) in line
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    fail_with(error, monkeypatch)
    assert len(list(file.parent.iterdir())) == 1  # the same crash again takes no more room


def test_a_remote_traceback_gives_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    told = 'ray::Worker.f()\nTraceback (most recent call last):\n  File "x", line 1\nValueError: no'
    result = fail_with(RuntimeError(told), monkeypatch)
    assert "unexpected RuntimeError: ValueError: no (" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_crash_is_told_where_no_file_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(crash, "_list_folders", lambda: [tmp_path / "file" / "below"])
    result = fail_with(ValueError("x"), monkeypatch)
    assert result.exit_code == 3
    assert "no file could be written" in result.stderr


def test_the_second_folder_is_tried(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    result = fail_with(ValueError("x"), monkeypatch)
    assert str(tmp_path / "temporary" / "factory") in result.stderr


def test_errors_of_ours_and_of_click_keep_their_codes(monkeypatch):
    assert fail_with(click.UsageError("wrong"), monkeypatch).exit_code == 2
    assert call("models", "show", "nothing").exit_code == 2
    assert call("--help").exit_code == 0


@pytest.mark.stranger
def test_a_reader_that_goes_away_is_no_crash():
    code = (
        "import sys\n"
        "from factory.cli import main\n"
        "sys.argv = ['factory', 'models', 'list', '--json']\n"
        "main()"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        cwd=ROOT, timeout=60,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 3


def test_a_real_process_ends_with_3(tmp_path):
    code = (
        "import sys, factory.catalog.catalog\n"
        "from factory.cli import main\n"
        "factory.catalog.catalog.load_catalogs = lambda folders: 1 / 0\n"
        "sys.argv = ['factory', 'models', 'list']\n"
        "main()"
    )
    done = call_process(code=code)
    assert done.returncode == 3
    assert "unexpected ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.stranger
def test_a_namesake_is_warned_of(monkeypatch):
    assert call("models", "list").stderr == ""
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: name)
    result = call("models", "list")
    assert result.exit_code == 0
    assert "factory_boy" in result.stderr


def test_runner_sees_what_processes_see(monkeypatch):
    """CliRunner and a process go through the same handler."""
    monkeypatch.setattr("factory.catalog.catalog.load_catalogs", lambda folders: 1 / 0)
    assert CliRunner().invoke(main, ["models", "list"]).exit_code == 3
