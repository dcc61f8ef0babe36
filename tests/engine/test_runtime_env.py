"""`generator.runtime_env`: what Ray is given, and where it is refused."""

import zipfile
from pathlib import Path

import pytest

from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import RuntimeEnv
from factory.core.errors import InputError
from factory.models.generators import build_generator
from factory.models.generators.environment import VARIABLE, name_environment, write_for_ray
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.file import load_recipe
from factory.recipe.recipe import compute_recipe_digest
from tests.running import run, write_recipe

ONE = {"conditions": [{"kind": "class", "per_class": {"normal": 2}}]}


def write_wheel(folder: Path, number: str) -> Path:
    """A package of one module, in one version."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"tinything-{number}-py3-none-any.whl", f"tinything-{number}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinything.py", f"VERSION = {number!r}\n")
        head = f"Metadata-Version: 2.1\nName: tinything\nVersion: {number}\n"
        wheel.writestr(f"{info}/METADATA", head)
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        files = ("tinything.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    return path


def test_it_is_refused_in_this_process_and_enters_no_identity(tmp_path: Path) -> None:
    write_wheel(tmp_path, "1.0")
    environment = {"pip": ["tinything-1.0-py3-none-any.whl"]}
    recipe = write_recipe(tmp_path, **ONE, generator={"model": "fake", "runtime_env": environment})
    with pytest.raises(InputError, match=r"runtime_env: fake needs .*set workers\.executor: ray"):
        run(recipe, tmp_path / "run")
    (tmp_path / "plain").mkdir()
    plain = write_recipe(tmp_path / "plain", **ONE, generator={"model": "fake"})
    digests = {compute_recipe_digest(load_recipe(each).recipe) for each in (recipe, plain)}
    assert len(digests) == 1


def test_what_ray_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(tmp_path, "2.0")
    environment = RuntimeEnv(pip=("numpy==2.1", wheel.name), env_vars={"A": "b"})
    given = write_for_ray(environment, tmp_path)
    assert given["pip"] == ["numpy==2.1", str(wheel)]
    assert given["env_vars"] == {"A": "b", VARIABLE: name_environment(environment)}
    with pytest.raises(InputError, match=r"gone\.whl: not there"):
        write_for_ray(RuntimeEnv(pip=("gone.whl",)), tmp_path)
    settings = GeneratorSettings(model="fake", runtime_env=environment)
    entry = load_catalogs().find_model("fake")
    with pytest.raises(InputError, match="only workers of Ray"):
        build_generator(settings, entry, tmp_path)
    monkeypatch.setenv(VARIABLE, name_environment(environment))
    assert build_generator(settings, entry, tmp_path).capabilities.width == 64
