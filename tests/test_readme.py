"""What the README tells readers to type, in its order, on real patches."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from factory.cli import main
from factory.errors import FactoryError
from factory.sources import list_images
from tests.hub import open_hub
from tests.readme import NOT_RUN, REPLACED, SHORT, SHORTENED, list_mentions, list_steps
from tests.running import read_rows
from tests.test_publish import build_environment, call

ROOT = Path(__file__).parents[1]
PCAM = ROOT / "tests" / "assets" / "pcam"
STEPS = list_steps((ROOT / "README.md").read_text())
ELSEWHERE = "Load it"
"""The section whose blocks tests/test_import_paths.py runs."""


def prepare(folder):
    """Writes what a reader brings: patches with classes, and image-caption pairs."""
    for number, image in enumerate(list_images(PCAM / "train") + list_images(PCAM / "test")):
        path = Path(image.place)
        split, name = path.parts[-3:-1]
        target = folder / "PATCHES" / split / name / f"P{number:02}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for pairs, split in (("PAIRS", "test"), ("OTHER_PAIRS", "train")):
        (folder / pairs).mkdir()
        lines = ["file_name,text"]
        for number, path in enumerate(sorted((folder / "PATCHES" / split).rglob("*.webp"))):
            shutil.copy(path, folder / pairs)
            lines.append(f"{path.name},H&E of {path.parent.name} {split} tissue number {number}")
        (folder / pairs / "metadata.csv").write_text("\n".join(lines) + "\n")


def read_options(words):
    """Reads a command's options without running it."""
    command, name = main, ""
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(click.Context(command), name)
        assert command is not None, name
    command.make_context(name, words)


def follow(step, folder, environment):
    """Does what one step says; fails where that does not end as it should."""
    if step.language == "python":
        exec(compile(step.text, "README.md", "exec"), {})
        return
    words = step.list_words()
    if step.reason is not None:
        if words[0] == "factory":
            read_options([word.replace("recipes/", f"{ROOT}/recipes/") for word in words[1:]])
        return
    assert words[0] == "factory", words
    if "SAMPLE_ID" in words:
        words[words.index("SAMPLE_ID")] = read_rows(folder / words[2])[0]["sample_id"]
    if REPLACED["OWNER/NAME"] in words:
        done = call(["-m", *words], environment)
        code, told = done.returncode, done.stdout + done.stderr
    else:
        result = CliRunner().invoke(main, words[1:])
        code, told = result.exit_code, result.output
    assert code == 0 or (code == 1 and step.text.startswith(SHORT)), f"{code}: {told}"
    assert "NOT MEASURED: " not in told or "control" in told, told


@pytest.mark.stranger(
    18,
    "every command of the README, its options and paths read in its order",
    "each is a command that there is, with options and recipes that there are",
)
def test_every_command_of_the_readme_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    for step in STEPS:
        words = step.list_words() if step.language == "bash" else []
        if words[:1] != ["factory"]:
            continue
        for word in words:
            if word.startswith(("runs/", "classifiers/", "adapters/")):
                Path(word).mkdir(parents=True, exist_ok=True)
        read_options([word.replace("recipes/", f"{ROOT}/recipes/") for word in words[1:]])


@pytest.mark.slow
@pytest.mark.stranger(
    18,
    "every command and block of the README, typed in its order, on real patches",
    "each ends as the README says, and the next one finds what it names",
)
def test_the_readme_works_as_typed(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    prepare(tmp_path)
    with open_hub() as hub:
        environment = build_environment(hub, tmp_path / "home")
        wrong = []
        for step in STEPS:
            if step.section == ELSEWHERE and step.language == "python":
                continue
            try:
                follow(step, tmp_path, environment)
            except Exception as error:
                wrong.append(f"README.md:{step.line}: {step.text}\n{error}")
    assert not wrong, "\n\n".join(wrong)


def list_pages():
    """Returns what else tells people to type commands: jobs, recipes, cards, how to contribute."""
    found = [*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "catalogs").rglob("*.md")]
    found += [path for path in (ROOT / "jobs").iterdir() if path.is_file()]
    return sorted([*found, ROOT / "recipes" / "README.md", ROOT / ".github" / "CONTRIBUTING.md"])


def read_mention(words):
    """Reads a command that a page mentions; what is named without arguments must be there."""
    rest, command = words[1:], main
    while rest and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, words
        command, rest = found, rest[1:]
    if rest or not any(each.required for each in command.params):
        stands_for = {"$recipe": "quickstart", "$out": "runs/x", "$@": "--extend"}
        read_options([stands_for.get(word, word) for word in words[1:]])


def test_every_command_that_other_pages_mention_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("data/my-patches/train", "pcam-mini/train", "pcam-mini/test", "FOLDER"):
        Path(place).mkdir(parents=True)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    steps = [(path, step) for path in list_pages() for step in list_mentions(path)]
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
        assert CliRunner().invoke(main, ["recipes", "copy", name]).exit_code == 0, name
    for listed in (names, [f"{name}.yaml" for name in names]):
        result = CliRunner().invoke(main, ["validate", "--no-files", *listed])
        assert result.exit_code == 0, result.output
    training = [str(path) for path in (ROOT / "recipes" / "training").glob("*.yaml")]
    assert training
    result = CliRunner().invoke(main, ["validate", "--no-files", *training])
    assert result.exit_code == 0, result.output


def test_there_is_something_to_follow_and_the_tables_are_of_it():
    texts = [step.text for step in STEPS]
    assert len(texts) > 30
    assert {step.language for step in STEPS} == {"bash", "python"}
    for start in (*NOT_RUN, *SHORTENED, *SHORT):
        assert any(text.startswith(start) for text in texts), start
    for given in REPLACED:
        assert any(given in text for text in texts), given
    assert sum(step.reason is None for step in STEPS) > 25


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nfactory validate quickstart --fils\n```\n",
        "```bash\nfactory validate recipes/no-such.yaml\n```\n",
        "```bash\nfactory train generator recipes/no-such.yaml --outt models/mine\n```\n",
        "```bash\nls\n```\n",
        "```python\nimport factory.nothing\n```\n",
    ],
)
def test_a_wrong_readme_fails(text, tmp_path):
    with pytest.raises((AssertionError, ImportError, click.ClickException)):
        for step in list_steps(text):
            follow(step, tmp_path, {})


def test_commands_are_split_as_a_shell_does():
    text = "## A\n```bash\nfactory run x \\\n  --set 'a b'   # why\nfactory init\n```\n"
    steps = list_steps(text)
    assert [(step.line, step.list_words()) for step in steps] == [
        (3, ["factory", "run", "x", "--set", "a b"]),
        (5, ["factory", "init"]),
    ]
