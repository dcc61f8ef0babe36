import itertools
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.catalog.catalog import (
    CaptionGrid,
    Catalogs,
    caption_at,
    count_captions,
    find_shipped_folder,
    load_catalogs,
)
from factory.core.errors import CatalogError, RecipeError
from factory.models.generators.families import FAMILIES
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.settings import GeneratorSettings
from tests import ASSETS, ROOT

CLIP_TOKENS = 77

MODEL = """\
id: {id}
source: {source}
family: {family}
width: 64
height: 64
steps: 4
guidance: 1.0
licence: {{id: mit, date_read: "2026-11-20"}}
"""


def write_model(
    root: Path, name: str, source: str = "a/b", family: str = "fake", id: str | None = None
) -> Path:
    path = root / "models" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MODEL.format(id=id or name, source=source, family=family))
    return path


KINDS = {
    "models",
    "encoders",
    "classes",
    "captions",
    "classifiers",
    "pathways",
    "stains",
    "terms",
    "words",
}

# --- shipped entries -----------------------------------------------------------------------------


def test_shipped_models_are_sound() -> None:
    catalogs = load_catalogs()
    models = {entry.id: entry for entry in catalogs.list_models()}
    assert {
        "nano-he",
        "nano-he-base",
        "he-multi-base",
        "fake",
        "stable-diffusion-1-5",
        "stable-diffusion-xl",
        "stable-diffusion-3-5-medium",
        "stable-diffusion-3-5-large",
        "pixart-sigma",
        "dit-256",
        "flux-1-dev",
        "flux-1-schnell",
        "pixcell-256",
        "pixcell-1024",
        "unipath-7b",
        "mupad-256",
        "cytosyn",
    } <= set(models)
    given = models.pop("given")  # no model: the terms are those of the images, nowhere to be read
    assert (given.family, given.licence.id, given.licence.url) == ("given", "other", "")
    for entry in models.values():
        assert entry.family in FAMILIES.names, entry.id
        assert entry.title and entry.licence.url.startswith("https://"), entry.id
        assert entry.licence.date_read in ("2026-11-20", "2026-11-26", "2026-11-27"), entry.id
        assert not entry.remote_code or entry.revision, entry.id
        family = FAMILIES.get(entry.family)(GeneratorSettings(model=entry.id), entry)
        if isinstance(family, PipelineFamily) and family.optional is not None:
            assert set(entry.required) | set(entry.optional) <= family.required | family.optional
            assert family.required <= set(entry.required), entry.id


def test_shipped_terms_say_what_was_read() -> None:
    catalogs = load_catalogs()
    assert catalogs.find_model("unipath-7b").licence.dataset_generation is False
    assert catalogs.find_model("nano-he").licence.id == "apache-2.0"
    assert catalogs.find_model("nano-he").labels_seen is True
    assert catalogs.find_model("nano-he-base").labels_seen is False
    assert catalogs.find_model("stable-diffusion-3-5-medium").licence.commercial_use is None
    pixcell = catalogs.find_model("pixcell-256")
    sources = {part.source: part for part in pixcell.components}
    assert sources["MahmoodLab/UNI2-h"].licence.commercial_use is False
    assert sources["MahmoodLab/UNI2-h"].licence.gated
    assert any("stable-diffusion-3.5" in source for source in sources)
    assert "drift" in pixcell.licence.note


def test_nano_he_is_what_its_recipe_trains() -> None:
    entry = load_catalogs().find_model("nano-he")
    assert entry.source == str(ROOT / "catalogs/models/nano-he")
    assert entry.family == "flow"
    assert entry.class_names is not None
    assert (len(entry.class_names), entry.class_names[:2]) == (13, ("normal", "tumor"))
    assert (entry.width, entry.height, entry.mpp) == (64, 64, None)
    takes = ("class_name", "caption", "reference", "source", "domain")
    assert (entry.required, entry.optional) == ((), takes)
    assert load_catalogs().find_model("nano-he-base").class_names == ()


