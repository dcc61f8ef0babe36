"""The table of what strangers broke names the tests that are marked so, each once, and no other."""

import ast
import re

from tests import ROOT

TESTS = ROOT / "tests"
ROW = re.compile(r"\| (\d+) \| .+ \| .+ \| `([\w/]+\.py)::(\w+)` \|")


def list_marked():
    """Yields file and name of every test with the marker `stranger`."""
    for path in sorted(TESTS.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body if "pytest.mark.stranger" in source else ():
            marks = node.decorator_list if isinstance(node, ast.FunctionDef) else ()
            if "pytest.mark.stranger" in map(ast.unparse, marks):
                yield str(path.relative_to(TESTS)), node.name


def test_each_marked_test_has_a_row_and_each_row_its_test():
    lines = (TESTS / "STRANGERS.md").read_text(encoding="utf-8").splitlines()
    rows = [ROW.fullmatch(line) for line in lines if line.startswith("| ")][1:]
    assert all(rows[1:]), "a row is: | item | what was done | the right outcome | `file::test` |"
    listed = [(row[2], row[3]) for row in rows if row is not None]
    assert len(listed) > 100
    assert sorted(listed) == sorted(list_marked()), "tests/STRANGERS.md and markers differ"
    items = [int(row[1]) for row in rows if row is not None]
    assert items == sorted(items), "rows stand by item"
