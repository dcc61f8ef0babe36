"""Real images: ImageFolder and parquet give the same list, and a run folder its accepted rows."""

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature

from factory.core.errors import RecipeError, SourceError
from factory.core.images import encode_image
from factory.data.images import SourceImage, fit_image, list_classes, list_images
from factory.data.images.image import read_name
from factory.models.classifiers.model import read_classifier_info
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests.running import list_identities, read_rows, run, write_recipe


def make_pixels(seed, size=32):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["normal", "tumor"]):
        (tmp_path / name).mkdir()
        for index in range(3):
            data = encode_image(make_pixels(10 * number + index), "png")
            (tmp_path / name / f"P{index}_valid_{index}.png").write_bytes(data)
    return tmp_path


def test_image_folder(folder):
    images = list_images(folder, group_pattern=r"^(P\d)_")
    assert list_classes(images) == ("normal", "tumor")
    assert [image.key for image in images][:2] == ["normal/P0_valid_0.png", "normal/P1_valid_1.png"]
    assert [image.group for image in images] == ["P0", "P1", "P2"] * 2
    assert np.array_equal(images[3].read_pixels(), make_pixels(10))


def test_parquet_of_datasets_gives_the_same(folder, tmp_path):
    images = list_images(folder)
    rows = {
        "image": [{"bytes": image.read_bytes(), "path": None} for image in images],
        "label": [0, 0, 0, 1, 1, 1],
        "patient": ["a", "b", "c", "a", "b", "c"],
    }
    names = ClassLabel(names=["normal", "tumor"])
    features = Features({"image": ImageFeature(), "label": names, "patient": Value("string")})
    path = tmp_path / "set.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    again = list_images(path, group_column="patient")
    assert [image.class_name for image in again] == [image.class_name for image in images]
    assert [image.group for image in again] == ["a", "b", "c"] * 2
    assert [image.read_bytes() for image in again] == [image.read_bytes() for image in images]


def write_metadata(folder, column, values):
    """A metadata.csv with one row for each of the first images, in order."""
    names = [f"{name}/P{n}_valid_{n}.png" for name in ("normal", "tumor") for n in range(3)]
    rows = [f"{name},{value}" for name, value in zip(names, values, strict=False)]
    (folder / "metadata.csv").write_text("\n".join([f"file_name,{column}", *rows]))


def test_metadata_csv_gives_groups(folder):
    write_metadata(folder, "slide", ["S9", "S8", "S7"] * 2)
    assert list_images(folder, group_column="slide")[0].group == "S9"


def test_metadata_gives_captions_and_classes(folder):
    (folder / "metadata.csv").write_text(
        "file_name,text,grade\nnormal/P0_valid_0.png, a gland ,II\ntumor/P1_valid_1.png,,\n"
    )
    images = {image.key: image for image in list_images(folder)}
    assert len(images) == 6
    assert images["normal/P0_valid_0.png"].caption == "a gland"
    assert images["normal/P0_valid_0.png"].class_name == "normal"
    assert images["tumor/P1_valid_1.png"].caption is images["tumor/P0_valid_0.png"].caption is None
    write_metadata(folder, "grade", ["II", "I"] * 3)
    graded = {image.key: image.class_name for image in list_images(folder, label_column="grade")}
    assert graded["normal/P0_valid_0.png"] == graded["tumor/P1_valid_1.png"] == "II"
    assert list_images(folder, caption_column="grade")[0].caption == "II"