def test_shipped_classes_are_sound() -> None:
    catalogs = load_catalogs()
    counts = {name: catalogs.find_classes(name) for name in catalogs.list_ids("classes")}
    sizes = {name: len(entry.classes) for name, entry in counts.items()}
    assert sizes.items() >= {
        ("pcam", 2),
        ("crc-nct", 9),
        ("oral-oscc", 4),
        ("bethesda-cervix", 4),
        ("bach", 4),
    }
    for entry in counts.values():
        names = [part.name for part in entry.classes]
        assert len(set(names)) == len(names) and entry.source
        assert all(part.title for part in entry.classes)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("pcam", "pcam"),
        ("crc-val-7k", "crc-nct"),
        ("oral-oscc", "oral-oscc"),
        ("cervix-lbc4", "bethesda-cervix"),
    ],
)
def test_shipped_classes_are_the_folders_of_real_data(folder: str, name: str) -> None:
    known = {part.name for part in load_catalogs().find_classes(name).classes}
    folders = {path.name for path in (ASSETS / folder / "train").iterdir() if path.is_dir()}
    assert folders and folders <= known


def test_he_basic_is_large_and_short() -> None:
    grid = load_catalogs().find_captions("he-basic")
    total = count_captions(grid)
    assert total == 103_680
    captions = [caption_at(grid, index)[0] for index in range(0, total, 7)]
    assert len(set(captions)) == len(captions)
    # CLIP's tokenizer makes up to 2.5 tokens of a word of these captions, and 47 of the longest.
    assert max(len(caption.split()) for caption in captions) * 3 < CLIP_TOKENS
    assert not any("{" in caption for caption in captions)
    classes = {caption_at(grid, index)[1]["tissue"] for index in range(0, total, 97)}
    assert classes == set(grid.attributes["tissue"])


def test_every_shipped_file_is_in_a_known_place() -> None:
    root = find_shipped_folder("catalogs")
    for path in root.rglob("*.yaml"):
        if path.parent.parent == root:
            assert path.parent.name in KINDS, path
            assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", path.stem), path


# --- lookup --------------------------------------------------------------------------------------


def test_user_folders_come_first(tmp_path: Path) -> None:
    write_model(tmp_path / "one", "nano-he", source="me/mine")
    write_model(tmp_path / "two", "nano-he", source="not/this")
    write_model(tmp_path / "two", "other")
    catalogs = load_catalogs([tmp_path / "one", tmp_path / "two"])
    assert catalogs.find_model("nano-he").source == "me/mine"
    assert catalogs.find_model("other").id == "other"
    assert catalogs.find_model("fake").family == "fake"
    assert {"nano-he", "other", "fake"} <= set(catalogs.list_ids("models"))
    assert [entry.id for entry in catalogs.list_models()] == sorted(catalogs.list_ids("models"))


def test_a_wrong_file_hurts_only_whom_it_serves(tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    bad = write_model(tmp_path, "bad")
    bad.write_text(bad.read_text() + "step: 3\n")
    catalogs = load_catalogs([tmp_path])
    assert catalogs.find_model("good").steps == 4
    with pytest.raises(RecipeError) as caught:
        catalogs.find_model("bad")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (str(bad), 9, "step")
    assert "did you mean 'steps'?" in problem.message
    with pytest.raises(RecipeError):
        catalogs.list_models()


def test_the_id_is_the_file_name(tmp_path: Path) -> None:
    path = write_model(tmp_path, "one", id="two")
    with pytest.raises(RecipeError, match=r"one.yaml:1:1: id: must be the file's name 'one'"):
        load_catalogs([tmp_path]).find_model("one")
    assert path.exists()


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    catalogs = load_catalogs()
    with pytest.raises(CatalogError, match="did you mean 'nano-he'"):
        catalogs.find_model("nano_he")
    with pytest.raises(CatalogError, match="did you mean 'crc-nct'"):
        catalogs.find_classes("crc-nc")
    with pytest.raises(
        CatalogError, match="known: crc-nct, crc-nct-2, he-attributes, he-attributes-2, he-basic"
    ):
        catalogs.find_captions("zzz")
    with pytest.raises(CatalogError, match="in classifiers"):
        catalogs.find_classifier("no-such-classifier")


@pytest.mark.parametrize("name", ["../models/fake", "..", "", "/etc/passwd", "models/fake", "Fake"])
def test_names_are_no_paths(name: str) -> None:
    with pytest.raises(CatalogError):
        load_catalogs().find_model(name)


def test_local_sources_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "models" / "near").mkdir(parents=True)
    write_model(tmp_path, "near", source="near")
    write_model(tmp_path, "dotted", source="./missing")
    write_model(tmp_path, "up", source="../weights")
    write_model(tmp_path, "hub", source="owner/name")
    catalogs = load_catalogs([tmp_path])
    assert catalogs.find_model("near").source == str(tmp_path / "models" / "near")
    assert catalogs.find_model("dotted").source == str(tmp_path / "models" / "missing")
    assert catalogs.find_model("up").source == str(tmp_path / "weights")
    assert catalogs.find_model("hub").source == "owner/name"


