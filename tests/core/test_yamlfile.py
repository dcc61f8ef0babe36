import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import Problem, RecipeError
from factory.core.notes import listen
from factory.core.yaml.messages import advise
from factory.core.yaml.model import (
    apply_overrides,
    parse_document,
    parse_model,
    read_document,
    suggest,
)
from factory.core.yaml.reader import MAX_BYTES, format_path, parse_value


def refuse(text: str) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_document(text, "r.yaml")
    return caught.value.problems


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(Strict):
    kind: Literal["line"]
    length: float = Field(gt=0)
    line: int = 0


class Ring(Strict):
    kind: Literal["ring"]
    radius: float | tuple[float, ...] = 1.0
    counts: int | dict[str, int] = 1


class Best(Strict):
    keep: Literal["best"]
    by: str


class Diverse(Strict):
    keep: Literal["diverse"]
    pool: int = 2


class Drawing(Strict):
    name: str = Field(min_length=1)
    shapes: tuple[Line, ...] = ()
    pen: Literal["thin", "thick"] = "thin"
    limits: dict[str, int] = {}
    note: str | None = Field(None, max_length=5)


class Sheet(Strict):
    shapes: tuple[Annotated[Line | Ring, Field(discriminator="kind")], ...]


def problems_of(text: str, model: type[BaseModel], overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_model(apply_overrides(parse_document(text, "r.yaml"), overrides), model)
    return [str(problem) for problem in caught.value.problems]


# --- reading -------------------------------------------------------------------------------------


def test_data_and_positions() -> None:
    document = parse_document("a: 1\nb:\n  - x\n  - {c: two}\n", "r.yaml")
    assert document.data == {"a": 1, "b": ["x", {"c": "two"}]}
    assert document.positions == {
        (): (1, 1),
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "c"): (4, 6),
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-20", "2026-11-20"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = parse_value(text, "r.yaml")
    assert found == value and type(found) is type(value)


def test_keys_are_text_as_written() -> None:
    data = parse_document("{no: 1, 1: 2, null: 3, 1.50: 4, true: 5}", "r.yaml").data
    assert list(data) == ["no", "1", "null", "1.50", "true"]
    problem = refuse('{1: 2, "1": 3}')[0]
    assert problem.field == "1" and "twice" in problem.message


def test_every_duplicate_is_reported_with_both_lines() -> None:
    problems = refuse("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert [(p.field, p.line, p.column) for p in problems] == [("b.c", 2, 11), ("a", 3, 1)]
    assert "line 1" in problems[1].message


@pytest.mark.parametrize(
    ("text", "line", "column", "word"),
    [
        ("a: 1\nb: !!python/object:os.PathLike {}\n", 2, 4, "tag"),
        ("a: 1\nb: !mine x\n", 2, 4, "tag"),
        ("a: &x 1\n", 1, 4, "anchor"),
        ("a: 1\nb: [1, *x]\n", 2, 8, "alias"),
        ("a: 1\n---\nb: 1\n", 2, 1, "second document"),
        ("a: 1\nb: so\x07und\n", 2, 6, "control character"),
        ("a: 1\n\x00", 2, 1, "control character"),
        ('a: "\\0"', 1, 4, "not"),
        ("a: .inf", 1, 4, "finite"),
        ("a: 1\n<<: {b: 1}", 2, 1, "merge"),
        ("? [x]\n: 1", 1, 3, "key"),
        ("!t a: 1", 1, 1, "tag"),
        ("a:\n\tb: 1", 2, 1, "tabs"),
        ("a: 1\nb: [1\n", 3, 1, "YAML"),
        ("- a", 1, 1, "mapping"),
        ("# only a comment", 1, 1, "mapping"),
        ("", 1, 1, "mapping"),
    ],
)
def test_refused_text_names_its_place(text: str, line: int, column: int, word: str) -> None:
    problem = refuse(text)[0]
    assert (problem.file, problem.line) == ("r.yaml", line), str(problem)
    assert problem.column == column, str(problem)
    assert word in problem.message


def test_a_bomb_is_not_expanded() -> None:
    lines = ["a: &a [x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 50)}]"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    ]
    assert len(refuse("\n".join(lines))) <= 50


@pytest.mark.stranger
def test_depth_is_bounded() -> None:
    assert parse_document("a: " + "[" * 49 + "]" * 49, "r.yaml").data
    assert "deep" in refuse("a: " + "[" * 50 + "]" * 50)[0].message
    for text in ("[" * 200_000, "{b: " * 200_000, "- " * 200_000):
        (problem,) = refuse(f"a: {text}")  # by us or by the parser, whose words are its own
        assert (problem.file, problem.line) == ("r.yaml", 1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    cases = {
        "large": (b"a: 1\n" + b"#" * MAX_BYTES, "at most", 1),
        "latin": ("a: 1\nb: é".encode("latin-1"), "UTF-8", 2),
        "utf16": ("a: 1".encode("utf-16"), "UTF-8", 1),
    }
    for name, (content, word, line) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=word) as caught:
            read_document(path)
        assert caught.value.problems[0].line == line
    for path, word in ((tmp_path / "missing", "no such file"), (tmp_path, "folder")):
        with pytest.raises(RecipeError, match=word) as caught:
            read_document(path)
        assert caught.value.problems[0].file == str(path)


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\r\n".encode())
    document = read_document(path)
    assert document.data == {"a": 1, "b": 2}
    assert document.positions[("b",)] == (2, 1)


CONTROLS = "".join(map(chr, range(0x7F, 0xA0)))
PLAIN = st.characters(min_codepoint=0x20, max_codepoint=0x17F, exclude_characters=CONTROLS)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(PLAIN, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(PLAIN), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(PLAIN), VALUES, max_size=5))
def test_json_is_read_as_json_reads_it(data: dict[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False)
    assert parse_document(text, "r.yaml").data == json.loads(text)


@given(st.text(max_size=60))
def test_any_text_is_data_or_a_problem_with_a_place(text: str) -> None:
    try:
        assert isinstance(parse_document(text, "r.yaml").data, dict)
    except RecipeError as error:
        assert all(problem.line and problem.column for problem in error.problems)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"# \n\t?1"), max_size=40))
