"""Imports point one way, only the command line prints, and modules stay small: read from the code.

The order is DESIGN section 2's, with the modules that there are.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "factory"
ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "plain"),
    ("fingerprint", "parquet", "notes", "markdown"),
    ("textrows", "warned"),
    ("images",),
    ("sources",),
    ("records", "leakage", "varied"),
    ("yamlreader",),
    ("fieldtypes",),
    ("messages", "vocabulary"),
    ("attributes",),
    ("yamlfile",),
    ("captions",),
    ("catalog_entries",),
    ("catalog",),
    ("accept", "filter_settings"),
    ("recipe",),
    ("recipe_file", "picking"),
    ("conditions",),
    ("plan",),
    ("encoders",),
    ("classifiers",),
    ("generators", "filters", "store"),
    ("circularity",),
    ("licences",),
    ("checks",),
    ("shard",),
    ("executors",),
    ("selection",),
    ("dataset",),
    ("summary",),
    ("continuing",),
    ("metrics", "measured", "newfolder"),
    ("train",),
    ("evaluate",),
    ("card",),
    ("run", "judge", "disk"),
    ("estimate",),
    ("preview", "refilter"),
    ("stored",),
    ("regenerate", "merge", "export"),
    ("verify",),
    ("calibrate",),
    ("report",),
    ("publish",),
    ("cli",),
    ("__main__",),
)
"""Units (modules, packages) that may import earlier ones; those of one line never each other."""

APART = frozenset({"generators", "filters", "conditions", "store"})
MAX_LINES = 350
PICKLES = frozenset({"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve"})
PARQUET_WRITERS = frozenset({"ParquetWriter", "write_table"})
RANKS = {unit: rank for rank, units in enumerate(ORDER) for unit in units}
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]


def find_unit(path: Path) -> str:
    """`factory/store/rows.py` belongs to `store`, `factory/plan.py` to `plan`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def list_imports(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """Every (line, dotted name) imported anywhere in a module, relative ones made absolute."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*parent, *((node.module,) if node.module else ())))
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return found


def list_factory_units(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, unit) of every import of ours; `from factory import __version__` is of none."""
    names = [(line, name.split(".")) for line, name in list_imports(source, package)]
    ours = [(line, parts[1]) for line, parts in names if parts[0] == "factory" and parts[1:]]
    return [(line, unit) for line, unit in ours if unit != "__version__"]


def find_wrong_imports(unit: str, source: str, package: tuple[str, ...]) -> list[str]:
    wrong = []
    for line, other in list_factory_units(source, package):
        if other == unit:
            continue
        if other not in RANKS:
            wrong.append(f"line {line}: {other} has no place in ORDER")
        elif unit in APART and other in APART:
            wrong.append(f"line {line}: {unit} must not import {other}")
        elif RANKS[other] >= RANKS[unit]:
            wrong.append(f"line {line}: {unit} comes before {other} and must not import it")
    return wrong


def find_prints(source: str) -> list[str]:
    """Every print, standard stream, click or rich in a module."""
    found = [
        f"line {line}: imports {name}"
        for line, name in list_imports(source, ())
        if name.split(".")[0] in {"click", "rich"}
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [f"line {node.lineno}: print"] if node.func.id == "print" else []
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr", "echo"}:
            found.append(f"line {node.lineno}: {node.attr}")
    return found


def find_broad_excepts(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
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
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = {key.arg: getattr(key.value, "value", "?") for key in node.keywords}
        if ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True:
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if given.get("allow_pickle") is True:
            found.append(f"line {node.lineno}: allow_pickle=True")
    return found


def find_parquet_readers(source: str) -> list[str]:
    """Everything that opens parquet with a library: Arrow would read ahead on its own threads."""
    tree, found, aliases = ast.parse(source), [], {"pa.parquet", "pyarrow.parquet"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name == "pyarrow.parquet"]
            aliases |= {alias.asname or alias.name for alias in names}
        if isinstance(node, ast.ImportFrom) and node.module == "pyarrow.parquet":
            names = [alias for alias in node.names if alias.name not in PARQUET_WRITERS]
            found += [f"line {node.lineno}: {alias.name}" for alias in names]
    for line, name in list_imports(source, ()):
        found += [f"line {line}: {name}"] if name.startswith("pyarrow.dataset") else []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        is_reader = ast.unparse(node.value) in aliases and node.attr not in PARQUET_WRITERS
        if is_reader or ast.unparse(node) in {"pd.read_parquet", "pandas.read_parquet"}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_every_unit_has_its_place():
    units = {find_unit(path) for path in MODULES} - {"__init__"}
    assert len(units) > 20
    assert units == set(RANKS), "place new modules in ORDER, take removed ones out"
    assert len(RANKS) == sum(map(len, ORDER))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_point_one_way(path):
    if path == PACKAGE / "__init__.py":
        assert not list_factory_units(path.read_text(), ("factory",))
        return
    package = path.relative_to(ROOT).parent.parts
    assert not find_wrong_imports(find_unit(path), path.read_text(), package)


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_only_the_command_line_prints(path):
    assert find_unit(path) == "cli" or not find_prints(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_modules_are_small_and_say_what_they_give(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_LINES
    docstring = ast.get_docstring(ast.parse(source)) or ""
    first = docstring.partition("\n")[0]
    assert first, "the module's first line says what it gives"
    assert source.lstrip().startswith('"""')


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_everything_is_caught_at_two_edges_only(path):
    """At the shard's, and by the last handler of the command line."""
    edges = (PACKAGE / "executors" / "base.py", PACKAGE / "cli" / "__init__.py")
    found = find_broad_excepts(path.read_text())
    assert len(found) == (1 if path in edges else 0), found


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_is_pickled(path):
    assert not find_pickles(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_parquet_is_read_in_one_place(path):
    found = find_parquet_readers(path.read_text())
    assert len(found) == (1 if path == PACKAGE / "parquet.py" else 0), found


# --- the checks can fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "source", "message"),
    [
        ("plan", "from factory.shard import Order", "plan comes before shard"),
        ("plan", "import factory.run", "plan comes before run"),
        ("plan", "def f():\n    from factory import executors", "line 2: plan comes before"),
        ("plan", "from . import run", "plan comes before run"),
        ("plan", "from .run import x", "plan comes before run"),
        ("filters", "from factory.store.rows import x", "filters must not import store"),
        ("generators", "from factory.conditions import x", "must not import conditions"),
        ("preview", "from factory.refilter import x", "preview comes before refilter"),
        ("run", "from factory.new_module import x", "new_module has no place"),
        ("errors", "if x:\n    import factory.recipe as r", "errors comes before recipe"),
    ],
)
def test_a_wrong_import_is_found(unit, source, message):
    found = find_wrong_imports(unit, source, ("factory",))
    assert len(found) == 1
    assert message in found[0]


def test_a_relative_import_inside_a_package_is_understood():
    source = "from .base import x\nfrom ..store.files import y\nfrom .. import run"
    units = list_factory_units(source, ("factory", "filters"))
    assert units == [(1, "filters"), (2, "store"), (3, "run")]


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
        (find_parquet_readers, "import pandas as pd\npd.read_parquet(x)"),
    ],
)
def test_what_is_forbidden_is_found(check, source):
    assert len(check(source)) == 1


def test_what_is_allowed_passes():
    right = "from factory import __version__\nfrom factory.records import Job\nimport json"
    assert not find_wrong_imports("plan", right, ("factory",))
    assert not find_broad_excepts("try:\n    f()\nexcept (OSError, ValueError):\n    pass")
    assert not find_pickles("torch.load(path, weights_only=True)\nnp.load(p, allow_pickle=False)")
    assert not find_prints("log.info('print')")
    assert not find_parquet_readers("import pyarrow.parquet as pq\npq.ParquetWriter(x, y)")
