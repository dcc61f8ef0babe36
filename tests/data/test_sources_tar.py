"""WebDataset tars as real images: what webdataset itself writes, and what is damaged."""

import io
import json
import tarfile
import time

import numpy as np
import pytest
import webdataset

from factory.core.errors import SourceError
from factory.core.images import encode_image
from factory.data.images import list_classes, list_images
from tests.data.test_sources import make_pixels


def make_png(seed):
    return encode_image(make_pixels(seed), "png")


def write_tar(path, samples):
    """Writes samples with webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), mtime=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04d}", **sample})
    return path


def add_file(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_plain_tar(path, members, **options):
    """Writes (name, bytes) with tarfile, in the order given."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            add_file(tar, name, data)
    return path


def list_one(path, **options):
    (image,) = list_images(path, **options)
    return image


def test_bytes_class_caption_and_group(tmp_path):
    samples = [
        {
            "png": make_png(n),
            "cls": ["normal", "tumor"][n % 2],
            "txt": f"patch {n}",
            "json": {"patient": f"P{n // 2}"},
        }
        for n in range(4)
    ]
    path = write_tar(tmp_path / "train-0.tar", samples)
    images = list_images(path, group_column="patient")
    assert [image.key for image in images][:2] == ["train-0.tar#0000.png", "train-0.tar#0001.png"]
    assert [image.class_name for image in images] == ["normal", "tumor"] * 2
    assert [image.caption for image in images] == ["patch 0", "patch 1", "patch 2", "patch 3"]
    assert [image.group for image in images] == ["P0", "P0", "P1", "P1"]
    for number, image in reversed([*enumerate(images)]):  # random access, not in order
        assert image.read_bytes() == make_png(number)
        assert np.array_equal(image.read_pixels(), make_pixels(number))
    assert sorted(tmp_path.iterdir()) == [path]  # nothing was unpacked


def test_webdataset_reads_the_same(tmp_path):
    """The samples are those that webdataset itself finds."""
    members = []
    for key in ("./b", "dir/a", "a.x/c"):
        members += [(f"{key}.PNG", make_png(len(key))), (f"{key}.cls", b"n")]
    path = write_plain_tar(tmp_path / "a.tar", [*members, (".hidden.png", b""), ("plain", b"")])
    images = list_images(path)
    found = {
        sample["__key__"].removeprefix("./"): sample["png"]
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    }
    assert {image.key.partition("#")[2].removesuffix(".PNG") for image in images} == set(found)
    assert sorted(image.read_bytes() for image in images) == sorted(found.values())


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_all_tar_formats_and_long_names(tmp_path, tar_format):
    name = "/".join(["a-long-folder-name"] * (7 if tar_format == tarfile.USTAR_FORMAT else 12))
    members = [(f"{name}/x.png", make_png(1)), (f"{name}/x.cls", b"n"), ("y.png", make_png(2))]
    images = list_images(write_plain_tar(tmp_path / "a.tar", members, format=tar_format))
    assert [image.key for image in images] == [f"a.tar#{name}/x.png", "a.tar#y.png"]
    assert [image.read_bytes() for image in images] == [make_png(1), make_png(2)]


def test_a_folder_of_tars_comes_sorted_whatever_the_order_inside(tmp_path):
    for name in ("b", "a"):
        members = [(f"{key}.jpg", make_png(1)) for key in "zya"]
        write_plain_tar(tmp_path / f"{name}.tar", members)
    assert [image.key for image in list_images(tmp_path)] == [
        f"{name}.tar#{key}.jpg" for name in "ab" for key in "ayz"
    ]


def test_members_of_a_sample_need_not_be_neighbours(tmp_path):
    members = [("a.png", make_png(1)), ("b.png", make_png(2)), ("a.cls", b"x"), ("b.cls", b"y")]
    images = list_images(write_plain_tar(tmp_path / "a.tar", members))
    assert [image.class_name for image in images] == ["x", "y"]


@pytest.mark.parametrize(
    ("members", "class_name"),
    [
        ({"cls": 3}, "3"),
        ({"cls": "tumor"}, "tumor"),
        ({"cls": 1, "json": {"class_name": "tumor", "label": 1}}, "tumor"),
        ({"cls": 1, "json": {"label": "tumor"}}, "tumor"),
        ({"cls": "tumor", "json": {"label": 1}}, "tumor"),
        ({"json": {"label": 1}}, "1"),
        ({"json": {"class_name": None}}, None),
        ({}, None),
    ],
)
def test_classes(tmp_path, members, class_name):
    path = write_tar(tmp_path / "a.tar", [{"png": make_png(1), **members}])
    assert list_one(path).class_name == class_name


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ({"txt": " glands \n"}, "glands"),
        ({"caption": "glands"}, "glands"),
        ({"json": {"caption": "glands"}}, "glands"),
        ({"json": {"text": "glands"}}, "glands"),
        ({"txt": "normal", "json": {"caption": None}}, None),
        ({"txt": "normal", "json": {"text": "glands"}}, "normal"),
        ({"txt": " "}, None),
        ({}, None),
    ],
)
def test_captions(tmp_path, members, caption):
    members = {key: value.encode() if key == "caption" else value for key, value in members.items()}
    path = write_tar(tmp_path / "a.tar", [{"png": make_png(1), **members}])
    assert list_one(path).caption == caption


