import copy
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from factory.catalog.catalog import find_shipped_folder
from factory.catalog.vocabulary import LICENCES, SCHEDULERS
from factory.core.errors import Problem, RecipeError
from factory.core.yaml.model import parse_model, read_document
from factory.engine.plan import build_plan
from factory.filters import FILTERS
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import (
    build_recipe_schema,
    load_recipe,
    resolve_path,
)
from factory.recipe.recipe import NOT_CONTENT, Recipe, compute_recipe_digest
from factory.train.generator.recipe import choose_model
from tests import ROOT, run_alone
from tests.mutations import SOUND
from tests.running import find_problems

RECIPES = ROOT / "recipes"


def write_recipe(folder: Path, **fields: Any) -> Path:
    data = {
        "name": "r",
        "generator": {"model": "fake"},
        "conditions": [{"kind": "class", "per_class": {"normal": 2}}],
        **fields,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def write_images(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((64, 64, 3), number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"p{number}_x.png")
    return folder


def write_pipeline(folder: Path, class_name: str = "FlowPipeline") -> Path:
    folder.mkdir(parents=True)
    index = {"_class_name": class_name, "class_names": "normal,tumor"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def check(path: Path, check_files: bool = True, overrides: tuple[str, ...] = ()) -> None:
    loaded = load_recipe(path, overrides)
    check_recipe(loaded, check_files)


# --- loading -------------------------------------------------------------------------------------


def test_paths_stay_as_written(tmp_path: Path) -> None:
    loaded = load_recipe(write_recipe(tmp_path, output={"path": "runs/x"}))
    assert loaded.base == tmp_path and loaded.path == tmp_path / "recipe.yaml"
    assert loaded.recipe.output.path == "runs/x"
    assert resolve_path(loaded.base, "runs/x") == tmp_path / "runs/x"
    assert resolve_path(loaded.base, "/abs") == Path("/abs")
    assert resolve_path(loaded.base, "~/x") == Path.home() / "x"


def test_overrides_reach_the_recipe(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    loaded = load_recipe(path, ["conditions[0].per_class.normal=7", "output.shard_size=8"])
    assert loaded.recipe.conditions[0].per_class == {"normal": 7}  # type: ignore[union-attr]
    assert loaded.recipe.output.shard_size == 8
    with pytest.raises(RecipeError, match=r"--set output.shard_size=0: output.shard_size: must"):
        load_recipe(path, ["output.shard_size=0"])
    with pytest.raises(
        RecipeError, match=r"--set generator.model=fakke: generator.model: .*'fake'"
    ):
        check(path, overrides=("generator.model=fakke",))


def test_class_names_that_yaml_1_1_takes_for_booleans(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: r\ngenerator: {model: fake}\n"
        "conditions: [{kind: class, per_class: {no: 1, yes: 2, 0: 3}}]\n"
    )
    recipe = load_recipe(path).recipe
    assert recipe.conditions[0].per_class == {"no": 1, "yes": 2, "0": 3}  # type: ignore[union-attr]


def test_repeated_filters_are_placed(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, filters=[{"kind": "finite"}, {"kind": "finite"}])
    problem = find_problems(path)["filters"]
    assert problem.line and "finite more than once" in problem.message


# --- the fingerprint -----------------------------------------------------------------------------

CONTENT_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "seed": lambda data: data.update(seed=4),
    "name": lambda data: data.update(name="other"),
    "steps": lambda data: data["generator"].update(steps=5),
    "count": lambda data: data["conditions"][1].update(count=5),
    "class": lambda data: data["conditions"][0]["per_class"].update(tumor=4),
    "filter": lambda data: data["filters"][1].update(min_fraction=0.4),
    "attempts": lambda data: data["budget"].update(attempts=4),
    "image format": lambda data: data["output"].update(image_format="png"),
    "batch": lambda data: data["generator"].update(batch_size=8),
}
OTHER_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "description": lambda data: data.update(description="another"),
    "catalogs": lambda data: data.update(catalogs=["mine"]),
    "workers": lambda data: data.update(workers={"executor": "ray", "count": 9}),
    "card": lambda data: data.update(card={"license": "mit"}),
    "path": lambda data: data["output"].update(path="elsewhere"),
    "formats": lambda data: data["output"].update(formats=["webdataset"]),
    "shard size": lambda data: data["output"].update(shard_size=9),
    "rows": lambda data: data["output"].update(rows_per_file=9),
    "retries": lambda data: data["budget"].update(retries=9),
    "shortfall": lambda data: data["budget"].update(on_shortfall="error"),
    "error rate": lambda data: data["budget"].update(max_error_rate=0.5),
}


def digest(change: Callable[[dict[str, Any]], Any] | None = None) -> str:
    data = yaml.safe_load(SOUND)
    if change is not None:
        change(data)
    return compute_recipe_digest(Recipe.model_validate_json(json.dumps(data), strict=True))


@pytest.mark.parametrize("name", CONTENT_CHANGES)
def test_content_changes_the_fingerprint(name: str) -> None:
    assert digest(CONTENT_CHANGES[name]) != digest()


@pytest.mark.parametrize("name", OTHER_CHANGES)
def test_other_fields_do_not_change_the_fingerprint(name: str) -> None:
    assert digest(OTHER_CHANGES[name]) == digest()


def test_the_table_of_exclusions_names_fields_that_exist() -> None:
    for section, names in NOT_CONTENT.items():
        assert section in Recipe.model_fields
        if names is not None:
            section_class: Any = Recipe.model_fields[section].annotation
            assert names <= set(section_class.model_fields)


# --- shipped recipes and schema ------------------------------------------------------------------


def test_every_shipped_recipe_is_valid() -> None:
    found: dict[str, list[str]] = {"data": [], "training": []}
    names = []
    for path in sorted(RECIPES.rglob("*.yaml")):
        document = read_document(path)
        if "training" in document.data:
            parse_model(document, choose_model(document.data))
            found["training"].append(path.stem)
            continue
        loaded = load_recipe(path)
        check_recipe(loaded, check_files=False)
        found["data"].append(path.stem)
        names.append(loaded.recipe.name)
        assert loaded.recipe.name == path.stem
        assert loaded.recipe.output.path == f"runs/{path.stem}"
        first, second = path.read_text().splitlines()[:2]
        modeline = "# yaml-language-server: $schema="
        assert first.startswith(modeline), path
        schema = path.parent / first.removeprefix(modeline)
        assert schema.resolve() == (RECIPES / "schema/recipe.schema.json").resolve()
        assert second.startswith("# "), f"{path} says nothing of itself"
    assert len(found["data"]) >= 8 and len(found["training"]) >= 1, found
    assert {"quickstart", "few-shot-variations", "caption-corpus", "class-imbalance"} <= set(names)
    assert len(set(names)) == len(names)


def test_shipped_recipes_need_no_user_files_where_they_say_so() -> None:
    for name in ("dry-run",):
        check(RECIPES / f"{name}.yaml", check_files=True)


def test_the_shipped_schema_is_the_generated_one() -> None:
    shipped = RECIPES / "schema/recipe.schema.json"
    do = "factory schema --out recipes/schema/recipe.schema.json makes it"
    assert f"{json.dumps(build_recipe_schema(), indent=2)}\n" == shipped.read_text(), do


def test_the_schema_describes_every_field() -> None:
    schema = build_recipe_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    kinds = schema["$defs"]["ClassConditions"]["properties"]["kind"]
    assert kinds["const"] == "class"
    assert schema["additionalProperties"] is False
    json.dumps(schema, allow_nan=False)


def test_quickstart_loads_and_checks_quickly() -> None:
    path = find_shipped_folder("recipes") / "quickstart.yaml"
    check(path, check_files=False)
    start = time.process_time()  # of this process: a busy machine does not count
    check(path, check_files=False)
    assert time.process_time() - start < 0.5


def test_heavy_libraries_stay_out() -> None:
    code = (
        "import sys, factory.recipe.recipe, factory.catalog.catalog, "
        "factory.recipe.file, factory.recipe.checks.recipe\n"
        "from pathlib import Path\n"
        "loaded = factory.recipe.file.load_recipe(Path('recipes/dry-run.yaml'))\n"
        "factory.recipe.checks.recipe.check_recipe(loaded)\n"
        "heavy = {'torch', 'ray', 'diffusers', 'datasets', 'pyarrow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# --- what others fixed ---------------------------------------------------------------------------


def test_schedulers_are_those_of_diffusers() -> None:
    from importlib.util import find_spec

    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    exported = (Path(spec.origin).parent / "schedulers" / "__init__.py").read_text()
    for name in SCHEDULERS:
        assert f'"{name}Scheduler"' in exported, name
    assert list(SCHEDULERS) == sorted(SCHEDULERS)


def test_licences_are_distinct_and_lower_case() -> None:
    assert len(set(LICENCES)) == len(LICENCES) > 70
    assert all(name == name.lower().strip() for name in LICENCES)


# --- semantic checks: model ----------------------------------------------------------------------


def test_the_sound_recipe_passes(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SOUND)
    check(path)
    check(path, check_files=False)


@pytest.mark.parametrize(
    ("generator", "field", "word"),
    [
        ({"model": "nano_he"}, "model", "did you mean 'nano-he'"),
        ({"model": "stable-difusion-xl"}, "model", "'stable-diffusion-xl'"),
        ({"model": "./gone"}, "model", "no such folder"),
        ({"model": "a/b/c"}, "model", "no such folder"),
        ({"model": "pixcell-256"}, "conditions[0].kind", "embedding"),
        ({"model": "StonyBrook-CVLab/PixCell-256"}, "conditions[0].kind", "embedding"),
        ({"model": "unipath-7b", "approval": "Prof. Doe, 2026-11-01"}, "model", "on record only"),
        ({"model": "a/b", "family": "sdxl"}, "family", "unknown family"),
        ({"model": "fake", "family": "flux"}, "family", "'fake' for fake"),
        ({"model": "fake", "scheduler": "UniPC"}, "scheduler", "'UniPCMultistep'"),
        ({"model": "fake", "guidance": -0.5}, "guidance", ">= 0"),
        ({"model": "fake", "device": "cuda:x"}, "device", "cuda:N"),
        ({"model": "dit-256", "width": 512}, "width", "256 px only"),
        ({"model": "dit-256", "negative_prompt": "x"}, "negative_prompt", "no text"),
        ({"model": "nano-he", "negative_prompt": "x"}, "negative_prompt", "no negative"),
        ({"model": "flux-1-dev", "negative_prompt": "x"}, "negative_prompt", "true_cfg"),
        (
            {"model": "pixart-sigma", "guidance": {"scale": 4.5, "end": 1.0}},
            "guidance",
            "give one number, e.g. 4.5",
        ),
        ({"model": "fake", "prompt_template": "x"}, "prompt_template", "{class_name}"),
        ({"model": "pixart-sigma", "prompt_template": "x"}, "prompt_template", "{class_name}"),
        ({"model": "fake", "prompt_template": "{x}"}, "prompt_template", "unknown {x}"),
        ({"model": "fake", "prompt_template": "{class_name!r}"}, "prompt_template", "!r"),
        ({"model": "fake", "prompt_template": "{"}, "prompt_template", "{class_name}"),
    ],
)
def test_wrong_generators(tmp_path: Path, generator: dict[str, Any], field: str, word: str) -> None:
    place = field if "." in field else f"generator.{field}"
    problem = find_problems(write_recipe(tmp_path, generator=generator))[place]
    assert word in problem.message
    assert problem.file.endswith("recipe.yaml") and problem.line


@pytest.mark.parametrize(
    "generator",
    [
        {"model": "flux-1-dev", "width": 512, "scheduler": "UniPCMultistepScheduler"},
        {"model": "black-forest-labs/FLUX.1-dev"},
        {"model": "someone/unknown-model"},
        {"model": "someone/unknown-model", "family": "flux", "device": "cuda:1"},
        {"model": "dit-256", "width": 256},
        {"model": "fake", "prompt_template": "a {class_name}", "guidance": 0},
        {"model": "pixart-sigma", "negative_prompt": "blurred", "guidance": {"scale": 2, "end": 2}},
    ],
)
def test_sound_generators(tmp_path: Path, generator: dict[str, Any]) -> None:
    check(write_recipe(tmp_path, generator=generator))


def test_model_folders(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "mine")
    generator: dict[str, Any] = {"model": "./mine"}
    check(write_recipe(tmp_path, generator=generator))
    wrong = [{"kind": "class", "per_class": {"tumour": 2}}]
    found = find_problems(write_recipe(tmp_path, generator=generator, conditions=wrong))
    assert "did you mean 'tumor'" in found["conditions[0].per_class.tumour"].message
    captions = [{"kind": "caption", "captions": "he-basic", "count": 2}]
    found = find_problems(write_recipe(tmp_path, generator=generator, conditions=captions))
    assert "take class, neighbours, reference" in found["conditions[0].kind"].message
    found = find_problems(write_recipe(tmp_path, generator={**generator, "width": 128}))
    assert "one size of its own" in found["generator.width"].message
    (tmp_path / "empty").mkdir()
    path = write_recipe(tmp_path, generator={"model": "./empty"})
    assert "model_index.json" in find_problems(path)["generator.model"].message
    check(path, check_files=False)
    write_pipeline(tmp_path / "strange", "NoSuchPipeline")
    path = write_recipe(tmp_path, generator={"model": "strange"})
    assert "NoSuchPipeline" in find_problems(path)["generator.model"].message


def test_missing_weights_of_a_catalog_model(tmp_path: Path) -> None:
    models = tmp_path / "mine" / "models"
    models.mkdir(parents=True)
    (models / "local.yaml").write_text(
        "id: local\nsource: ./weights\nfamily: flow\nrequired: [class_name]\n"
        "class_names: [normal]\nwidth: 64\nheight: 64\nsteps: 4\nguidance: 1.0\n"
        'licence: {id: mit, date_read: "2026-11-20"}\n'
    )
    path = write_recipe(tmp_path, catalogs=["mine"], generator={"model": "local"})
    assert "weights of local are missing" in find_problems(path)["generator.model"].message
    check(path, check_files=False)
    (models / "weights").mkdir()
    check(path)


def test_a_wrong_catalog_file_is_named_with_its_line(tmp_path: Path) -> None:
    models = tmp_path / "mine" / "models"
    models.mkdir(parents=True)
    (models / "local.yaml").write_text("id: local\nsource: a/b\nfamly: flux\n")
    path = write_recipe(tmp_path, catalogs=["mine"], generator={"model": "local"})
    problem = find_problems(path)["famly"]
    assert problem.file == str(models / "local.yaml") and problem.line == 3


def test_missing_catalog_folders_are_all_named(tmp_path: Path) -> None:
    found = find_problems(write_recipe(tmp_path, catalogs=["one", "two"]))
    assert set(found) == {"catalogs[0]", "catalogs[1]"}


def test_adapters(tmp_path: Path) -> None:
    adapters = [
        {"source": "./gone"},
        {"source": "plain"},
        {"source": "owner/name", "weight_name": "a.bin"},
    ]
    generator: dict[str, Any] = {"model": "stable-diffusion-xl", "adapters": adapters}
    path = write_recipe(tmp_path, generator=generator)
    assert set(find_problems(path)) == {
        "generator.adapters[0].source",
        "generator.adapters[1].source",
        "generator.adapters[2].weight_name",
    }
    assert set(find_problems(path, check_files=False)) == {"generator.adapters[2].weight_name"}
    for name in ("gone", "plain"):
        (tmp_path / name).mkdir()
    generator["allow_pickle"] = True
    check(write_recipe(tmp_path, generator=generator))


# --- semantic checks: conditions -----------------------------------------------------------------


def test_classes_against_the_model(tmp_path: Path) -> None:
    def find(**block: Any) -> dict[str, Problem]:
        conditions = [{"kind": "class", **block}]
        path = write_recipe(tmp_path, generator={"model": "nano-he"}, conditions=conditions)
        return find_problems(path, check_files=False)

    found = find(per_class={"normal": 1, "tumour": 1})
    assert "did you mean 'tumor'" in found["conditions[0].per_class.tumour"].message
    found = find(per_class=2, classes=["normal", "stroma"])
    assert "no class 'stroma' in nano-he" in found["conditions[0].classes"].message
    found = find(per_class={"DEB": 2}, classes="crc-nct")
    assert "no class 'DEB' in nano-he" in found["conditions[0].per_class.DEB"].message
    found = find(per_class={"tumor": 2}, classes="pcan")
    assert "did you mean 'pcam'" in found["conditions[0].classes"].message
    found = find(per_class={"tumor": 2}, classes=["normal"])
    assert "no class 'tumor' in classes" in found["conditions[0].per_class.tumor"].message
    found = find(per_class={})
    assert "names no class" in found["conditions[0].per_class"].message


def test_a_number_needs_class_names(tmp_path: Path) -> None:
    conditions: list[dict[str, Any]] = [{"kind": "class", "per_class": 2}]
    for model in ("fake", "stable-diffusion-xl", "dit-256", "someone/unknown"):
        path = write_recipe(tmp_path, generator={"model": model}, conditions=conditions)
        assert "set classes" in find_problems(path)["conditions[0].per_class"].message
    path = write_recipe(tmp_path, generator={"model": "nano-he"}, conditions=conditions)
    check(path, check_files=False)
    conditions[0]["classes"] = "crc-nct"
    check(write_recipe(tmp_path, conditions=conditions))


@pytest.mark.parametrize(
    ("model", "condition", "word"),
    [
        ("nano-he-base", {"kind": "class", "per_class": {"normal": 1}}, "learned no classes"),
        ("pixart-sigma", {"kind": "reference", "images": "x", "per_class": 1}, "caption, class"),
        ("dit-256", {"kind": "reference", "images": "x", "per_class": 1}, "take class"),
    ],
)
def test_streams_that_a_model_does_not_take(
    tmp_path: Path, model: str, condition: dict[str, Any], word: str
) -> None:
    path = write_recipe(tmp_path, generator={"model": model}, conditions=[condition])
    assert word in find_problems(path, check_files=False)["conditions[0].kind"].message


def test_captions(tmp_path: Path) -> None:
    def find(check_files: bool = True, **block: Any) -> dict[str, Problem]:
        conditions = [{"kind": "caption", "count": 2, **block}]
        return find_problems(write_recipe(tmp_path, conditions=conditions), check_files)

    (tmp_path / "c.jsonl").write_text('{"text": "a b", "label": "x"}\n{"text": "c d"}\n')
    assert "'caption'" in find(captions="c.jsonl")["conditions[0].captions"].message
    found = find(captions="c.jsonl", column="text", class_column="label")
    assert "c.jsonl:2" in found["conditions[0].captions"].message
    assert "no such file" in find(captions="d.csv")["conditions[0].captions"].message
    assert "'he-basic'" in find(captions="he-basik")["conditions[0].captions"].message
    assert (
        "grids" in find(captions="he-basic", class_column="x")["conditions[0].class_column"].message
    )
    assert "remove it" in find(captions="c.jsonl", weights={})["conditions[0].weights"].message
    conditions = [{"kind": "caption", "count": 2, "captions": "c.jsonl", "column": "text"}]
    check(write_recipe(tmp_path, conditions=conditions))
    conditions[0]["captions"] = "gone/later.parquet"
    check(write_recipe(tmp_path, conditions=conditions), check_files=False)


def test_weights_of_a_grid_are_checked_at_their_place(tmp_path: Path) -> None:
    def find(**block: Any) -> dict[str, Problem]:
        conditions = [{"kind": "caption", "count": 2, "captions": "he-basic-2", **block}]
        return find_problems(write_recipe(tmp_path, conditions=conditions))

    found = find(weights={"tissue": {"tumour": 1}, "stain": {"pale": 0}})
    place = "conditions[0].weights"
    assert "did you mean 'tumor'" in found[f"{place}.tissue.tumour"].message
    assert "sums to 0" in found[f"{place}.stain"].message
    found = find(given={"stain": {"organ": {"colon": {"pale": 1}}}})
    assert "no row for organ breast, lung" in found["conditions[0].given.stain.organ"].message
    rows = dict.fromkeys(("normal", "inflammation", "fibrosis", "necrosis", "haemorrhage"), 1)
    found = find(weights={"tissue": {"fibrosis": 1}, "density": {"dense": 1}})
    assert "can say nothing" in found["conditions[0].weights"].message
    check(
        write_recipe(
            tmp_path,
            conditions=[
                {
                    "kind": "caption",
                    "count": 2,
                    "captions": "he-basic-2",
                    "weights": {"tissue": {**rows, "tumor": 5}},
                }
            ],
        )
    )


def test_expansions_of_classes(tmp_path: Path) -> None:
    def write(model: str = "fake", **block: Any) -> Path:
        conditions = [{"kind": "class", "per_class": {"MUS": 2}, "expand": "crc-nct", **block}]
        return write_recipe(tmp_path, generator={"model": model}, conditions=conditions)

    def find(*names: str, **block: Any) -> str:
        return find_problems(write(*names, **block))["conditions[0].expand"].message

    assert "did you mean 'crc-nct'" in find(expand="crc-nc")
    assert "no class 'MUZ' in crc-nct: did you mean 'MUS'" in find(per_class={"MUZ": 1})
    assert "has no class_attribute" in find(expand="he-attributes")
    assert "dit-256 takes no text" in find("dit-256")
    check(write())
    loaded = load_recipe(write())
    plan = build_plan(loaded.recipe, loaded.session)
    assert [part.label for part in plan.series] == ["MUS"]


def test_references(tmp_path: Path) -> None:
    def find(model: str = "fake", **block: Any) -> dict[str, Problem]:
        conditions = [{"kind": "reference", "images": "real", "per_class": 2, **block}]
        path = write_recipe(tmp_path, generator={"model": model}, conditions=conditions)
        return find_problems(path)

    write_images(tmp_path / "real", {"normal": 3, "tumor": 1})
    write_images(tmp_path / "flat", {".": 2})
    assert "no such file or folder" in find(images="gone")["conditions[0].images"].message
    found = find(shots=2)["conditions[0].shots"].message
    assert "2 asked for, but there are 1 images of class tumor" in found
    found = find(per_class={"tumour": 1})
    assert "did you mean 'tumor'" in found["conditions[0].per_class.tumour"].message
    assert "names no class" in find(per_class={})["conditions[0].per_class"].message
    assert "expression" in find(group_pattern="(")["conditions[0].group_pattern"].message
    assert "parentheses" in find(group_pattern="p")["conditions[0].group_pattern"].message
    found = find(group_pattern="(p)", group_column="slide")
    assert "remove one" in found["conditions[0].group_pattern"].message
    assert "finds no group" in find(group_pattern="^(q)")["conditions[0].images"].message
    assert "unknown {c}" in find(caption="a {c}")["conditions[0].caption"].message
    assert "takes no text" in find("dit-256", caption="a")["conditions[0].caption"].message
    write_images(tmp_path / "crc", {"MUC": 1})
    for images in ("flat", "crc"):  # nano-he varies references of any class, or of none
        conditions = [{"kind": "reference", "images": images, "per_class": 2}]
        model = {"model": "nano-he"}
        check(write_recipe(tmp_path, generator=model, conditions=conditions))
    for block in ({"shots": 1}, {"images": "flat"}, {"per_class": {"normal": 1}, "shots": 3}):
        conditions = [{"kind": "reference", "images": "real", "per_class": 2, **block}]
        check(write_recipe(tmp_path, conditions=conditions))


def test_the_same_images_twice(tmp_path: Path) -> None:
    write_images(tmp_path / "real", {"normal": 2, "tumor": 2})
    reference = {"kind": "reference", "images": "real", "strength": 0.5}
    first: list[dict[str, Any]] = [
        {"kind": "class", "per_class": {"normal": 2, "tumor": 2}},
        {"kind": "caption", "captions": "he-basic", "count": 2},
        {**reference, "per_class": 1},
    ]
    check(write_recipe(tmp_path, conditions=first))
    for again, word in (
        ({"kind": "class", "per_class": {"tumor": 1, "other": 1}}, "class tumor"),
        ({"kind": "caption", "captions": "he-basic", "count": 9}, "captions he-basic"),
        ({**reference, "per_class": {"tumor": 1}}, "strength 0.5 of class tumor"),
    ):
        found = find_problems(write_recipe(tmp_path, conditions=[*first, again]))
        assert list(found) == ["conditions[3]"]
        assert (
            word in found["conditions[3]"].message
            and "conditions[" in found["conditions[3]"].message
        )
    for fine in (
        {"kind": "class", "per_class": {"other": 1}},
        {**reference, "strength": 0.6, "per_class": 1},
    ):
        check(write_recipe(tmp_path, conditions=[*first, fine]))
    halves = [{**reference, "per_class": {name: 1}} for name in ("normal", "tumor")]
    check(write_recipe(tmp_path, conditions=halves))


# --- semantic checks: filters and card -----------------------------------------------------------


def test_training_copies(tmp_path: Path) -> None:
    def write(**fields: Any) -> Path:
        return write_recipe(tmp_path, filters=[{"kind": "training_copy", **fields}])

    assert "nothing to compare" in find_problems(write())["filters[0]"].message
    assert "no such" in find_problems(write(images="gone"))["filters[0].images"].message
    check(write(images="gone"), check_files=False)
    write_images(tmp_path / "real", {"normal": 1})
    check(write(images="real"))


def test_licence_ids(tmp_path: Path) -> None:
    found = find_problems(write_recipe(tmp_path, card={"license": "CC-BY-4.0"}))["card.license"]
    assert "did you mean 'cc-by-4.0'" in found.message
    check(write_recipe(tmp_path, card={"license": "other"}))


def test_everything_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = yaml.safe_load(SOUND)
    broken = copy.deepcopy(data)
    broken["generator"]["scheduler"] = "nope"
    broken["conditions"][0]["classes"] = "nope"
    broken["conditions"][1]["captions"] = "nope"
    broken["filters"].append({"kind": "training_copy"})
    broken["card"]["license"] = "nope"
    with pytest.raises(RecipeError) as caught:
        check(write_recipe(tmp_path, **broken))
    problems = caught.value.problems
    assert [problem.field for problem in problems] == [
        "generator.scheduler",
        "conditions[0].classes",
        "conditions[1].captions",
        "filters[2]",
        "card.license",
    ]
    lines = [problem.line for problem in problems]
    assert lines == sorted(lines, key=lambda line: line or 0) and len(set(lines)) == 5
    assert str(caught.value).count("\n") == 4


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("filters.0.min_fraction=0.31", "tissue"),
        ("filters[1].max_similarity=0.31", "dedup"),
        ("filters.2.min_probability=0.31", "classifier"),
        ("filters[2].min_probability=0.31", "classifier"),
        ("filters.classifier.min_probability=0.31", "classifier"),
        ("filters.near_duplicate.max_similarity=0.31", "dedup"),
    ],
)
def test_places_in_overrides_count_as_the_file_has_them(tmp_path: Path, text, field) -> None:
    filters = [{"kind": "tissue"}, {"kind": "near_duplicate"}]
    filters.append({"kind": "classifier", "model": "pcam"})
    recipe = load_recipe(write_recipe(tmp_path, filters=filters), [text]).recipe
    found = {each.kind: each for each in recipe.filters} | {"dedup": recipe.dedup}
    assert text.split("=")[0].rpartition(".")[2] in {
        name for name, value in found[field] if value == 0.31
    }
    assert sum(0.31 in dict(each).values() for each in found.values()) == 1


def test_an_override_of_near_duplicate_reaches_dedup() -> None:
    text = "filters.near_duplicate.max_similarity=0.5"
    recipe = load_recipe(RECIPES / "quickstart.yaml", [text]).recipe
    assert recipe.dedup is not None
    assert recipe.dedup.max_similarity == 0.5


def test_reading_a_recipe_imports_the_kinds_that_it_names_and_no_others():
    code = (
        "import sys; from factory import load_recipe; load_recipe('quickstart');"
        "from factory.filters import FILTERS; from factory.recipe.conditions import CONDITIONS;"
        "found, kinds = set(sys.modules), 'factory.recipe.conditions.';"
        "assert {'factory.filters.tissue', kinds + 'class_name'} <= found;"
        "assert not {'factory.filters.realism', kinds + 'cohort'} & found;"
        "assert not {'factory.evaluate.everything', 'factory.evaluate.base'} & found;"
        "assert {'realism', 'tissue'} <= set(FILTERS.names);"
        "assert {'cohort', 'class'} <= set(CONDITIONS.names)"
    )
    run_alone(code)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ([{"kind": "tisue"}], "unknown kind 'tisue'"),
        ([{}], "filters[0].kind: is missing: add one of"),
        ([{"kind": 3}], "unknown kind"),
        (["tissue"], "must be"),
        ([{"kind": "tissue", "min_fraction": "much"}], "filters[0].min_fraction: must be"),
        ([{"kind": "tissue", "colour": 1}], "filters[0].colour: unknown field"),
    ],
)
def test_what_no_kind_takes_is_told_as_by_the_union_of_all(tmp_path, filters, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        load_recipe(write_recipe(tmp_path, filters=filters))


def test_settings_that_are_made_already_stay_what_they_are():
    made = FILTERS.get("tissue").Settings(kind="tissue", min_fraction=0.25)
    data = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    recipe = Recipe.model_validate({**data, "filters": [made]})
    assert recipe.filters == (made,)
    assert type(recipe.filters[0]) is type(made)
    dumped = recipe.model_dump(mode="json")
    assert dumped["filters"] == [made.model_dump(mode="json")]
    assert Recipe.model_validate(dumped) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
