"""Terms: phrases of captions and classes, and the concepts that rows record."""

from pathlib import Path

import pytest

from factory.catalog.catalog import load_catalogs
from factory.core.errors import MismatchError, RecipeError
from factory.core.notes import listen
from factory.engine.dataset import open_dataset
from factory.publish.verify import VerifyOptions, verify_set
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests.running import read_rows, run, write_recipe

TERMS = load_catalogs().find_terms("pathology")


def test_the_longest_phrase_of_whole_words_counts() -> None:
    said = "Section of Lymph Node tissue with dense fibrosis; skinny nuclei"
    assert TERMS.find_concepts(said) == ("NCIT:C3044", "UBERON:0000029")
    assert TERMS.find_concepts("normal colon mucosa") == ("UBERON:0000317",)  # and no colon
    assert TERMS.find_concepts("densely packed nuclei") == ()


@pytest.mark.parametrize(
    "said",
    [
        "no tumor seen",
        "Without tumor, fat",
        "non tumor",
        "non-tumor tissue",
        "tumor-free",
        "non\u2011tumor",
        "skin-deep",
        "breastbone",
        "no normal colon mucosa",
    ],
)
def test_what_a_text_denies_or_holds_in_a_longer_word_is_not_named(said: str) -> None:
    assert TERMS.find_concepts(said) == ()
    assert TERMS.find_concepts(f"{said}; tumor") == ("NCIT:C9305",)


def test_a_phrase_names_one_concept(tmp_path: Path) -> None:
    path = tmp_path / "terms" / "mine.yaml"
    path.parent.mkdir()
    concepts = "[{id: 'A:1', label: colon}, {id: 'A:2', label: bowel, synonyms: [Colon]}]"
    path.write_text(f"id: mine\nconcepts: {concepts}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml:2.*'Colon' names A:1 and A:2"):
        load_catalogs([tmp_path]).find_terms("mine")
    path.write_text("id: mine\nconcepts: [{id: colon, label: colon}]\n")
    with pytest.raises(RecipeError, match=r"concepts\[0\]\.id"):
        load_catalogs([tmp_path]).find_terms("mine")


def test_phrases_without_a_concept_are_told(tmp_path: Path) -> None:
    conditions = [{"kind": "class", "per_class": {"MUS": 1, "spleen": 1}}]

    def write(**terms: object) -> Path:
        return write_recipe(tmp_path, conditions=conditions, terms=terms)

    with listen() as told:
        check_recipe(load_recipe(write()))
    assert "1 of 2 phrases have no concept in pathology: 'spleen'" in "\n".join(told)
    with pytest.raises(RecipeError, match=r"conditions\[0\]: 1 of 2 phrases .* 'spleen'"):
        check_recipe(load_recipe(write(strict=True)))
    with pytest.raises(RecipeError, match=r"terms\.catalog.*did you mean 'pathology'"):
        check_recipe(load_recipe(write(catalog="patholgy")))


def test_rows_record_the_concepts_of_class_and_caption(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        terms={},
        conditions=[
            {"kind": "class", "per_class": {"tumor": 1, "other": 1}},
            {"kind": "caption", "captions": "he-basic-2", "count": 2},
        ],
        filters=[{"kind": "finite"}],
        generator={"width": 16, "height": 16},
    )
    run(recipe, tmp_path / "out")
    report = verify_set(open_dataset(str(tmp_path / "out")), VerifyOptions())
    assert report.failures == [], report.failures
    rows = read_rows(tmp_path / "out")
    found = {row["class_name"]: row["concepts"] for row in rows if not row["caption"]}
    assert found == {"tumor": ["NCIT:C9305"], "other": []}
    for row in rows:
        if row["caption"]:
            assert row["concepts"] == list(
                TERMS.find_concepts(f"{row['class_name']} {row['caption']}")
            )
            assert any(each.startswith("UBERON:") for each in row["concepts"])


def test_other_phrases_do_not_go_on_with_what_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "terms" / "mine.yaml"
    path.parent.mkdir()

    def write(id: str, title: str, count: int) -> Path:
        path.write_text(f"id: mine\ntitle: {title}\nconcepts: [{{id: '{id}', label: tumor}}]\n")
        return write_recipe(
            tmp_path,
            catalogs=["."],
            terms={"catalog": "mine"},
            conditions=[{"kind": "class", "per_class": {"tumor": count}}],
            filters=[{"kind": "finite"}],
            generator={"width": 16, "height": 16},
        )

    out = tmp_path / "out"
    run(write("A:1", "x", 1), out)
    with pytest.raises(MismatchError, match=r"(?s)other terms.*terms\.sha256"):
        run(write("A:2", "x", 2), out, extend=True)
    run(write("A:1", "another title", 2), out, extend=True)
    assert [row["concepts"] for row in read_rows(out)] == [["A:1"], ["A:1"]]
