"""What a stranger's installation rests on: bounds of dependencies, and patches that ship."""

import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from factory.data.images import list_images

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = PROJECT["dependencies"] + [
    each for extra in PROJECT["optional-dependencies"].values() for each in extra
]


@pytest.mark.stranger(
    16,
    "`pip install` where old or new versions of some dependency are served",
    "every dependency has a lower bound, none an upper one or an exact pin",
)
def test_every_dependency_has_a_lower_bound_only():
    assert len(WANTED) > 25
    ours = [each for each in WANTED if each.startswith(PROJECT["name"])]
    for each in set(WANTED) - set(ours):
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\[[a-z,]+\])?>=[0-9.]+", each), each


@pytest.mark.stranger(
    16,
    "the tests of a clean clone, without the data sets beside it",
    "real patches of open licences ship with the tests: none skips but those that need a GPU",
)
def test_real_patches_ship_and_no_test_looks_outside():
    readme = (ASSETS / "README.md").read_text()
    sets = sorted(path for path in ASSETS.iterdir() if path.is_dir())
    assert len(sets) >= 4
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


def test_patches_are_not_in_two_splits():
    for folder in (path for path in ASSETS.iterdir() if path.is_dir()):
        seen = [Image.open(path).tobytes() for path in sorted(folder.rglob("*.webp"))]
        assert len(set(seen)) == len(seen)
