"""Captions in a language model's words: kept where they say what the rule says."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from factory.catalog.captions.faithful import find_unfaithful
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, RecipeError
from factory.engine.dataset import open_dataset
from factory.engine.plan import build_plan
from factory.models.text_writer import TextWriter, WriterSettings
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from factory.recipe.licences import collect_recipe_terms
from tests.catalog.test_caption_grid import load
from tests.running import read_rows, run, write_recipe

GRID = """\
id: mine
class_attribute: tissue
templates: ["{tissue}, {density}", "{density} in {tissue}"]
attributes:
  tissue: {normal: [lymphoid tissue], tumor: [tumour cells]}
  density: {few: [few nuclei], many: [many nuclei, densely packed nuclei]}
  eosin: {}
"""
GRID = GRID.replace("  eosin: {}\n", "")
WORDS = {
    "lymphoid tissue, few nuclei": "here few nuclei lie in lymphoid tissue",
    "lymphoid tissue, many nuclei": "lymphoid tissue that holds many nuclei",
    "lymphoid tissue, densely packed nuclei": "lymphoid tissue alone",  # drops the density
    "few nuclei in lymphoid tissue": "lymphoid tissue with many nuclei",  # contradicts it
    "many nuclei in lymphoid tissue": "many nuclei lie here in lymphoid tissue",
    "densely packed nuclei in lymphoid tissue": "no densely packed nuclei in lymphoid tissue",
}
"""What the writer of these tests has learned by heart; three of them are not faithful."""
LICENCE = {"id": "cc-by-nc-4.0", "date_read": "2026-11-27", "commercial_use": False}


def save_writer(folder: Path, learns: bool, known: dict[str, str] = WORDS) -> None:
    """A GPT-2 of one layer and a tokenizer of words; it learns them by heart, or nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    lines = [f"{caption} = {said}" for caption, said in known.items()]
    words = sorted({word for line in lines for word in line.replace(",", " ,").split()})
    vocabulary = {word: row for row, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(vocabulary), n_positions=48, n_embd=48, n_layer=2, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=1, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        batch = tokenizer([f"{line} <eos>" for line in lines], padding=True, return_tensors="pt")
        batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(80 if learns else 0):
            loss = model(**batch, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writers")
    save_writer(folder / "learned", True)
    save_writer(folder / "random", False)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))


def write(folder: Path, writer: dict[str, Any] | None, **more: Any) -> Path:
    (folder / "own" / "captions").mkdir(parents=True, exist_ok=True)
    (folder / "own" / "captions" / "mine.yaml").write_text(GRID)
    expand = {"captions": "mine", **({} if writer is None else {"writer": writer})}
    return write_recipe(
        folder,
        catalogs=["own"],
        conditions=[{"kind": "class", "per_class": {"normal": 12}, "expand": expand}],
        filters=[{"kind": "finite"}],
        generator={"width": 16, "height": 16, "batch_size": 8},
        **more,
    )


def ask(model: Path, **more: Any) -> dict[str, Any]:
    given = {"model": str(model), "template": "{caption} =", "max_new_tokens": 12}
    return {**given, "licence": LICENCE, **more}


def test_what_a_writer_says_is_kept_where_it_is_faithful(tmp_path: Path, writers: Path) -> None:
    path = write(tmp_path, ask(writers / "learned"))
    assert run(path, tmp_path / "run").exit_code == 0
    rows = read_rows(tmp_path / "run")
    outcomes = Counter()
    for row in rows:
        told = json.loads(row["provenance"])
        made, attributes = told["writer"], told["attributes"]
        assert attributes["tissue"] == "normal" == row["class_name"]
        said, fault = WORDS[made["rule"]], made["passed_over"]
        if fault is None:
            assert row["caption"] == said and attributes["wording"] == "written"
        else:
            assert row["caption"] == made["rule"] and attributes["wording"] == "rule"
        outcomes[fault and fault.split(" ")[0]] += 1
        assert made["model"] == "learned" and made["licence"] == "cc-by-nc-4.0"
        assert len(made["weights_sha256"]) == 64 and made["revision"]
    assert set(outcomes) == {None, "drops", "contradicts", "denies"}
    summary = open_dataset(str(tmp_path / "run")).summary.series[0]
    assert summary.attributes is not None
    wording = summary.attributes["wording"]
    assert wording["written"].images == outcomes[None]
    assert wording["rule"].images == len(rows) - outcomes[None] > 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "captions reworded by learned@" in card and "| wording | rule | 0.0% |" in card
    loaded = load_recipe(path)
    (term,) = [
        t for t in collect_recipe_terms(loaded.recipe, loaded.session) if t.name == "learned"
    ]
    assert (term.role, term.id, term.reaches) == ("text writer", "cc-by-nc-4.0", True)


def test_gibberish_is_passed_over_for_the_rules_own_words(tmp_path: Path, writers: Path) -> None:
    written, plain = (
        build_plan(loaded.recipe, loaded.session).series[0]
        for loaded in (
            load_recipe(write(tmp_path / name, given))
            for name, given in (("a", ask(writers / "random")), ("b", None))
        )
    )
    for index in range(6):
        found, rule = (each.request_at(index).condition for each in (written, plain))
        assert found == rule and found.key == rule.key  # the very image of the rule's caption
        (caption,) = (each for each in found.streams if each.name == "caption")
        assert caption.record()["writer"]["passed_over"]
    assert written.key != plain.key


