"""WebDataset tars: samples by key, with each image's place in the tar, so that none is unpacked."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError
from factory.core.text_rows import parse_json
from factory.data.images.image import (
    IMAGE_SUFFIXES,
    SourceImage,
    Wanted,
    match_group,
    read_name,
    read_span,
    read_text,
)

_CHUNK = 1 << 20
_MAX_TEXT = 1 << 24
"""Bytes of a member that is read while listing; a larger one is not text."""
_ARRAYS = ("npy", "npz", "pth", "safetensors")
"""Suffixes of members that are no text, and are not read while listing."""


@dataclass(slots=True)
class _Sample:
    """Members of one key, by what follows the first dot of the file name."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def list_tars(files: Sequence[Path], root: Path, wanted: Wanted) -> Iterator[SourceImage]:
    """Yields the samples of tars, by file, then key.

    Raises:
        SourceError: a damaged tar, a sample without an image or with two, a field that is missing,
            or JSON that is none.
    """
    for path in files:
        stem = path.name if path == root else path.relative_to(root).as_posix()
        samples = _read_samples(path)
        for key in sorted(samples):
            yield _describe(samples[key], path, stem, wanted)


def read_members(path: Path, suffix: str) -> Iterator[tuple[str, bytes | None]]:
    """Yields the key of each sample of a tar, and its member of a suffix, None where it has none.

    Raises:
        SourceError: a damaged tar.
    """
    for key, sample in _read_samples(path).items():
        span = sample.members.get(suffix)
        yield key, None if span is None else read_span(path, *span)


def _describe(sample: _Sample, path: Path, stem: str, wanted: Wanted) -> SourceImage:
    where = f"{path}#{sample.key}"
    images = [name for name in sample.members if f".{name}" in IMAGE_SUFFIXES]
    if len(images) != 1:
        has = ", ".join(sample.members)
        what = "more than one image" if images else "no image (png, jpg, webp, tif or bmp)"
        raise SourceError(f"{where}: a sample with {what}: it has {has}")
    row = _read_json(sample, where)
    name = sample.names[images[0]]
    if wanted.group is None:
        group: Any = match_group(name.rsplit("/", 1)[-1], wanted.pattern)
    else:
        group = _find_field(sample, row, wanted.group, where)
    return SourceImage(
        f"{stem}#{name}",
        _find_class(sample, row, wanted.label, where),
        read_name(group, where, "patient or slide"),
        path,
        caption=_find_caption(sample, row, wanted.caption, where),
        span=sample.members[images[0]],
    )


def _find_field(sample: _Sample, row: dict[str, Any], column: str, where: str) -> Any:
    """Returns a field of the json, else the text of a member of that name."""
    if column in row:
        return row[column]
    if column not in sample.texts:
        has = ", ".join([*row, *sample.texts]) or "none"
        raise SourceError(f"{where}: no field {column!r}: it has {has}")
    return _read_text(sample, column, where)


def _find_class(sample: _Sample, row: dict[str, Any], column: str | None, where: str) -> str | None:
    """Returns the class: the column asked for, else a name, else an index."""
    if column is not None:
        given = [_find_field(sample, row, column, where)]
    else:
        given = [row.get("class_name"), row.get("label"), _read_text(sample, "cls", where)]
    texts = [text for value in given if (text := read_name(value, where, "class")) is not None]
    names = [text for text in texts if not text.lstrip("-").isdigit()]
    return next(iter(names or texts), None)


def _find_caption(
    sample: _Sample, row: dict[str, Any], column: str | None, where: str
) -> str | None:
    """Returns the caption; a `caption` field counts before `txt`, also where it is null.

    So a run folder's tars say the same as its parquet: their `txt` is never empty, for training
    loops that need some text.
    """
    names = ("txt", "caption", "text")
    chosen = column or ("caption" if "caption" in row else None)
    chosen = chosen or next((name for name in names if name in sample.texts or name in row), None)
    if chosen is None:
        return None
    return read_text(_find_field(sample, row, chosen, where), where, chosen)


def _read_text(sample: _Sample, name: str, where: str) -> str | None:
    if name not in sample.texts:
        return None
    try:
        return sample.texts[name].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}.{name}: not text ({error})") from error


def _read_json(sample: _Sample, where: str) -> dict[str, Any]:
    if "json" not in sample.texts:
        return {}
    row = parse_json(sample.texts["json"], f"{where}.json")
    if not isinstance(row, dict):
        raise SourceError(f"{where}.json: want an object, got {type(row).__name__}")
    return row


# --- the tar itself ------------------------------------------------------------------------------


def _read_samples(path: Path) -> dict[str, _Sample]:
    """Returns samples by key; of each image only the place, of each text the content."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for name, member in _iterate_members(tar, path):
                folder, _, base = name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
                sample = samples.setdefault(key, _Sample(key))
                if suffix in sample.members:
                    raise SourceError(f"{path}#{name}: is in the tar twice")
                sample.members[suffix] = (member.offset_data, member.size)
                sample.names[suffix] = name
                last = suffix.rpartition(".")[2]
                is_text = f".{last}" not in IMAGE_SUFFIXES and last not in _ARRAYS
                if is_text and member.size <= _MAX_TEXT:
                    sample.texts[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
            _check_end(tar, path)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise SourceError(f"{path}: not a readable tar ({error})") from error
    return samples


def _iterate_members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields (name, member) of what counts: files with a suffix, but no hidden ones and notes."""
    before = -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps millions of them
        if tar.offset <= before:
            raise SourceError(f"{path}: damaged at {before} bytes: a member of negative size")
        before = tar.offset
        name = member.name.removeprefix("./")
        base = name.rsplit("/", 1)[-1]
        if member.isdir() or base.startswith((".", "__")) or "." not in base:
            continue
        if not member.isreg() or member.issparse():
            raise SourceError(f"{path}#{name}: a link or special file: pack plain files only")
        yield name, member


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """Checks that the listing stopped at the end mark, and that nothing comes after it.

    tarfile takes a damaged header, and a file cut between two members, for the end.
    """
    file: Any = tar.fileobj
    file.seek(tar.offset)
    data = file.read(_CHUNK)
    if len(data) < tarfile.BLOCKSIZE:
        raise SourceError(f"{path}: cut off at {tar.offset} bytes, without the end mark of a tar")
    while data:
        if data.strip(b"\0"):
            raise SourceError(
                f"{path}: damaged after {tar.offset} bytes, or several tars in one file"
            )
        data = file.read(_CHUNK)
