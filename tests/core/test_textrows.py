"""Rows of text tables: what is not plain is refused with its file and line, never guessed."""

import json
import re

import pytest

from factory.catalog.captions.file import read_captions
from factory.core.errors import SourceError
from factory.core.text_rows import read_lines, read_rows
from factory.data.images import list_images
from tests.data.test_sources_splits import write_images
from tests.running import call, write_recipe

STRICT = {
    "csv": {
        "caption,k\nx,a\nH&E, with comma,a\n": "3: 3 fields, but .* names 2",
        "caption,k\nx\n": "2: 1 fields, but the header names 2",
        "caption,k\nx,a,\n": "2: 3 fields",
        "caption,k,caption\nx,a,y\n": "1: column 'caption' stands twice",
        ",caption,k\n0,x,a\n": "1: column 1 has no name.*index=False",
        "caption,k,\nx,a,\n": "1: column 3 has no name",
        'caption,k\n"x,a\ny,b\n': r"2: not readable \(unexpected end",
        'caption,k\nx,a\n"y" z,b\n': "3: not readable",
        'caption,k\n5" core,b\n': "2: a double quote without its pair",
        'caption,k\n\n"two\nlines",b\nx\n': "5: 1 fields",
        "caption,k\nx\0,a\n": "2: holds a NUL",
        "caption,k\nx,a\n".encode("utf-16"): "1: not readable as UTF-8",
        "caption,k\nx,a\né,b\n".encode("latin-1"): "3: not readable as UTF-8",
        "caption,k\nx,\n": "2: k: empty class",
        "caption,k\n ,2\n": "2: caption: empty caption",
    },
    "tsv": {"caption\tk\nx\ty\ta\n": "2: 3 fields"},
    "jsonl": {
        '{"caption": "x", "k": null}\n': "1: k: empty class",
        '{"caption": "x", "k": ["a"]}\n': "1: k: want a class as text",
        '\n{"caption": "x", "caption": "y", "k": "a"}\n': "2: field 'cap",
        '{"caption": "x", "k": "a"}\n{"text": "y", "k": "a"}\n': "2: no field 'caption'",
        '{"caption": "x", "k": "a"}\n{oops\n': "2: not a JSON object",
        '"x"\n': "1: want one JSON object a line, got str",
        '["x"]\n': "1: want one JSON object",
        "[" * 100_000 + "\n": "1: not a JSON object",
    },
    "txt": {
        "x\n\0\n": "2: holds a NUL",
        "\n\n": " holds no captions",
        b"\xff\xfe\x00": "1: not readable as UTF-8",
    },
}
"""Suffix -> text -> line and message."""


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [(f"a.{suffix}", *case) for suffix, cases in STRICT.items() for case in cases.items()],
)
def test_text_tables_are_strict(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError, match=rf"{re.escape(name)}:{message}"):
        read_captions(path, "caption", None if name.endswith("txt") else "k")


def test_metadata_of_folders_is_strict_too(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,pale, few nuclei\n")
    with pytest.raises(SourceError, match=r"metadata\.csv:2: 3 fields, but the header names 2"):
        list_images(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\nb.png,y\na.png,z\n")
    with pytest.raises(SourceError, match=r"metadata\.csv:4: a\.png stands twice, first at line 2"):
        list_images(tmp_path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_is_right_is_read(tmp_path, mark, end):
    path = tmp_path / "a.csv"
    text = mark + end.join(["caption,k", '"two, ""quoted""",a', "", "x\u2028y,b", '"c\nd",e'])
    path.write_bytes(text.encode())
    assert [*read_rows(path)] == [
        (2, {"caption": 'two, "quoted"', "k": "a"}),
        (4, {"caption": "x\u2028y", "k": "b"}),
        (5, {"caption": "c\nd", "k": "e"}),
    ]


@pytest.mark.stranger
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("bad", ["\\ud83d", "\\u0000"])
def test_text_that_no_file_can_hold_is_found_by_validate(tmp_path, command, bad):
    (tmp_path / "a.jsonl").write_text(f'{{"caption": "x"}}\n{{"caption": "a {bad} gland"}}\n')
    block = {"kind": "caption", "captions": "a.jsonl", "count": 2}
    recipe = write_recipe(tmp_path, conditions=[block], filters=[])
    more = ["--out", str(tmp_path / "out")] if command == "run" else []
    result = call(command, str(recipe), *more)
    assert result.exit_code == 2
    assert "a.jsonl:2: caption: holds " in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("bad", ["a\\ud83d", "a\\u0000"])
def test_such_text_in_metadata_and_tables_of_images(tmp_path, bad):
    write_images(tmp_path, "a.png")
    row = f'{{"file_name": "a.png", "slide": "{bad}"}}'
    (tmp_path / "metadata.jsonl").write_text(row)
    with pytest.raises(SourceError, match=r"metadata\.jsonl:1: slide: holds "):
        list_images(tmp_path, group_column="slide")


def test_not_a_number_in_json_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "x", "k": NaN}')
    with pytest.raises(SourceError, match=r"a\.jsonl:1: k: nan is no number"):
        read_captions(tmp_path / "a.jsonl", "caption", None)
    assert json.loads('{"k": NaN}')  # as Python would have it


@pytest.mark.parametrize(
    "text", ["", "\n", "a", "a\n", "a\r\r\nb\r", "\ra\r\n\n", "\u2028é\r", "\ufeffa\nb", "\ufeff"]
)
def test_lines_end_as_any_system_ends_them(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    lines = re.split("\r\n|\n|\r", text.removeprefix("\ufeff"))
    assert [*read_lines(tmp_path / "a.txt")] == [*enumerate(lines, 1)]
