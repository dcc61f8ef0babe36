"""Writes tests/STRANGERS.md: what strangers broke, out of the markers of the tests.

Usage: python -m tests.strangers
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS / "STRANGERS.md"
HEAD = """# What strangers' hands broke

Each row is a fault that somebody met who was not one of us: what was done, what must come of it,
and the test that does it. Written by `python -m tests.strangers` from the markers `stranger`.

| item | what was done | the right outcome | test |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, order=True, slots=True)
class Row:
    """One fault; `test` is `file::function`."""

    item: int
    test: str
    done: str
    outcome: str


def list_rows() -> list[Row]:
    """Returns the rows of all tests, by item."""
    return sorted(row for path in sorted(TESTS.rglob("test_*.py")) for row in _read_rows(path))


def write_table() -> str:
    """Returns the table as text."""
    cells = ((str(row.item), row.done, row.outcome, f"`{row.test}`") for row in list_rows())
    lines = ("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in cells)
    return HEAD + "\n".join(lines) + "\n"


def _read_rows(path: Path) -> Iterator[Row]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.stranger":
                item, done, outcome = (ast.literal_eval(argument) for argument in mark.args)
                yield Row(item, f"{path.relative_to(TESTS)}::{node.name}", done, outcome)


if __name__ == "__main__":
    TABLE.write_text(write_table(), encoding="utf-8")
