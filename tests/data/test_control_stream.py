"""The stream `control`: a mask in a condition, kept by its row, restored from it."""

import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from factory.core.errors import SourceError
from factory.core.hashing import to_canonical_json
from factory.data.columns import hash_value
from factory.data.features import build_final_schema
from factory.data.images import SourceImage, list_images
from factory.data.label_maps import encode_labels, hash_labels
from factory.data.records import Candidate, Condition, Job, Request, Sample, Verdict
from factory.data.schema import build_row
from factory.data.streams import Control
from factory.data.streams.control import MaskFile
from factory.data.writers.webdataset import build_sample

PALETTE = ((1, "gland"), (2, "tumour gland"))


@pytest.fixture
def labels():
    found = np.zeros((40, 48), np.uint8)
    found[5:20, 6:30], found[25:35, 20:46] = 1, 2
    return found


def make_control(folder, labels, **options):
    folder.mkdir(exist_ok=True)
    (folder / "mask.png").write_bytes(encode_labels(labels))
    image = list_images(folder)[0]
    objects_of = options.pop("objects_of", None)
    source = MaskFile(image, hash_labels(labels), objects_of=objects_of, **options)
    return Control(source, PALETTE, objects_of is not None)


def make_row(control, size=32):
    condition = Condition("normal", None, control)
    job = Job(Request("s", 0, condition, 0), 0, 5)
    sample = Sample(np.zeros((size, size, 3), np.uint8))
    candidate = Candidate(job, sample, {}, Verdict(True))
    return build_row(candidate, {"model": "x"}, (), "ab", (), "webp", True)


def test_a_row_keeps_the_mask_of_its_images_size_and_restores_the_condition(tmp_path, labels):
    control = make_control(tmp_path / "m", labels)
    row = make_row(control)
    kept = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
    assert np.array_equal(kept, labels[4:36, 8:40])
    assert np.array_equal(control.load(32, 32), kept)
    told = json.loads(row["provenance"])
    assert told["kept"] == {"mask": hash_value(row["mask"])}
    restored = Control.restore(told["condition"]["control"], {}, row)
    assert restored.identity() == json.loads(to_canonical_json(control.identity()))
    assert np.array_equal(restored.load(32, 32), kept)
    assert restored.palette == PALETTE
    assert Condition("normal", None, restored).key == row["condition_id"]


def test_objects_are_kept_in_16_bits_and_load_gives_their_names(tmp_path, labels):
    labels[labels == 2] = 7
    control = make_control(tmp_path / "m", labels, objects_of=2)
    assert set(np.unique(control.load(32, 32))) == {0, 2}
    objects = control.load_instances(32, 32)
    assert objects.dtype == np.uint16
    assert set(np.unique(objects)) == {0, 2001, 2002}
    row = make_row(control)
    restored = Control.restore(json.loads(row["provenance"])["condition"]["control"], {}, row)
    assert np.array_equal(restored.load_instances(32, 32), objects)
    assert make_control(tmp_path / "n", labels).load_instances(32, 32) is None


@pytest.mark.parametrize("change", ["map", "fit", "turn", "palette", "instances"])
def test_the_identity_is_of_map_fit_turn_and_palette(tmp_path, labels, change):
    plain = make_control(tmp_path / "m", labels)
    changed = labels.copy()
    changed[0, 0] = 1
    other = {
        "map": lambda: make_control(tmp_path / "n", changed),
        "fit": lambda: make_control(tmp_path / "n", labels, fit="resize"),
        "turn": lambda: make_control(tmp_path / "n", labels, turn=3),
        "palette": lambda: Control(plain.source, PALETTE[:1]),
        "instances": lambda: Control(plain.source, PALETTE, True),
    }[change]()
    assert other.identity() != plain.identity()
    assert make_control(tmp_path / "elsewhere", labels).identity() == plain.identity()


def test_a_mask_is_read_once_for_all_tries_and_nobody_changes_it(tmp_path, labels, monkeypatch):
    control = make_control(tmp_path / "m", labels)
    read: list[str] = []
    inner = SourceImage.read_bytes

    def count(self: SourceImage) -> bytes:
        read.append(self.key)
        return inner(self)

    monkeypatch.setattr(SourceImage, "read_bytes", count)
    first = control.load(32, 32)
    first[:] = 9
    assert control.load(32, 32).max() == 2
    assert make_row(control)["mask"]["bytes"] == make_row(control)["mask"]["bytes"]
    assert read == ["mask.png"]


def test_a_mask_that_changed_or_is_too_small_is_refused(tmp_path, labels):
    control = make_control(tmp_path / "m", labels)
    with pytest.raises(SourceError, match=r"mask\.png: 48 x 40 px, but 64 x 64 px are asked for"):
        control.load(64, 64)
    (tmp_path / "m" / "mask.png").write_bytes(encode_labels(labels[::-1]))
    with pytest.raises(SourceError, match=r"mask\.png: changed since the run was planned"):
        control.load(32, 32)


def test_an_id_that_the_palette_lacks_is_refused(tmp_path, labels):
    control = make_control(tmp_path / "m", labels.astype(np.uint16) * 257)
    with pytest.raises(SourceError, match=r"id 257, but its palette only \{1: gland, 2: tumour"):
        control.load(32, 32)


def test_the_column_is_an_image_of_datasets_and_a_member_of_tars(tmp_path, labels):
    row = make_row(make_control(tmp_path / "m", labels, objects_of=2))
    schema = build_final_schema(("normal",), [], (Control,))
    features = datasets.Features.from_arrow_schema(schema)
    assert isinstance(features["mask"], datasets.Image)
    table = pa.Table.from_pylist([{**row, "label": 0}], schema=schema)
    shown = datasets.Dataset(table)[0]
    assert np.asarray(shown["mask"]).max() == 2002
    sample = build_sample(table.to_pylist()[0])
    assert sample["mask.png"] == row["mask"]["bytes"]
    assert "mask" not in json.loads(sample["json"])


def test_without_a_mask_rows_and_schemas_are_what_they_were():
    condition = Condition("normal")
    job = Job(Request("s", 0, condition, 0), 0, 5)
    candidate = Candidate(job, Sample(np.zeros((8, 8, 3), np.uint8)), {}, Verdict(True))
    row = build_row(candidate, {"model": "x"}, (), "ab", (), "webp", True)
    assert "mask" not in row
    assert "kept" not in json.loads(row["provenance"])
    assert "mask" not in build_final_schema(("normal",), []).names