def test_models_are_found_by_hub_id_too() -> None:
    catalogs = load_catalogs()
    entry = catalogs.find_model_of_source("black-forest-labs/FLUX.1-schnell")
    assert entry is not None and entry.id == "flux-1-schnell"
    assert catalogs.get_model("flux-1-schnell") == entry
    assert catalogs.get_model("black-forest-labs/FLUX.1-schnell") == entry
    assert catalogs.get_model("nobody/nothing") is None


def test_classifier_folders(tmp_path: Path) -> None:
    entries = tmp_path / "classifiers"
    entries.mkdir()
    (entries / "mine.yaml").write_text(
        'id: mine\nsource: mine\nclass_names: [a, b]\nlicence: {id: mit, date_read: "2026-11-20"}\n'
    )
    catalogs = load_catalogs([tmp_path])
    assert catalogs.find_classifier_folder("mine") == entries / "mine"
    assert catalogs.find_classifier_folder("other") is None


def test_folders_that_are_no_catalogs(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such catalog folder"):
        load_catalogs([tmp_path / "missing"])
    with pytest.raises(CatalogError, match="one of the folders models"):
        load_catalogs([tmp_path])


def test_entries_are_read_on_demand_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import factory.catalog.catalog

    reads: list[str] = []
    read = factory.catalog.catalog.read_document
    monkeypatch.setattr(
        factory.catalog.catalog,
        "read_document",
        lambda path: (reads.append(path.name), read(path))[1],
    )
    write_model(tmp_path, "one")
    write_model(tmp_path, "two")
    catalogs = Catalogs([tmp_path])
    assert catalogs.list_ids("models") == ("one", "two") and not reads
    assert catalogs.find_model("one") is catalogs.find_model("one")
    assert reads == ["one.yaml"]


# --- caption grids -------------------------------------------------------------------------------

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=6)
GRIDS = st.dictionaries(
    WORDS,
    st.dictionaries(WORDS, st.lists(WORDS, max_size=3, unique=True), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


@given(GRIDS)
def test_a_grid_is_the_product_of_its_wordings(
    attributes: dict[str, dict[str, list[str]]],
) -> None:
    texts = {
        name: [text for value, wordings in values.items() for text in wordings or [value]]
        for name, values in attributes.items()
    }
    names = list(attributes)
    template = "T " + " ".join(f"<{{{name}}}>" for name in names)
    short = f"S {{{names[0]}}}"
    fields = {"id": "g", "templates": (template, short), "attributes": attributes}
    if any(len(set(each)) < len(each) for each in texts.values()):
        with pytest.raises(ValidationError, match="all differ"):
            CaptionGrid.model_validate(fields)
        return
    grid = CaptionGrid.model_validate(fields)
    expected = [
        "T " + " ".join(f"<{text}>" for text in combination)
        for combination in itertools.product(*(texts[name] for name in names))
    ] + [f"S {text}" for text in texts[names[0]]]
    found = [caption_at(grid, index) for index in range(count_captions(grid))]
    assert [caption for caption, _ in found] == expected
    for caption, values in found:
        for name, value in values.items():
            assert value in attributes[name]
            assert any(text in caption for text in attributes[name][value] or [value])


def test_a_grid_is_never_made(tmp_path: Path) -> None:
    values = {str(number): () for number in range(1000)}
    attributes = dict.fromkeys("abcdefgh", values)
    template = " ".join(f"{{{name}}}" for name in attributes)
    grid = CaptionGrid(id="g", templates=(template,), attributes=attributes)
    assert count_captions(grid) == 1000**8
    caption, chosen = caption_at(grid, 123_456_789)
    assert caption == "0 0 0 0 0 123 456 789"
    assert list(chosen) == list(attributes) and chosen["h"] == "789"


@pytest.mark.parametrize("index", [-1, 103_680, 10**12])
def test_indices_outside_a_grid(index: int) -> None:
    with pytest.raises(IndexError, match="103680"):
        caption_at(load_catalogs().find_captions("he-basic"), index)


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ("templates: ['{organ} {tissue}']", "attributes", "names {tissue}"),
        ("templates: ['a {organn}']", "attributes", "did you mean 'organ'"),
        ("templates: ['plain']", "attributes", "no template"),
        ("templates: ['{organ} {']", "templates", "brace"),
        ("templates: ['{organ!r}']", "templates", "name only"),
        ("templates: ['{organ.x}']", "templates", "name only"),
        ("templates: ['{}']", "templates", "name only"),
        ("templates: ['{organ}', '{organ}']", "templates", "twice"),
        ("attributes: {organ: {a: [x, y], b: [x]}}", "attributes", "all differ"),
        ("attributes: {organ: {}}", "attributes", "needs values"),
        ("class_attribute: tissue", "class_attribute", "does not name"),
    ],
)
def test_wrong_grids(tmp_path: Path, change: str, field: str, word: str) -> None:
    (tmp_path / "captions").mkdir()
    lines = {
        "id": "id: g",
        "templates": "templates: ['a {organ}']",
        "attributes": "attributes: {organ: {colon: [colon, large bowel]}}",
        "class_attribute": "class_attribute: organ",
    }
    lines[change.partition(":")[0]] = change
    path = tmp_path / "captions" / "g.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(RecipeError) as caught:
        load_catalogs([tmp_path]).find_captions("g")
    found = {problem.field: problem for problem in caught.value.problems}
    assert field in found, str(caught.value)
    assert word in found[field].message
    assert found[field].line == list(lines).index(field) + 1


