"""YOLO: a text file of boxes for each image, and `data.yaml`, as Ultralytics trains detection.

Each line is `class x y width height`: centre and size as shares of the image
(https://docs.ultralytics.com/datasets/detect/). Boxes only; COCO has the masks of objects.
"""

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from factory.core.notes import tell
from factory.publish.annotations.marked import Marked, Writer
from factory.publish.merge.splits import TEST, TRAIN, VALIDATION

_KEYS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


@dataclass
class Yolo(Writer):
    """Writes `images/SPLIT/NAME`, `labels/SPLIT/NAME.txt` and `data.yaml`; classes from 0."""

    _splits: set[str] = field(default_factory=set)

    def place(self, marked: Marked) -> str:
        """Returns `images/SPLIT/NAME`."""
        return f"images/{marked.split}/{marked.file_name}"

    def add(self, marked: Marked) -> None:
        """Writes the boxes of an image; an empty file where its mask shows nothing."""
        self._splits.add(marked.split)
        name = PurePosixPath(marked.file_name).with_suffix(".txt")
        path = self.folder / "labels" / marked.split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in self._list(marked)), encoding="utf-8")

    def _list(self, marked: Marked) -> list[str]:
        height, width = marked.labels.shape
        lines = []
        for name, (rows, columns) in zip(marked.names, marked.objects.boxes, strict=True):
            x, y = (columns.start + columns.stop) / 2 / width, (rows.start + rows.stop) / 2 / height
            size = (columns.stop - columns.start) / width, (rows.stop - rows.start) / height
            numbers = " ".join(f"{value:.8f}" for value in (x, y, *size))
            lines.append(f"{self.names.index(name)} {numbers}")
        return lines

    def finish(self) -> None:
        """Writes `data.yaml`."""
        splits = {_KEYS.get(split, split): f"images/{split}" for split in sorted(self._splits)}
        described: dict[str, Any] = {**splits, "names": dict(enumerate(self.names))}
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")
        missing = [key for key in ("train", "val") if key not in splits]
        if missing:
            tell(f"no images for {', '.join(missing)}, which YOLO wants: name some in data.yaml")
