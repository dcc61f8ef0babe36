"""Input that is not read: links are followed, and the rest is counted, named, or refused."""

import json
import os
import tarfile

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.cli import main
from factory.core.errors import SourceError
from factory.core.images import encode_image
from factory.data.images import list_classes, list_images
from factory.data.images.image import read_name
from factory.filters.realism import RealismFilter
from factory.filters.training_copy import TrainingCopyFilter
from factory.recipe.conditions.existing import ExistingConditions
from factory.recipe.conditions.reference import ReferenceConditions
from factory.train.generator.settings import SourceSettings
from tests.data.test_sources import make_pixels, write_metadata, write_rows
from tests.data.test_sources_splits import list_told, write_images
from tests.running import call, write_recipe

NAMES = [f"{name}/P{n}_valid_{n}.png" for name in ("normal", "tumor") for n in range(3)]


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "P", *NAMES)


@pytest.mark.stranger
def test_links_are_followed_and_loops_cut(root, tmp_path):
    write_images(tmp_path / "else", "stroma/a.png", "b.png", "d/c.png")
    (root / "stroma").symlink_to(tmp_path / "else" / "stroma")
    (root / "tumor" / "linked.png").symlink_to(tmp_path / "else" / "b.png")
    (root / "normal" / "up").symlink_to(root)
    (root / "normal" / "gone.png").symlink_to(tmp_path / "nothing.png")
    images, notes = list_told(root)
    assert list_classes(images) == ("normal", "stroma", "tumor")
    assert [i.key for i in images if "P" not in i.key] == ["stroma/a.png", "tumor/linked.png"]
    assert any("normal/up: passed over, a link to a folder above itself" in n for n in notes)
    assert any("normal/gone.png: passed over, a link that leads nowhere" in n for n in notes)
    (tmp_path / "link").symlink_to(root)
    assert len(list_images(tmp_path / "link")) == len(images)


@pytest.mark.stranger
def test_what_is_passed_over_is_counted_and_named(root):
    for name in ("normal/a.gif", "normal/b.GIF", "slide.svs", "x.npy", "README.md", "index.csv"):
        (root / name).write_bytes(b"x")
    for name in (".DS_Store", "Thumbs.db", "normal/.hidden.gif", "LICENSE"):
        (root / name).write_bytes(b"x")
    images, notes = list_told(root)
    assert len(images) == 6
    (note,) = notes
    assert "4 files passed over beside its images: 2 .gif (normal/a.gif), 1 .npy" in note
    assert "1 .svs (slide.svs)" in note
    write_rows(root / "a.parquet", ["x"])
    images, notes = list_told(root)
    assert len(images) == 1
    assert "10 files passed over beside its parquet: 6 .png (normal/P0_valid_0.png)" in notes[0]


def test_jfif_is_a_jpeg(root):
    path = root / "tumor" / "x.jfif"
    Image.fromarray(make_pixels(9)).save(path, "JPEG")
    images, notes = list_told(root)
    assert len(images) == 7
    assert notes == []
    assert images[-1].read_pixels().shape == (32, 32, 3)


