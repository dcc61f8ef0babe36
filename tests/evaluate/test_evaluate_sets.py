"""Sets to measure: from folders, parquet and finished runs, at one size, a few blocks in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.core.errors import SourceError
from factory.data.images.image import Wanted
from factory.data.varied import Varied
from factory.evaluate.image_sets import count_smaller, find_smallest_side, list_set
from tests.running import read_rows, run, write_recipe


def write_folder(folder, counts, side=40, seed=0):
    draw = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 255, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"p{number % 3}_{number:03d}.png")
    return folder


def test_a_folder_is_read_in_blocks_at_one_size(tmp_path):
    root = write_folder(tmp_path / "a" / "real", {"normal": 5, "tumor": 4})
    found = list_set(root, size=36, columns=Wanted(pattern=r"^(p\d)_"))
    assert found.name == "a/real"
    assert found.class_names == ("normal", "tumor")
    assert set(found.groups) == {"p0", "p1", "p2"}
    blocks = [*found.iterate_blocks(4)]
    assert [block.shape for block in blocks] == [(4, 36, 36, 3)] * 2 + [(1, 36, 36, 3)]
    first = np.asarray(Image.open(root / "normal" / "p0_000.png"))
    assert np.array_equal(blocks[0][0], first[2:38, 2:38])
    assert np.array_equal(found.read_all(), np.concatenate(blocks))
    assert found.find_rows("tumor").tolist() == [5, 6, 7, 8]
    described = found.describe()
    assert described["images"] == described["found"] == 9
    assert described["classes"] == {"normal": 5, "tumor": 4}
    assert described["groups"] == 3


def test_the_size_is_that_of_the_smallest_image_unless_given(tmp_path):
    root = write_folder(tmp_path, {"normal": 2}, side=40)
    Image.new("RGB", (50, 33)).save(root / "normal" / "z.png")
    found = list_set(root)
    assert found.size == find_smallest_side(found.images) == 33
    assert count_smaller(found.images, 40) == 1
    assert next(found.iterate_blocks()).shape == (3, 33, 33, 3)


def test_a_larger_limit_takes_more_of_the_same_and_the_seed_chooses(tmp_path):
    root = write_folder(tmp_path, {"normal": 20, "tumor": 20}, side=8)
    keys = [
        {image.key for image in list_set(root, max_images=count).images} for count in (5, 12, 99)
    ]
    assert [len(each) for each in keys] == [5, 12, 40]
    assert keys[0] < keys[1] < keys[2]
    assert {image.key for image in list_set(root, max_images=5, seed=1).images} != keys[0]
    chosen = list_set(root, max_images=12)
    assert chosen.found == 40
    assert [image.key for image in chosen.images] == sorted(image.key for image in chosen.images)


def test_a_finished_run_gives_its_ids_and_a_choice_keeps_them_with_their_images(tmp_path):
    recipe = write_recipe(tmp_path, conditions=[{"kind": "class", "per_class": {"normal": 9}}])
    run(recipe, tmp_path / "run")
    rows = {row["sample_id"]: row for row in read_rows(tmp_path / "run")}
    found = list_set(tmp_path / "run", max_images=4)
    assert found.size == 32
    assert len(found) == 4
    for image, sample_id in zip(found.images, found.sample_ids, strict=True):
        assert image.read_bytes() == rows[sample_id]["image"]["bytes"]
    last = found.take([3, 0])
    assert last.sample_ids == (found.sample_ids[3], found.sample_ids[0])
    assert last.images == (found.images[3], found.images[0])
    assert last.found == 9


def test_references_are_read_where_rows_tell_them(tmp_path):
    folder = write_folder(tmp_path / "real", {"normal": 2}, side=8)
    data = [{"bytes": path.read_bytes(), "path": None} for path in sorted(folder.rglob("*.png"))]
    table = pa.table({"image": data, "reference_sha256": ["ab", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = list_set(tmp_path / "rows.parquet")
    assert found.references == (Varied("ab"), None)
    told = pa.array(['{"reference_pixels_sha256": "cd"}', "{}"])
    pq.write_table(table.append_column("provenance", told), tmp_path / "rows.parquet")
    assert list_set(tmp_path / "rows.parquet").references == (Varied("ab", "cd"), None)
    spoilt = pa.array(["[", "["])
    pq.write_table(table.append_column("provenance", spoilt), tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match=r"rows\.parquet#0: provenance: damaged, no JSON"):
        list_set(tmp_path / "rows.parquet")
    assert found.sample_ids == (None, None)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        list_set(tmp_path / "missing")
    root = write_folder(tmp_path / "real", {"normal": 1}, side=8)
    (root / "normal" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(SourceError, match=r"broken\.png: not a readable image"):
        list_set(root)
    with pytest.raises(SourceError, match=r"broken\.png"):
        list_set(root, size=8).read_all()
