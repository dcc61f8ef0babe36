"""The licence gate: what terms leave a data set to be, at plan, at run and at publish."""

import json

import pytest
import yaml

from factory.catalog.catalog import load_catalogs
from factory.core.errors import LicenceError
from factory.data.summary import Summary
from factory.recipe.file import load_recipe
from factory.recipe.licences import (
    KNOWN,
    Term,
    check_publish,
    collect_recipe_terms,
    collect_summary_terms,
    combine_terms,
    list_refusals,
    record_licence,
    suggest_licence,
)
from factory.recipe.recipe import Recipe, compute_recipe_digest
from tests.running import call, run, write_recipe

READ = {"date_read": "2026-11-20"}
OPEN = {
    "id": "apache-2.0",
    "commercial_use": True,
    "redistribution_of_outputs": True,
    "training_on_outputs": True,
    "dataset_generation": True,
    **READ,
}


def make_summary(licence=OPEN, components=(), **changes):
    maker = {
        "generator": {"model": "painter", "family": "fake", "adapters": []},
        "licence": licence,
        "components": [
            {"role": role, "source": source, "licence": terms} for role, source, terms in components
        ],
        "other_terms": [],
        "filters": [],
        "score_names": [],
    }
    counts = dict.fromkeys(("asked", "accepted", "generated"), 1)
    texts = {"name": "set", "recipe_sha256": "ab" * 32, "digest": "cd" * 32}
    rest = {"class_names": [], "filters": [], "series": [], "makers": [maker]}
    return Summary.model_validate({**texts, **counts, **rest, **changes})


def make_source(license_id):
    """A summary of variations of real images under a licence."""
    counts = dict.fromkeys(("asked", "accepted", "generated", "spare", "short"), 0)
    texts = {"key": "a", "label": "a", "class_names": [], "rejected": {}, "reasons": {}}
    series = [{"references": {"used": 2, "largest_share": 0.5}, **counts, **texts}]
    source = None if license_id is None else {"id": license_id, "attribution": ["Doe, 2020"]}
    return make_summary(series=series, source_terms=source)


def pixcell_like():
    parts = load_catalogs().find_model("pixcell-256").model_dump(mode="json")
    components = [(each["role"], each["source"], each["licence"]) for each in parts["components"]]
    return make_summary(parts["licence"], components)


# --- what terms say ------------------------------------------------------------------------------


def test_every_known_licence_names_its_text_and_clauses():
    for known in KNOWN.values():
        assert known.basis
        assert known.url.startswith("https://") or known.id in ("other", "unknown"), known.id
    wanted = {"cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit"}
    assert wanted | {"apache-2.0", "openrail++", "creativeml-openrail-m"} < set(KNOWN)


@pytest.mark.parametrize(
    ("license_id", "commercial", "adaptations", "share_alike"),
    [
        ("cc-by-4.0", True, True, False),
        ("cc-by-sa-3.0", True, True, True),
        ("cc-by-nc-4.0", False, True, False),
        ("cc-by-nc-nd-4.0", False, False, False),
        ("cc-by-nc-sa-4.0", False, True, True),
        ("cc0-1.0", True, True, False),
        ("other", None, None, False),
        ("unknown", None, None, False),
    ],
)
def test_the_table_reads_creative_commons(license_id, commercial, adaptations, share_alike):
    known = KNOWN[license_id]
    assert (known.commercial_use, known.adaptations, known.share_alike) == (
        commercial,
        adaptations,
        share_alike,
    )


def test_an_entrys_own_word_wins_over_its_licence():
    sold = Term("generator", "m", {"id": "cc-by-nc-4.0", "commercial_use": True})
    kept = Term("generator", "m", {"id": "cc0-1.0", "commercial_use": False})
    assert not combine_terms([sold]).find("commercial_use")
    assert combine_terms([kept]).find("commercial_use")


