"""Prototypes: medoids of the real images of a class as conditions, told in every row."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import RecipeError, SourceError
from factory.core.stats.clusters import find_clusters
from factory.data.images import list_images
from factory.data.records import Condition
from factory.data.streams import Embedding
from factory.data.streams.prototype import Prototype
from factory.engine.dataset import open_dataset
from factory.engine.plan import build_plan
from factory.models.encoders.color_texture import ColorTextureEncoder
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.conditions.prototypes import PrototypeSeries
from factory.recipe.file import load_recipe
from factory.recipe.licences import collect_recipe_terms
from tests import ASSETS, tiny
from tests.running import call, read_rows, run

EMBEDDING = {"kind": "embedding", "encoder": "color-texture", "per_row": 2}
REFERENCE = {"kind": "reference", "per_class": 6}
PATIENTS = r"^(p\d)-"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve patches of six patients of each of two classes."""
    for name in ("normal", "tumor"):
        found = [i for i in list_images(ASSETS / "pcam" / "train") if i.class_name == name]
        for number, image in enumerate(found[:12]):
            target = tmp_path / "real" / name / f"p{number // 2}-{number}.webp"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image.path, target)
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(folder: Path, block: dict[str, Any], model: Any = "fake", **prototypes: Any) -> Path:
    chosen = {"per_class": 3, **prototypes}
    size = {"width": 64, "height": 64} if model == "fake" else {}
    recipe = {
        "name": "prototypes",
        "seed": 5,
        "catalogs": ["."],
        "generator": {"model": model, "batch_size": 4, **size},
        "conditions": [
            {"images": "real", "group_pattern": PATIENTS, "prototypes": chosen, **block}
        ],
        "filters": [{"kind": "finite"}],
        "workers": {"executor": "local"},
        "card": {"license": "cc0-1.0"},
    }
    (folder / "models").mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def plan(path: Path) -> list[Any]:
    loaded = load_recipe(path)
    check_recipe(loaded)
    return list(build_plan(loaded.recipe, loaded.session).series)


def make_series(sizes: list[int], order: str, count: int) -> PrototypeSeries:
    conditions = tuple(Condition(None, f"c{n}") for n in range(len(sizes)))
    prototypes = tuple(Prototype(f"x-{n}", "0" * 64, size, None, "e") for n, size in
                       enumerate(sizes))  # fmt: skip
    return PrototypeSeries("embedding", None, conditions, prototypes, order, count)


def test_clusters_cut_no_patient_and_their_medoid_is_the_most_central_row() -> None:
    draws = np.random.default_rng(0)
    centres = np.repeat([[0.0, 0, 0], [9, 0, 0], [0, 9, 9]], [12, 6, 4], axis=0)
    features = (centres + draws.normal(size=centres.shape)).astype(np.float32)
    units = [f"p{row // 2}" for row in range(len(features))]
    found = find_clusters(features, units, 3, 1)
    assert [len(each.rows) for each in found] == [12, 6, 4]
    scaled = features / features.std(axis=0)
    for each in found:
        rows = np.array(each.rows)
        apart = np.square(scaled[rows][:, None] - scaled[rows][None]).sum((1, 2))
        assert each.medoid == rows[apart.argmin()]
    turned = find_clusters(features[::-1], units[::-1], 3, 1)
    last = len(features) - 1
    assert [last - each.medoid for each in turned] == [each.medoid for each in found]
    # A patient whose images lie apart stays whole; asked otherwise, each goes where it lies.
    features[1] = (9, 0, 0)
    whole, mixed = find_clusters(features, units, 3, 1), find_clusters(
        features, [str(row) for row in range(len(features))], 3, 1
    )  # fmt: skip
    assert any({0, 1} <= set(each.rows) for each in whole)
    assert not any({0, 1} <= set(each.rows) for each in mixed)


def test_features_that_do_not_differ_are_no_further_clusters() -> None:
    features = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    assert len(find_clusters(features, [str(row) for row in range(10)], 4, 0)) == 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 80))
def test_rare_first_levels_real_and_asked_images_then_takes_turns(
    sizes: list[int], count: int
) -> None:
    sizes = sorted(sizes, reverse=True)
    series = make_series(sizes, "rare_first", count)
    levels, seen = list(sizes), Counter[int]()
    for index in range(count):
        place = series.place_at(index)
        assert levels[place] == min(levels)  # always one of the rarest
        assert series.request_at(index).ordinal == seen[place] == series.rank(place, index)
        levels[place] += 1
        seen[place] += 1
    if count >= sum(sizes[0] - size for size in sizes):
        assert max(levels) - min(levels) <= 1
    shares = series.shares["prototype"]
    assert shares == {f"x-{n}": seen[n] / count for n in range(len(sizes))}


