"""Named channels beside RGB: from a catalog entry to rows, tars, OME-TIFF and verify."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import factory
from factory.catalog.entries import ImageChannel, ImageChannels
from factory.core.errors import DamageError, FilterError, GenerationError, InputError
from factory.core.images import hash_pixels
from factory.core.parquet import ParquetTable
from factory.data.channel_tables import ARROW, build_table, read_rows
from factory.data.channels import (
    check_channels,
    compose_rgb,
    decode_values,
    describe_channels,
    encode_values,
    hash_image,
)
from factory.data.provenance import ChannelsRecord
from factory.data.records import Sample
from factory.engine.regenerate import Places
from factory.filters import FILTERS
from tests.running import find_messages, run, write_recipe

MARKERS = (
    {"name": "DAPI", "unit": "a.u.", "color": [0, 0, 255], "window": [0, 1]},
    {"name": "CD8", "unit": "probability", "color": [0, 255, 0], "window": [0, 1]},
    {"name": "PanCK", "unit": "a.u.", "color": [255, 0, 0]},
    {"name": "Ki67", "color": [255, 255, 0]},
)


def write_catalog(folder, dtype="float32"):
    path = folder / "catalog" / "models" / "fake-mif.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"id": "fake-mif", "base": "fake", "mpp": 0.5}
    path.write_text(yaml.safe_dump({**entry, "channels": {"dtype": dtype, "named": [*MARKERS]}}))
    return path


def write_mif(folder, dtype="float32", **changes):
    write_catalog(folder, dtype)
    generator = {"model": "fake-mif", "width": 40, "height": 24}
    settings = {"generator": generator, "catalogs": ["catalog"], "filters": [{"kind": "finite"}]}
    return write_recipe(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mif")
    conditions = [{"kind": "class", "per_class": {"normal": 3, "tumor": 4}}]
    output = {"formats": ["parquet", "webdataset"]}
    run(write_mif(folder, conditions=conditions, output=output), folder / "run")
    return folder / "run"


def read_all(folder):
    dataset = factory.open_dataset(folder)
    names = dataset.list_tables("data")
    return [row.values for name in names for row in dataset.iterate_rows(name)]


def edit_channels(folder, change):
    """Changes the channels of the first row of a data set, and nothing else."""
    (path,) = (folder / "data").glob("*.parquet")
    schema = pq.read_schema(path)
    rows = read_all(folder)
    rows[0] = {**rows[0], "channels": change(rows[0]["channels"].copy())}
    pq.write_table(build_table(rows, schema), path)


def add_one(values):
    values[2, 5, 7] += 1
    return values


def test_rows_hold_channels_with_names_and_units_and_the_composite(made):
    rows = read_all(made)
    assert len(rows) == 7
    for row in rows:
        assert (row["channels"].shape, row["channels"].dtype) == ((4, 24, 40), np.float32)
        assert len(np.unique(row["channels"])) > 100
    dataset = factory.open_dataset(made)
    declared = ImageChannels(named=tuple(ImageChannel(**each) for each in MARKERS))
    assert dataset.summary.channels.to_json() == describe_channels(declared)["channels"]
    from factory.core.images import decode_image

    shown = decode_image(rows[0]["image"]["bytes"], "row")
    assert np.array_equal(shown, compose_rgb(rows[0]["channels"], declared))
    assert "4 channels beside RGB, float32: DAPI (a.u.), CD8 (probability), PanCK (a.u.), Ki67" in (
        made / "README.md"
    ).read_text().replace("\\", "")


def test_load_dataset_gives_an_array3d(made):
    from datasets import Array3D, load_dataset

    found = load_dataset(str(made), split="train")
    assert found.features["channels"] == Array3D((4, 24, 40), "float32")
    arrays = found.with_format("numpy")["channels"][:]
    assert np.array_equal(np.stack(arrays), np.stack([row["channels"] for row in read_all(made)]))


def test_tars_hold_the_channels_and_export_writes_the_same(made, tmp_path):
    import webdataset

    tar = made / "webdataset" / "train-00000.tar"
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    by_id = {sample["__key__"]: sample["channels.npy"] for sample in samples}
    assert all(np.array_equal(by_id[row["sample_id"]], row["channels"]) for row in read_all(made))
    assert not any("channels" in sample["json"] for sample in samples)
    factory.export(made, "webdataset", tmp_path / "out")
    assert (tmp_path / "out" / "train-00000.tar").read_bytes() == tar.read_bytes()


def test_verify_and_regenerate_take_the_channels_in(made, tmp_path):
    from factory.publish.verify import VerifyOptions

    places = Places(base=made.parent)
    report = factory.verify(made, VerifyOptions(regenerate=2, places=places))
    assert report.is_sound, report.failures
    assert [each.status for each in report.rebuilt] == ["exact", "exact"]
    copy = tmp_path / "copy"
    shutil.copytree(made, copy, ignore=shutil.ignore_patterns(".factory"))
    assert factory.verify(copy).is_sound
    edit_channels(copy, add_one)
    edited = factory.verify(copy, VerifyOptions(regenerate=7, places=places))
    assert {"pixels", "tars"} <= set(edited.failed)
    changed = [each for each in edited.rebuilt if each.status != "exact"]
    assert [each.sample_id for each in changed] == [read_all(copy)[0]["sample_id"]]
    assert changed[0].differences[0][0] == "stored image"
    assert changed[0].psnr < 60


def test_no_more_rows_are_in_memory_than_a_row_group_holds(made, tmp_path, monkeypatch):
    copy, asked = tmp_path / "copy", []
    shutil.copytree(made, copy)
    (path,) = (copy / "data").glob("*.parquet")
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    inner = ParquetTable.iterate_batches

    def look(self, rows, *args):
        asked.append(rows)
        return inner(self, rows, *args)

    monkeypatch.setattr(ParquetTable, "iterate_batches", look)
    assert len(read_all(copy)) == 7
    assert asked == [2]


def test_a_regenerated_image_brings_its_channels(made, tmp_path):
    row = read_all(made)[1]
    places = Places(base=made.parent)
    rebuilt = factory.regenerate(made, row["sample_id"], tmp_path / "one.png", places)
    assert rebuilt.status == "exact"
    assert np.array_equal(np.load(tmp_path / "one.channels.npy"), row["channels"])


def test_ome_tiff_says_names_units_and_scale(made, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    found = factory.export(made, "ome-tiff", tmp_path / "ome")
    assert found == {"train": {"normal": 3, "tumor": 4}}
    for row in read_all(made):
        name = f"{row['class_name']}/{row['sample_id']}.ome.tif"
        with tifffile.TiffFile(tmp_path / "ome" / "train" / name) as tiff:
            assert tiff.series[0].axes == "CYX"
            assert np.array_equal(tiff.asarray(), row["channels"])
            told = tifffile.xml2dict(tiff.ome_metadata)["OME"]
        pixels = told["Image"]["Pixels"]
        assert [each["Name"] for each in pixels["Channel"]] == ["DAPI", "CD8", "PanCK", "Ki67"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.5, "µm")
        units = told["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]
        assert {each["K"]: each["value"] for each in units}["CD8"] == "probability"
    factory.export(made, "ome-tiff", tmp_path / "again")
    files = sorted((tmp_path / "ome").rglob("*.tif"))
    again = [tmp_path / "again" / path.relative_to(tmp_path / "ome") for path in files]
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]


def test_imagefolder_says_that_it_leaves_channels_out(made, tmp_path):
    from factory.core.notes import listen

    with listen() as notes:
        factory.export(made, "imagefolder", tmp_path / "out")
    assert len([note for note in notes if "channels beside RGB are left out" in note]) == 1


def test_channels_and_units_change_ids_only_where_there_are_any(tmp_path):
    """Another type is another image; rows without channels have the ids of ever."""
    found = {}
    for dtype in ("uint8", "float16"):
        conditions = [{"kind": "class", "per_class": {"normal": 1}}]
        run(write_mif(tmp_path / dtype, dtype, conditions=conditions), tmp_path / dtype / "run")
        (row,) = read_all(tmp_path / dtype / "run")
        assert row["channels"].dtype == dtype
        found[dtype] = row["sample_id"]
        assert factory.verify(tmp_path / dtype / "run").is_sound
    assert len(set(found.values())) == 2
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert hash_image(pixels, None) == hash_pixels(pixels)
    one = np.zeros((2, 4, 4), np.float32)
    others = [one.astype(np.float16), one.reshape(4, 2, 4), one + 1e-6]
    assert len({hash_image(pixels, each) for each in (one, *others)}) == 4


@pytest.mark.parametrize("dtype", sorted(ARROW))
def test_tables_round_trip_every_type_and_rows_without(dtype, tmp_path):
    draw = np.random.default_rng(3)
    rows = [{"n": n, "channels": (draw.random((3, 5, 7)) * 200).astype(dtype)} for n in range(4)]
    rows.insert(2, {"n": 9, "channels": None})
    rows[0]["channels"] = encode_values(rows[0]["channels"])
    schema = pa.schema(
        [("n", pa.int64()), ("channels", pa.list_(pa.list_(pa.list_(ARROW[dtype]))))]
    )
    pq.write_table(build_table(rows, schema), tmp_path / "t.parquet", row_group_size=2)
    found = read_rows(pq.read_table(tmp_path / "t.parquet"))
    assert [row["n"] for row in found] == [0, 1, 9, 2, 3]
    assert found[2]["channels"] is None
    rows[0]["channels"] = decode_values(rows[0]["channels"], "row")
    for before, after in zip(rows, found, strict=True):
        if before["channels"] is not None:
            assert after["channels"].dtype == dtype
            assert np.array_equal(before["channels"], after["channels"])


def test_the_composite_is_additive_clipped_and_windowed():
    named = (
        ImageChannel(name="a", color=(0, 0, 200), window=(0, 10)),
        ImageChannel(name="b", color=(100, 0, 100), window=(0, 1)),
        ImageChannel(name="c"),
    )
    values = np.zeros((3, 1, 4), np.float32)
    values[0] = [0, 5, 20, np.nan]
    values[1] = [0, 0, 1, 0.5]
    values[2] = 7
    found = compose_rgb(values, ImageChannels(named=named))
    assert found.tolist() == [[[0, 0, 0], [0, 0, 100], [100, 0, 255], [50, 0, 50]]]
    plain = ImageChannels(named=tuple(ImageChannel(name=str(n)) for n in range(8)))
    ramp = np.tile(np.linspace(0, 1, 1001)[None, None], (8, 1, 1))
    lit = compose_rgb(ramp, plain)
    assert lit[0, -1].tolist() == [255, 255, 255]
    assert lit[0, 0].tolist() == [0, 0, 0]
    single = compose_rgb(ramp[:1], ImageChannels(named=plain.named[:1]))
    assert single[0, 500].tolist() == [0, 0, round(255 * (0.5 - 0.01) / 0.988)]


def test_a_generator_must_make_what_it_declares():
    declared = ChannelsRecord(dtype="float32", named=({"name": "a"}, {"name": "b"}))
    pixels = np.zeros((4, 6, 3), np.uint8)
    good = np.zeros((2, 4, 6), np.float32)
    assert check_channels(Sample(pixels, channels=good), declared) is good
    assert check_channels(Sample(pixels), None) is None
    for sample, record, said in (
        (Sample(pixels), declared, "made no channels"),
        (Sample(pixels, channels=good), None, "declares no channels"),
        (Sample(pixels, channels=good[:1]), declared, r"\(2, 4, 6\) float32"),
        (Sample(pixels, channels=good.astype(np.float64)), declared, "float64"),
    ):
        with pytest.raises(GenerationError, match=said):
            check_channels(sample, record)
    with pytest.raises(DamageError, match="sample: channels: no readable"):
        decode_values(b"nothing", "sample")


def test_what_is_not_finite_in_a_channel_is_never_accepted():
    pixels = np.zeros((4, 5, 3), np.uint8)
    channels = np.ones((2, 4, 5), np.float32)
    channels[1, 0, 0] = np.nan
    sample = Sample(pixels, channels=channels)
    assert sample.nonfinite == pytest.approx(1 / 40)
    finite = FILTERS.get("finite")
    judge = finite(finite.Settings(kind="finite"), None)
    full = np.zeros((2, 4, 5), np.uint8)
    full[:, 0, 0] = 255
    scores = judge.score([sample, Sample(pixels, channels=full), Sample(pixels)], [None] * 3)
    assert scores["nonfinite_fraction"].tolist() == [0.025, 0.0, 0.0]
    assert scores["saturated_fraction"].tolist() == [0.0, 0.05, 1.0]


def test_channels_of_one_name_are_refused():
    with pytest.raises(ValueError, match="channel 'a' stands twice"):
        ImageChannels(named=(ImageChannel(name="a"), ImageChannel(name="a")))


def build_signal(channels):
    signal = FILTERS.get("channel_signal")
    return signal(signal.Settings(kind="channel_signal", channels=channels), None)


@pytest.mark.parametrize("window", [(1.0, 1.0), (1.0, 0.0)])
def test_a_window_that_does_not_rise_is_refused(window):
    with pytest.raises(ValueError, match="must rise, or composites are black"):
        ImageChannel(name="CD8", window=window)


def test_a_threshold_above_all_that_a_type_holds_finds_no_pixel():
    judge = build_signal({"CD8": {"above": 70000, "max_positive": 0.5}})
    values = np.full((1, 8, 8), 2, np.float16)
    sample = Sample(np.zeros((8, 8, 3), np.uint8), channels=values, channel_names=("CD8",))
    assert judge.score([sample], [None])["positive_CD8"] == [0.0]


def test_channel_signal_measures_each_named_channel_and_names_what_it_missed():
    ramp = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, 101)
    channels = np.concatenate([ramp, np.full_like(ramp, 0.5)])
    sample = Sample(np.zeros((1, 101, 3), np.uint8), channels=channels, channel_names=("a", "b c"))
    judge = build_signal({"a": {"min_range": 0.5, "above": 0.8}, "b c": {"max_positive": 0.9}})
    scores = {name: float(values[0]) for name, values in judge.score([sample], [None]).items()}
    assert scores["range_a"] == pytest.approx(0.98, abs=1e-6)
    assert scores["positive_a"] == pytest.approx(20 / 101)
    assert (scores["range_b c"], scores["positive_b c"]) == (0, 1)
    verdict = judge.decide(scores)
    assert (verdict.filter, verdict.reason) == ("channel_signal", "positive_b c 1 > 0.9")
    assert judge.decide({**scores, "positive_b c": 0.9}).accepted
    assert judge.decide({**scores, "range_a": 0.4}).reason == "range_a 0.4 < 0.5"
    assert "NaN" in judge.decide({**scores, "positive_a": None}).reason
    with pytest.raises(FilterError, match="no channel 'x': the model makes a, b c"):
        build_signal({"x": {"min_range": 1}}).score([sample], [None])


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"above": 1}, "no bound"),
        ({"min_positive": 0.5, "max_positive": 0.4}, "no image passes"),
        ({"least": 1}, "least"),
    ],
)
def test_bounds_that_ask_nothing_or_the_impossible_are_refused(bounds, said):
    with pytest.raises(ValueError, match=said):
        build_signal({"a": bounds})


def test_a_run_with_channel_signal_is_decided_again_from_its_scores(tmp_path):
    filters = [
        {"kind": "channel_signal", "channels": {"CD8": {"above": 0.3, "min_positive": 0.01}}}
    ]
    conditions = [{"kind": "class", "per_class": {"normal": 4}}]
    run(write_mif(tmp_path, conditions=conditions, filters=filters), tmp_path / "run")
    rows = read_all(tmp_path / "run")
    shares = [float((row["channels"][1] > np.float32(0.3)).mean()) for row in rows]
    assert [row["scores"]["positive_CD8"] for row in rows] == [round(each, 4) for each in shares]
    assert min(shares) >= 0.01
    assert factory.verify(tmp_path / "run").is_sound
    limit = sorted(row["scores"]["positive_CD8"] for row in rows)[1]
    setting = "filters.channel_signal.channels.CD8.max_positive"
    factory.refilter(tmp_path / "run", [f"{setting}={limit}"])
    kept = [row["scores"]["positive_CD8"] for row in read_all(tmp_path / "run")]
    assert kept
    assert max(kept) <= limit
    assert factory.verify(tmp_path / "run").is_sound
    with pytest.raises(InputError, match="refilter changes thresholds"):
        factory.refilter(tmp_path / "run", ["filters.channel_signal.channels.CD8.above=0.5"])


def test_a_channel_that_the_model_does_not_make_is_told_by_validate(tmp_path):
    filters = [{"kind": "channel_signal", "channels": {"CD9": {"min_range": 0.1}}}]
    found = find_messages(write_mif(tmp_path, filters=filters))
    assert "no channel 'CD9': it makes DAPI, CD8, PanCK, Ki67" in found["filters[0].channels"]
    found = find_messages(write_recipe(tmp_path / "rgb", filters=filters))
    assert "it makes none beside RGB" in found["filters[0].channels"]
