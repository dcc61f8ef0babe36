"""Streams and condition kinds: identities stay as they were before each owned itself."""

import json
import re
from typing import Any

import numpy as np
import pytest

from factory.catalog.catalog import ModelEntry, load_catalogs
from factory.core.errors import DamageError, InputError, RecipeError, StoreError
from factory.data.images import list_images
from factory.data.records import Condition, Job, Request
from factory.data.schema import compute_sample_id
from factory.data.streams import Caption, ClassName, Embedding, Existing, Reference, Scale, Vector
from factory.engine.plan import build_plan
from factory.models.generators.families.fake import FakeFamily
from factory.models.generators.prompts import write_prompt
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.conditions import CONDITIONS, find_stream, list_streams, restore_condition
from factory.recipe.file import load_recipe
from factory.recipe.recipe import compute_recipe_digest
from tests import ASSETS, ROOT

RECIPES = ROOT / "recipes"
MADE = {"weights_sha256": "0" * 64, "pipeline": "none", "width": 64, "height": 64}
REFERENCE = (
    "conditions=[{kind: reference, images: %s, shots: 2, per_class: 5, "
    'caption: "a {class_name}", strength: 0.4}]'
)
EXISTING = 'conditions=[{kind: %s, images: %s, content_sha256: "00ff"}]'
KNOWN = json.loads((ASSETS / "identities.json").read_text())
"""Of version 0.1, by recipe: fingerprint, keys of the first two series, and sample ids of the
second try at the first, second and last request of each."""


def identify(name: str, *overrides: str) -> Any:
    loaded = load_recipe(RECIPES / name, overrides)
    plan = build_plan(loaded.recipe, loaded.session)
    found = []
    for part in plan.series[:2]:
        for index in (0, 1, part.count - 1):
            request = part.request_at(index)
            condition, seed = request.condition_at(1), request.derive_seed(loaded.recipe.seed, 1)
            prompt = write_prompt(condition, "{class_name}", {})
            found.append(compute_sample_id(condition, prompt, seed, MADE)[:12])
    digest = compute_recipe_digest(loaded.recipe)[:12]
    keys = [part.key for part in plan.series[:2]]
    return {"fingerprint": digest, "series": keys, "samples": found}


GRIDS = {
    "caption-corpus.yaml": "conditions.caption.captions=he-basic",
    "dry-run.yaml": "conditions.caption.captions=he-basic",
    "he-captions.yaml": "conditions.caption.captions=he-attributes",
}
"""What recipes named then: the grids that they name now are free of contradictions."""


@pytest.mark.parametrize("name", [name for name in KNOWN if name.endswith(".yaml")])
def test_ids_of_shipped_recipes_are_those_of_version_0_1(name: str) -> None:
    assert identify(name, *([GRIDS[name]] if name in GRIDS else [])) == KNOWN[name]


def test_ids_of_references_are_those_of_version_0_1() -> None:
    assert identify("dry-run.yaml", REFERENCE % (ASSETS / "pcam")) == KNOWN["reference"]


@pytest.mark.parametrize("word", ["existing", "given"])
def test_ids_of_existing_images_are_those_of_version_0_1_by_either_word(word: str) -> None:
    generator = "generator={model: given, batch_size: 64}"
    assert (
        identify("dry-run.yaml", generator, EXISTING % (word, ASSETS / "pcam")) == KNOWN["judged"]
    )


def test_no_other_word_is_taken_for_a_kind() -> None:
    with pytest.raises(RecipeError, match=r"unknown kind 'smell': known: between, caption, class"):
        identify("dry-run.yaml", EXISTING % ("smell", ASSETS / "pcam"))


