"""Kinds by name: this project's, plug-ins by entry point, broken ones, files of one's own."""

import sys
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from factory.core.errors import CatalogError, PluginError, SourceError
from factory.core.registry import Registry, load_from_file, name_kind
from factory.evaluate.base import Evaluation
from factory.filters import FILTERS
from factory.filters.base import Filter

GROUP = "factory.shapes"


class Shape:
    kind: ClassVar[str]

    class Settings(BaseModel):
        kind: str


class Round(Shape):
    kind = "round"

    class Settings(Shape.Settings):
        kind: Literal["round"]
        radius: float


class Square(Shape):
    kind = "square"

    class Settings(Shape.Settings):
        kind: Literal["square"]
        side: float


BUILT_IN = {"round": f"{__name__}:Round", "square": f"{__name__}:Square"}

TRIANGLE = f"""
from typing import Literal
from {__name__} import Shape

class Triangle(Shape):
    kind = "triangle"
    class Settings(Shape.Settings):
        kind: Literal["triangle"]
        height: float
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package of one module with its entry points on the path, as an installer does."""

    def put(package: str, source: str, entries: dict[str, str]) -> None:
        site = tmp_path / f"site-{package}"
        made = site / f"{package}-1.2.dist-info"
        made.mkdir(parents=True)
        (site / f"{package}.py").write_text(source)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (made / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return put


def build() -> Registry[Shape]:
    return Registry(GROUP, Shape, BUILT_IN)


def parse(registry: Registry[Shape], data: dict[str, Any]) -> Any:
    return TypeAdapter(registry.build_union()).validate_python(data)


def test_the_projects_own_kinds_are_told_apart_by_kind():
    registry = build()
    assert registry.names == ("round", "square") and registry.find_plugin("round") is None
    assert parse(registry, {"kind": "square", "side": 2}) == Square.Settings(kind="square", side=2)
    with pytest.raises(CatalogError, match=r"shapes: no kind 'sqare': did you mean 'square'\?"):
        registry.get("sqare")


def test_a_package_of_modules_gives_the_kinds_that_they_state():
    from factory.core import errors

    found = Registry("factory.errors", errors.FactoryError, "factory.core")
    assert found.names == ()  # none states its kind


def test_an_installed_package_adds_a_kind(install):
    install("shapely_plus", TRIANGLE, {"triangle": "shapely_plus:Triangle"})
    registry = build()
    assert registry.names == ("round", "square", "triangle")
    assert parse(registry, {"kind": "triangle", "height": 3}).height == 3
    plugin = registry.find_plugin("triangle")
    assert plugin is not None and plugin.startswith("package shapely_plus 1.2, entry point ")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("raise ValueError('of its own')", r"ValueError: of its own \(.*broken_one\.py:1\)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("", "has no attribute 'Triangle'"),
        ("class Triangle: ...", "is no class that inherits from .*Shape"),
        (TRIANGLE.replace('kind = "triangle"', 'kind = "other"'), "its Settings need the field"),
        (TRIANGLE.replace("triangle", "other"), "its kind is 'other': name the entry point so"),
    ],
)
def test_a_broken_plug_in_is_named_and_breaks_nothing_else(install, source, said):
    install("broken_one", source, {"triangle": "broken_one:Triangle"})
    registry = build()
    assert parse(registry, {"kind": "round", "radius": 1}).radius == 1
    named = r"'triangle' is broken \(package broken_one 1\.2, entry point factory\.shapes: "
    with pytest.raises(PluginError, match=f"{named}triangle = broken_one:Triangle.*{said}"):
        registry.get("triangle")
    with pytest.raises(ValidationError, match=said):
        parse(registry, {"kind": "triangle", "height": 3})


def test_a_plug_in_replaces_no_kind_of_another_package_and_is_refused_for_one_of_the_project(
    install,
):
    install(
        "one_shape", TRIANGLE, {"triangle": "one_shape:Triangle", "round": "one_shape:Triangle"}
    )
    install("two_shapes", TRIANGLE, {"triangle": "two_shapes:Triangle"})
    registry = build()
    assert registry.names == ("round", "square", "triangle")
    own = r"'round' is a kind of factory's own, and package one_shape 1\.2, entry point .* has it"
    with pytest.raises(PluginError, match=own):
        registry.get("round")
    with pytest.raises(ValidationError, match=own):
        parse(registry, {"kind": "round", "radius": 1})
    assert registry.get("square") is Square
    with pytest.raises(PluginError, match=r"there twice: package (one|two).*; package (one|two)"):
        registry.get("triangle")


def test_a_file_of_ones_own_is_run_and_hashed(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(TRIANGLE)
    found, digest = load_from_file(path, "Triangle", Shape)
    assert issubclass(found, Shape) and len(digest) == 64
    path.write_text(TRIANGLE + "\n")
    assert load_from_file(path, "Triangle", Shape)[1] != digest
    with pytest.raises(PluginError, match=r"no class 'Triangl': did you mean 'Triangle'\?"):
        load_from_file(path, "Triangl", Shape)
    path.write_text("x = 1\nx / 0\n")
    with pytest.raises(PluginError, match=r"ZeroDivisionError.*own\.py:2"):
        load_from_file(path, "Triangle", Shape)
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(PluginError, match=r"SystemExit: 0 .*own\.py:2"):
        load_from_file(path, "Triangle", Shape)
    with pytest.raises(SourceError, match="cannot be read"):
        load_from_file(tmp_path / "missing.py", "Triangle", Shape)


@pytest.mark.parametrize("base", [Filter, Evaluation])
def test_settings_without_a_kind_are_told_in_words(tmp_path, base):
    path = tmp_path / "own.py"
    path.write_text(
        f"from pydantic import BaseModel\nfrom {base.__module__} import {base.__name__}\n"
        f"class Mine({base.__name__}):\n"
        "    class Settings(BaseModel):\n        limit: int = 1\n"
        "    def measure(self, settings, context):\n        return None\n"
    )
    with pytest.raises(PluginError, match=r"has no kind: name it in the class, or in its Settings"):
        load_from_file(path, "Mine", base)


def test_settings_without_words_say_what_their_kind_says():
    told = {kind: FILTERS.get(kind).Settings.__doc__ for kind in ("focus", "conformal")}
    assert told["focus"] == "Rejects blurred images."  # its module's first line
    assert told["conformal"].startswith("Rejects images unless")  # its own

    class Plain:
        """Says this."""

        class Settings(BaseModel):
            kind: Literal["plain"]

    name_kind(Plain)
    assert (Plain.kind, Plain.Settings.__doc__) == ("plain", "Says this.")