@pytest.mark.stranger
def test_further_pages_of_a_tiff_are_told(root):
    pages = [Image.fromarray(make_pixels(n)) for n in range(3)]
    pages[0].save(root / "tumor" / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(root / "tumor" / "b.tif")
    images, notes = list_told(root)
    assert len(images) == 8
    (note,) = notes
    assert "1 file has further pages or frames, passed over: 1 TIFF (tumor/a.tif)" in note


@pytest.mark.stranger
def test_further_frames_are_told(root, tmp_path):
    frames = [Image.fromarray(make_pixels(n)) for n in range(3)]
    several = {"save_all": True, "append_images": frames[1:], "lossless": True}
    names = [root / "tumor" / name for name in ("a.webp", "b.webp", "c.png", "d.jpg")]
    frames[0].save(names[0], **several)
    frames[0].save(names[1], lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    frames[0].save(names[2], save_all=True, append_images=frames[1:])
    frames[0].save(names[3])
    told = "2 files have further pages or frames, passed over: 1 PNG ({}), 1 WebP ({})"
    images, notes = list_told(root)
    assert notes == [f"{root}: {told.format('tumor/c.png', 'tumor/a.webp')}"]
    assert np.array_equal(images[-4].read_pixels(), make_pixels(0))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            tar.add(name, name.name)
    notes = list_told(tmp_path / "a.tar")[1]
    assert notes == [f"{tmp_path}/a.tar: {told.format('a.tar#c.png', 'a.tar#a.webp')}"]


@pytest.mark.stranger
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WebP", "BMP", "GIF", "JPEG 2000"])
def test_images_without_a_suffix_are_told(root, form):
    image = Image.fromarray(make_pixels(1))
    for name in ("scan1", "scan2"):
        image.save(root / "tumor" / name, form.replace(" ", "").upper())
    for name, data in (("LICENSE", b"BMP is an image format"), ("empty", b""), ("RIFF", b"RIFF")):
        (root / name).write_bytes(data)
    images, notes = list_told(root)
    assert len(images) == 6
    told = f"2 files passed over beside its images: 2 {form} without a suffix (tumor/scan1)"
    assert notes == [f"{root}: {told}"]


@pytest.mark.stranger
def test_metadata_that_is_not_read_is_told(root, tmp_path):
    write_metadata(root, "slide", [f"S{n}" for n in range(6)])
    for name in ("metadata.jsonl", "normal/metadata.csv", "tumor/metadata.jsonl"):
        (root / name).write_text('{"file_name": "x.png"}\n')
    images, notes = list_told(root, group_column="slide")
    assert len(images) == 6
    told = "3 metadata files passed over (metadata.jsonl): write their rows into"
    assert notes == [f"{root}: {told} {root}/metadata.csv, the one that is read"]
    for name in ("metadata.jsonl", "metadata.csv", "tumor/metadata.jsonl"):
        (root / name).unlink()
    told = "1 metadata file passed over (normal/metadata.csv): write its rows into"
    assert list_told(root)[1] == [f"{root}: {told} {root}/metadata.csv, the one that is read"]
    split = write_images(tmp_path / "S", "train/a/1.png", "test/a/2.png")
    (split / "test" / "metadata.csv").write_text("file_name,slide\na/2.png,S1\n")
    assert len(list_told(split)[1]) == 1  # of the split that is left out
    write_rows(root / "a.parquet", ["x"])
    notes = list_told(root)[1]
    assert "1 metadata.csv (normal/metadata.csv)" in notes[0]


@pytest.mark.stranger
def test_empty_and_hidden_folders_are_told(root):
    for name in ("stroma/deep", "necrosis", "normal/slide", ".git/objects", ".debris/a"):
        (root / name).mkdir(parents=True)
    (root / "necrosis" / "notes.txt").write_text("none yet")
    (root / ".git" / "objects" / "x.txt").write_text("no image")
    images, notes = list_told(root)
    bare = "3 folders passed over that hold no image: necrosis, normal/slide, stroma"
    assert notes == [f"{root}: {bare}"]
    for name in ("b.png", "c.png"):
        (root / ".debris" / "a" / name).write_bytes(images[0].read_bytes())
    notes = list_told(root)[1]
    hidden = "1 hidden folder with images or tables passed over (.debris/a/b.png): rename it"
    assert notes == [f"{root}: {hidden} to have it read", f"{root}: {bare}"]


@pytest.mark.stranger
def test_metadata_without_partners_is_told_and_what_was_asked_must_be_whole(root):
    write_metadata(root, "slide", ["S1", "S2", "S3", "S4", "S5"])
    with (root / "metadata.csv").open("a") as file:
        file.write("\ntumor/gone.png,S9\n")
    images, notes = list_told(root)
    assert len(images) == 6
    assert notes == [
        f"{root}/metadata.csv: 1 rows name no image there (line 7: tumor/gone.png)",
        f"{root}/metadata.csv: 1 images have no row (P2_valid_2.png)",
    ]
    for option in ("group_column", "label_column", "caption_column"):
        with pytest.raises(SourceError, match=rf"{option} 'slide' is empty for 1 of 6 images.*P2"):
            list_images(root, **{option: "slide"})
    assert len(list_images(root, group_column="slide", may_lack=True)) == 6


@pytest.mark.parametrize("option", ["group_column", "label_column", "caption_column"])
def test_a_column_of_rows_that_is_partly_empty_is_refused_where_asked(tmp_path, option):
    path = write_rows(tmp_path / "a.parquet", ["a", "b", "c"], kind=["x", None, ""])
    assert len(list_images(path)) == 3
    with pytest.raises(SourceError, match=rf"{option} 'kind' is empty for 2 of 3 images.*#1"):
        list_images(path, **{option: "kind"})


def test_metadata_lies_in_the_split_folder_as_datasets_wants_it(tmp_path):
    root = write_images(tmp_path / "P", "train/a.png", "train/b.png", "test/c.png")
    (root / "train" / "metadata.csv").write_text("file_name,slide\na.png,S1\nb.png,S2\n")
    images, _ = list_told(root, group_column="slide")
    assert [image.group for image in images] == ["S1", "S2"]
    (root / "train" / "metadata.csv").unlink()
    (root / "metadata.csv").write_text(
        "file_name,slide\ntrain/a.png,S1\ntrain/b.png,S2\ntest/c.png,S3\n"
    )
    images, notes = list_told(root, group_column="slide")
    assert [image.group for image in images] == ["S1", "S2"]
    assert len(notes) == 1


def test_names_that_are_no_text_are_refused(root):
    name = os.fsdecode(b"\xe9.png")
    (root / "tumor" / name).write_bytes(encode_image(make_pixels(0), "png"))
    with pytest.raises(SourceError, match=r"tumor: the name .* is not UTF-8: rename it"):
        list_images(root)


@pytest.mark.parametrize("command", ["validate", "plan", "run", "judge", "train", "merge"])
def test_every_command_says_it_once(root, tmp_path, command):
    (root / "tumor" / "a.gif").write_bytes(b"x")
    block = {"kind": "reference", "images": str(root), "per_class": 1, "shots": 2}
    recipe = write_recipe(tmp_path, conditions=[block], filters=[])
    out = str(tmp_path / "out")
    arguments = {
        "validate": ["validate", str(recipe), "--json"],
        "plan": ["plan", str(recipe), "--no-calibrate", "--json"],
        "run": ["run", str(recipe), "--out", out, "--json"],
        "judge": ["judge", "--data", str(root), "--recipe", str(recipe), "--out", out, "--json"],
        "train": ["train", "classifier", "--data", str(root), "--out", out, "--force", "--json"],
        "merge": ["merge", str(root), str(root / "tumor"), "--out", out, "--json"],
    }[command]
    result = call(*arguments)
    assert result.exit_code in (0, 1), result.output
    line = f"{root}: 1 file passed over beside its images: 1 .gif (tumor/a.gif)"
    assert result.stderr.splitlines().count(f"note: {line}") == 1
    shown = json.loads(result.stdout)
    assert line in (shown[0] if command == "validate" else shown)["notes"]


# --- the column of the images --------------------------------------------------------------------


@pytest.mark.stranger
def test_the_only_image_column_is_found(tmp_path):
    images = [{"bytes": encode_image(make_pixels(n), "png"), "path": None} for n in range(2)]
    pq.write_table(pa.table({"img": images, "label": ["a", "b"]}), tmp_path / "a.parquet")
    found, notes = list_told(tmp_path / "a.parquet")
    assert [image.column for image in found] == ["img", "img"]
    assert notes == [f"{tmp_path}/a.parquet: its images are those of column 'img'"]
    table = pa.table({"one": images, "two": images, "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="one, two may hold the images: name it with image_col"):
        list_images(tmp_path / "a.parquet")
    assert list_images(tmp_path / "a.parquet", image_column="two")[0].column == "two"
    pq.write_table(pa.table({"label": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="no column 'image': it has label"):
        list_images(tmp_path / "a.parquet")


def list_commands(group, path=()):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from list_commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), {each.name for each in command.params}


def test_every_command_that_reads_real_images_takes_their_column():
    reading = {
        name: options
        for name, options in list_commands(main)
        if options & {"real", "data", "references", "test_set"}
    }
    assert len(reading) >= 11
    columns = {"image_column", "mask_column"}  # masks are the images that a layout is fitted to
    assert [name for name, options in reading.items() if not options & columns] == []
    blocks = (ReferenceConditions.Settings, ExistingConditions.Settings)
    fields = (*blocks, RealismFilter.Settings, TrainingCopyFilter.Settings)
    assert all("image_column" in each.model_fields for each in (*fields, SourceSettings))


@pytest.mark.parametrize("command", ["run", "judge", "train", "merge", "copies"])
def test_the_column_reaches_the_images(tmp_path, command):
    pixels = [make_pixels(n, 64) for n in range(8)]
    images = [{"bytes": encode_image(each, "png"), "path": None} for each in pixels]
    wrong = [{"bytes": b"no image", "path": None}] * 8
    table = {"image": wrong, "patch": images, "label": ["normal", "tumor"] * 4}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    data, out, column = str(tmp_path / "a.parquet"), str(tmp_path / "out"), "patch"
    block = {"kind": "reference", "images": data, "per_class": 1, "shots": 2}
    filters = [{"kind": "training_copy", "images": data, "max_similarity": 1.0}]
    for each in (block, *filters):
        each["image_column"] = column
    recipe = str(write_recipe(tmp_path, conditions=[block], filters=filters))
    plain = str(write_recipe(tmp_path / "plain", filters=[]))
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "x.png").write_bytes(encode_image(make_pixels(99, 64), "png"))
    synthetic = str(tmp_path / "synthetic")
    given = ["--image-column", column]
    arguments = {
        "run": ["run", recipe, "--out", out],
        "judge": ["judge", "--data", data, "--recipe", plain, "--out", out, *given],
        "train": ["train", "classifier", "--data", data, "--out", out, "--force", *given],
        "merge": ["merge", data, synthetic, "--out", out, *given],
        "copies": ["evaluate", "copies", "--real", data, "--synthetic", synthetic, *given],
    }[command]
    result = call(*arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.stranger
def test_what_is_no_name_names_nothing():
    for nothing in (None, "", "  ", float("nan")):
        assert read_name(nothing, "x", "class") is None
    assert [read_name(each, "x", "class") for each in (" a ", 3, 1.5, True)] == [
        "a",
        "3",
        "1.5",
        "True",
    ]
    for wrong in (b"a", ["a"], {"a": 1}):
        with pytest.raises(SourceError, match="x: want a class as text or number"):
            read_name(wrong, "x", "class")


def test_a_label_column_with_nan_is_refused(tmp_path):
    cells = [{"bytes": encode_image(np.full((8, 8, 3), n, np.uint8), "png")} for n in (1, 2)]
    pq.write_table(pa.table({"image": cells, "label": [1.0, float("nan")]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="'label' is empty for 1 of 2 images"):
        list_images(tmp_path, label_column="label")


def test_links_in_circles_and_to_each_other_end(tmp_path):
    root = write_images(tmp_path / "P", "normal/1.png", "tumor/2.png")
    (root / "normal" / "me.png").symlink_to("me.png")
    folders = [root / f"c{n:02}" for n in range(14)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other)
    images, told = list_told(root)
    assert any("me.png: passed over, a link that cannot be followed" in line for line in told)
    assert len(told) < 2 * 14 * 14
    assert {image.class_name for image in images} == {"normal", "tumor"}