def test_all_makers_are_combined_gravest_first():
    verdict = combine_terms(
        [
            Term("generator", "a", {"id": "cc-by-sa-4.0", "attribution": ["A"]}),
            Term("vae", "b", {"id": "other", "redistribution_of_outputs": False}),
            Term("image_encoder", "c", {"id": "cc-by-nc-nd-4.0", "attribution": ["A", "C"]}),
            Term("adapter", "d", {"id": "openrail++", "training_on_outputs": False}),
        ]
    )
    assert verdict.restrictions == (
        "redistribution_of_outputs",
        "training_on_outputs",
        "commercial_use",
        "derivatives",
        "share_alike",
        "use_restrictions",
    )
    causes = {each.restriction: each.term.name for each in verdict.limits}
    assert causes["commercial_use"] == "c"
    assert causes["share_alike"] == "a"
    assert verdict.attribution == ("A", "C")
    assert json.loads(json.dumps(verdict.to_json()))["limits"][0]["name"] == "b"


def test_nothing_is_guessed():
    lines = combine_terms([Term("generator", "mine", None)]).describe()
    assert lines[0] == "no restriction is recorded, but not all is stated:"
    assert "terms of the generator mine: not stated (nothing is recorded)" in lines
    told = combine_terms([Term("generator", "m", {"id": "other", "commercial_use": False})])
    assert told.unstated == (
        "terms of the generator m (other): redistribution of outputs, training on outputs, "
        "dataset generation: not stated",
    )
    assert not combine_terms([Term("generator", "m", OPEN)]).unstated


def test_a_judges_terms_bind_only_where_they_say_so():
    licence = {"id": "cc-by-nc-nd-4.0", "commercial_use": False, **READ}
    quiet = combine_terms([Term("filter realism", "e", licence)])
    assert not quiet.limits
    assert [each.restriction for each in quiet.cautions] == ["commercial_use"]
    assert any("not stated whether this reaches" in line for line in quiet.describe())
    bound = combine_terms([Term("filter realism", "e", {**licence, "reaches_datasets": True})])
    assert bound.find("commercial_use")


# --- recipes -------------------------------------------------------------------------------------


def collect(path, overrides=()):
    loaded = load_recipe(path, overrides)
    return collect_recipe_terms(loaded.recipe, loaded.session)


def test_filters_adapters_and_sources_of_a_recipe_are_collected(tmp_path):
    path = write_recipe(
        tmp_path,
        generator={
            "adapters": [
                {"source": "me/lora", "licence": {"id": "cc-by-nc-4.0", **READ}},
                {"source": "./other"},
            ]
        },
        conditions=[{"kind": "reference", "images": "real", "per_class": 2}],
        filters=[
            {"kind": "classifier", "model": "pcam", "min_probability": 0.5},
            {"kind": "realism", "images": "real", "encoder": "uni2-h"},
        ],
        card={"source_license": "cc-by-sa-4.0", "source_attribution": ["Doe, 2020"]},
    )
    found = {(term.role, term.name): term for term in collect(path)}
    assert found["adapter", "me/lora"].id == "cc-by-nc-4.0"
    assert found["adapter", "other"].licence is None
    assert found["filter classifier", "pcam"].id == "apache-2.0"
    assert found["filter realism", "MahmoodLab/UNI2-h"].reaches
    assert found["source images", "of the recipe"].id == "cc-by-sa-4.0"
    verdict = combine_terms(list(found.values()))
    assert {each.term.name for each in verdict.find("commercial_use")} == {
        "me/lora",
        "MahmoodLab/UNI2-h",
    }
    assert verdict.find("share_alike")
    assert "Doe, 2020" in verdict.attribution


def test_terms_and_approval_shape_no_image(tmp_path):
    plain = load_recipe(write_recipe(tmp_path / "a")).recipe
    said = load_recipe(
        write_recipe(
            tmp_path / "b",
            generator={"approval": "Prof. Doe, 2026-11-01"},
            card={"source_license": "cc-by-4.0"},
        )
    ).recipe
    assert compute_recipe_digest(plain) == compute_recipe_digest(said)
    lora = {"source": "me/lora"}
    adapted = [plain.model_dump(mode="json") for _ in range(2)]
    adapted[0]["generator"]["adapters"] = [lora]
    adapted[1]["generator"]["adapters"] = [{**lora, "licence": {"id": "mit", **READ}}]
    first, second = (compute_recipe_digest(Recipe.model_validate(each)) for each in adapted)
    assert first == second != compute_recipe_digest(plain)


