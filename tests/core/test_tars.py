"""Tars: the bytes that webdataset would write, without it."""

import hashlib
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from factory.core.errors import SourceError
from factory.core.files import tars
from factory.core.files.store import FileStore
from factory.data.channels import encode_values
from factory.data.writers.webdataset import TarFiles, build_sample, name_members

STORED = "0189e8369b2cbbb7f64c5589511ed6adaab87af6589d0a7455d75e5e9ea6575d"
"""sha256 of the tars of `make_rows`, as `webdataset.TarWriter` wrote them for version 0.1."""


def make_rows():
    """Rows with all that a sample may hold; captions beyond ASCII, names as long as ids."""
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for number in range(7):
        yield {
            "sample_id": f"{number:032x}",
            "image": {"bytes": bytes(range(number, 200)) * number, "path": "x.webp"},
            "mask": {"bytes": b"mask" * number, "path": "m.png"},
            "channels": encode_values(values) if number % 2 else None,
            "label": number if number % 3 else None,
            "class_name": "tumor",
            "caption": "Übergang, 20 µm" if number == 1 else None,
            "prompt": "p" * 512 * number,
            "scores": {"nonfinite": 0.5 * number, "other": float("nan")},
            "provenance": '{"seed": 1}',
        }


def write_tars(folder) -> str:
    """Returns the sha256 of all tars, three rows in each."""
    files = FileStore(str(folder))
    with TarFiles(files, "webdataset", "train", 3) as writer:
        writer.write(make_rows())
    assert len(writer.names) == 3
    whole = b"".join(files.read(name) for name in writer.names)
    return hashlib.sha256(whole).hexdigest()


def test_tars_have_the_bytes_that_they_always_had(tmp_path):
    assert write_tars(tmp_path) == STORED


def test_tars_have_the_bytes_of_webdataset():
    theirs, ours = io.BytesIO(), io.BytesIO()
    writer, tar = webdataset.TarWriter(theirs, mtime=0), tars.TarStream(ours)
    for row in make_rows():
        writer.write(build_sample(row))
        tar.write(name_members(build_sample(row)))
    writer.close()
    tar.close()
    assert ours.getvalue() == theirs.getvalue()


def test_an_image_that_is_only_named_is_no_member():
    row = next(make_rows()) | {"mask": {"bytes": None, "path": "m.png"}}
    with pytest.raises(SourceError, match=r"0: mask\.png: holds no bytes"):
        name_members(build_sample(row))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_headers_are_those_of_tarfile(name):
    info = tarfile.TarInfo(name)
    info.mode, info.uname, info.gname = 0o444, "bigdata", "bigdata"
    for size in (0, 511, 8**11 - 1, 8**11):
        info.size = size
        assert tars._build_header(name, size) == info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("length", [99, 100, 101, 255, 256, 300])
def test_long_names_are_read_back(length):
    name, stream = f"{'d' * 90}/{'n' * length}"[-length:], io.BytesIO()
    tar = tars.TarStream(stream)
    tar.write({name: b"content", "b": b""})
    tar.close()
    stream.seek(0)
    with tarfile.open(fileobj=stream) as read:
        assert read.getnames() == [name, "b"]
        assert read.extractfile(name).read() == b"content"
    assert len(stream.getvalue()) % tarfile.RECORDSIZE == 0


def test_who_writes_files_of_a_data_set_imports_no_torch():
    code = (
        "import sys, factory.engine.repack, factory.engine.near_pairs as near\n"
        "near.count_groups(18)\n"
        "print(*sorted({'torch', 'webdataset', 'datasets', 'scipy'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == ""
