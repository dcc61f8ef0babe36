"""What runs every day stays cheap: slow tests name the daily one beside them, spine tests are few.

`tests/budget.py` meters the tests; what it says of seconds is tested here as well.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

from tests import ROOT
from tests.budget import BOUND, SPINE_BOUND, TOLD, Budget, find_fault, read_cpu

TESTS = ROOT / "tests"
FILES = {
    str(path.relative_to(TESTS)): path.read_text(encoding="utf-8")
    for path in sorted(TESTS.rglob("test_*.py"))
}
MAX_SPINE = 8


@functools.cache
def list_functions(source: str) -> tuple[ast.FunctionDef, ...]:
    """Parses a file once."""
    return tuple(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


def list_marks(sources: dict[str, str], name: str) -> dict[str, ast.expr]:
    """Returns the decorator of each test that is marked so, by `file::function`."""
    return {
        f"{file}::{node.name}": mark
        for file, source in sources.items()
        if f"pytest.mark.{name}" in source
        for node in list_functions(source)
        for mark in node.decorator_list
        if re.fullmatch(rf"pytest\.mark\.{name}(\(.*\))?", ast.unparse(mark), re.DOTALL)
    }


def find_widows(sources: dict[str, str]) -> list[str]:
    """Returns the slow tests beside which no test of every day stands."""
    slow = list_marks(sources, "slow")
    found = []
    for test, mark in slow.items():
        words = [ast.literal_eval(each) for each in getattr(mark, "args", ())]
        kin = [word if "::" in word else f"{test.partition('::')[0]}::{word}" for word in words]
        file, _, name = kin[0].partition("::") if kin else ("", "", "")
        known = {each.name for each in list_functions(sources.get(file, ""))}
        is_daily = name.startswith("test_") and name in known and kin[0] not in slow
        if len(kin) != 1 or not is_daily:
            found.append(f"{test}: {kin or 'names none'}")
    return found


def test_a_slow_test_names_what_is_asked_every_day():
    assert len(list_marks(FILES, "slow")) > 10
    assert find_widows(FILES) == []


@pytest.mark.parametrize(
    "mark", ["slow", "slow()", "slow('test_b')", "slow('test_c')", "slow('test_d.py::test_b')"]
)
def test_a_slow_test_beside_nothing_is_found(mark):
    source = "@pytest.mark.{}\ndef test_a(): ...\n@pytest.mark.slow('test_d')\ndef test_b(): ...\n"
    source += "def test_d(): ...\n"
    assert len(find_widows({"test_x.py": source.format(mark)})) == 1
    assert find_widows({"test_x.py": source.format("slow('test_d')")}) == []


def test_the_spine_is_short_and_listed():
    page = (TESTS / "README.md").read_text(encoding="utf-8")
    table = page.partition("## The spine")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(list_marks(FILES, "spine"))
    assert len(listed) <= MAX_SPINE


def test_the_page_tells_the_bounds():
    page = (TESTS / "README.md").read_text(encoding="utf-8")
    for words in (f"at most {TOLD:g} s of CPU", f"above {BOUND:g} s", f"{SPINE_BOUND:g} s"):
        assert words in page


@pytest.mark.parametrize(
    ("seconds", "marks", "said"),
    [
        (BOUND - 1, set(), None),
        (BOUND + 1, set(), f"took {BOUND + 1:.1f} s of CPU, and a test of every day may take 30"),
        (BOUND + 1, {"spine"}, None),
        (SPINE_BOUND + 1, {"spine"}, "may take 120"),
        (1000, {"slow"}, None),
    ],
)
def test_what_takes_too_long_is_told(seconds, marks, said):
    found = find_fault(seconds, marks)
    assert found is None if said is None else said in found


SUITE = """
import pytest
from tests import budget
from tests.budget import read_cpu

def burn():
    end = read_cpu() + 0.3
    while read_cpu() < end:
        pass

@pytest.fixture(scope="module")
def shared():
    burn()

def test_cheap(shared): ...

def test_dear(shared):
    burn()

@pytest.mark.slow("test_cheap")
def test_slow():
    burn()
"""


class Listening:
    """Keeps what the tests of a session of its own ended with."""

    def __init__(self):
        self.ended = {}

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2]
        if report.outcome != "passed" or name not in self.ended:
            self.ended[name] = (report.when, report.outcome)


@pytest.mark.parametrize("strict", [True, False])
def test_only_a_test_that_is_dear_itself_fails(strict, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tests.budget.BOUND", 0.2)
    monkeypatch.setattr("tests.budget.TOLD", 0.1)
    (tmp_path / "test_it.py").write_text(SUITE)
    listening, budget = Listening(), Budget(strict)
    options = ["-n", "0", "-p", "no:cacheprovider", "--import-mode=importlib"]
    began = read_cpu()
    code = pytest.main(
        [*options, "-c", str(ROOT / "pyproject.toml"), str(tmp_path)], [listening, budget]
    )
    assert read_cpu() - began > 0.9
    assert code == (pytest.ExitCode.TESTS_FAILED if strict else pytest.ExitCode.OK)
    assert set(listening.ended) == {"test_cheap", "test_dear", "test_slow"}
    failed = {
        name: when for name, (when, outcome) in listening.ended.items() if outcome == "failed"
    }
    assert failed == ({"test_dear": "teardown"} if strict else {})
    assert [name.rpartition("::")[2] for name in budget.told] == ["test_dear"]
