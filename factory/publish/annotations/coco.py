"""COCO: `annotations/instances_SPLIT.json` with boxes, areas and masks of objects.

Masks are uncompressed run lengths (https://cocodataset.org/#format-data), column by column, which
hold every pixel, holes and parts that lie apart; outlines as polygons would not.
"""

import shutil
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from factory import __version__
from factory.core.hashing import to_canonical_json
from factory.publish.annotations.marked import Marked, Writer


@dataclass
class _Split:
    """The file of a split, open in its list of images; annotations wait on disk."""

    file: IO[str]
    waiting: IO[str]
    images: int = 0
    objects: int = 0


@dataclass
class Coco(Writer):
    """Writes `SPLIT/NAME` and a file for each split; categories are numbered from 1."""

    _splits: dict[str, _Split] = field(default_factory=dict)

    def place(self, marked: Marked) -> str:
        """Returns `SPLIT/NAME`."""
        return f"{marked.split}/{marked.file_name}"

    def add(self, marked: Marked) -> None:
        """Writes the entry of an image, and of each of its objects."""
        split = self._splits.get(marked.split) or self._begin(marked.split)
        split.file.write(",\n" if split.images else "")
        split.images += 1
        height, width = marked.labels.shape
        image = {"id": split.images, "file_name": marked.file_name}
        image |= {"width": width, "height": height, "sample_id": marked.sample_id}
        split.file.write(to_canonical_json(image))
        found = zip(marked.names, marked.objects.boxes, strict=True)
        for number, (name, (rows, columns)) in enumerate(found, 1):
            split.waiting.write(",\n" if split.objects else "")
            split.objects += 1
            slab = marked.objects.labels[:, columns] == number
            x, y = columns.start, rows.start
            entry = {
                "id": split.objects,
                "image_id": split.images,
                "category_id": self.names.index(name) + 1,
                "bbox": [x, y, columns.stop - x, rows.stop - y],
                "area": int(slab.sum()),
                "iscrowd": 0,
                "segmentation": encode_runs(slab, x, width),
            }
            split.waiting.write(to_canonical_json(entry))

    def _begin(self, name: str) -> _Split:
        path = self.folder / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(exist_ok=True)
        enter = self.files.enter_context
        file = enter(path.open("w", encoding="utf-8"))
        waiting = enter(TemporaryFile("w+", encoding="utf-8", dir=self.folder))  # noqa: SIM115
        self._splits[name] = _Split(file, waiting)
        categories = [{"id": number, "name": each} for number, each in enumerate(self.names, 1)]
        info = {"description": f"synthetic images, {name}", "version": __version__}
        file.write(f'{{"info": {to_canonical_json(info)},\n"licenses": [],\n')
        file.write(f'"categories": {to_canonical_json(categories)},\n"images": [\n')
        return self._splits[name]

    def finish(self) -> None:
        """Writes the annotations behind the images."""
        for split in self._splits.values():
            split.file.write('\n],\n"annotations": [\n')
            split.waiting.seek(0)
            shutil.copyfileobj(split.waiting, split.file)
            split.file.write("\n]}\n")


def encode_runs(slab: NDArray[np.bool_], first: int, width: int) -> dict[str, Any]:
    """Encodes a mask as COCO's run lengths, down the columns: of zeros, of ones, and so on.

    Args:
        slab: (H, W') bool, columns of the mask that have all that is set; not empty.
        first: which column of the mask the slab begins at.
        width: columns of the mask.
    """
    height = slab.shape[0]
    places = np.flatnonzero(slab.ravel(order="F")) + first * height
    gaps = np.flatnonzero(np.diff(places) > 1)
    starts, ends = places[np.r_[0, gaps + 1]], places[np.r_[gaps, -1]] + 1
    bounds = np.stack([starts, ends], 1).ravel().tolist()
    counts = np.diff([0, *bounds, height * width]).tolist()
    return {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}
