"""Checks of a recipe's classifiers: whole folders, which know the classes asked for."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from factory.filters import FILTERS
from factory.filters.base import FilterSettings
from factory.models.classifiers.heads import Head
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests.running import call, find_problems, save_classifier, write_recipe


def check(path: Path, check_files: bool = True) -> None:
    loaded = load_recipe(path)
    check_recipe(loaded, check_files)


def write_classifier(folder: Path, *class_names: str, encoder: str = "color-texture") -> None:
    """Writes a classifier folder that loads, with a head that knows nothing."""
    classes, dim = len(class_names), 4
    head = Head(np.zeros(dim), np.ones(dim), np.zeros((classes, dim)), np.zeros(classes))
    description = {"id": "x", "revision": "1", "weights_sha256": None, "dim": dim}
    described = {**description, "preprocessing": "none"}
    save_classifier(folder, head, class_names, described, encoder)


def write_catalog_of_classifiers(base: Path) -> Path:
    """Writes the catalog `mine` with the classifier `he`, and returns that one's folder."""
    entries, folder = base / "mine" / "classifiers", base / "mine" / "he"
    entries.mkdir(parents=True)
    (entries / "he.yaml").write_text(
        "id: he\nsource: ../he\nclass_names: [normal, fibrosis]\n"
        'licence: {id: mit, date_read: "2026-11-20"}\n'
    )
    write_classifier(folder, "normal", "fibrosis")
    return folder


def test_classifiers(tmp_path: Path) -> None:
    folder = tmp_path / "classifiers" / "mine"
    path = write_recipe(
        tmp_path,
        conditions=[{"kind": "class", "per_class": {"normal": 1, "tumour": 1}}],
        filters=[{"kind": "classifier", "model": "./classifiers/mine"}],
    )
    assert "no such classifier folder" in find_problems(path)["filters[0].model"].message
    check(path, check_files=False)
    folder.mkdir(parents=True)
    assert "classifier.json" in find_problems(path)["filters[0].model"].message
    (folder / "classifier.json").write_text("[]")
    assert "train classifier" in find_problems(path)["filters[0].model"].message
    write_classifier(folder, "normal", "tumor")
    found = find_problems(path)
    assert list(found) == ["conditions[0].per_class.tumour"]
    assert "did you mean 'tumor'" in found["conditions[0].per_class.tumour"].message
    write_classifier(folder, "normal", "tumour", "x")
    check(path)


def test_classifiers_of_a_catalog(tmp_path: Path) -> None:
    write_catalog_of_classifiers(tmp_path)

    def write(model: str, **fields: Any) -> Path:
        filters = [{"kind": "classifier", "model": model}]
        conditions = [{"kind": "class", "per_class": {"normal": 1}}]
        changes = {"filters": filters, "conditions": conditions, **fields}
        return write_recipe(tmp_path, catalogs=["mine"], **changes)

    check(write("he"))
    assert "did you mean 'he'" in find_problems(write("hee"))["filters[0].model"].message
    conditions = [{"kind": "caption", "captions": "he-basic", "count": 2}]
    found = find_problems(write("he", conditions=conditions))["conditions[0].captions"]
    assert "does not know class" in found.message


def damage_head(folder: Path) -> None:
    path = folder / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def drop_a_field(folder: Path) -> None:
    path = folder / "classifier.json"
    info = json.loads(path.read_text())
    del info["calibration"]
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_head, r"head\.safetensors: damaged"),
        (drop_a_field, r"classifier\.json: calibration: Field required: .*train classifier"),
        (lambda folder: (folder / "head.safetensors").unlink(), r"head\.safetensors"),
        (lambda folder: (folder / "classifier.json").write_bytes(b"\xff{"), r"classifier\.json"),
        (shutil.rmtree, "no such classifier folder"),
    ],
)
@pytest.mark.parametrize("model", ["./mine/he", "he"])
def test_a_damaged_classifier_is_found(
    tmp_path: Path, model: str, damage: Callable[[Path], Any], message: str
) -> None:
    """By folder or by catalog id, before anything is generated."""
    folder = write_catalog_of_classifiers(tmp_path)
    filters = [{"kind": "classifier", "model": model}]
    conditions = [{"kind": "class", "per_class": {"normal": 1}}]
    path = write_recipe(tmp_path, catalogs=["mine"], filters=filters, conditions=conditions)
    check(path)
    damage(folder)
    found = find_problems(path)
    assert list(found) == ["filters[0].model"]
    assert re.search(message, found["filters[0].model"].message)
    check(path, check_files=False)


def test_a_classifier_without_its_own_encoder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    write_classifier(folder, "normal", "tumor", encoder=".")
    filters = [{"kind": "classifier", "model": "./it"}]
    conditions = [{"kind": "class", "per_class": {"normal": 1}}]
    path = write_recipe(tmp_path, filters=filters, conditions=conditions)
    assert "encoder.json: missing" in find_problems(path)["filters[0].model"].message
    for name in ("encoder.json", "encoder.safetensors"):
        (folder / name).write_bytes(b"")
    check(path)


@pytest.mark.stranger
@pytest.mark.parametrize("score", ["blur", "sharpness"])
def test_a_minimum_above_its_maximum_is_refused(tmp_path, score):
    bounds = {f"min_{score}": 0.7, f"max_{score}": 0.3}
    path = write_recipe(tmp_path, filters=[{"kind": "focus", **bounds}])
    answer = call("validate", str(path))
    assert answer.exit_code == 2
    assert f"min_{score} 0.7 lies above max_{score} 0.3" in answer.stderr
    same = {f"min_{score}": 0.5, f"max_{score}": 0.5}
    check(write_recipe(tmp_path, filters=[{"kind": "focus", **same}]))


def test_every_filter_compares_its_bounds():
    kinds = get_args(get_args(FILTERS.build_union())[0])
    assert len(kinds) > 10
    assert all(issubclass(kind, FilterSettings) for kind in kinds)
