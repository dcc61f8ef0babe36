"""What a stranger's installation rests on: bounds of dependencies, and patches that ship."""

import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from PIL import Image

from factory.data.images import list_images
from tests import ASSETS, ROOT
from tests.running import read_rows

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = PROJECT["dependencies"] + [
    each for extra in PROJECT["optional-dependencies"].values() for each in extra
]


@pytest.mark.stranger
def test_every_dependency_has_a_lower_bound_only():
    assert len(WANTED) > 25
    ours = [each for each in WANTED if each.startswith(PROJECT["name"])]
    for each in set(WANTED) - set(ours):
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\[[a-z0-9,]+\])?>=[0-9.]+", each), each


@pytest.mark.stranger
def test_real_patches_ship_and_no_test_looks_outside():
    readme = (ASSETS / "README.md").read_text()
    folders = sorted(path for path in ASSETS.iterdir() if path.is_dir())
    sets = [folder for folder in folders if (folder / "train").is_dir()]
    assert len(sets) >= 4
    for folder in set(folders) - set(sets):
        kinds = {f"{folder.name}/{path.stem}" for path in folder.iterdir()}
        for kind in kinds - {"expression/gseapy"}:  # scores that we computed
            assert re.search(rf"`{kind}[`.].* (CC0 1.0|CC BY 4.0) \|", readme), kind
            assert re.search(rf"\*\*.*{kind}[*.,]", readme), kind
    for folder in sets:
        assert re.search(rf"`{folder.name}` .* (CC0 1.0|CC BY 4.0) \|", readme), folder.name
        assert f"**{folder.name}**" in readme
        for split in ("train", "test"):
            images = list_images(folder / split)
            assert len(images) >= 7
            assert all(image.read_pixels().shape == (64, 64, 3) for image in images)
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.webp")) < 160_000
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for line in path.read_text().splitlines():
            assert "shared" + "/data" not in line, (path.name, line)
            assert '"shared" / "data"' not in line or path.name == Path(__file__).name, path.name


def test_warnings_of_our_own_code_are_errors():
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "run.py", 1, "factory.engine.run")
    with pytest.warns(DeprecationWarning, match="old"):
        warnings.warn_explicit("old", DeprecationWarning, "other.py", 1, "other.factory")


def test_patches_are_not_in_two_splits():
    for folder in (path for path in ASSETS.iterdir() if path.is_dir()):
        seen = [Image.open(path).tobytes() for path in sorted(folder.rglob("*.webp"))]
        assert len(set(seen)) == len(seen)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the built wheel, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    place = ["install", "--no-deps", "--no-index", "--no-compile", "--target"]
    subprocess.run([*pip, *place, str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.mark.spine
def test_the_built_wheel_runs_the_quickstart_anywhere(installed, tmp_path):
    """All that the quickstart needs is in the wheel: recipe, catalogs, weights."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = [sys.executable, "-c", "import factory; print(factory.__file__)"]
    found = subprocess.check_output(where, cwd=tmp_path, env=environment, text=True)
    assert Path(found.strip()).parent == installed / "factory"
    few = ("conditions.0.per_class=1", "generator.batch_size=2", "workers.executor=local")
    options = [part for each in few for part in ("--set", each)]
    done = subprocess.run(
        [sys.executable, "-m", "factory", "run", "quickstart", *options],
        cwd=tmp_path, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "runs" / "quickstart")
    assert sorted(row["class_name"] for row in rows) == ["normal", "tumor"]
    assert "2 of 2 accepted" in done.stdout
