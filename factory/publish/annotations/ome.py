"""OME-TIFF label images beside the images: each pixel its id, with names and µm per pixel."""

import uuid
from pathlib import PurePosixPath
from typing import Any

from factory.publish.annotations.marked import Marked, Writer
from factory.publish.ome import describe_scale, load_tifffile


class OmeLabels(Writer):
    """Writes `SPLIT/NAME` and `SPLIT/NAME.labels.ome.tif`, with the values of the row's mask."""

    def place(self, marked: Marked) -> str:
        """Returns `SPLIT/NAME`."""
        return f"{marked.split}/{marked.file_name}"

    def add(self, marked: Marked) -> None:
        """Writes the label image: ids, or id * 1000 + n where objects are told apart."""
        stem = PurePosixPath(marked.file_name).stem
        values = "id * 1000 + n" if marked.has_instances else "id"
        palette = {str(identifier): name for identifier, name in marked.palette}
        described: dict[str, Any] = {
            "Name": f"{stem} labels",
            "axes": "YX",
            "UUID": str(uuid.uuid5(uuid.UUID(marked.sample_id[:32]), "labels")),
            **describe_scale(marked.mpp),
            "MapAnnotation": {"Namespace": "factory/labels", "values": values, **palette},
        }
        load_tifffile().imwrite(
            self.folder / marked.split / f"{stem}.labels.ome.tif",
            marked.labels,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata=described,
        )
