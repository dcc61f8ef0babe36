"""Commands that pages, recipes, cards and jobs mention are there, with their options."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from factory.cli import main
from factory.core.errors import FactoryError
from tests.docs.test_docs import read_options
from tests.documents import ROOT, list_mentions
from tests.running import call


def list_others():
    """Returns what else tells people to type commands: jobs, recipes, cards, how to contribute."""
    found = [*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "catalogs").rglob("*.md")]
    found += [path for path in (ROOT / "jobs").iterdir() if path.is_file()]
    return sorted([*found, ROOT / ".github" / "CONTRIBUTING.md"])


def read_mention(words):
    """Reads a command that a page mentions; what is named without arguments must be there."""
    rest, command = words[1:], main
    while rest and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, words
        command, rest = found, rest[1:]
    if rest or not any(each.required for each in command.params):
        stands_for = {"$recipe": "quickstart", "$out": "runs/x", "$@": "--extend"}
        stands_for["${options[@]}"] = "--executor=ray"
        read_options([stands_for.get(word, word) for word in words[1:] if word != "&"])


def test_every_command_that_other_pages_mention_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("data/my-patches/train", "pcam-mini/train", "pcam-mini/test", "FOLDER"):
        Path(place).mkdir(parents=True)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    steps = [(path, step) for path in list_others() for step in list_mentions(path)]
    assert len(steps) > 20
    for path, step in steps:
        try:
            read_mention(shlex.split(step.text))
        except (AssertionError, click.ClickException, FactoryError) as error:
            pytest.fail(f"{path.relative_to(ROOT)}: {step.text}: {error}")
    asked = re.findall(r"`(--[^`]*)`", (ROOT / "jobs" / "README.md").read_text())
    assert asked, "options of jobs"
    for options in asked:
        read_options(["run", "quickstart", *shlex.split(options)])


@pytest.mark.parametrize(
    "text",
    [
        "# factory run quikstart\n",
        "#   factory judge --data . \\\n#     --recipee quickstart --out x\n",
        "Use `factory refliter`.\n",
        'python -m factory run "$recipe" --outt "$out" &&\n',
    ],
)
def test_a_wrong_mention_fails(text, tmp_path):
    (tmp_path / "page").write_text(text)
    [step] = list_mentions(tmp_path / "page")
    with pytest.raises((AssertionError, click.ClickException, FactoryError)):
        read_mention(shlex.split(step.text))


def test_every_recipe_that_ships_is_valid_by_name_and_as_a_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in (ROOT / "recipes").glob("*.yaml")]
    assert len(names) > 10
    for name in names:
        assert call("recipes", "copy", name).exit_code == 0, name
    for listed in (names, [f"{name}.yaml" for name in names]):
        result = call("validate", "--no-files", *listed)
        assert result.exit_code == 0, result.output
    training = [str(path) for path in (ROOT / "recipes" / "training").glob("*.yaml")]
    assert training
    result = call("validate", "--no-files", *training)
    assert result.exit_code == 0, result.output
