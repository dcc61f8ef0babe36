"""Ways to make more of a few shots: in other stains and looks, from between them, beside them."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.api import load_recipe
from factory.catalog.catalog import load_catalogs
from factory.core.errors import RecipeError, SourceError
from factory.core.glass import find_glass
from factory.core.stain_transfer import give_look, measure_look
from factory.data.groups import hash_group
from factory.data.images import list_images
from factory.data.streams import Domain, Embedding, Reference, Source
from factory.data.varied import read_varied
from factory.engine.plan import build_plan
from factory.models.encoders import list_parts
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.conditions.between import interpolate
from factory.recipe.conditions.looks import pair_all
from factory.recipe.conditions.neighbours import find_neighbours
from tests import ASSETS, ROOT
from tests.running import ask, call, read_rows, run, write_recipe

GROUPS = r"^(p\d)-"
ORAL = ASSETS / "oral-oscc" / "test"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six labelled patches of three patients of each class, and twelve of four others without."""
    for name in ("normal", "tumor"):
        found = [i for i in list_images(ASSETS / "pcam" / "train") if i.class_name == name]
        for number, image in enumerate(found[:6]):
            save(image.path, tmp_path / "real" / name / f"p{number // 2}-{number}.webp")
        for number, image in enumerate(found[6:12]):
            save(image.path, tmp_path / "pool" / f"p{4 + number % 4}-{name}{number}.webp")
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def save(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write(folder: Path, block: dict[str, Any], model: str = "fake", attempts: int = 1) -> Path:
    return write_recipe(
        folder,
        generator={"model": model, "batch_size": 4, "width": 64, "height": 64},
        conditions=[{"images": "real", "group_pattern": GROUPS, **block}],
        filters=[],
        budget={"attempts": attempts},
    )


def plan(recipe: Path) -> list[Any]:
    loaded = load_recipe(recipe)
    check_recipe(loaded)
    return list(build_plan(loaded.recipe, loaded.session).series)


def read_told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(row["provenance"]) for row in rows]


# --- stains --------------------------------------------------------------------------------------


def test_tissue_gets_the_stain_of_others_and_glass_stays() -> None:
    given, other = (image.read_pixels() for image in list_images(ORAL)[:2])
    look = measure_look([other])
    assert look is not None and measure_look([np.full_like(other, 250)]) is None
    made = give_look(given, look)
    found, before = measure_look([made]), measure_look([given])
    assert found is not None and before is not None
    near = np.abs(np.subtract(found.mean, look.mean)).max()
    assert near < 0.3 * np.abs(np.subtract(before.mean, look.mean)).max()
    glass = find_glass(given)
    inner = glass & np.all([np.roll(glass, s, a) for s in (-4, 4) for a in (0, 1)], axis=0)
    assert np.abs(made.astype(int) - given)[inner].max(initial=0) <= 2


