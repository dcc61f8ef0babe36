"""The card and its companions: a whole card of a real run, parsed as the Hub parses it."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard

from factory.core.errors import InputError
from factory.core.places import shorten_places
from factory.engine.dataset import Dataset
from factory.evaluate.image_sets import list_set
from factory.publish.card import (
    Facts,
    build_card,
    build_documents,
    choose_size_category,
    collect_facts,
    write_card,
)
from factory.publish.card.citation import build_bibtex, build_cff, find_spdx
from factory.publish.card.evaluations import format_metric, write_evaluation
from factory.publish.card.readme import BEGIN, END
from factory.recipe.licences import record_licence
from tests.running import call, read_json, run, write_recipe

CARD = {
    "license": "cc-by-4.0",
    "pretty_name": "Lymph node: ten shots",
    "description": "Made for a test | of cards.",
    "tags": ["lymph-node"],
    "authors": ["Doe, Jane", "The group"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("card")
    out = folder / "run"
    run(write_recipe(folder, card=CARD, output={"rows_per_file": 6}), out)
    return out


def copy_facts(out, summary=None, card=None, **changes) -> Facts:
    recipe, found = Dataset(str(out)).require_finished()
    if card:
        recipe = recipe.model_copy(update={"card": recipe.card.model_copy(update=card)})
    if summary and "filters" in summary:
        recipe = recipe.model_validate({**dict(recipe), "filters": summary["filters"]})
    facts = collect_facts(Dataset(str(out), recipe, found.change(**(summary or {}))))
    return Facts(recipe, facts.summary, facts.files, facts.schemas, changes.get("evaluations", {}))


# --- header --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_size_categories(rows, category):
    assert choose_size_category(rows) == category


def test_the_hubs_parser_reads_the_header(made):
    data = DatasetCard.load(made / "README.md").data
    assert (data.license, data.pretty_name) == ("cc-by-4.0", "Lymph node: ten shots")
    assert data.tags[0] == "synthetic"
    assert "lymph-node" in data.tags
    assert data.annotations_creators == ["machine-generated"]
    assert data.source_datasets == ["original"]
    assert data.task_categories == ["image-classification"]
    assert data.size_categories == ["n<1K"]
    assert [each["config_name"] for each in data.configs] == ["default", "rejected"]
    assert "license_name" not in data.to_dict()


def test_splits_are_counted_from_the_files(made):
    infos = DatasetCard.load(made / "README.md").data.to_dict()["dataset_info"]
    for info, folder in zip(infos, ("data", "rejected"), strict=True):
        paths = sorted((made / folder).glob("*.parquet"))
        (split,) = info["splits"]
        assert split["num_examples"] == sum(pq.read_metadata(path).num_rows for path in paths) > 0
        assert info["download_size"] == sum(path.stat().st_size for path in paths)
        assert split["num_bytes"] == info["dataset_size"] > 0
        names = [feature["name"] for feature in info["features"]]
        assert names == pq.read_schema(paths[0]).names
    assert len(list((made / "data").glob("*.parquet"))) > 1


def test_the_card_loads_as_a_data_set(made):
    rows = load_dataset(str(made), split="train")
    assert rows.num_rows == 23
    assert rows.features["label"].names == ["normal", "tumor"]
    assert load_dataset(str(made), "rejected", split="rejected").num_rows > 0


def test_a_licence_without_id_has_name_link_and_text(made):
    other = {"license": "other"}
    facts = copy_facts(made, card=other)
    header = yaml.safe_load(build_card(facts, False).split("---")[1])
    assert (header["license"], header["license_link"]) == ("other", "LICENSE.md")
    text = build_documents(Dataset(str(made)), facts)["LICENSE.md"].decode()
    assert "no restriction is recorded" in text
    linked = {"license": "other", "license_name": "mine", "license_link": "https://example.org"}
    documents = build_documents(Dataset(str(made)), copy_facts(made, card=linked))
    assert "LICENSE.md" not in documents
    assert b"license_link: https://example.org" in documents["README.md"]


def test_judged_images_are_not_called_synthetic(made):
    facts = copy_facts(made, {"judged": True})
    text = build_card(facts, False)
    header = yaml.safe_load(text.split("---")[1])
    assert "synthetic" not in header["tags"]
    assert header["source_datasets"] == ["extended"]
    assert "judged, not generated" in text
    assert "**synthetic**" not in text
    assert "synthetic" not in yaml.safe_load(build_cff(facts))["keywords"]


# --- sections ------------------------------------------------------------------------------------


def test_the_card_says_what_was_measured_and_what_not(made):
    text = (made / "README.md").read_text()
    summary = read_json(made / "summary.json")
    for part in summary["series"]:
        assert f"| {part['label']} | {part['asked']} | {part['accepted']} |" in text
    assert "**Not measured.**" in text
    assert "**Not checked.**" in text
    assert "Research, not diagnosis" in text
    assert "Made for a test | of cards." in text
    assert summary["recipe_sha256"] in text
    assert "factory run recipe.json" in text
    assert "no restriction is recorded" in text


def test_restrictions_approvals_and_overrides_are_shown(made):
    _, summary = Dataset(str(made)).require_finished()
    maker = summary.makers[0].to_json()
    terms = {"id": "cc-by-nc-nd-4.0", "date_read": "2026-11-20", "attribution": ["Roe, 2025"]}
    maker["components"] = [{"role": "image_encoder", "source": "lab/enc", "licence": terms}]
    changed = summary.change(makers=[maker], approval="Prof. Doe, 2026-11-01")
    changed = record_licence(changed, "cc-by-sa-4.0", "Dr. Roe, 2026-11-20")
    text = build_card(copy_facts(made, changed.to_json()), False)
    assert "license: cc-by-sa-4.0" in text
    assert "**no commercial use: by the terms of the image_encoder lab/enc" in text
    assert "**overridden** to publish it as cc-by-sa-4.0, approved by: Dr. Roe" in text
    assert "approved: making this data set, by Prof. Doe, 2026-11-01" in text
    assert "- Roe, 2025" in text


def test_an_override_survives_a_second_finalizing(tmp_path):
    recipe = write_recipe(tmp_path, conditions=[{"kind": "class", "per_class": {"a": 2}}])
    run(recipe, tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    entry = {"license": "cc-by-4.0", "approved": "Dr. Roe", "terms": ["x"]}
    path.write_text(json.dumps({**read_json(path), "overrides": [entry]}))
    assert run(recipe, tmp_path / "run").summary.to_json()["overrides"] == [entry]
    assert "Dr. Roe" in (tmp_path / "run" / "README.md").read_text()


def test_memorisation_names_what_was_compared(made):
    settings = {"kind": "training_copy", "max_similarity": 0.9, "images": "/home/me/real"}
    _, summary = Dataset(str(made)).require_finished()
    maker = {**summary.makers[0].to_json(), "filters": [{**settings, "images_sha256": "ab" * 32}]}
    text = build_card(copy_facts(made, {"filters": [settings], "makers": [maker]}), False)
    assert "checked against the set `.../real` (sha256 abab" in text
    assert "whose similarity was above 0.9" in text
    assert "Not checked" not in text
    assert "/home/me" not in text


COPIES = {
    "kind": "copies",
    "scope": "checked against reference set train only",
    "authpct": {"synthetic": {"value": 56.25, "low": 41.7, "high": 68.75}},
    "similarity": {"max_similarity": 0.95, "synthetic": {"above": 3, "images": 48}},
}
FEWSHOT = {
    "kind": "fewshot",
    "arms": {
        "real": {"accuracy": {"mean": 0.64, "low": 0.57, "high": 0.71}},
        "synthetic": {"accuracy": {"mean": 0.5, "low": 0.4, "high": 0.6}},
    },
    "settings": {"shots": 10, "seeds": [0, 1], "real": {"path": "x"}},
    "marks": {"synthetic": ["LABELS SEEN"]},
    "notes": ["groups are not known", "ENCODER USED TWICE: one encoder does both"],
}
FIGURE = {
    "encoder": {"spec": "he-ssl-eval"},
    "synthetic": "set",
    "class": None,
    "metrics": {
        "kid": {"value": 0.02, "low": 0.01, "high": 0.03},
        "fd": {"value": None, "refused": "48 images are too few"},
    },
    "floor": {"metrics": {"kid": {"value": 0.0}, "fd": {"value": 12.5, "flag": "N < d"}}},
    "circular": ["filter and judge are one"],
}


def test_results_become_tables_with_marks_first(made):
    results = {"copies": COPIES, "fewshot": FEWSHOT, "fidelity": {"figures": [FIGURE]}}
    text = build_card(copy_facts(made, evaluations=results), False)
    assert "| real | 0.64 [0.57, 0.71] |" in text
    assert text.index("**synthetic: LABELS SEEN**") < text.index("0.5 [0.4, 0.6]")
    assert "Settings: shots: 10; seeds: 0 1" in text
    assert "- groups are not known" in text
    assert "- **ENCODER USED TWICE**: one encoder does both" in text
    assert "| he-ssl-eval · set · overall | 0.02 [0.01, 0.03] | refused |" in text
    assert "| he-ssl-eval · set · overall · floor | 0 | 12.5 **N < d** |" in text
    assert "- refused: 48 images are too few" in text
    assert "**NOT INDEPENDENT**: filter and judge are one" in text
    assert "3 of 48 images above 0.95" in text
    assert "Not measured" not in text
    assert "Not checked" not in text


def test_several_counts_of_shots_are_told_apart():
    text = write_evaluation("few", {**FEWSHOT, "shots": {"5": FEWSHOT, "10": FEWSHOT}})
    assert "| shots · 5 · real | 0.64 [0.57, 0.71] |" in text
    assert text.count("0.64 [0.57, 0.71]") == 2
    assert "LABELS SEEN" in text


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ({"mean": 0.12345, "low": -1e-5, "high": 1}, "0.123 [-1e-05, 1]"),
        ({"value": 12}, "12"),
        ({"value": None}, "refused"),
    ],
)
def test_metrics_are_written_short(metric, text):
    assert format_metric(metric) == text


def test_results_in_the_run_folder_are_found_and_wrong_ones_named(tmp_path):
    out = tmp_path / "run"
    block = {"kind": "class", "per_class": {"a": 2}}
    run(write_recipe(tmp_path, conditions=[block]), out)
    (out / "evaluation").mkdir()
    measured = {**FEWSHOT, "data": [list_set(out).describe_data()]}
    (out / "evaluation" / "fewshot.json").write_text(json.dumps(measured))
    assert call("card", str(out)).exit_code == 0
    assert "### fewshot" in (out / "README.md").read_text()
    (out / "evaluation" / "bad.json").write_text("[1")
    with pytest.raises(InputError, match=r"bad.json: damaged, no JSON"):
        write_card(Dataset(str(out)))


def test_absolute_paths_are_cut_and_others_kept():
    plain = {"a": "/home/me/real", "b": ["~/x/y", "real/z", "owner/name"], "c": 3}
    assert shorten_places(plain) == {
        "a": ".../real",
        "b": [".../y", "real/z", "owner/name"],
        "c": 3,
    }


# --- a user's own text ---------------------------------------------------------------------------


def test_a_users_text_and_header_keys_survive(made):
    path = made / "README.md"
    fresh = path.read_text()
    header, body = fresh.removeprefix("---\n").split("\n---\n", 1)
    edited = f"---\n{header}\nlanguage:\n- en\n---\nAbove.\n{body}\nBelow.\n".replace(
        "Every request was filled.", "Every request was FILLED BY HAND."
    ).replace("license: cc-by-4.0", "license: mit")
    path.write_text(edited)
    write_card(Dataset(str(made)))
    once = path.read_text()
    assert "FILLED BY HAND" not in once
    assert yaml.safe_load(once.split("---")[1])["language"] == ["en"]
    assert yaml.safe_load(once.split("---")[1])["license"] == "cc-by-4.0"
    assert once.index("Above.") < once.index(BEGIN) < once.index(END) < once.index("Below.")
    write_card(Dataset(str(made)))
    assert path.read_text() == once
    path.write_text(fresh)
    write_card(Dataset(str(made)))
    assert path.read_text() == fresh


@pytest.mark.parametrize(
    "before",
    [
        "My own card, without a header.",
        "---\nlicense: [broken\n---\nMy own card, without a header.",
        "---\njust text\n---\nMy own card, without a header.",
    ],
)
def test_a_card_without_marks_is_kept_below(made, before):
    facts = copy_facts(made)
    text = build_card(facts, False, before)
    assert text.index(END) < text.index("My own card, without a header.")
    assert build_card(facts, False, text) == text
    assert DatasetCard(text).data.license == "cc-by-4.0"


# --- citation ------------------------------------------------------------------------------------


def test_citation_file(made):
    cff = yaml.safe_load((made / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "dataset"
    assert cff["authors"] == [{"family-names": "Doe", "given-names": "Jane"}, {"name": "The group"}]
    assert cff["license"] == "CC-BY-4.0"
    assert {"message", "title", "abstract", "keywords", "version"} < set(cff)
    assert "author = {Doe, Jane and The group}" in build_bibtex(copy_facts(made))


def test_documents_of_a_users_own_are_left_alone(tmp_path):
    out = tmp_path / "run"
    block = {"kind": "class", "per_class": {"a": 2}}
    recipe = write_recipe(tmp_path, conditions=[block], card={"license": "other"})
    run(recipe, out)
    (out / "CITATION.cff").write_text("mine: 1")
    (out / "LICENSE.md").write_text("My terms.")
    run(recipe, out)
    assert (out / "CITATION.cff").read_text() == "mine: 1"
    assert (out / "LICENSE.md").read_text() == "My terms."
    run(recipe, out, overrides=["card.license=mit"])
    assert (out / "LICENSE.md").read_text() == "My terms."
    (out / "LICENSE.md").unlink()
    run(recipe, out)
    assert "no restriction is recorded" in (out / "LICENSE.md").read_text()
    run(recipe, out, overrides=["card.license=mit"])
    assert not (out / "LICENSE.md").exists()


def test_prov_names_what_made_the_set(tmp_path):
    from prov import model as prov

    out = tmp_path / "run"
    block = {"kind": "class", "per_class": {"normal": 2}}
    filters = [{"kind": "classifier", "model": "pcam", "min_probability": 0.0}]
    recipe = write_recipe(tmp_path, conditions=[block])
    run(recipe, out, overrides=[f"filters={json.dumps(filters)}"])
    assert not (out / "prov.json").exists()
    result = call("card", str(out), "--prov")
    assert result.exit_code == 0, result.output
    text = (out / "prov.json").read_text()
    document = prov.ProvDocument.deserialize(content=text, format="json")
    kinds = {type(record).__name__ for record in document.get_records()}
    assert {"ProvEntity", "ProvActivity", "ProvAgent", "ProvUsage", "ProvGeneration"} <= kinds
    used = [each for name, each in json.loads(text)["entity"].items() if "used" in name]
    roles = {each["factory:role"]: each["prov:label"] for each in used}
    assert roles == {"generator": "fake", "filter classifier": "pcam"}
    assert call("card", str(out)).exit_code == 0
    assert not (out / "prov.json").exists()


def test_a_users_citation_is_used(made):
    facts = copy_facts(made, card={"citation": "Doe (2026), A set."})
    assert "## Citation\n\n```\nDoe (2026), A set.\n```" in build_card(facts, False)
    assert yaml.safe_load(build_cff(facts))["message"].endswith("Doe (2026), A set.")


@pytest.mark.parametrize(
    ("license_id", "spdx"),
    [("cc0-1.0", "CC0-1.0"), ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"), ("mit", "MIT")],
)
def test_spdx_ids(license_id, spdx):
    assert find_spdx(license_id) == spdx


def test_a_licence_without_spdx_id_is_left_out(made):
    assert find_spdx("other") is None
    assert "license" not in yaml.safe_load(build_cff(copy_facts(made, card={"license": "other"})))
