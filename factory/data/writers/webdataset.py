"""WebDataset tars of the accepted rows, readable by open_clip's training data loader."""

import json
from collections.abc import Iterable
from typing import Any

from factory.core.errors import SourceError
from factory.core.files.store import FileStore
from factory.core.files.streams import HashedStream, NumberedFiles
from factory.core.files.tars import TarStream
from factory.core.plain import write_json
from factory.data.channels import COLUMN, encode_values
from factory.data.columns import is_image


class TarFiles(NumberedFiles):
    """Writes rows in order into `folder/split-00000.tar`, byte for byte reproducible.

    Each sample is keyed by its sample id and has the image, `txt` (the caption, else the prompt,
    else the class), `cls` (the label, where there are classes), other images by their column, such
    as `mask.png`, `channels.npy` where there are channels, and `json` (all other columns).
    """

    def __init__(
        self, files: FileStore, folder: str, split: str, per_file: int, first: int = 0
    ) -> None:
        super().__init__(first)
        self.files, self.folder, self.split, self.per_file = files, folder, split, per_file
        self._room = 0

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends rows as dicts of the final schema."""
        for row in rows:
            if self._writer is None:
                self._start()
            self._writer.write(name_members(build_sample(row)))
            self.rows += 1
            self._room -= 1
            if not self._room:
                self.close()

    def close(self) -> None:
        """Ends the last file."""
        if self._writer is not None:
            self._end_file()

    def _start(self) -> None:
        name = f"{self.folder}/{self.split}-{self.first + len(self.names):05d}.tar"
        self._stream = HashedStream(self.files.open(name, "wb"))
        self._writer = TarStream(self._stream)
        self._room = self.per_file
        self.names.append(name)


def name_members(sample: dict[str, Any]) -> dict[str, bytes]:
    """Returns the members of a sample, by the order of their names; texts and labels as UTF-8.

    Raises:
        SourceError: one is None, as of an image that is only named.
    """
    key = sample.pop("__key__")
    for suffix, each in sample.items():
        if each is None:
            raise SourceError(f"{key}: {suffix}: holds no bytes: give rows that hold their images")
    named = ((f"{key}.{suffix}", sample[suffix]) for suffix in sorted(sample))
    return {name: each if isinstance(each, bytes) else str(each).encode() for name, each in named}


def build_sample(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the WebDataset sample of a row: keyed by its id, else by its image's file name."""
    images = {key: value for key, value in row.items() if is_image(value)}
    channels = row.get(COLUMN)
    apart = {*images, COLUMN, "provenance"}
    others = {key: value for key, value in row.items() if key not in apart}
    if row.get("provenance") is not None:
        others["provenance"] = json.loads(row["provenance"])
    path = row["image"]["path"]
    stem, _, suffix = path.rpartition(".")
    sample = {
        "__key__": row.get("sample_id") or stem,
        suffix: row["image"]["bytes"],
        "txt": row.get("caption") or row.get("prompt") or row.get("class_name") or "",
        "json": write_json(others, indent=None, sort_keys=True, ensure_ascii=False).encode(),
    }
    for name in sorted(images.keys() - {"image"}):
        sample[f"{name}.{images[name]['path'].rpartition('.')[2]}"] = images[name]["bytes"]
    if channels is not None:
        sample["channels.npy"] = (
            channels if isinstance(channels, bytes) else encode_values(channels)
        )
    if row.get("label") is not None:
        sample["cls"] = row["label"]
    return sample