def test_metadata_jsonl_as_datasets_reads_it(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder") / "patches"
    rows = [
        {"file_name": f"{name}/P{n}.png", "caption": f"{name} {n}", "slide": n}
        for name in ("normal", "tumor")
        for n in range(3)
    ]
    for row in rows:
        path = root / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(make_pixels(row["slide"]), "png"))
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = list_images(root, group_column="slide")
    assert [image.caption for image in images] == [row["caption"] for row in rows]
    assert [image.group for image in images] == ["0", "1", "2"] * 2
    cache = tmp_path_factory.mktemp("cache")
    (same,) = load_dataset("imagefolder", data_dir=str(root), cache_dir=str(cache)).values()
    assert sorted(same["caption"]) == sorted(image.caption for image in images)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("metadata.csv", "file_name,text\n", {"caption_column": "caption"}, "no column"),
        ("metadata.csv", "file,text\na,b\n", {"caption_column": "text"}, "'file_name'"),
        ("metadata.csv", "file_name,text\nother.png,b\n", {"caption_column": "text"}, "names none"),
        ("metadata.csv", b"file_name,text\n\xff\xfe,b\n", {}, "not readable"),
        ("metadata.jsonl", '{"file_name": "a.png"', {}, r"jsonl:1: not a JSON object"),
        ("metadata.jsonl", "[1, 2]", {}, "one JSON object a line"),
        (
            "metadata.jsonl",
            '{"file_name": "normal/P0_valid_0.png", "text": ["a", "b"]}',
            {},
            "want a caption as text, got list",
        ),
        ("notes.txt", "", {"caption_column": "text"}, "needs a metadata.csv or metadata.jsonl"),
    ],
)
def test_wrong_metadata(folder, name, content, options, message):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        list_images(folder, **options)


def test_a_csv_that_is_no_metadata_changes_nothing(folder):
    before = list_images(folder)
    (folder / "metadata.csv").write_text("a;b\n1;2\n")
    assert list_images(folder) == before


def test_hidden_files_and_folders_are_passed_over(folder):
    before = list_images(folder)
    hidden = folder / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(before[0].path, hidden / "copy.png")
    shutil.copy(before[0].path, folder / "normal" / "._copy.png")
    (hidden / "a.parquet").write_bytes(b"")
    (hidden / "a.tar").write_bytes(b"")
    assert list_images(folder) == before


# --- parquet -------------------------------------------------------------------------------------