def test_columns_by_name(tmp_path):
    fields = {"organ": "colon", "prompt": "colon, H&E", "slide": 7, "label": "x", "caption": "y"}
    path = write_tar(tmp_path / "a.tar", [{"png": make_png(1), "json": fields}])
    columns = {"label_column": "organ", "caption_column": "prompt", "group_column": "slide"}
    image = list_one(path, **columns)
    assert (image.class_name, image.caption, image.group) == ("colon", "colon, H&E", "7")
    for option in columns:
        with pytest.raises(SourceError, match=r"a\.tar#0000: no field 'nope'.*organ, prompt"):
            list_images(path, **{option: "nope"})


def test_group_pattern_reads_member_names(tmp_path):
    path = write_plain_tar(tmp_path / "a.tar", [("n/P7_1.png", make_png(1))])
    assert list_one(path, group_pattern=r"^(P\d)_").group == "P7"
    with pytest.raises(SourceError, match="finds no group"):
        list_images(path, group_pattern=r"^(Q\d)_")


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.cls", b"x")], "a: a sample with no image .*: it has cls"),
        ([("a.png", b""), ("a.jpg", b"")], "a: a sample with more than one image: it has png, jpg"),
        ([("a.png", b""), ("a.png", b"")], r"a\.png: is in the tar twice"),
        ([("a.png", b""), ("a.json", b"{")], r"a\.json: not a JSON object"),
        ([("a.png", b""), ("a.json", b"[]")], r"a\.json: want an object, got list"),
        ([("a.png", b""), ("a.json", b'{"caption": 3}')], "'caption': want a caption as text"),
        ([("a.png", b""), ("a.cls", b"\xff\xfe")], r"a\.cls: not text"),
        ([("a.seg.png", b"")], "it has seg.png"),
        ([], "holds no images"),
    ],
)
def test_wrong_samples(tmp_path, members, message):
    path = write_plain_tar(tmp_path / "a.tar", members)
    with pytest.raises(SourceError, match=message):
        list_images(path)


def test_a_link_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_file(tar, "a.png", make_png(1))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    with pytest.raises(SourceError, match=r"b\.png: a link"):
        list_images(tmp_path)


def test_a_broken_image_names_tar_and_member(tmp_path):
    image = list_one(write_plain_tar(tmp_path / "a.tar", [("n/x.png", b"no image")]))
    with pytest.raises(SourceError, match=r"a\.tar#n/x\.png: not a readable image"):
        image.read_pixels()


@pytest.mark.parametrize(
    "content",
    [b"", b"no tar at all", np.random.default_rng(0).bytes(4096), b"\x1f\x8b" + bytes(600)],
)
def test_no_tar_at_all(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.tar"):
        list_images(path)


def test_compressed_tars_say_what_to_do(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add_file(tar, "a.png", make_png(1))
    with pytest.raises(SourceError, match="compressed tar: unpack"):
        list_images(path)
    path.rename(tmp_path / "a.tar")
    with pytest.raises(SourceError, match="not a readable tar"):
        list_images(tmp_path / "a.tar")


def write_three(path):
    samples = [{"png": make_png(n), "cls": n, "json": {"patient": n}} for n in range(3)]
    return write_tar(path, samples).read_bytes()


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    whole = write_three(path)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in [*range(0, end, 512), end, *range(100, end, 777)]:
        path.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"a\.tar"):
            list_images(path)
    path.write_bytes(whole[: end + 512])
    assert len(list_images(path)) == 3


def test_damage_never_passes_for_fewer_images(tmp_path):
    """Any one byte may break: the tar is refused, or has three images as before."""
    path = tmp_path / "a.tar"
    whole = write_three(path)
    refused = 0
    for place in range(0, len(whole), 37):
        broken = bytearray(whole)
        broken[place] ^= 0x41
        path.write_bytes(broken)
        try:
            assert len(list_images(path)) == 3
        except SourceError:
            refused += 1
    assert refused > 100


def test_two_tars_in_one_file_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(write_three(path) * 2)
    with pytest.raises(SourceError, match="several tars in one file"):
        list_images(path)


def test_a_tar_that_shrank_after_listing(tmp_path):
    path = tmp_path / "a.tar"
    write_three(path)
    image = list_images(path)[2]
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SourceError, match="cut off"):
        image.read_bytes()
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        image.read_bytes()


def test_images_beside_tars_are_ambiguous(tmp_path):
    write_three(tmp_path / "a.tar")
    (tmp_path / "a.png").write_bytes(make_png(1))
    with pytest.raises(SourceError, match=r"holds images .* and \.tar files"):
        list_images(tmp_path)


def test_many_samples_are_listed_quickly(tmp_path):
    members = [
        (f"{number:06d}.{suffix}", data)
        for number in range(3000)
        for suffix, data in (("png", b"x" * 100), ("json", json.dumps({"label": "a"}).encode()))
    ]
    path = write_plain_tar(tmp_path / "a.tar", members)
    began = time.process_time()
    images = list_images(path)
    assert time.process_time() - began < 5
    assert len(images) == 3000
    assert list_classes(images) == ("a",)
