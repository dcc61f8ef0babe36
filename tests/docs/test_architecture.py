"""Layers are kept, only the command line prints, and modules stay small: read from the code.

The layers stand in pyproject.toml (`tool.importlinter`); DESIGN section 2 gives their order.
"""

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest

from tests import ROOT

PACKAGE = ROOT / "factory"
EDGES = {"engine/executors/abreast.py": 1, "cli/__init__.py": 1, "core/registry.py": 1}
"""Where everything is caught, and how often: at the shard's edge, by the command line's last
handler, and around foreign code (a plug-in, a file of the user's own)."""
READER = "core/parquet.py"
"""The one module that opens parquet with a library."""
MAX_LINES = 350
MAX_FUNCTION = 60
"""Lines of a function, its documentation among them."""
MAX_PARAMETERS = 8
"""Of a public function: beyond, settings have a class. Commands have their options."""
PICKLES = frozenset({"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve"})
PARQUET_WRITERS = frozenset({"ParquetWriter", "write_table"})
SOURCES = {
    str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))
}


@functools.cache
def parse(source: str) -> ast.Module:
    """Parses a module once for all checks."""
    return ast.parse(source)


@functools.cache
def list_nodes(source: str) -> tuple[ast.AST, ...]:
    """Walks a module once for all checks."""
    return tuple(ast.walk(parse(source)))


def list_imports(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """Every (line, dotted name) imported anywhere in a module, relative ones made absolute."""
    found = []
    for node in list_nodes(source):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*parent, *((node.module,) if node.module else ())))
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return found


def find_prints(source: str) -> list[str]:
    """Every print, standard stream, click or rich in a module."""
    found = [
        f"line {line}: imports {name}"
        for line, name in list_imports(source, ())
        if name.split(".")[0] in {"click", "rich"}
    ]
    for node in list_nodes(source):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [f"line {node.lineno}: print"] if node.func.id == "print" else []
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr", "echo"}:
            found.append(f"line {node.lineno}: {node.attr}")
    return found


def find_broad_excepts(source: str) -> list[str]:
    found = []
    for node in list_nodes(source):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {each.id if isinstance(each, ast.Name) else each for each in caught}
            if names & {None, "Exception", "BaseException"}:
                found.append(f"line {node.lineno}: catches everything")
    return found


def find_pickles(source: str) -> list[str]:
    """Imports of pickle and its kin, torch.load of objects, numpy with pickles allowed."""
    found = [
        f"line {line}: imports {name}"
        for line, name in list_imports(source, ())
        if name.split(".")[0] in PICKLES
    ]
    for node in list_nodes(source):
        if not isinstance(node, ast.Call):
            continue
        given = {key.arg: getattr(key.value, "value", "?") for key in node.keywords}
        is_load = isinstance(node.func, ast.Attribute) and node.func.attr == "load"
        is_torch = is_load and ast.unparse(node.func) == "torch.load"
        if is_torch and given.get("weights_only") is not True:
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if given.get("allow_pickle") is True:
            found.append(f"line {node.lineno}: allow_pickle=True")
    return found


def find_parquet_readers(source: str) -> list[str]:
    """Everything that opens parquet with a library: Arrow would read ahead on its own threads."""
    found, aliases = [], {"pa.parquet", "pyarrow.parquet"}
    for node in list_nodes(source):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name == "pyarrow.parquet"]
            aliases |= {alias.asname or alias.name for alias in names}
        if isinstance(node, ast.ImportFrom) and node.module == "pyarrow.parquet":
            names = [alias for alias in node.names if alias.name not in PARQUET_WRITERS]
            found += [f"line {node.lineno}: {alias.name}" for alias in names]
    for line, name in list_imports(source, ()):
        found += [f"line {line}: {name}"] if name.startswith("pyarrow.dataset") else []
    for node in list_nodes(source):
        if not isinstance(node, ast.Attribute) or "parquet" not in source:  # as all of them have it
            continue
        is_reader = ast.unparse(node.value) in aliases and node.attr not in PARQUET_WRITERS
        if is_reader or ast.unparse(node) in {"pd.read_parquet", "pandas.read_parquet"}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def find_shapeless(source: str) -> list[str]:
    """Says that a module is too long, or that its first line does not say what it gives."""
    found = [f"more than {MAX_LINES} lines"] if source.count("\n") > MAX_LINES else []
    docstring = ast.get_docstring(parse(source)) or ""
    if not docstring.partition("\n")[0] or not source.lstrip().startswith('"""'):
        found.append("the first line does not say what it gives")
    return found