def test_both_parsers_of_pyyaml_agree(text: str) -> None:
    found: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        for loader in (yaml.CSafeLoader, yaml.SafeLoader):
            patch.setattr("factory.core.yaml.reader._LOADER", loader)
            try:
                found.append(parse_document(text, "r.yaml").data)
            except RecipeError:
                found.append(None)
    if None not in found:
        assert found[0] == found[1]


# --- overrides -----------------------------------------------------------------------------------


def override(text: str, *overrides: str) -> dict[str, Any]:
    return apply_overrides(parse_document(text, "r.yaml"), overrides).data


def test_overrides_name_list_entries_by_their_kind() -> None:
    text = "f: [{kind: a, x: 1}, {kind: b}, {kind: c}, {kind: c}]\n"
    assert override(text, "f.b.x=2")["f"][1] == {"kind": "b", "x": 2}
    assert override(text, "f.0.x=3")["f"][0] == {"kind": "a", "x": 3}
    with pytest.raises(RecipeError, match="4 entries, numbered from 0, got entry 'c'; or a, b"):
        override(text, "f.c.x=1")


def test_overrides_reach_any_field() -> None:
    text = "a: {b: 1}\nc:\n  - {d: 1}\n  - {d: 2}\n"
    assert override(text, "a.b=2")["a"] == {"b": 2}
    assert override(text, "c[1].d=[x, 1e-3]")["c"][1] == {"d": ["x", 1e-3]}
    assert override(text, "c.0.d={e: no}")["c"][0] == {"d": {"e": "no"}}
    assert override(text, "new.deep.field=true")["new"] == {"deep": {"field": True}}
    assert override(text, "a.b=1", "a.b=3")["a"] == {"b": 3}
    assert override(text, "a={}", "a.z=3")["a"] == {"z": 3}
    assert override("a: x=y", "a=p=q")["a"] == "p=q"
    assert override("a:\n", "a.b=1")["a"] == {"b": 1}


