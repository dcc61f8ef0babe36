"""What README and pages tell readers to type, in their order, on real patches."""

import csv
import json
import pkgutil
import re
import shutil
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from factory.cli import main
from factory.data.images import list_images
from tests import ASSETS
from tests.commands import read_options
from tests.documents import (
    NOT_RUN,
    REPLACED,
    ROOT,
    SHORT,
    SHORTENED,
    Block,
    Step,
    list_blocks,
    list_pages,
    list_steps,
    load_hook,
)
from tests.hub import open_hub
from tests.publish.test_publish import build_environment, call
from tests.running import read_rows

HOOK = load_hook()
MARK, WRITERS = HOOK.MARK, HOOK.WRITERS
PCAM = ASSETS / "pcam"
PAGES = {str(path.relative_to(ROOT)): path for path in list_pages()}
BLOCKS = [
    block for name, path in PAGES.items() for block in list_blocks(path.read_text("utf-8"), name)
]
STEPS = list_steps(BLOCKS)
ELSEWHERE = "docs/guides/load.md"
"""The page whose Python tests/docs/test_import_paths.py runs."""
CHEAP = ("factory recipes", "factory validate", "factory plan", "factory models show")
"""Commands that need no run before them, and no model."""
MINE = "classifiers/mine"
"""What an earlier command makes."""
CHECKS = {
    "bash": None,  # read, and run where a test can afford it
    "python": None,  # run
    "yaml": yaml.safe_load,
    "json": json.loads,
    "toml": tomllib.loads,
    "csv": lambda text: [*csv.reader(text.splitlines(), strict=True)],
    "text": lambda text: text,
}
"""Language of a block -> what reads it. `text` is for drawings."""


def prepare(folder):
    """Writes what a reader brings: patches, image-caption pairs, masks, and two domains."""
    for number, image in enumerate(list_images(PCAM / "train") + list_images(PCAM / "test")):
        path = Path(image.place)
        split, name = path.parts[-3:-1]
        target = folder / "PATCHES" / split / name / f"P{number:02}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ASSETS / "masks" / "nuclei", folder / "MASKS")
    shutil.copytree(ASSETS / "oral-oscc" / "test", folder / "FROZEN")
    shutil.copytree(PCAM / "test", folder / "FFPE")
    write_pairs(folder)
    write_spots(folder)
    write_tiles(folder)
    for pairs, split in (("PAIRS", "test"), ("OTHER_PAIRS", "train")):
        (folder / pairs).mkdir()
        lines = ["file_name,text"]
        for number, path in enumerate(sorted((folder / "PATCHES" / split).rglob("*.webp"))):
            shutil.copy(path, folder / pairs)
            lines.append(f"{path.name},H&E of {path.parent.name} {split} tissue number {number}")
        (folder / pairs / "metadata.csv").write_text("\n".join(lines) + "\n")


def write_pairs(folder):
    """Writes two channels of three places, what a model predicts of them, and their nuclei."""
    draw = np.random.default_rng(0)
    for name in ("MIF", "PREDICTED", "NUCLEI"):
        (folder / name).mkdir()
    nuclei = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((8, 8), np.uint8))
    for key in ("P01_0413", "P01_0977", "P02_0040"):
        real = (draw.random((2, 4, 4)) * 200).repeat(8, 1).repeat(8, 2).astype(np.float32)
        np.save(folder / "MIF" / f"{key}.npy", real)
        np.save(folder / "PREDICTED" / f"{key}.npy", real + draw.normal(0, 20, real.shape))
        Image.fromarray(nuclei).save(folder / "NUCLEI" / f"{key}.png")


def write_spots(folder):
    """Writes spots of four patients, two held out; shares of cell types follow the class."""
    draw = np.random.default_rng(0)
    (folder / "SPOTS").mkdir()
    lines = ["image,patient,section,split,prop_tumor,prop_stroma"]
    for number, path in enumerate(sorted((folder / "PATCHES").rglob("*.webp"))):
        shutil.copy(path, folder / "SPOTS")
        tumor = draw.uniform(0.5, 0.9) if path.parent.name == "tumor" else draw.uniform(0.1, 0.5)
        patient = number % 4
        split = "train" if patient < 2 else "test"
        shares = f"{tumor:.3f},{1 - tumor:.3f}"
        lines.append(f"{path.name},P{patient},P{patient}-{number % 3},{split},{shares}")
    (folder / "SPOTS" / "spots.csv").write_text("\n".join(lines) + "\n")


def write_tiles(folder):
    """Writes tiles with dark nuclei where masks mark them; masks of the test are others."""
    for path in sorted((folder / "MASKS").rglob("*.png")):
        labels, name = np.asarray(Image.open(path)), path.relative_to(folder / "MASKS")
        for split, marked in (("train", labels), ("test", np.roll(labels, 37, 0))):
            image = np.where(marked[..., None] > 0, (90, 60, 140), (230, 180, 205))
            for root, pixels in (("TILES", image), ("TILES/masks", marked)):
                target = folder / root / split / name
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(target)