def write_rows(path, labels, row_group_size=2, **columns):
    """Writes a plain parquet: images by row number, labels and further columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"bytes": encode_image(make_pixels(n), "png"), "path": None} for n in range(len(labels))
    ]
    table = pa.table({"image": images, "label": labels, **columns})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_whole_numbers_of_a_column_of_floats_are_named_as_integers(tmp_path):
    """Pandas makes floats of integers as soon as one cell of the column is empty."""
    for patients in ([7, 0, 12], [7.0, 0.0, 12.0]):
        path = write_rows(tmp_path / "a.parquet", [*"aab"], patient=patients)
        assert [each.group for each in list_images(path, group_column="patient")] == [
            "7",
            "0",
            "12",
        ]
    read = [read_name(value, "x", "class") for value in (0.5, float("inf"), float("nan"), "7.0")]
    assert read == ["0.5", "inf", None, "7.0"]


def test_any_row_of_any_row_group_can_be_read_first(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [*"abcabca"], row_group_size=3)
    images = list_images(path)
    for number in (6, 0, 3, 5, 2, 4, 1):
        assert np.array_equal(images[number].read_pixels(), make_pixels(number))


@pytest.mark.parametrize(
    ("columns", "options", "captions"),
    [
        ({"caption": ["x", None]}, {}, ["x", None]),
        ({"text": ["x", " "]}, {}, ["x", None]),
        ({"caption": ["x", "y"], "text": ["v", "w"]}, {}, ["x", "y"]),
        ({"text": ["v", "w"], "prompt": ["x", "y"]}, {"caption_column": "prompt"}, ["x", "y"]),
        ({"text": [["several"], ["captions"]]}, {}, [None, None]),
        ({"text": [1, 2]}, {}, [None, None]),
        ({}, {}, [None, None]),
    ],
)
def test_captions_of_rows(tmp_path, columns, options, captions):
    path = write_rows(tmp_path / "a.parquet", ["n", "t"], **columns)
    assert [image.caption for image in list_images(path, **options)] == captions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_column": "nope"}, "no column 'nope': it has image, label, several"),
        ({"caption_column": "several"}, "#0: column 'several': want a caption as text, got list"),
        ({"group_pattern": "(x)"}, "give group_column"),
        ({"image_column": "png"}, "no column 'png'"),
    ],
)
def test_wrong_columns_of_rows(tmp_path, options, message):
    path = write_rows(tmp_path / "a.parquet", ["n", "t"], several=[["a"], ["b"]])
    with pytest.raises(SourceError, match=message):
        list_images(path, **options)


def test_a_label_of_minus_one_is_no_class_and_one_beyond_the_names_is_an_error(tmp_path):
    names = Features({"image": ImageFeature(), "label": ClassLabel(names=["n", "t"])})
    table = pq.read_table(write_rows(tmp_path / "a.parquet", [0, -1, 1]))
    pq.write_table(table.cast(names.arrow_schema), tmp_path / "a.parquet")
    classes = [image.class_name for image in list_images(tmp_path / "a.parquet")]
    assert classes == ["n", None, "t"]
    table = pq.read_table(write_rows(tmp_path / "b.parquet", [0, 2]))
    pq.write_table(table.cast(names.arrow_schema), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="label 2, but its ClassLabel has 2 names"):
        list_images(tmp_path / "b.parquet")


def refuse_contents(path, root, image, contents, message):
    """Each content of a file is refused, where it is listed and where it is read; removes it."""
    for content in contents:
        path.write_bytes(content)
        for read in (lambda: list_images(root), image.read_bytes):
            with pytest.raises(SourceError, match=message):
                read()
    path.unlink()


def test_damaged_parquet(tmp_path):
    path = write_rows(tmp_path / "a.parquet", ["a", "b", "c"])
    images = list_images(path)
    whole = path.read_bytes()
    broken = (b"", b"PAR1", whole[:-20], whole[:200], b"x" * len(whole))
    refuse_contents(path, path, images[1], broken, r"a\.parquet: not a readable parquet")
    with pytest.raises(SourceError):
        images[1].read_bytes()
    write_rows(path, ["a"])
    with pytest.raises(SourceError, match="not a readable parquet"):
        images[2].read_bytes()  # the row is gone


def test_a_row_without_an_image_says_so(tmp_path):
    nothing = [{"bytes": None, "path": None}]
    images = pa.array(nothing, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "label": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet#0: column 'image' holds no image bytes"):
        list_images(tmp_path)[0].read_bytes()


# --- which parquet files count -------------------------------------------------------------------


def write_card(folder, configs):
    folder.joinpath("README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n# x\n")


@pytest.fixture
def splits(tmp_path):
    for name, label in (("data/train-0", "a"), ("data/test-0", "b"), ("more/x", "c")):
        write_rows(tmp_path / f"{name}.parquet", [label])
    return tmp_path


@pytest.mark.parametrize(
    ("configs", "classes"),
    [
        (None, "a"),
        ([], "a"),
        ([{"config_name": "default", "data_files": "data/*"}], "ab"),
        ([{"config_name": "x", "data_files": [{"split": "train", "path": "data/train-*"}]}], "a"),
        (
            [
                {
                    "config_name": "x",
                    "data_files": [
                        {"split": "test", "path": "data/test-*"},
                        {"split": "train", "path": ["data/train-*", "more/*.parquet"]},
                    ],
                },
                {"config_name": "default", "data_files": "more/x.parquet"},
            ],
            "c",
        ),
        (
            [
                {
                    "config_name": "x",
                    "default": True,
                    "data_files": {"test": "data/test-0.parquet"},
                },
                {"config_name": "y", "data_files": "more/*"},
            ],
            "b",
        ),
        ([{"config_name": "x", "data_dir": "more"}], "c"),
        ([{"config_name": "x", "data_dir": "./data/", "data_files": "test*"}], "b"),
        ([{"config_name": "x"}], "a"),
    ],
)
def test_a_card_says_which_files_count(splits, configs, classes):
    """As `datasets` reads it, where it names a split `train`."""
    if configs is not None:
        write_card(splits, configs)
    assert "".join(list_classes(list_images(splits))) == classes


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([{"config_name": "x"}, {"config_name": "y"}], "declares x, y and no default"),
        (
            [{"config_name": "x", "data_files": {"test": "data/*", "val": "more/*"}}],
            "splits test, val and no `train`",
        ),
        ([{"config_name": "x", "data_files": "nope/*"}], "no file is called nope/"),
        ([{"config_name": "x", "data_files": "hf://a/b"}], "no file is called hf:"),
        ([{"config_name": "x", "data_files": ""}], "config x"),
    ],
)
def test_a_card_that_leaves_it_open(splits, configs, message):
    write_card(splits, configs)
    with pytest.raises(SourceError, match=message):
        list_images(splits)
    (splits / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(SourceError, match="no readable YAML"):
        list_images(splits)
    (splits / "README.md").write_text("# No header\n")
    assert len(list_images(splits)) == 1


# --- run folders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with rejected candidates, and tars; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    run(write_recipe(folder, output={"formats": ["parquet", "webdataset"]}), folder / "run")
    return folder / "run"


def describe(images):
    """What must be the same in whatever form the images are stored."""
    return sorted((image.read_bytes(), image.class_name, image.caption) for image in images)


def test_a_run_folder_gives_its_accepted_rows_only(finished):
    rows, rejected = read_rows(finished), read_rows(finished, "rejected")
    assert rejected
    assert list((finished / ".factory").rglob("*.parquet"))
    images = list_images(finished)
    assert [image.read_bytes() for image in images] == [row["image"]["bytes"] for row in rows]
    assert [image.class_name for image in images] == [row["class_name"] for row in rows]
    assert [image.caption for image in images] == [row["caption"] for row in rows]
    assert list_classes(images) == ("normal", "tumor")
    assert images[0].key == "data/train-00000-of-00001.parquet#0"


def test_tars_and_published_copies_of_a_run_give_the_same(finished, tmp_path):
    expected = describe(list_images(finished))
    assert describe(list_images(finished / "data")) == expected
    assert describe(list_images(finished / "webdataset")) == expected
    assert describe(list_images(next((finished / "webdataset").glob("*.tar")))) == expected
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns(".factory"))
    assert describe(list_images(copy)) == expected
    rejected = list_images(finished / "rejected")
    assert len(rejected) == len(read_rows(finished, "rejected"))


def test_captions_of_a_run(tmp_path):
    conditions = [{"kind": "caption", "captions": "he-basic", "count": 3}]
    output = {"formats": ["parquet", "webdataset"]}
    run(write_recipe(tmp_path, conditions=conditions, output=output), tmp_path / "run")
    images = list_images(tmp_path / "run")
    assert [image.caption for image in images] == [
        row["caption"] for row in read_rows(tmp_path / "run")
    ]
    assert all(image.caption for image in images)
    assert describe(list_images(tmp_path / "run" / "webdataset")) == describe(images)


def test_an_unfinished_run_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "summary.json").unlink()
    with pytest.raises(SourceError, match="not finished: run the same command again"):
        list_images(copy)
    shutil.copy(finished / "summary.json", copy)
    shutil.rmtree(copy / "data")
    with pytest.raises(SourceError, match="holds no images"):
        list_images(copy)


# --- in recipes ----------------------------------------------------------------------------------


@pytest.fixture
def forms(folder, tmp_path_factory):
    """The same images as a folder, parquet, a saved set, and a tar."""
    root, images = tmp_path_factory.mktemp("forms"), list_images(folder)
    rows = {
        "image": [{"bytes": image.read_bytes(), "path": None} for image in images],
        "label": [0, 0, 0, 1, 1, 1],
    }
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["normal", "tumor"])})
    Dataset.from_dict(rows, features=features).to_parquet(root / "a.parquet")
    Dataset.from_dict(rows, features=features).save_to_disk(root / "saved")
    with webdataset.TarWriter(str(root / "a.tar"), mtime=0) as writer:
        for number, image in enumerate(images):
            data = {"png": image.read_bytes(), "cls": image.class_name}
            writer.write({"__key__": f"{number}", **data})
    return folder, root / "a.parquet", root / "saved", root / "a.tar"


def test_a_run_is_the_same_whatever_form_the_images_have(forms, tmp_path):
    """References and the filter `training_copy`, checked and run."""
    found, filters = [], []
    for number, images in enumerate(forms):
        recipe = write_recipe(
            tmp_path / f"{number}",
            conditions=[
                {"kind": "reference", "images": str(images), "per_class": 4, "shots": 2},
            ],
            filters=[{"kind": "training_copy", "images": str(images), "max_similarity": 0.999}],
        )
        assert run(recipe, tmp_path / f"{number}" / "run").exit_code == 0
        found.append(list_identities(tmp_path / f"{number}" / "run"))
        provenance = json.loads(read_rows(tmp_path / f"{number}" / "run")[0]["provenance"])
        filters.append([each["images_sha256"] for each in provenance["filters"]])
    assert len(found[0]) == 8
    assert found == found[:1] * 4
    assert filters == filters[:1] * 4
    assert filters[0][0] is not None


@pytest.mark.slow("test_parquet_of_datasets_gives_the_same")
def test_a_classifier_is_the_same_whatever_form_the_images_have(forms, tmp_path):
    digests = set()
    for number, images in enumerate(forms):
        train_classifier(
            images, tmp_path / str(number), ClassifierSettings(image_size=32, force=True)
        )
        digests.add(read_classifier_info(tmp_path / str(number)).data.sha256)
    assert len(digests) == 1


def test_validate_names_the_field_of_damaged_images(forms, tmp_path):
    forms[3].write_bytes(forms[3].read_bytes()[:700])
    recipe = write_recipe(
        tmp_path,
        conditions=[{"kind": "reference", "images": str(forms[3]), "per_class": 1}],
        filters=[{"kind": "training_copy", "images": str(forms[3])}],
    )
    loaded = load_recipe(recipe)
    with pytest.raises(RecipeError) as caught:
        check_recipe(loaded)
    found = {problem.field: problem.message for problem in caught.value.problems}
    assert list(found) == ["conditions[0].images", "filters[0].images"]
    assert all("a.tar: not a readable tar" in message for message in found.values())


# --- the rest ------------------------------------------------------------------------------------


def test_images_are_plain_values(folder):
    """They compare equal, hash, and travel to workers."""
    first, again = list_images(folder), list_images(folder)
    assert first == again
    assert len({*first, *again}) == 6
    assert pickle.loads(pickle.dumps(first)) == first
    assert SourceImage("a", None, None, folder).caption is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_pattern": r"^Q(\d)"}, r"\.png: group_pattern '\^Q.*in this file name: write one"),
        ({"group_pattern": r"^(Q\d"}, r"no regular expression \(missing \)"),
        ({"group_pattern": r"\d"}, r"\.png: group_pattern .*put the part that is .* in \( \)"),
        ({"group_column": "patient"}, "metadata.csv"),
    ],
)
def test_wrong_groups_say_what_to_do(folder, change, message):
    with pytest.raises(SourceError, match=message):
        list_images(folder, **change)


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        list_images(tmp_path / "missing")
    with pytest.raises(SourceError, match="holds no images"):
        list_images(tmp_path)


def test_crop_keeps_scale_and_resize_does_not():
    pixels = make_pixels(0, 32)
    assert np.array_equal(fit_image(pixels, 16, 16, "crop"), pixels[8:24, 8:24])
    assert not np.array_equal(fit_image(pixels, 16, 16, "resize"), pixels[8:24, 8:24])
    assert fit_image(make_pixels(0, 8), 16, 24, "crop").shape == (24, 16, 3)


@pytest.mark.stranger
@pytest.mark.parametrize("name", ["../out.png", "in/../../out.png", "{top}/out.png", "..", "."])
def test_a_cell_names_only_files_below_its_table(tmp_path, name):
    data = tmp_path / "data"
    (data / "in").mkdir(parents=True)
    content = encode_image(make_pixels(1), "png")
    for path in (tmp_path / "out.png", data / "in" / "a.png"):
        path.write_bytes(content)
    cells = [{"bytes": None, "path": each} for each in ("in/a.png", name.format(top=tmp_path))]
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"]}), data / "rows.parquet")
    inside, outside = list_images(data / "rows.parquet")
    assert inside.read_bytes() == content
    with pytest.raises(SourceError, match=r"rows\.parquet#1: names the image .* not below"):
        outside.read_bytes()