def test_balanced_takes_turns_and_orders_share_their_images() -> None:
    balanced = make_series([9, 4, 1], "balanced", 12)
    rare = make_series([9, 4, 1], "rare_first", 12)
    assert [balanced.place_at(index) for index in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [rare.place_at(index) for index in range(3)] == [2, 2, 2]
    assert set(balanced.shares["prototype"].values()) == {1 / 3}
    seeds = [
        {each.request_at(index).derive_seed(5, 0) for index in range(12)}
        for each in (balanced, rare)
    ]
    assert len(seeds[0] & seeds[1]) >= 6 and balanced.key != rare.key
    more = make_series([9, 4, 1], "rare_first", 40)
    assert [more.request_at(index) for index in range(12)] == [
        rare.request_at(index) for index in range(12)
    ]


def test_rows_name_their_prototype_and_card_and_plan_tell_them(folder: Path) -> None:
    path = write(folder, EMBEDDING, order="rare_first")
    series = plan(path)
    assert [(each.label, each.count) for each in series] == [
        ("normal (embedding prototypes)", 6),
        ("tumor (embedding prototypes)", 6),
    ]
    out = folder / "run"
    assert run(path, out).exit_code == 0
    known = {each.id: each for part in series for each in part.prototypes}
    pixels = {each.pixels_sha256 for each in known.values()}
    rows = read_rows(out)
    for row in rows:
        told = json.loads(row["provenance"])
        mine = known[told["attributes"]["prototype"]]
        assert told["prototype"] == {
            "id": mine.id, "pixels_sha256": mine.pixels_sha256, "size": mine.size,
            "patients": mine.patients, "encoder": "color-texture",
        }  # fmt: skip
        assert mine.id.startswith(row["class_name"]) and told["embedding_group_sha256"]
    assert sum(each.size for each in known.values()) == 24 and len(pixels) == 6
    assert sum(each.patients or 0 for each in known.values()) == 12  # none is in two clusters
    smallest = min(series[0].prototypes, key=lambda each: each.size)
    counts = Counter(json.loads(row["provenance"])["prototype"]["id"] for row in rows)
    assert counts[smallest.id] == max(counts[each.id] for each in series[0].prototypes)
    summary = open_dataset(str(out)).summary.series[0]
    assert summary.attributes is not None
    shares = summary.attributes["prototype"]
    assert {name: share.images for name, share in shares.items()} == {
        each.id: counts[each.id] for each in series[0].prototypes
    }
    card = (out / "README.md").read_text()
    told = call("plan", str(path), "--no-calibrate").output
    for each in known.values():
        assert each.describe() in card.replace("\\", "") and each.describe() in told
    shutil.rmtree(folder / "real")
    words = ["verify", str(out), "--regenerate", str(len(rows)), "--base", str(folder)]
    told = call(*words)
    assert told.output.count(": exact") == len(rows) and told.exit_code == 0, told.output


def test_files_in_another_order_give_the_same_prototypes(folder: Path) -> None:
    first = plan(write(folder, EMBEDDING))
    for place in (folder / "real").glob("*/*"):
        patient, _, number = place.stem.partition("-")
        place.rename(place.with_name(f"{patient}-{40 - int(number)}.webp"))
    assert [part.prototypes for part in plan(write(folder, EMBEDDING))] == [
        part.prototypes for part in first
    ]


def test_references_keep_to_their_prototype_whatever_the_attempt(folder: Path) -> None:
    series = plan(write(folder, REFERENCE, encoder="color-texture"))
    for part in series:
        for index in range(part.count):
            request = part.request_at(index)
            assert request.condition_at(3) is request.condition is part.conditions[index % 3]
    out = folder / "run"
    assert run(write(folder, REFERENCE, encoder="color-texture"), out).exit_code == 0
    for row in read_rows(out):
        told = json.loads(row["provenance"])
        assert told["prototype"]["pixels_sha256"] == told["reference_pixels_sha256"]
    preview = ["preview", str(folder / "recipe.yaml"), "--out", str(folder / "seen"), "-n", "2"]
    assert call(*preview).exit_code == 0
    (first, _) = json.loads((folder / "seen" / "preview.json").read_text())
    assert first["attributes"] == {"prototype": series[0].prototypes[0].id}


def test_a_count_is_shared_by_the_classes_in_turn(folder: Path) -> None:
    block = {**EMBEDDING, "per_row": None, "count": 7}
    assert [part.count for part in plan(write(folder, block))] == [4, 3]
    assert [part.count for part in plan(write(folder, {**block, "count": 1}))] == [1]


def test_another_encoder_chooses_and_brings_its_terms(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_recipe(write(folder, EMBEDDING, encoder="uni2-h"))
    terms = collect_recipe_terms(loaded.recipe, loaded.session)
    assert "MahmoodLab/UNI2-h" in {term.name for term in terms}
    by_colour = plan(write(folder, EMBEDDING))
    seen: list[int] = []
    inner = ColorTextureEncoder.encode

    def encode(self: Any, images: Any) -> Any:
        seen.append(len(images))
        return inner(self, images)

    monkeypatch.setattr(ColorTextureEncoder, "encode", encode)
    again = plan(write(folder, EMBEDDING))
    assert seen == []  # features are kept by content: clustered again, encoded once
    assert [each.key for each in again] == [each.key for each in by_colour]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    tiny.save_tiny("multi", place / "multi")
    tiny.save_pixcell(place / "pixcell", dim=480)
    return place


@pytest.mark.parametrize("family", ["multi", "pixcell"])
def test_models_of_embeddings_make_images_of_prototypes(
    folder: Path, weights: Path, family: str
) -> None:
    place = weights / family
    entry: dict[str, Any] = {
        "id": "twin", "source": str(place), "family": family, "width": 32, "height": 32,
        "steps": 2, "guidance": 2.0, "licence": {"id": "cc0-1.0", "date_read": "2026-11-26"},
    }  # fmt: skip
    if family == "multi":
        block = {**EMBEDDING, "per_row": 1}
        (folder / "real").rename(folder / "classes")
        (folder / "real").mkdir()
        for each in (folder / "classes" / "tumor").iterdir():
            each.rename(folder / "real" / each.name)
        changes: dict[str, Any] = {}
    else:
        entry |= {
            "custom_pipeline": str(place), "remote_code": True, "required": ["embedding"],
            "optional": ["class_name"],
            "embedding": {"encoder": "color-texture", "dim": 480, "tokens": 1},
        }  # fmt: skip
        block, changes = {**EMBEDDING, "per_row": 1}, {"trust_remote_code": True}
    path = write(folder, block, "twin")
    (folder / "models" / "twin.yaml").write_text(yaml.safe_dump(entry))
    recipe = yaml.safe_load(path.read_text())
    recipe["generator"] |= changes
    path.write_text(yaml.safe_dump(recipe))
    series = plan(path)
    request = series[0].request_at(0)
    stream = request.condition.get(Embedding)
    assert stream is not None and stream.prototype == series[0].prototypes[0]
    out = folder / "run"
    assert run(path, out).exit_code == 0
    rows = read_rows(out)
    ids = {json.loads(row["provenance"])["prototype"]["id"] for row in rows}
    assert ids == {each.id for part in series for each in part.prototypes}
    assert len({row["image_sha256"] for row in rows}) == len(rows) == 3 * len(series)


@pytest.mark.parametrize(
    ("block", "changes", "fault"),
    [
        (REFERENCE, {}, "prototypes.encoder: name whose features are clustered"),
        ({**REFERENCE, "shots": 2}, {"encoder": "color-texture"}, "either shots or prototypes"),
        (EMBEDDING, {"encoder": "no-such"}, r"prototypes.encoder: encoder 'no-such'"),
        (EMBEDDING, {"per_class": 7}, r"prototypes.per_class: 7 asked .* are 6 patients, slides"),
        (EMBEDDING, {"per_class": 13, "patients": "mixed"}, "13 asked for, but there are 12"),
        (REFERENCE, {"per_class": 7, "encoder": "color-texture"}, r"per_class: 7 asked for"),
        ({**EMBEDDING, "group_pattern": "p"}, {}, "group_pattern: needs a group in parentheses"),
        (
            {**EMBEDDING, "images": None, "embeddings": "e.npy", "group_pattern": None},
            {},
            "prototypes: is of images: leave it out",
        ),
    ],
)
def test_what_is_wrong_is_told(
    folder: Path, block: dict[str, Any], changes: dict[str, Any], fault: str
) -> None:
    path = write(folder, block, **changes)
    with pytest.raises(RecipeError, match=fault):
        check_recipe(load_recipe(path))


def test_images_that_only_seem_enough_are_refused_when_planned(folder: Path) -> None:
    for place in (folder / "real" / "normal").iterdir():
        number = int(place.stem.partition("-")[2])
        if number > 1:
            shutil.copy(folder / "real" / "normal" / "p0-0.webp", place)
    with pytest.raises(SourceError, match=r"3 asked for, but color-texture tells only"):
        plan(write(folder, EMBEDDING))
