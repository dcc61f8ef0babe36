"""A run is planned once, in the driver: workers get requests, and read no folder for them."""

from pathlib import Path

import pytest

from factory.core.hashing import hash_bytes
from factory.core.images import encode_image
from factory.data.records import Condition, Request
from factory.data.streams.reference import Reference
from factory.engine.run import plan_recipe
from factory.recipe.file import load_recipe
from tests import ROOT
from tests.data.test_sources import make_pixels
from tests.running import list_identities, read_rows, run_recipe, write_recipe


def write_images(folder, seeds):
    """Writes drawn images of two classes."""
    for number, name in enumerate(("normal", "tumor")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            data = encode_image(make_pixels(100 * number + seed, 40), "png")
            (folder / name / f"{seed}.png").write_bytes(data)


BLOCK = {"kind": "reference", "images": "real", "shots": 2, "per_class": 5, "strength": 0.5}


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param({"executor": "local"}, id="local"),
        pytest.param({"executor": "ray", "count": 2}, id="ray", marks=pytest.mark.slow),
    ],
)
def test_workers_never_look_at_the_real_images_that_are_not_varied(workers, tmp_path, monkeypatch):
    """Others stand there before any worker starts: who planned again would choose them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_images(tmp_path / "real", range(5))
    changes = {"conditions": [BLOCK], "filters": [], "output": {"shard_size": 2}}
    alone = load_recipe(write_recipe(tmp_path, **changes))
    run_recipe(alone, str(tmp_path / "alone"), lambda outcome: None, lambda line: None)
    used = {row["reference_sha256"] for row in read_rows(tmp_path / "alone")}
    files = sorted((tmp_path / "real").rglob("*.png"))
    gone = [path for path in files if hash_bytes(path.read_bytes()) not in used]
    assert (len(used), len(gone)) == (4, 6)

    def replace(line):
        if line == "generating":
            for path in gone:
                path.unlink()
            write_images(tmp_path / "real", range(10, 30))

    loaded = load_recipe(write_recipe(tmp_path, workers=workers, **changes))
    planned = {part.key for part in plan_recipe(loaded).series}
    out = tmp_path / "out"
    assert run_recipe(loaded, str(out), lambda outcome: None, replace).exit_code == 0
    assert not any(path.exists() for path in gone)
    assert list_identities(out) == list_identities(tmp_path / "alone")
    assert {part.key for part in plan_recipe(loaded).series}.isdisjoint(planned)


def test_images_of_a_relative_recipe_are_found_from_any_folder(tmp_path, monkeypatch):
    """Workers of a cluster that was started elsewhere work in another folder."""
    write_images(tmp_path / "real", range(3))
    write_recipe(tmp_path, conditions=[BLOCK], filters=[])
    monkeypatch.chdir(tmp_path)
    plan = plan_recipe(load_recipe(Path("recipe.yaml")))
    request = plan.series[0].request_at(0)
    monkeypatch.chdir("/")
    assert request.condition.get(Reference).image.read_bytes()


@pytest.mark.parametrize("attempts", [1, 3, 5, 8])
def test_a_request_that_is_sent_shows_the_same(attempts):
    pool = tuple(Condition(class_name=str(number)) for number in range(5))
    for index in range(12):
        request = Request("series", index, pool[index % 5], index, pool)
        sent = request.limit(attempts)
        assert len(sent.pool) <= max(attempts, 1)
        for attempt in range(attempts):
            assert sent.condition_at(attempt) == request.condition_at(attempt)
            assert sent.derive_seed(7, attempt) == request.derive_seed(7, attempt)