def test_texts_are_made_once_and_kept_by_what_they_follow_from(
    tmp_path: Path, writers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    inner = TextWriter._ask

    def spy(self: Any, caption: str, seed: int) -> str:
        asked.append(caption)
        return inner(self, caption, seed)

    monkeypatch.setattr(TextWriter, "_ask", spy)
    settings = WriterSettings(**ask(writers / "learned"))
    caption = next(iter(WORDS))
    texts = {TextWriter(settings, tmp_path).write(caption, seed) for seed in (1, 2)}
    assert texts == {WORDS[caption]} and asked == [caption]
    for file in (tmp_path / "cache").rglob("*.txt"):
        file.write_bytes(file.read_bytes() + b"spoilt")
    assert TextWriter(settings, tmp_path).write(caption, 1) == WORDS[caption]
    assert len(asked) == 2  # what is damaged is made again
    warm = WriterSettings(**ask(writers / "random", temperature=1.5))
    drawn = [TextWriter(warm, tmp_path).write(caption, seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1] and len(asked) == 4
    before = torch.random.get_rng_state()
    TextWriter(warm, tmp_path).write(caption, 3)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody's chance is touched


def test_texts_follow_from_what_stands_beside_the_weights_too(
    tmp_path: Path, writers: Path
) -> None:
    folder, caption = tmp_path / "learned", next(iter(WORDS))
    shutil.copytree(writers / "learned", folder)
    settings = WriterSettings(**ask(folder))
    before = TextWriter(settings, tmp_path)
    assert before.write(caption, 0) == WORDS[caption]
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 50.0}))
    after = TextWriter(settings, tmp_path)
    assert after.describe() != before.describe()
    assert after.write(caption, 0) != WORDS[caption]


def test_a_chat_template_brings_its_own_special_tokens(tmp_path: Path, writers: Path) -> None:
    from transformers import AutoTokenizer

    folder, seen = tmp_path / "chat", []
    shutil.copytree(writers / "learned", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "<eos>{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    writer = TextWriter(WriterSettings(**ask(folder)), tmp_path)
    inner = writer._load()[0]

    def look(text: str, **how: Any) -> Any:
        seen.append((text, how["add_special_tokens"]))
        return inner(text, **how)

    look.chat_template, look.apply_chat_template = inner.chat_template, inner.apply_chat_template
    look.pad_token_id, look.eos_token_id, look.decode = 0, 1, inner.decode
    writer._loaded = look, writer._loaded[1]
    writer.write("few nuclei", 0)
    assert seen == [("<eos>few nuclei =", False)]


def test_a_question_too_long_for_the_writer_is_told(tmp_path: Path, writers: Path) -> None:
    settings = WriterSettings(**ask(writers / "random", max_new_tokens=200))
    with pytest.raises(InputError, match=r"has 48 places, .* 200 needs more: lower max_new_tokens"):
        TextWriter(settings, tmp_path).write("few nuclei", 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Many nuclei crowd the LYMPHOID  tissue.", None),
        ("lymphoid tissue", "drops density many"),
        ("many nuclei", "drops tissue normal"),
        ("many nuclei and few nuclei in lymphoid tissue", "contradicts density by 'few nuclei'"),
        ("lymphoid tissue without many nuclei", "denies density many"),
        ("many nuclei in lymphoid tissue and tumour cells", "contradicts tissue by"),
        ("", "drops tissue normal"),
    ],
)
def test_what_is_dropped_denied_or_added_is_told(
    tmp_path: Path, text: str, fault: str | None
) -> None:
    said = find_unfaithful(load(tmp_path, GRID), {"tissue": "normal", "density": "many"}, text)
    assert said is None if fault is None else said is not None and said.startswith(fault)


def test_words_within_words_and_synonyms_of_concepts_are_understood() -> None:
    catalogs = load_catalogs()
    grid, terms = catalogs.find_captions("he-attributes-2"), catalogs.find_terms("pathology")
    said = {"density": "medium", "organ": "colon"}
    assert find_unfaithful(grid, said, "moderately dense nuclei of the colon", terms) is None
    text = "moderately dense nuclei, large intestine"
    assert find_unfaithful(grid, said, text, terms) is None
    assert find_unfaithful(grid, said, "moderately dense nuclei of the bowel", terms)
    node = {"organ": "lymph node"}
    assert find_unfaithful(grid, node, "nodal tissue with strong eosin", terms) == (
        "adds eosin by 'strong eosin'"
    )
    other = catalogs.find_captions("crc-nct")
    text = "lymphocytic infiltrate, densely packed nuclei"  # a synonym that the grid has not
    values = {"tissue": "LYM", "density": "high"}
    assert find_unfaithful(other, values, text) == "drops tissue LYM"
    assert find_unfaithful(other, values, text, terms) is None


@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        ({"model": "gone"}, r"expand.writer.model: no folder .*gone' with a config.json"),
        ({"model": "owner/name", "revision": "main"}, r"writer.revision: .*a full commit"),
        ({"model": "owner/name", "revision": "0" * 40}, "owner/name is not here: hf download"),
        ({"model": "gone", "template": "reword"}, r"writer.template: must hold {caption}"),
        ({"model": "gone", "template": "{caption} {what}"}, r"must hold {caption} and no other"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, writer: dict[str, Any], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        check_recipe(load_recipe(write(tmp_path, writer)))


def test_a_grid_named_in_either_way_makes_the_same_images(tmp_path: Path) -> None:
    path = write(tmp_path, None)
    recipe = yaml.safe_load(path.read_text())
    nested = build_plan(*_open(path)).series[0]
    recipe["conditions"][0]["expand"] = "mine"
    path.write_text(yaml.safe_dump(recipe))
    plain = build_plan(*_open(path)).series[0]
    assert nested.key == plain.key and nested.request_at(3) == plain.request_at(3)


def _open(path: Path) -> tuple[Any, Any]:
    loaded = load_recipe(path)
    return loaded.recipe, loaded.session
