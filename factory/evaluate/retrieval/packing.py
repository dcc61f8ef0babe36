"""WebDataset tars of the pairs that an arm trains on, as open_clip's loader reads them."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from factory.core.errors import InputError
from factory.core.files.tars import TarStream
from factory.core.images import decode_image, encode_image
from factory.data.writers.webdataset import name_members
from factory.evaluate.retrieval.pairs import Pair

_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
"""Formats that open_clip's loader takes; anything else is packed as PNG."""

_READ_AS_PATTERN = ("{", "}", "$", "::")
"""What webdataset expands in the name of a tar."""


def pack_pairs(
    pairs: Sequence[Pair], captions: Sequence[str], folder: Path, shards: int
) -> tuple[Path, ...]:
    """Writes images and captions, in order, into tars of equal size (by one).

    Images are packed byte for byte where the loader would read the same pixels from them.

    Args:
        pairs: the images.
        captions: what to say of each; that of another image in the arm `shuffled`.
        folder: where to; made.
        shards: number of tars.

    Raises:
        InputError: webdataset would take the folder's name for a pattern.
    """
    folder = folder.resolve()
    if any(part in str(folder) for part in _READ_AS_PATTERN):
        raise InputError(
            f"{folder}: webdataset reads {' '.join(_READ_AS_PATTERN)} in names as patterns: use "
            "another --out"
        )
    folder.mkdir(parents=True)
    paths = []
    for shard in range(shards):
        rows = range(shard * len(pairs) // shards, (shard + 1) * len(pairs) // shards)
        path = folder / f"{shard:05d}.tar"
        with path.open("wb") as stream:
            tar = TarStream(stream)
            for row in rows:
                suffix, data = _encode(pairs[row])
                sample = {"__key__": f"{row:08d}", suffix: data, "txt": captions[row]}
                tar.write(name_members(sample))
            tar.close()
        paths.append(path)
    return tuple(paths)


def _encode(pair: Pair) -> tuple[str, bytes]:
    """Returns suffix and bytes of an image, as RGB without an alpha channel."""
    data = pair.source.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        suffix = _SUFFIXES.get(str(image.format))
        plain = image.mode == "RGB" and "transparency" not in image.info
    if suffix is not None and plain:
        return suffix, data
    return "png", encode_image(decode_image(data, pair.source.place), "png", is_synthetic=False)