@pytest.mark.parametrize("command", [["plan"], ["run", "--out", "out"], ["validate"]])
@pytest.mark.parametrize("model", ["unipath-7b", "minghaofdu/UniPath-7B"])
def test_a_model_that_forbids_data_sets_is_refused_first(tmp_path, command, model):
    path = tmp_path / "recipe.yaml"
    block = {"kind": "caption", "captions": "he-basic", "count": 3}
    path.write_text(
        yaml.safe_dump({"name": "u", "generator": {"model": model}, "conditions": [block]})
    )
    out = tmp_path / "out"
    name, *rest = [str(out) if part == "out" else part for part in command]
    result = call(name, str(path), *rest)
    assert result.exit_code == 2
    assert f"generator {model} forbid making data sets" in result.output
    assert "dataset_generation: false; cc-by-nc-nd-4.0, as read on 2026-11-20" in result.output
    assert "without written approval" in result.output
    assert "approval:" in result.output
    assert "on record only" not in result.output
    assert not out.exists()
    approved = ["--set", 'generator.approval="Prof. Doe, 2026-11-01"']
    result = call(name, str(path), *rest, *approved)
    assert result.exit_code == 2
    assert "on record only" in result.output
    assert "forbid making" not in result.output


def write_user_model(folder, **terms):
    """A catalog whose model `mine` is the fake one under terms of its own."""
    entry = {"id": "mine", "base": "fake", "licence": {"id": "other", **READ, **terms}}
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "mine.yaml").write_text(yaml.safe_dump(entry))
    return write_recipe(
        folder,
        catalogs=["."],
        generator={"model": "mine"},
        conditions=[{"kind": "class", "per_class": {"a": 2}}],
        filters=[],
    )