def write_file(block, folder):
    """Writes the file that a block is."""
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    return path


def find_recipes(words):
    """Names the recipes of this repository by their whole path."""
    return [word.replace("recipes/", f"{ROOT}/recipes/") for word in words]


def follow(step, folder, environment):
    """Does what one step says; fails where that does not end as it should."""
    if step.block.title:
        write_file(step.block, folder)
        return
    if step.block.language == "python":
        exec(compile(step.text, step.block.page, "exec"), {})
        return
    words = step.list_words()
    if step.reason is not None:
        if words[0] == "factory":
            read_options(find_recipes(words[1:]))
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


def check_recipe(block, folder):
    """Validates a block as a recipe, or as part of the one that ships."""
    found = yaml.safe_load(block.text)
    options = [] if block.title else ["--no-files"]
    if "generator" not in found:
        shipped = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text("utf-8"))
        found = shipped | found
    path = folder / (Path(block.title).name or "recipe.yaml")
    path.write_text(yaml.safe_dump(found))
    result = CliRunner().invoke(main, ["validate", str(path), *options])
    assert result.exit_code == 0, f"{block.place}: {result.output}"


def is_recipe(block):
    """Whether a block is a recipe or a part of one; files in folders are catalog entries."""
    return block.language == "yaml" and "/" not in block.title


# --- what there is -------------------------------------------------------------------------------


def test_every_page_is_in_the_site():
    assert set(PAGES) - {"README.md"} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
    }


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 200
    assert sum(line.startswith("![") for line in lines) == 1


def test_links_of_the_readme_lead_to_what_there_is():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_block_is_read_by_a_test(block):
    check = CHECKS[block.language]
    assert check is None or check(block.text)
    if block.language == "text":
        assert not re.search(r"^\s*(\$ |factory |pip |import )", block.text, re.MULTILINE)


@pytest.mark.parametrize(
    "block", [each for each in BLOCKS if is_recipe(each)], ids=lambda block: block.place
)
def test_recipes_are_valid(block, tmp_path):
    for each in BLOCKS:
        if each.title and each.page == block.page:
            write_file(each, tmp_path)
    check_recipe(block, tmp_path)


@pytest.mark.stranger
def test_every_command_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    for step in STEPS:
        if step.block.title:
            write_file(step.block, tmp_path)
        words = step.list_words() if step.block.language == "bash" else []
        if words[:1] != ["factory"]:
            assert step.block.language != "bash" or step.reason, step.place
            continue
        for word in words:
            if word.startswith(("runs/", "classifiers/", "adapters/")):
                Path(word).mkdir(parents=True, exist_ok=True)
        read_options(find_recipes(words[1:]))


def test_cheap_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in STEPS:
        if step.block.title:
            write_file(step.block, tmp_path)
    costly = (MINE, "--speed")  # which compiles a model in many ways
    cheap = [
        step
        for step in STEPS
        if step.text.startswith(CHEAP) and not any(each in step.text for each in costly)
    ]
    assert len(cheap) > 6
    for step in cheap:
        follow(step, tmp_path, {})


@pytest.mark.slow("docs/test_installation.py::test_the_built_wheel_runs_the_quickstart_anywhere")
@pytest.mark.stranger
def test_the_pages_work_as_typed(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as where Python is typed in that folder
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    prepare(tmp_path)
    with open_hub() as hub:
        environment = build_environment(hub, tmp_path / "home")
        wrong, typed = [], set()
        for step in STEPS:
            if step.text in typed or (
                step.block.page == ELSEWHERE and step.block.language == "python"
            ):
                continue
            typed.add(step.text)
            try:
                follow(step, tmp_path, environment)
            except Exception as error:
                wrong.append(f"{step.place}: {step.text}\n{error}")
    assert not wrong, "\n\n".join(wrong)


def test_there_is_something_to_follow_and_the_tables_are_of_it():
    texts = [step.text for step in STEPS]
    assert len(texts) > 50
    assert {step.block.language for step in STEPS} >= {"bash", "python", "yaml"}
    for start in (*NOT_RUN, *SHORTENED, *SHORT):
        assert any(text.startswith(start) for text in texts), start
    for given in REPLACED:
        assert any(given in text for text in texts), given
    assert sum(step.reason is None for step in STEPS) > 40


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nfactory validate quickstart --fils\n```\n",
        "```bash\nfactory validate recipes/no-such.yaml\n```\n",
        "```bash\nfactory train generator recipes/no-such.yaml --outt models/mine\n```\n",
        "```bash\nls\n```\n",
        "```python\nimport factory.nothing\n```\n",
        "```python\nimport factory.nothing\n",
        "  ```python\n  import factory.nothing\n  ```\n",
        "```\nfactory validate quickstart\n```\n",
    ],
)
def test_a_wrong_page_fails(text, tmp_path):
    with pytest.raises((AssertionError, ImportError, ValueError, click.ClickException)):
        for step in list_steps(list_blocks(text)):
            follow(step, tmp_path, {})