def make_conditions() -> list[Condition]:
    first, second, *_ = list_images(ASSETS / "pcam", group_pattern=r"(\d+)")
    return [
        Condition("tumor"),
        Condition(None, "dense nuclei"),
        Condition("tumor", "dense", Reference(first, "ab", 0.4, "resize", "cd")),
        Condition(None, None, Existing(second, "ef")),
        Condition("tumor", None, Embedding.of([[0.1, -2.5], [3, 4]], "uni2-h", "ab12", "cd")),
        Condition(None, "dense", Vector.of({"MYC": 0.25, "HYPOXIA": -1}, (), "cd")),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_condition_is_restored_from_what_it_records(number: int) -> None:
    condition = make_conditions()[number]
    images = {each.sha256: each.image for each in condition.streams if hasattr(each, "image")}
    restored = restore_condition(condition.describe(), images, condition.keep(64, 64))
    assert restored.key == condition.key
    assert [type(each) for each in restored.streams] == [type(each) for each in condition.streams]
    assert restored.columns() == condition.columns()


def test_streams_are_a_set_whatever_their_order() -> None:
    reference = make_conditions()[2].get(Reference)
    assert reference is not None
    turned = Condition(None, None, reference, Caption("dense"), ClassName("tumor"))
    assert turned == Condition("tumor", "dense", reference)
    assert (turned.class_name, turned.caption, turned.get(Existing)) == ("tumor", "dense", None)


def test_every_kind_names_its_streams_and_each_stream_is_found_by_what_it_records() -> None:
    kinds, broken = CONDITIONS.list_all()
    assert broken == {}
    assert {"class", "caption", "reference", "existing"} <= set(kinds)
    assert all(find_stream(each.recorded) is each for each in list_streams())
    with pytest.raises(StoreError, match="'smell' is of no condition kind"):
        find_stream("smell")


def test_only_an_existing_image_is_no_synthetic_one() -> None:
    assert [each.is_existing for each in make_conditions()] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def test_real_images_bring_their_patients_and_terms() -> None:
    _, _, varied, existing, *_ = make_conditions()
    assert [group for stream in varied.streams for group in stream.groups()] == ["cd"]
    assert [len(stream.groups()) for stream in existing.streams] == [1]
    assert [term.role for term in Reference.terms(None)] == ["source images"]
    assert ClassName.terms(None) == Caption.terms(None) == ()


def test_a_scale_has_one_identity_and_comes_back_from_its_row() -> None:
    scale = Scale(0.50001)
    assert scale == Scale(0.5) and scale.identity() == scale.load(64, 128) == 0.5
    assert Scale.restore(json.loads(json.dumps(scale.identity())), {}, {}) == scale
    assert Scale.columns(scale.identity()) == {"asked_mpp": 0.5}
    assert set(Scale.fields()) == {"asked_mpp"}
    keys = {Condition(None, "dense").key, Condition(None, "dense", scale).key}
    assert len(keys | {Condition(None, "dense", Scale(0.25)).key}) == 3


@pytest.mark.parametrize("mpp", [0.0, -0.5, 250.0, float("nan")])
def test_a_scale_that_no_micrograph_has_is_refused(mpp: float) -> None:
    with pytest.raises(InputError, match=r"scale: must be 0.01 to 100.0 µm per pixel"):
        Scale(mpp)


def test_an_embedding_is_known_by_array_and_encoder_and_restored_from_the_row_alone() -> None:
    one = Embedding.of(np.arange(4, dtype=np.float64).reshape(2, 2), "uni2-h")
    assert one.load(64, 64).dtype == np.float32
    assert one == Embedding.of([[0, 1], [2, 3]], "uni2-h")
    others = [
        Embedding.of([0, 1, 2, 3], "uni2-h"),
        Embedding.of([[0, 1], [2, 3.0001]], "uni2-h"),
        Embedding.of([[0, 1], [2, 3]], "uni"),
        Embedding.of([[0, 1], [2, 3]], "uni2-h", "1f3a"),
    ]
    keys = {Condition(None, None, each).key for each in (one, *others)}
    assert len(keys) == 5
    assert Condition(None, None, others[3]).columns()["embedding_encoder"] == "uni2-h@1f3a"
    kept = Condition(None, None, one).keep(64, 64)
    assert kept == {"embedding": [[0.0, 1.0], [2.0, 3.0]]}
    identity = one.identity()
    for row, fault in (
        ({}, "the row has no array"),
        ({"embedding": [[0.0, 1.0]]}, "the array has sha256"),
        ({"embedding": [[0.0], [1.0, 2.0]]}, "no array of numbers"),
    ):
        with pytest.raises(DamageError, match=fault):
            Embedding.restore(identity, {}, row)
    assert Embedding.restore(identity, {}, kept) == one


@pytest.mark.parametrize("values", [[[1.0, np.nan]], [np.inf], [], [[[1.0]]]])
def test_an_embedding_of_no_finite_tokens_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"NaN or infinite|want \(tokens, dim\)"):
        Embedding.of(values, "uni2-h")


