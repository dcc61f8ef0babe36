"""Few-shot study with a recipe: each draw's images descend from its own shots and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from factory.data.images import list_images
from factory.data.shots import draw_shots, list_real
from factory.evaluate.fewshot.generate import write_shots
from factory.filters import FILTERS
from factory.models.classifiers.model import read_classifier_info
from tests import tiny
from tests.evaluate.test_evaluate_fewshot import CLASSES, FAST, write_catalog, write_images
from tests.running import call, read_json, read_rows, write_recipe

PATTERN = r"-(s\d+p\d+)_"
REFERENCE = {"kind": "reference", "images": "nowhere", "shots": 99, "per_class": 5}
CLASSIFIER = {"kind": "classifier", "model": "@shots", "min_probability": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    write_images(folder / "train", 20, 1)
    write_images(folder / "test", 30, 2)
    return folder


def study(data, recipe, *arguments, code=0):
    given = ["--real", data / "train", "--test", data / "test", "--generator", recipe]
    everything = ["evaluate", "fewshot", *given, *FAST, *arguments]
    result = call(*everything)
    assert result.exit_code == code, result.output
    return result.output


def write(folder, **changes):
    changes = {"conditions": [REFERENCE], "filters": [CLASSIFIER], **changes}
    return write_recipe(folder / "recipe", **changes)


@pytest.mark.slow("test_what_saw_more_than_the_shots_is_refused")
def test_images_descend_from_the_shots_of_their_own_draw(data, tmp_path):
    out, path = tmp_path / "out", tmp_path / "r.json"
    recipe = write(tmp_path)
    options = ("--seeds", "2", "--per-class", "6", "--out", out, "--json", path)
    options += ("--group-pattern", PATTERN, "--filter-encoder", "color-texture")
    shown = study(data, recipe, *options)
    train = list_real(data / "train", group_pattern=PATTERN)
    for seed in (0, 1):
        shots = draw_shots(train, 3, seed)
        [folder] = (out / "draws").glob(f"3-shots-seed-{seed}-*")
        [run], [judge] = folder.glob("run-*"), folder.glob("filter-*")
        rows = read_rows(run)
        assert {row["reference_sha256"] for row in rows} <= set(shots.sha256s)
        assert len(rows) == 12
        assert {row["recipe_sha256"] for row in rows} == {rows[0]["recipe_sha256"]}
        assert read_json(run / "recipe.json")["seed"] == seed
        assert read_classifier_info(judge).data.sha256 == shots.digest
        groups = {json.loads(row["provenance"])["reference_group_sha256"] for row in rows}
        assert None not in groups
    found = read_json(path)
    made = [(each["seed"], *map(Path, each["folders"])) for each in found["sources"]]
    assert made == [(s, *out.glob(f"draws/3-shots-seed-{s}-*/run-*")) for s in (0, 1)]
    assert found["marks"] == {"real+synthetic": ["CIRCULAR"], "synthetic": ["CIRCULAR"]}
    assert found["leaks"] == []
    assert set(found["arms"]) > {"real+synthetic", "real+synthetic_unfiltered", "synthetic"}
    used = [each["synthetic"] for each in found["images"]["synthetic"]]
    assert used == [dict.fromkeys(CLASSES, 6)] * 2
    assert shown.count("CIRCULAR: color-texture must not judge the synthetic images") == 1
    again = study(data, recipe, *options)
    assert again.count("stored") == 12
    assert "fitting the filter" not in again


def test_a_filter_that_guesses_is_noted(tmp_path):
    write_images(tmp_path / "one", 40, 5)
    for split in ("train", "test"):  # both classes from one: nothing to tell apart
        for number, path in enumerate(sorted((tmp_path / "one" / CLASSES[0]).iterdir())[:32]):
            target = tmp_path / split / CLASSES[number % 2] / f"{split}{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(path)).copy()
            pixels[0, 0] = number if split == "test" else 100 + number
            Image.fromarray(pixels).save(target)
    options = ("--seeds", "1", "--per-class", "2", "--filter-encoder", "color-texture")
    options += ("--arms", "real,real+synthetic", "--out", tmp_path / "o")
    shown = study(tmp_path, write(tmp_path), *options, "--json", tmp_path / "r.json")
    doubt = "the draw of 3 shots with seed 0: its filter "
    assert f"NOTE {doubt}" in shown and "guessing gives 0.50" in shown
    assert sum(note.startswith(doubt) for note in read_json(tmp_path / "r.json")["notes"]) == 1
    again = study(tmp_path, write(tmp_path), *options)
    assert f"NOTE {doubt}" in again, "what is reused is doubted alike"


def test_shots_are_written_as_they_are(data, tmp_path):
    shots = draw_shots(list_real(data / "train", group_pattern=PATTERN), 4, 2)
    write_shots(shots, tmp_path / "shots")
    found = list_images(tmp_path / "shots", group_column="group")
    pairs = {(image.class_name, image.group, image.read_bytes()) for image in found}
    assert pairs == {(each.class_name, each.group, each.read_bytes()) for each in shots.images}
    assert draw_shots(list_real(tmp_path / "shots"), 4, 2).digest == shots.digest


@pytest.mark.slow("train/test_train_adapter.py::test_shots_are_those_of_reference_conditions")
def test_adapts_a_base_to_the_shots(data, tmp_path):
    catalog = tmp_path / "catalog"
    tiny.save_tiny("flow", catalog / "models" / "flow")
    entry = {
        "id": "tiny-flow", "source": "./flow", "family": "flow", "width": 32, "height": 32,
        "steps": 2, "guidance": 1.0, "dtype": "float32", "class_names": list(tiny.CLASS_NAMES),
        "training_data": ["noise"], "labels_seen": False,
        "licence": {"id": "other", "date_read": "2026-11-20"},
    }  # fmt: skip
    (catalog / "models" / "tiny-flow.yaml").write_text(yaml.safe_dump(entry))
    conditions = [{"kind": "class", "per_class": dict.fromkeys(CLASSES, 3)}]
    recipe = write(tmp_path, conditions=conditions, filters=[{"kind": "tissue"}])
    options = [
        "--catalog",
        catalog,
        "--adapt",
        "tiny-flow",
        "--seeds",
        "1",
        "--out",
        tmp_path / "o",
    ]
    values = ("steps=2", "check-every=2", "check_images=2", "prior_images=2", "max_copies=1.0")
    options += [part for value in values for part in ("--adapt-set", value)]
    options += ["--arms", "real,real+synthetic_unfiltered"]
    options += ["--set", "filters.tissue.min_fraction=0.0", "--set", "generator.width=32"]
    assert "adapting tiny-flow to the draw of 3 shots with seed 0" in study(data, recipe, *options)
    assert "adapting" not in study(data, recipe, *options)
    [folder] = (tmp_path / "o" / "draws").glob("3-shots-seed-0-*")
    [run], [adapter] = folder.glob("run-*"), folder.glob("adapter-*")
    shots = draw_shots(list_real(data / "train"), 3, 0)
    card = (adapter / "README.md").read_text()
    assert all(sha in card for sha in shots.sha256s)
    assert {row["model"] for row in read_rows(run)} == {"adapted-3shots-seed0"}

    # The run as it is counts for the shots that its model was adapted to, and for no others.
    given = ["--real", data / "train", "--test", data / "test", "--synthetic", run]
    given += [*FAST, "--catalog", catalog, "--seeds", "1", "--arms", "real,synthetic"]
    for draw, code in (("0", 0), ("1", 2)):
        command = ["evaluate", "fewshot", *map(str, given), "--first-seed", draw]
        result = call(*command)
        assert result.exit_code == code, result.output
        assert ("LABELS SEEN: model adapted-3shots-seed0" in result.output) == bool(code)


@pytest.mark.slow("test_what_saw_more_than_the_shots_is_refused")
def test_studies_share_what_is_made_of_the_shots(data, tmp_path):
    recipe, draws = write(tmp_path), tmp_path / "draws"
    options = ("--seeds", "1", "--per-class", "4", "--draws", draws)
    options += ("--filter-encoder", "color-texture", "--arms", "real,real+synthetic")
    assert "fitting the filter" in study(data, recipe, *options, "--out", tmp_path / "a")
    [folder] = draws.iterdir()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    again = study(data, recipe, *options, "--out", tmp_path / "b", "--learning-rate", "0.01")
    assert "fitting the filter" not in again
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}

    # Other images of the same shots stand beside them; the classifier is the same.
    changed = study(data, recipe, *options, "--set", "conditions.0.strength=0.9")
    assert "fitting the filter" not in changed
    kinds = sorted(path.name.partition("-")[0] for path in folder.iterdir())
    assert kinds == ["filter", "run", "run", "shots"]
    assert made.items() <= {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}.items()

    # Shots of another set are others, and none of this is theirs.
    write_images(tmp_path / "train", 12, 99)
    write_images(tmp_path / "test", 12, 98)
    assert "fitting the filter" in study(tmp_path, recipe, *options)
    assert len(list(draws.iterdir())) == 2

    # With their patients told, the same shots are written again.
    grouped = study(data, recipe, *options, "--group-pattern", PATTERN)
    assert "fitting the filter" in grouped
    assert len(list(draws.iterdir())) == 3


def test_what_saw_more_than_the_shots_is_refused(data, tmp_path):
    catalog = write_catalog(tmp_path / "c", labels_seen=True, training_data=["the set"])
    recipe = write(tmp_path)
    out = ("--out", tmp_path / "out", "--seeds", "1")
    shown = study(data, recipe, *out, "--catalog", catalog, code=2)
    assert "LABELS SEEN: model fake" in shown
    assert "LABELS SEEN: model fake" in study(
        data, recipe, *out, "--catalog", catalog, "--adapt", "fake", code=2
    )
    adapters = ("--set", "generator.adapters=[{source: somebody/lora}]")
    shown = study(data, recipe, *out, *adapters, code=2)
    assert "LABELS SEEN: model fake was used with an adapter" in shown
    named = {**CLASSIFIER, "model": "pcam"}
    shown = study(data, write(tmp_path, filters=[named]), *out, code=2)
    assert "LABELS SEEN: filter classifier (pcam)" in shown
    realism = {"kind": "realism", "images": str(data / "train"), "max_centroid_distance": 3.0}
    shown = study(data, write(tmp_path, filters=[realism]), *out, code=2)
    assert "LABELS SEEN: filter realism" in shown
    assert not (tmp_path / "out").exists()  # nothing was touched


def test_unlabelled_images_of_the_test_are_refused(data, tmp_path):
    stains = {"images": str(data / "test"), "group_pattern": PATTERN}
    to = {"domain": str(data / "test"), "domain_images": 2, "looks": 2}
    pool = {"kind": "neighbours", "encoder": "color-texture", "unlabelled": stains}
    by_pixels = {**stains, "group_pattern": None}
    out = ("--out", tmp_path / "out", "--seeds", "1", "--group-pattern", PATTERN)
    for changed in (
        {"stains": stains},
        {"stains": by_pixels},
        {"kind": "translate", "method": "image_to_image", "to": to},
        pool,
    ):
        recipe = write(tmp_path, conditions=[{**REFERENCE, **changed}])
        shown = study(data, recipe, *out, code=2)
        assert "TEST LEAK" in shown and "which a recipe reads without classes" in shown
        assert "TEST LEAK" in study(data, recipe, *out, "--mark-leaks", code=2)
    rule = {"when": "fidelity", "every": 20, "images": str(data / "test")}
    shown = study(data, write(tmp_path, budget={"stop": rule}), *out, code=2)
    assert "TEST LEAK" in shown and "by which budget.stop ends series" in shown
    write_images(tmp_path / "other", 4, 2, groups=2)  # other images of patients of the test
    for path in list((tmp_path / "other").rglob("*.png")):
        Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    stains |= {"images": str(tmp_path / "other")}
    shown = study(data, write(tmp_path, conditions=[{**REFERENCE, "stains": stains}]), *out, code=2)
    assert "patients or slides" in shown
    assert not (tmp_path / "out").exists()  # nothing was touched


def test_a_run_that_was_made_of_test_images_is_refused(data, tmp_path):
    stains = {"images": str(data / "test"), "looks": 2, "per_look": 2}
    block = {**REFERENCE, "images": str(data / "train"), "shots": 3, "per_class": 2}
    recipe = write(tmp_path, conditions=[{**block, "stains": stains}], filters=[], seed=0)
    assert call("run", recipe, "--out", tmp_path / "run").exit_code == 0
    given = ["--real", data / "train", "--test", data / "test", "--synthetic", tmp_path / "run"]
    result = call("evaluate", "fewshot", *given, *FAST, "--seeds", "1", "--mark-leaks")
    assert result.exit_code == 2
    assert "TEST LEAK" in result.output and "was made of 4 images" in result.output


@pytest.mark.slow(
    "recipe/test_few_shot_ways.py::test_shots_are_translated_to_one_slide_after_the_other"
)
def test_shots_are_translated_for_their_own_draw(data, tmp_path):
    """A recipe of kind translate takes the draw's shots, and its rows tell them."""
    path = tmp_path / "r.json"
    to = {"domain": str(data / "train"), "domain_images": 2, "looks": 3}
    block = {"kind": "translate", "images": "nowhere", "method": "image_to_image", "to": to}
    block |= {"shots": 99, "per_class": 9}
    generator = {"model": "nano-he-base", "steps": 2, "width": 64, "height": 64}
    recipe = write(tmp_path, conditions=[block], filters=[], generator=generator)
    options = ("--seeds", "1", "--per-class", "2", "--arms", "real,real+synthetic", "--json", path)
    study(data, recipe, *options, "--out", tmp_path / "out", "--set", "conditions.0.fit=resize")
    shots = draw_shots(list_real(data / "train"), 3, 0)
    [run] = (tmp_path / "out").glob("draws/*/run-*")
    rows = read_rows(run)
    assert len(rows) == 4 and {row["class_name"] for row in rows} == set(CLASSES)
    classes = dict(zip(shots.sha256s, (each.class_name for each in shots.images), strict=True))
    assert all(classes[row["reference_sha256"]] == row["class_name"] for row in rows)
    assert read_json(path)["leaks"] == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, (), "--generator: needs --draws or --out"),
        ({"filters": []}, ("--fit-filter",), "it has no classifier filter"),
        (
            {"conditions": [{"kind": "caption", "captions": "he-basic", "count": 3}]},
            (),
            "conditions with per_class",
        ),
        ({}, ("--synthetic", "."), "give one of them"),
    ],
)
def test_recipes_that_do_not_fit_are_said(data, tmp_path, changes, options, message):
    recipe = write(tmp_path, **changes)
    out = () if "needs --draws" in message else ("--out", tmp_path / "out")
    assert message in study(data, recipe, *out, *options, code=2)


def test_a_filter_says_itself_that_it_can_be_fitted(data, tmp_path, monkeypatch):
    monkeypatch.setattr(FILTERS.get("classifier"), "fitted", None)
    given = ("--fit-filter", "--out", tmp_path / "out")
    assert "it has no classifier filter" in study(data, write(tmp_path), *given, code=2)