def test_a_number_over_counts_by_class_keeps_the_classes_and_tells_so() -> None:
    text = "conditions:\n  - {kind: class, per_class: {normal: 24, tumor: 12}}\n"
    with listen() as notes:
        data = override(text, "conditions.class.per_class=2")
    assert data["conditions"][0]["per_class"] == {"normal": 2, "tumor": 2}
    assert notes == ["conditions[0].per_class: 2 for each class that it names: normal, tumor"]
    with listen() as notes:
        assert override(text, "conditions.0.per_class={stroma: 2}", "conditions.0={per_class: 3}")[
            "conditions"
        ] == [{"per_class": 3}]
        other = override("a: {scale: 2.0, end: 1.0}\nper_class: {}\n", "a=3", "per_class=4")
    assert other == {"a": 3, "per_class": 4}
    assert not notes


def test_overrides_leave_the_document_alone() -> None:
    document = parse_document("a: {b: 1}", "r.yaml")
    changed = apply_overrides(document, ["a.b=2"])
    assert document.data == {"a": {"b": 1}} and not document.overridden
    assert changed.overridden == {("a", "b"): "a.b=2"}
    assert changed.positions[("a",)] == (1, 1) and ("a", "b") not in changed.positions


@pytest.mark.parametrize(
    ("text", "field", "word"),
    [
        ("a", "a", "path and a value"),
        ("=3", "", "path and a value"),
        ("a..b=3", "a..b", "path and a value"),
        ("a[x].b=3", "a[x].b", "path and a value"),
        ("c[2].d=1", "c", "2 entries"),
        ("c.x=1", "c", "2 entries"),
        ("a.b.c=1", "a.b", "holds 1"),
        ("a.b=[1", "a.b", "YAML"),
        ("a.b=!!int 3", "a.b", "tag"),
        ("a.b=&x 1", "a.b", "anchor"),
    ],
)
def test_wrong_overrides_name_themselves(text: str, field: str, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override("a: {b: 1}\nc: [{d: 1}, {d: 2}]\n", text)
    (problem,) = caught.value.problems
    assert problem.file == f"--set {text}"
    assert problem.field == field
    assert word in problem.message


def test_all_wrong_overrides_are_reported_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        override("a: 1", "a", "a.b=1", "b=[")
    assert len(caught.value.problems) == 3


# --- models --------------------------------------------------------------------------------------


def test_all_problems_in_the_order_of_the_file() -> None:
    text = "shapes: 3\nname: ''\npen: thik\nlimits: {a: 1.5}\nnoted: x\nnote: too long\n"
    assert problems_of(text, Drawing) == [
        "r.yaml:1:1: shapes: must be a list, got 3",
        "r.yaml:2:1: name: must not be empty, got ''",
        "r.yaml:3:1: pen: must be 'thin' or 'thick', got 'thik': did you mean 'thick'?",
        "r.yaml:4:10: limits.a: must be a whole number, got 1.5",
        "r.yaml:5:1: noted: unknown field, got 'x': did you mean 'note'?",
        "r.yaml:6:1: note: must be at most 5 long, got 8: 'too long'",
    ]


def test_union_tags_are_no_part_of_the_path() -> None:
    text = """\
shapes:
  - {kind: line, length: 0, line: x}
  - {kind: rign}
  - {length: 1}
  - {kind: ring, radius: [1, a], counts: {kind: no}}
  - {kind: ring, radius: wide, counts: 1.5}
  - {kind: ring, radis: 1}
"""
    assert problems_of(text, Sheet) == [
        "r.yaml:2:18: shapes[0].length: must be > 0, got 0",
        "r.yaml:2:29: shapes[0].line: must be a whole number, got 'x'",
        "r.yaml:3:6: shapes[1].kind: unknown kind 'rign': did you mean 'ring'?",
        "r.yaml:4:5: shapes[2].kind: is missing: add one of line, ring",
        "r.yaml:5:43: shapes[3].counts.kind: must be a whole number, got 'no'",
        "r.yaml:5:30: shapes[3].radius[1]: must be a number, got 'a'",
        "r.yaml:6:32: shapes[4].counts: must be a whole number or a mapping, got 1.5",
        "r.yaml:6:18: shapes[4].radius: must be a number or a list, got 'wide'",
        "r.yaml:7:18: shapes[5].radis: unknown field, got 1: did you mean 'radius'?",
    ]


def test_a_union_may_be_told_apart_by_another_field_than_kind() -> None:
    class Choice(Strict):
        pick: Best | Diverse = Field(discriminator="keep")

    assert problems_of("pick: {pool: 3}", Choice) == [
        "r.yaml:1:1: pick.keep: is missing: add one of best, diverse"
    ]
    assert problems_of("pick: {keep: divers}", Choice) == [
        "r.yaml:1:8: pick.keep: unknown keep 'divers': did you mean 'diverse'?"
    ]
    assert problems_of("pick: {keep: diverse, pol: 3}", Choice) == [
        "r.yaml:1:23: pick.pol: unknown field, got 3: did you mean 'pool'?"
    ]


def test_text_is_no_number_and_numbers_are_no_text() -> None:
    assert problems_of("name: 5", Drawing) == [
        "r.yaml:1:1: name: must be text, got 5: put it in quotes"
    ]
    assert problems_of('name: a\nlimits: {a: "1", b: true}', Drawing) == [
        "r.yaml:2:10: limits.a: must be a whole number, got '1'",
        "r.yaml:2:18: limits.b: must be a whole number, got true",
    ]


def test_missing_fields_are_placed_at_what_lacks_them() -> None:
    assert problems_of("\n\nshapes: []\n", Drawing) == ["r.yaml:3:1: name: is missing: add it"]


def test_problems_of_overridden_fields_name_the_override() -> None:
    found = problems_of("name: a\npen: thin", Drawing, ("pen=thck", "limits={a: x}", "nam=1"))
    assert sorted(found) == [
        "--set limits={a: x}: limits.a: must be a whole number, got 'x'",
        "--set nam=1: nam: unknown field, got 1: did you mean 'name'?",
        "--set pen=thck: pen: must be 'thin' or 'thick', got 'thck': did you mean 'thick'?",
    ]


def test_a_sound_document_becomes_a_model() -> None:
    text = "name: x\nlimits: {no: 3}\nshapes: [{kind: line, length: 1}]"
    drawing = parse_model(apply_overrides(parse_document(text, "r.yaml"), ["pen=thick"]), Drawing)
    assert drawing.pen == "thick" and drawing.limits == {"no": 3}
    assert drawing.shapes == (Line(kind="line", length=1.0),)


def test_odd_keys_are_quoted_in_paths() -> None:
    assert format_path(("a", 0, "b c", "d.e", "f\n")) == 'a[0].b c."d.e"."f\\n"'
    assert format_path(()) == ""


def test_suggestions() -> None:
    assert suggest("tumour", ["normal", "tumor"]) == "did you mean 'tumor'?"
    assert suggest("Tumor", ["normal", "TUMOR"]) == "did you mean 'TUMOR'?"
    assert suggest("xyz", ["normal", "tumor"]) == ""
    assert suggest("x", []) == ""
    assert suggest("UniPC", ["PNDM", "UniPCMultistep"]) == "did you mean 'UniPCMultistep'?"
    assert advise("xyz", ["normal", "tumor"]) == "known: normal, tumor"
    assert advise("xyz", [str(n) for n in range(20)], 2) == "known: 0, 1, ..."
    assert advise("xyz", []) == "known: none"