def find_long_functions(source: str) -> list[str]:
    found = []
    for node in list_nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                found.append(f"line {node.lineno}: {node.name} has {lines} lines")
    return found


def find_many_parameters(source: str) -> list[str]:
    """Public functions of a module that take more than a reader keeps in mind."""
    found = []
    for node in parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            given = node.args
            count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
            if count > MAX_PARAMETERS:
                found.append(f"line {node.lineno}: {node.name} has {count} parameters")
    return found


def list_faults(check: Callable[[str], list[str]], *apart: str) -> dict[str, list[str]]:
    """Returns what a check finds in modules, by module; not in those `apart`."""
    assert len(SOURCES) > 300
    found = {name: check(text) for name, text in SOURCES.items() if not name.startswith(apart)}
    return {name: faults for name, faults in found.items() if faults}


def test_imports_keep_the_layers():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contract["contracts"][0]["layers"]
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(layers), "each package has its layer"
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    # A process of its own: it silences the logs of the process that it runs in.
    linted = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout


def test_only_the_command_line_prints():
    assert list_faults(find_prints, "cli/") == {}


def test_modules_are_small_and_say_what_they_give():
    assert list_faults(find_shapeless) == {}


def test_functions_are_short_and_take_few_parameters():
    assert list_faults(find_long_functions) == {}
    assert list_faults(find_many_parameters, "cli/") == {}


def test_everything_is_caught_at_the_edges_only():
    found = list_faults(find_broad_excepts)
    assert {name: len(faults) for name, faults in found.items()} == EDGES


def test_nothing_is_pickled():
    assert list_faults(find_pickles) == {}


def test_parquet_is_read_in_one_place():
    found = list_faults(find_parquet_readers)
    assert {name: len(faults) for name, faults in found.items()} == {READER: 1}


# --- the checks can fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (find_prints, "def f():\n    print(1)"),
        (find_prints, "import click"),
        (find_prints, "import sys\nsys.stderr.write('x')"),
        (find_broad_excepts, "try:\n    f()\nexcept Exception as error:\n    pass"),
        (find_broad_excepts, "try:\n    f()\nexcept:\n    pass"),
        (find_broad_excepts, "try:\n    f()\nexcept (ValueError, BaseException):\n    pass"),
        (find_pickles, "def f():\n    import pickle"),
        (find_pickles, "from joblib import load"),
        (find_pickles, "torch.load(path)"),
        (find_pickles, "np.load(path, allow_pickle=True)"),
        (find_parquet_readers, "import pyarrow.parquet as pq\npq.read_table(x)"),
        (find_parquet_readers, "import pyarrow.parquet\npyarrow.parquet.ParquetFile(x)"),
        (find_parquet_readers, "from pyarrow.parquet import read_table"),
        (find_parquet_readers, "def f():\n    import pyarrow.dataset as ds"),
        (find_shapeless, "x = 1"),
        (find_long_functions, "class A:\n    def f():\n" + "        x = 1\n" * 60),
        (find_many_parameters, "def f(a, b, c, d, e, f, g, h, *, i):\n    pass"),
        (find_shapeless, '"""Says."""\n' * 351),
        (find_parquet_readers, "import pandas as pd\npd.read_parquet(x)"),
    ],
)
def test_what_is_forbidden_is_found(check, source):
    assert len(check(source)) == 1


def test_what_is_allowed_passes():
    assert not find_broad_excepts("try:\n    f()\nexcept (OSError, ValueError):\n    pass")
    assert not find_pickles("torch.load(path, weights_only=True)\nnp.load(p, allow_pickle=False)")
    assert not find_prints("log.info('print')")
    assert not find_parquet_readers("import pyarrow.parquet as pq\npq.ParquetWriter(x, y)")
