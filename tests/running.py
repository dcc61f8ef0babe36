"""Helpers for tests that run recipes: writing one, running it, and reading what came out."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from factory import api
from factory.cli import main
from factory.core.errors import Problem, RecipeError
from factory.engine.drain import Drain
from factory.engine.executors.abreast import Abreast
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe

FILTERS = [
    {"kind": "finite", "min_contrast": 0.1435},
    {"kind": "tissue"},
]
"""Real filters; the contrast threshold rejects about half of the normals that `fake` draws."""
DEDUP = {"max_similarity": 0.97}


def call(*words: object) -> Result:
    """Runs `factory` with these words in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def ask(*words: object, code: int = 0) -> str:
    """Does the same, which must end with a code, and returns all that it printed."""
    result = call(*words)
    assert result.exit_code == code, result.output
    return result.output


def write_recipe(folder: Path, **changes) -> Path:
    """Writes a recipe of the fake model, with sections replaced or merged by `changes`.

    Other filters are not followed by a `dedup` unless that is among the changes.
    """
    recipe = {
        "name": "test",
        "seed": 7,
        "generator": {"model": "fake", "width": 32, "height": 32, "batch_size": 4},
        "conditions": [{"kind": "class", "per_class": {"normal": 10, "tumor": 13}}],
        "filters": FILTERS,
        **({} if "filters" in changes else {"dedup": DEDUP}),
        "budget": {"attempts": 8},
        "workers": {"executor": "local"},
        "output": {"shard_size": 4},
        "card": {"license": "cc0-1.0"},
    }
    for key, value in changes.items():
        merges = isinstance(value, dict) and isinstance(recipe.get(key), dict)
        recipe[key] = {**recipe[key], **value} if merges else value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run_recipe(
    loaded,
    url,
    notify=lambda outcome: None,
    say=lambda line: None,
    extend=False,
    planned=None,
    watch=None,
):
    """Runs a loaded recipe in this process."""
    told = {"notify": notify, "say": say, "watch": watch}
    return api.run(loaded, url, extend=extend, planned=planned, **told)


def run(
    recipe: Path,
    out: Path,
    extend=False,
    overrides=(),
    notify=lambda outcome: None,
    watch=None,
    say=lambda line: None,
):
    """Runs a recipe in this process."""
    loaded = load_recipe(recipe, overrides)
    return run_recipe(loaded, str(out), notify, say, extend, watch=watch)


def fill_shard(worker, task, report=lambda progress: None, drain=None):
    """Has a worker fill one shard alone; returns its marker."""
    tasks = [task]
    abreast = Abreast(worker, report, drain or Drain())
    [(_, (marker, error, _))] = abreast.fill(lambda is_busy: tasks.pop() if tasks else None)
    assert marker is not None, error
    return marker


def read_rows(out: Path, folder: str = "data") -> list[dict]:
    """Reads all rows of the data set, or of the rejected ones."""
    tables = [pq.read_table(path) for path in sorted((out / folder).glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def save_again(source: Path, target: Path, suffix: str = ".bmp") -> Path:
    """Writes every PNG below a folder as another file of the same pixels; returns `target`."""
    for path in sorted(source.rglob("*.png")):
        copy = (target / path.relative_to(source)).with_suffix(suffix)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy)
    return target


def list_identities(out: Path) -> set[tuple[str, str]]:
    """Returns (sample_id, image_sha256) of all accepted rows; asserts that none is there twice."""
    rows = read_rows(out)
    found = {(row["sample_id"], row["image_sha256"]) for row in rows}
    assert len(found) == len(rows)
    return found


def read_json(path: Path):
    """Reads a JSON file."""
    return json.load(io.BytesIO(path.read_bytes()))


def save_classifier(folder: Path, head, names, described, encoder="color-texture", **more) -> None:
    """Writes a classifier folder of a head that somebody made, calibrated on nothing."""
    from factory.models.classifiers import model

    info = model.ClassifierInfo(
        class_names=names,
        encoder=encoder,
        encoder_description=model.EncoderDescription(**described),
        image_size=32,
        fit="crop",
        calibration=model.Calibration(temperature=1.0, fitted_on="nothing"),
        head_sha256=model.save_head(head, folder),
        data=model.TrainingData(sha256="0", images=0, per_class={}, groups=None),
        report={},
        libraries={},
        **more,
    )
    model.save_info(info, folder)


def find_problems(path: Path, check_files: bool = True) -> dict[str, Problem]:
    """Returns what a check of a recipe complains of, by field; it must complain."""
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe(path), check_files)
    return {problem.field: problem for problem in caught.value.problems}


def find_messages(path: Path, check_files: bool = True) -> dict[str, str]:
    """Returns the messages of `find_problems`."""
    return {name: each.message for name, each in find_problems(path, check_files).items()}


def stop_after(count: int) -> Callable[[object], None]:
    """Returns what interrupts a run, as Ctrl-C does, when so many tasks have ended."""
    ended: list[object] = []

    def stop(outcome: object) -> None:
        ended.append(outcome)
        if len(ended) == count:
            raise KeyboardInterrupt

    return stop
