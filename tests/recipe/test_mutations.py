"""No broken recipe gets through, and every refusal says where, what and what to do."""

import re
from pathlib import Path

import pytest

from factory.core.errors import Problem, RecipeError
from factory.core.yaml.reader import read_document
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests.mutations import SOUND, iterate_broken_files, iterate_mutations

MUTATIONS = list(iterate_mutations())
HELPS = re.compile(
    r"\bgot\b|did you mean|known:|: add |: remove|: write|: check |: give |: set |: take |: join"
    r"|: put |: keep |: quote|: save it|: make one|: indent|: correct|: close|not both|: get "
)
FIELD = re.compile(r"[^:]+:\d+:\d+: [a-z_]+[\w.\[\]\"-]*: \S")
BOILERPLATE = re.compile(r"validation error|Input should|Traceback|pydantic|function-|constrained-")


def check(path: Path) -> None:
    loaded = load_recipe(path)
    check_recipe(loaded)


def is_document(path: Path) -> bool:
    """Whether the text is YAML at all."""
    try:
        read_document(path)
    except RecipeError:
        return False
    return True


def assert_refused(path: Path) -> list[Problem]:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(RecipeError) as caught:
        check(path)
    assert sorted(path.parent.rglob("*")) == before, "something was created"
    assert caught.value.exit_code == 2
    assert caught.value.problems
    for problem in caught.value.problems:
        assert problem.file == str(path)
        assert problem.line is not None and problem.line >= 1, str(problem)
        assert problem.column is not None and problem.column >= 1, str(problem)
        assert HELPS.search(problem.message), str(problem)
        assert not BOILERPLATE.search(problem.message), str(problem)
        assert "\n" not in str(problem), str(problem)
        assert len(problem.message) < 900, str(problem)
    return list(caught.value.problems)


def test_the_sound_recipe_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SOUND)
    check(path)


def test_there_are_many_mutations_and_each_is_another() -> None:
    names, texts = zip(*MUTATIONS, strict=True)
    assert len(MUTATIONS) >= 200
    assert len(set(names)) == len(names)
    assert len(set(texts)) > 0.95 * len(texts)
    assert SOUND not in texts


def test_every_mutation_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    path = tmp_path / "recipe.yaml"
    with_field = 0
    for name, text in MUTATIONS:
        with subtests.test(name):
            path.write_text(text, encoding="utf-8")
            problems = assert_refused(path)
            if is_document(path):  # else a place, but no field
                assert all(FIELD.match(str(problem)) for problem in problems), problems
                with_field += 1
    assert with_field > 200


@pytest.mark.parametrize(("name", "content"), list(iterate_broken_files()))
def test_broken_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert_refused(path)