def test_an_approval_lets_a_run_go_on_and_is_kept(tmp_path):
    path = write_user_model(tmp_path, dataset_generation=False, note="Ask first.")
    with pytest.raises(LicenceError, match=r"generator mine forbid.*\n?.*approval"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = run(path, tmp_path / "out", overrides=['generator.approval="Prof. Doe, 2026-11-01"'])
    assert result.summary.approval == "Prof. Doe, 2026-11-01"
    assert not list_refusals(result.summary, "other")
    refused = list_refusals(result.summary.change(approval=None), "other")
    assert "making a data set of its outputs" in str(refused[0])


def test_plan_shows_what_the_data_set_may_be(tmp_path):
    path = write_user_model(tmp_path, commercial_use=False, url="https://example.org/t")
    plain = call("plan", str(path), "--no-calibrate")
    assert "no commercial use: by the terms of the generator mine (other, as read" in plain.output
    assert "training on outputs, dataset generation: not stated" in plain.output
    printed = call("plan", str(path), "--no-calibrate", "--json")
    assert json.loads(printed.output)["terms"]["restrictions"] == ["commercial_use"]


# --- publishing ----------------------------------------------------------------------------------


def test_a_conditioning_encoders_terms_refuse_a_free_licence():
    with pytest.raises(LicenceError) as caught:
        check_publish(pixcell_like(), "cc-by-4.0", None)
    text = str(caught.value)
    assert "cc-by-4.0 allows commercial use" in text
    assert "image_encoder MahmoodLab/UNI2-h" in text
    assert "prohibits commercial use of data sets" in text
    assert "Take the licence cc-by-nc-nd-4.0" in text
    assert caught.value.exit_code == 2
    check_publish(pixcell_like(), "cc-by-nc-nd-4.0", None)
    check_publish(pixcell_like(), "other", None)


def test_an_override_is_recorded_with_the_terms_it_overrides():
    summary = pixcell_like()
    with pytest.raises(LicenceError):
        record_licence(summary, "cc-by-4.0", " ")
    twice = record_licence(
        record_licence(summary, "cc-by-4.0", "Dr. Roe, 2026-11-20"),
        "cc-by-4.0",
        "Dr. Roe, 2026-11-20",
    )
    assert twice.license == "cc-by-4.0"
    (entry,) = twice.overrides
    assert entry.approved == "Dr. Roe, 2026-11-20"
    assert any("UNI2-h" in term for term in entry.terms)
    assert not record_licence(summary, "cc-by-nc-nd-4.0", None).overrides


@pytest.mark.parametrize(
    ("terms", "license_id", "refused"),
    [
        ({"commercial_use": False}, "apache-2.0", "allows commercial use"),
        ({"commercial_use": False}, "unknown", "allows commercial use"),
        ({"commercial_use": False}, "cc-by-nc-sa-4.0", ""),
        ({"commercial_use": False}, "other", ""),
        ({"redistribution_of_outputs": False}, "other", "passing its images on"),
        ({"training_on_outputs": False}, "cc-by-nc-nd-4.0", "allows training models"),
        ({"training_on_outputs": False}, "other", ""),
        ({"id": "cc-by-nd-4.0"}, "cc-by-4.0", "allows derivatives"),
        ({"id": "cc-by-nd-4.0"}, "cc-by-nd-4.0", ""),
        ({"id": "cc-by-sa-3.0"}, "cc-by-sa-4.0", ""),
        ({"id": "cc-by-sa-4.0"}, "cc-by-sa-3.0", "not the same licence"),
        ({"id": "cc-by-sa-4.0"}, "other", "not the same licence"),
        ({"id": "openrail++"}, "cc0-1.0", ""),
        ({}, "cc0-1.0", ""),
        ("cc-by-4.0", "cc-by-4.0", ""),
        ("cc-by-4.0", "cc0-1.0", "waives the naming"),
        ("cc-by-nc-4.0", "cc-by-4.0", "allows commercial use"),
        ("cc0-1.0", "cc0-1.0", ""),
        (None, "cc0-1.0", ""),
    ],
)
def test_which_licences_carry_a_restriction(terms, license_id, refused):
    """Of a model, or of the source images."""
    is_model = isinstance(terms, dict)
    summary = make_summary({"id": "other", **READ, **terms}) if is_model else make_source(terms)
    found = list_refusals(summary, license_id)
    assert [refused in str(each) for each in found] == ([True] if refused else [])


@pytest.mark.parametrize("source", ["cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", None])
def test_source_images_bring_their_terms(source):
    unstated = combine_terms(collect_summary_terms(make_source(source))).unstated
    assert any("source images" in text for text in unstated) == (source is None)


def test_variations_of_images_without_derivatives_are_never_published():
    summary = make_source("cc-by-nd-4.0")
    assert suggest_licence(combine_terms(collect_summary_terms(summary))) is None
    with pytest.raises(LicenceError, match="No licence allows publishing it"):
        check_publish(summary, "cc-by-nd-4.0", None)


def test_terms_are_those_recorded_with_the_run(tmp_path):
    path = write_user_model(tmp_path, commercial_use=False)
    summary = run(path, tmp_path / "out").summary
    entry = tmp_path / "models" / "mine.yaml"
    entry.write_text(entry.read_text().replace("commercial_use: false", "commercial_use: true"))
    again = Summary.parse((tmp_path / "out" / "summary.json").read_bytes())
    assert again == summary
    with pytest.raises(LicenceError, match="generator mine forbids it"):
        check_publish(again, "cc-by-4.0", None)


def test_adapters_of_older_runs_count_as_not_stated():
    summary = make_summary().to_json()
    del summary["makers"][0]["other_terms"]
    summary["makers"][0]["generator"]["adapters"] = [{"source": "/home/me/lora"}]
    summary = Summary.model_validate(summary)
    (text,) = combine_terms(collect_summary_terms(summary)).unstated
    assert text == "terms of the adapter lora: not stated (nothing is recorded)"