# --- entries that adapt another one --------------------------------------------------------------


def write_adapted(folder: Path, name: str, **changes: object) -> Path:
    path = folder / "models" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"id": name, **changes}, sort_keys=False))
    return path


def test_an_adapted_entry_has_the_fields_of_its_base(tmp_path: Path) -> None:
    plain_file = write_model(tmp_path / "one", "plain", source="./weights")
    plain_file.write_text(plain_file.read_text() + "mpp: 0.5\n")
    write_adapted(
        tmp_path / "two",
        "mine",
        base="plain",
        steps=5,
        adapters=[{"source": "../lora"}],
        class_names=["a", "b"],
        class_prompts={"a": "words"},
    )
    write_adapted(tmp_path / "two", "twice", base="mine", adapters=[{"source": "./own"}])
    catalogs = load_catalogs([tmp_path / "two", tmp_path / "one"])
    plain, mine, twice = (catalogs.find_model(name) for name in ("plain", "mine", "twice"))
    assert (mine.steps, mine.mpp, mine.licence, mine.base) == (5, 0.5, plain.licence, "plain")
    assert mine.source == plain.source == str(tmp_path / "one" / "models" / "weights")
    assert [each.source for each in mine.adapters] == [str(tmp_path / "two" / "lora")]
    assert (twice.steps, twice.class_names, twice.base) == (5, ("a", "b"), "mine")
    own = str(tmp_path / "two" / "models" / "own")
    assert [each.source for each in twice.adapters] == [mine.adapters[0].source, own]
    assert twice.class_prompts == {"a": "words"}


def test_adapted_entries_are_found_by_id_only(tmp_path: Path) -> None:
    write_model(tmp_path, "zplain", source="owner/name")
    write_adapted(tmp_path, "adapted", base="zplain", adapters=[{"source": "owner/lora"}])
    found = load_catalogs([tmp_path]).find_model_of_source("owner/name")
    assert found is not None and found.id == "zplain"


def test_wrong_bases_are_told_with_their_place(tmp_path: Path) -> None:
    write_adapted(tmp_path, "one", base="two")
    path = write_adapted(tmp_path, "two", base="one")
    write_adapted(tmp_path, "self", base="self")
    write_adapted(tmp_path, "lost", base="nano-hi")
    write_adapted(tmp_path, "odd", base="nano-he", prompt_template="tissue")
    catalogs = load_catalogs([tmp_path])
    with pytest.raises(RecipeError) as caught:
        catalogs.find_model("one")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (str(path), 2, "base")
    assert "in a circle (one -> two -> one)" in problem.message
    with pytest.raises(RecipeError, match=r"in a circle \(self -> self\)"):
        catalogs.find_model("self")
    with pytest.raises(RecipeError, match=r"lost.yaml:2:1: base: no entry .*did you mean 'nano-he"):
        catalogs.find_model("lost")
    with pytest.raises(RecipeError, match=r"prompt_template: must hold \{class_name\}"):
        catalogs.find_model("odd")