def test_a_vector_is_known_by_its_rounded_values_whatever_their_order() -> None:
    one = Vector.of({"b": 1 / 3, "a": -0.0})
    assert one == Vector.of({"a": 0.0, "b": 0.3333333})
    assert one.identity() == {"a": 0.0, "b": 0.333333}
    assert one.names == ("a", "b")
    assert one.load(1, 1).tolist() == np.array([0, 0.333333], np.float32).tolist()
    assert one.take(("b", "a")).tolist() == one.load(1, 1)[::-1].tolist()
    assert Condition(None, None, one).columns() == {
        "vector": [0.0, 0.333333],
        "vector_names": ["a", "b"],
    }
    assert one.record() == {"vector_group_sha256": None}
    assert Vector.of({"a": 0.0}, ["a"]).record()["vector_missing"] == ["a"]
    for values, fault in (({"a": float("nan")}, "infinite: a$"), ({}, "no values")):
        with pytest.raises(InputError, match=fault):
            Vector.of(values)


def take(**changes: Any) -> ModelEntry:
    fake = load_catalogs().find_model("fake")
    taken = {
        "embedding": {"encoder": "uni2-h", "dim": 3, "tokens": 2},
        "vector": {"names": ("a", "b")},
    }
    part = {"role": "image_encoder", "source": "MahmoodLab/UNI2-h"}
    named = {**part, "licence": fake.licence.model_dump()}
    given = {**fake.model_dump(), **taken, "components": [named], **changes}
    return ModelEntry.model_validate(given)


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (Embedding.of(np.ones((2, 3)), "uni2-h"), None),
        (Embedding.of(np.ones((2, 3)), "timm:hf-hub:MahmoodLab/UNI2-h@ab"), None),
        (Embedding.of(np.ones((2, 3)), "uni"), "fake takes embeddings of uni2-h, got uni"),
        (Embedding.of(np.ones((2, 4)), "uni2-h"), "fake takes 2 x 3 (tokens x dim), got 2 x 4"),
        (Embedding.of(np.ones(3), "uni2-h"), "fake takes 2 x 3 (tokens x dim), got 1 x 3"),
        (Vector.of({"b": 1, "a": 2}), None),
        (Vector.of({"b": 1}), "fake needs the value 'a': give it"),
        (Vector.of({"b": 1, "a": 1, "c": 1}), "fake knows no value 'c': known: a, b"),
        (ClassName("x"), None),
    ],
)
def test_a_stream_says_what_a_model_does_not_take(stream: Any, fault: str | None) -> None:
    assert stream.find_misfit(take()) == fault
    assert stream.find_misfit(take(embedding=None, vector=None)) is None
    family = FakeFamily(GeneratorSettings(model="fake"), take())
    job = Job(Request("s", 0, Condition(None, None, stream), 0), 0, 1)
    if fault is None:
        assert len(family.load().generate([job])) == 1
    else:
        with pytest.raises(InputError, match=re.escape(f"{stream.name}: {fault}")):
            family.load().generate([job])