def test_shots_meet_every_stain_and_rows_tell_whose(folder: Path) -> None:
    stains = {"images": "pool", "looks": 3, "per_look": 2, "group_pattern": GROUPS}
    block = {"kind": "reference", "shots": 2, "per_class": 6, "strength": 0.2, "stains": stains}
    series = plan(write(folder, block))
    asked = [series[0].request_at(index).condition.get(Reference) for index in range(6)]
    assert len({(each.sha256, each.stain.look) for each in asked}) == 6
    assert [each.sha256 for each in asked[:2]] == [each.sha256 for each in asked[2:4]]
    run(folder / "recipe.yaml", folder / "run")
    rows = read_rows(folder / "run")
    pool = list_images(folder / "pool", group_pattern=GROUPS)
    groups = {hash_group(image.group) for image in pool}
    for told in read_told(rows):
        assert len(told["stain_group_sha256"]) == 1 and {*told["stain_group_sha256"]} <= groups
        assert len(told["stain_pixels_sha256"]) == 2
    assert len({row["image_sha256"] for row in rows}) == 12
    shutil.rmtree(folder / "pool")  # the numbers of its stain make a row again
    again = ("regenerate", folder / "run", rows[0]["sample_id"], "--out", folder / "again.png")
    assert "exact" in ask(*again, "--references", folder / "real")
    plain = {**block, "stains": None}
    ids = {row["sample_id"] for row in rows}
    run(write(folder, plain), folder / "plain")
    assert not ids & {row["sample_id"] for row in read_rows(folder / "plain")}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {
                "kind": "reference",
                "per_class": 1,
                "prototypes": {"per_class": 1, "encoder": "color-texture"},
                "stains": {"images": "pool"},
            },
            "stains: are given to shots",
        ),
        (
            {"kind": "reference", "per_class": 1, "stains": {"images": "nowhere"}},
            "conditions[0].stains.images",
        ),
        (
            {
                "kind": "translate",
                "method": "invert",
                "to": {"domain": "pool", "looks": 2},
            },
            "to.looks: sources meet them by per_class",
        ),
        (
            {"kind": "translate", "per_class": 2, "per_image": 2},
            "per_class goes without per_image",
        ),
        ({"kind": "translate", "per_class": 2}, "a network of one pass"),
        ({"kind": "between", "encoder": "he-ss", "per_class": 1}, "did you mean 'he-ssl'"),
        ({"kind": "between", "encoder": "he-ssl", "per_class": 1, "shots": 9}, "9 asked for"),
        (
            {
                "kind": "neighbours",
                "encoder": "color-texture",
                "per_class": {"tumor": 1},
                "unlabelled": {"images": "pool"},
            },
            "two classes or more",
        ),
    ],
)
def test_what_does_not_fit_is_said(folder: Path, block: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        plan(write(folder, block))
    assert message in str(raised.value)


# --- looks ---------------------------------------------------------------------------------------


def test_shots_are_translated_to_one_slide_after_the_other(folder: Path) -> None:
    to = {"domain": "pool", "domain_images": 2, "looks": 4, "group_pattern": GROUPS}
    block = {"kind": "translate", "method": "image_to_image", "shots": 2, "per_class": 4, "to": to}
    series = plan(write(folder, block, model="nano-he-base", attempts=3))
    assert [(each.class_name, each.count) for each in series] == [("normal", 4), ("tumor", 4)]
    total = 8
    asked = [series[1].request_at(index) for index in range(total)]
    pairs = []
    for each in asked:
        source, domain = each.condition.get(Source), each.condition.get(Domain)
        assert each.condition.class_name == "tumor" and len(domain.group_sha256s) == 1
        pairs.append((source.sha256, domain.digest))
    assert len(set(pairs)) == total and len({pair[0] for pair in pairs[:2]}) == 2
    tries = [[each.condition_at(attempt).key for attempt in range(3)] for each in asked[:2]]
    assert len({key for mine in tries for key in mine}) == 6, "no try is another's"
    for each, keys in zip(asked[:2], tries, strict=True):
        assert [each.limit(3).condition_at(attempt).key for attempt in range(3)] == keys
        assert len({each.condition_at(attempt).key for attempt in range(total)}) == total


def test_every_pair_is_met_once() -> None:
    found = list(pair_all(3, 2))
    assert sorted(found) == [(shot, look) for shot in range(3) for look in range(2)]
    assert [shot for shot, _ in found[:3]] == [0, 1, 2]


# --- between -------------------------------------------------------------------------------------


def test_between_two_embeddings_lengths_and_directions_go_evenly() -> None:
    draw = np.random.default_rng(0)
    first, other = draw.normal(size=(2, 1, 8)).astype(np.float32)
    other *= 3
    assert np.allclose(interpolate(first, other, 0.0), first, atol=1e-6)
    assert np.allclose(interpolate(first, other, 1.0), other, atol=1e-6)
    half = interpolate(first, other, 0.5)
    lengths = [np.linalg.norm(each) for each in (first, half, other)]
    assert lengths[1] == pytest.approx((lengths[0] + lengths[2]) / 2, rel=1e-5)
    cosines = [(half @ each.T).item() / np.linalg.norm(each) for each in (first, other)]
    assert cosines[0] == pytest.approx(cosines[1], rel=1e-5)
    assert np.allclose(interpolate(first, first, 0.3), first, atol=1e-6)
    assert np.allclose(interpolate(first, -first, 0.25), 0.5 * first, atol=1e-5)


def test_points_between_shots_are_of_their_class_and_tell_both(folder: Path) -> None:
    block = {"kind": "between", "encoder": "color-texture", "shots": 3, "per_class": 6}
    recipe = write(folder, block)
    [first, _] = plan(recipe)
    asked = [first.request_at(index).condition.get(Embedding) for index in range(6)]
    assert len({each.sha256 for each in asked}) == 6
    assert all(len({shot.sha256 for shot in each.shots}) == 2 for each in asked)
    assert [first.request_at(3).condition.key] == [plan(recipe)[0].request_at(3).condition.key]
    run(recipe, folder / "run")
    images = list_images(folder / "run")
    for image, each in zip(images, read_varied(images), strict=True):
        assert each is not None and each.sha256 == each.shots[0].sha256 and len(each.shots) == 2
        own = list_images(folder / "real" / str(image.class_name))
        assert {one.pixels_sha256 for one in each.shots} <= {hash_of(one) for one in own}
    [told, *_] = read_told(read_rows(folder / "run"))
    assert 1 <= len(told["shots_group_sha256"]) <= 2


def test_an_encoder_is_used_where_its_teacher_is_not_and_names_all_teachers(folder: Path) -> None:
    first, second = str(folder / "first"), str(folder / "second")
    for place, teacher in ((first, "nowhere/gone"), (second, first)):
        Path(place).mkdir()
        told = {"architecture": "small-resnet", "teacher": teacher}
        (Path(place) / "encoder.json").write_text(json.dumps(told))
    block = {"kind": "between", "encoder": first, "per_class": 2}
    check_recipe(load_recipe(write(folder, block)))
    assert list_parts(second, load_catalogs()) == (second, first, "nowhere/gone")


def hash_of(image: Any) -> str:
    from factory.core.images import hash_pixels

    return hash_pixels(image.read_pixels())


# --- neighbours ----------------------------------------------------------------------------------


def test_the_surest_neighbours_come_first() -> None:
    shots = np.array([[0.0, 0], [0, 10], [10, 0], [10, 10]])
    pool = np.array([[1.0, 0], [4.5, 0], [0, 9.9], [9, 10], [6, 10]])
    found = find_neighbours(pool, shots, ["a", "a", "b", "b"], 2)
    assert [(each.row, each.shot) for each in found["a"]] == [(2, 1), (0, 0)]
    assert [(each.row, each.shot) for each in found["b"]] == [(3, 3), (4, 3)]
    assert 0 <= found["b"][0].ratio < found["b"][1].ratio < 1


@pytest.mark.usefixtures("usual_gc")
def test_looking_for_neighbours_takes_no_more_memory_than_the_pool() -> None:
    rng = np.random.default_rng(0)
    pool, shots = rng.normal(size=(2000, 64)), rng.normal(size=(20, 64))
    tracemalloc.start()
    find_neighbours(pool, shots, ["a", "b"] * 10, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * pool.nbytes


def test_a_pool_of_shots_alone_is_refused(folder: Path) -> None:
    block = {"kind": "neighbours", "encoder": "color-texture", "per_class": 3}
    with pytest.raises(SourceError, match="neighbours: holds shots alone"):
        plan(write(folder, {**block, "unlabelled": {"images": "real"}}))


def test_neighbours_are_unlabelled_and_have_the_class_of_a_shot(folder: Path) -> None:
    pool = {"images": "pool", "group_pattern": GROUPS}
    block = {"kind": "neighbours", "encoder": "color-texture", "unlabelled": pool, "shots": 4}
    block |= {"per_class": 3, "near": 3, "medoids": 2}
    run(write(folder, block), folder / "run")
    images = list_images(folder / "run")
    unlabelled = {hash_of(image) for image in list_images(folder / "pool")}
    varied = read_varied(images)
    assert len(images) == 6
    for image, each in zip(images, varied, strict=True):
        assert each is not None and each.pixels_sha256 in unlabelled
        own = {hash_of(one) for one in list_images(folder / "real" / str(image.class_name))}
        assert {one.pixels_sha256 for one in each.labelled} <= own
    assert len({each.sha256 for each in varied if each is not None}) <= 4


# --- shipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("few-shot-stains", "stains.images"),
        ("few-shot-translated", "to.domain"),
        ("few-shot-neighbours", "unlabelled.images"),
        ("few-shot-between", None),
    ],
)
def test_shipped_recipes_run_offline(folder: Path, name: str, pool: str | None) -> None:
    shutil.copy(ROOT / "recipes" / f"{name}.yaml", folder)
    sets = ["conditions.0.images=real", "conditions.0.shots=3", "conditions.0.per_class=1"]
    sets += ["filters=[{kind: finite}]", "generator.steps=2", "generator.batch_size=2"]
    sets += [] if pool is None else [f"conditions.0.{pool}={folder / 'pool'}"]
    words = [word for each in sets for word in ("--set", each)]
    told = call("run", folder / f"{name}.yaml", "--out", folder / "run", *words)
    assert told.exit_code == 0, told.output
    assert {row["class_name"] for row in read_rows(folder / "run")} == {"normal", "tumor"}
