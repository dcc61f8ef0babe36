"""`generator.runtime_env`: what Ray is given, where it is refused, two versions in one Ray."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import RuntimeEnv
from factory.core.errors import InputError, RecipeError
from factory.models.generators import build_generator
from factory.models.generators.environment import (
    PATH,
    VARIABLE,
    describe_environment,
    name_environment,
    write_for_ray,
)
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from factory.recipe.recipe import compute_recipe_digest
from tests import ROOT
from tests.running import read_rows, run, write_recipe

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


def unpack(folder: Path, number: str) -> str:
    """What `pip install --target` leaves of a wheel; returns the folder's name."""
    target = folder / f"libraries-{number}"
    with zipfile.ZipFile(write_wheel(folder, number)) as wheel:
        wheel.extractall(target)
    return target.name


READ = """
import json, sys
from pathlib import Path
from factory.models.generators.environment import describe_environment
from factory.models.generators.settings import GeneratorSettings
settings = GeneratorSettings.model_validate_json(sys.argv[1])
print(json.dumps(describe_environment(settings, None, Path(sys.argv[2]))))
"""


def test_folders_of_packages_stand_first_and_their_versions_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATH, str(ROOT))
    names = [unpack(tmp_path, number) for number in ("1.0", "2.0")]
    for name, number in zip(names, ("1.0", "2.0"), strict=True):
        settings = GeneratorSettings(model="fake", runtime_env=RuntimeEnv(paths=(name,)))
        given = write_for_ray(RuntimeEnv(paths=(name,)), tmp_path)["env_vars"]
        assert given[PATH] == os.pathsep.join([str(tmp_path / name), str(ROOT)])
        words = [sys.executable, "-c", READ, settings.model_dump_json(), str(tmp_path)]
        told = json.loads(subprocess.check_output(words, env={**os.environ, **given}, timeout=120))
        assert told == {"runtime_env": {"paths": [name], "versions": {"tinything": number}}}
        here = describe_environment(settings, None, tmp_path)["runtime_env"]
        assert here["versions"] == {"tinything": "unknown"}  # this process has not got it
    with pytest.raises(InputError, match=r"runtime_env\.paths: .*gone: not there"):
        write_for_ray(RuntimeEnv(paths=("gone",)), tmp_path)


def test_validate_tells_what_workers_would_look_for_in_vain(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "1.0")
    environment = {"pip": ["./gone.whl"], "paths": ["nowhere", wheel.name]}
    generator = {"model": "fake", "runtime_env": environment}
    loaded = load_recipe(write_recipe(tmp_path, **ONE, generator=generator))
    with pytest.raises(RecipeError) as caught:
        check_recipe(loaded)
    told = str(caught.value)
    for said in (
        r"recipe\.yaml:\d+:\d+: generator\.runtime_env\.pip: .*gone\.whl: not there",
        r"recipe\.yaml:\d+:\d+: generator\.runtime_env\.paths: .*nowhere: not there",
        r"generator\.runtime_env\.paths: .*\.whl: no folder: unpack it",
    ):
        assert re.search(said, told), told
    check_recipe(loaded, check_files=False)
    (tmp_path / "own" / "models").mkdir(parents=True)
    entry = "id: old\nbase: fake\nruntime_env: {paths: [nowhere]}\n"
    (tmp_path / "own" / "models" / "old.yaml").write_text(entry)
    recipe = write_recipe(tmp_path, **ONE, catalogs=["own"], generator={"model": "old"})
    with pytest.raises(
        RecipeError, match=r"generator\.model: runtime_env\.paths of old: .*nowhere"
    ):
        check_recipe(load_recipe(recipe))


@pytest.mark.slow("test_folders_of_packages_stand_first_and_their_versions_are_told")
def test_two_versions_of_a_package_in_one_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one run, too: the driver has a third version, which plans and finalises."""
    import ray

    monkeypatch.setenv(PATH, str(ROOT))
    monkeypatch.syspath_prepend(tmp_path / unpack(tmp_path, "0.9"))
    (tmp_path / "catalog" / "models").mkdir(parents=True)
    for number in ("1.0", "2.0"):
        entry = (ROOT / "catalogs" / "models" / "fake.yaml").read_text()
        entry = entry.replace("id: fake", f"id: fake-{number}")
        entry += f"runtime_env: {{paths: [{unpack(tmp_path, number)}]}}\n"
        (tmp_path / "catalog" / "models" / f"fake-{number}.yaml").write_text(entry)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for number in ("1.0", "2.0"):
            changes = {"catalogs": ["catalog"], "generator": {"model": f"fake-{number}"}}
            recipe = write_recipe(tmp_path, **ONE, **changes)
            words = ["workers.executor=ray", "workers.count=1", "workers.cpus=0.5"]
            assert run(recipe, tmp_path / f"run-{number}", overrides=words).exit_code == 0
    finally:
        ray.shutdown()
    for number in ("1.0", "2.0"):
        rows = read_rows(tmp_path / f"run-{number}")
        for row in rows:
            told = json.loads(row["provenance"])["generator"]["runtime_env"]
            assert told["versions"] == {"tinything": number}
        assert len(rows) == 2 and version("tinything") == "0.9"