@pytest.mark.parametrize("text", ["filtres: []", "generator: {model: nano-he}", "seed: -1"])
def test_a_wrong_recipe_fails(text, tmp_path):
    with pytest.raises(AssertionError, match=r"a\.md:2: "):
        check_recipe(Block("a.md", 2, "yaml", "", text), tmp_path)


def test_commands_are_split_as_a_shell_does():
    text = "```bash\nfactory run x \\\n  --set 'a b'   # why\nfactory init\n```\n"
    steps = list_steps(list_blocks(text))
    assert [(step.line, step.list_words()) for step in steps] == [
        (2, ["factory", "run", "x", "--set", "a b"]),
        (4, ["factory", "init"]),
    ]


def test_a_block_with_a_title_is_a_file(tmp_path):
    (step,) = list_steps(list_blocks('```yaml title="a/b.yaml"\nname: x\n```\n'))
    assert isinstance(step, Step)
    follow(step, tmp_path, {})
    assert (tmp_path / "a" / "b.yaml").read_text() == "name: x\n"


PATHS = r"`((?:factory|tests|docs|catalogs|recipes|jobs)/[\w./-]*)`"
"""Paths of this repository as a page names them."""


def test_paths_of_the_code_that_pages_name_are_there():
    named = [
        (name, path)
        for name, page in PAGES.items()
        for path in re.findall(PATHS, page.read_text("utf-8"))
    ]
    assert len(named) > 20
    assert [(name, path) for name, path in named if not (ROOT / path).exists()] == []


def test_objects_that_pages_show_are_there():
    named = [
        name
        for page in PAGES.values()
        for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(named) > 10
    for name in named:
        assert pkgutil.resolve_name(name).__doc__, name


# --- the reference, written from the code --------------------------------------------------------


def test_every_writer_has_its_page():
    marks = [mark for path in PAGES.values() for mark in MARK.findall(path.read_text("utf-8"))]
    assert sorted(marks) == sorted(WRITERS)
    with pytest.raises(KeyError, match="nothing"):
        HOOK.fill_marks("<!-- from the code: nothing -->")


def test_the_reference_of_recipes_is_whole():
    schema, text = HOOK.ask("schema"), WRITERS["recipe fields"]() + WRITERS["filters"]()
    fields = [name for part in schema["$defs"].values() for name in part.get("properties", {})]
    assert len(fields) > 100
    for name in (*schema["properties"], *fields):
        assert f"| `{name}` |" in text, name
    assert "| `min_fraction` | number ≥ 0, ≤ 1 | `0.3` |" in text
    assert "| `min_fraction` |" not in WRITERS["recipe fields"]()


def test_every_filter_tells_how_it_measures():
    from factory.filters import FILTERS

    parts = re.split(r"^## (\w+)$", WRITERS["filters"](), flags=re.MULTILINE)[1:]
    told = dict(zip(parts[::2], parts[1::2], strict=True))
    assert sorted(told) == sorted(FILTERS.names)
    for kind, text in told.items():
        assert len(text.partition("**Scores**: ")[2]) > 150, kind
    assert "`blur_effect`, `sharpness`" in told["focus"]
    assert r"sqrt(a\*^2 + b\*^2)" in told["color_cast"]


def test_the_reference_of_commands_is_whole():
    text = WRITERS["commands"]()
    assert "## factory run\n" in text
    assert "### factory evaluate fewshot\n" in text
    assert "| `--keep` | number > 0, ≤ 1 | `0.95` | Share of the real images" in text
    assert "| `RECIPES` | path, repeatable | required |  |" in text
    assert "Sentinel" not in text


@pytest.mark.parametrize(
    ("writer", "words"),
    [
        ("worked recipes", ("recipes", "list", "--json")),
        ("models", ("models", "list", "--json")),
        ("encoders", ("encoders", "list", "--json")),
    ],
)
def test_the_reference_of_what_ships_is_whole(writer, words):
    entries, text = HOOK.ask(*words), WRITERS[writer]()
    assert len(entries) > 10
    for entry in entries:
        name = entry.get("id", entry.get("name"))
        assert f"| `{name}` |" in text or f"## {name}\n" in text


def test_every_column_of_a_row_is_described():
    from factory.data.schema import CONTENT_COLUMNS

    page = PAGES["docs/reference/dataset.md"].read_text("utf-8")
    for name in (*(name for name, _ in CONTENT_COLUMNS), "label", "scores", "provenance"):
        assert re.search(rf"^\|.*`{name}`.*\|", page, re.MULTILINE), name
