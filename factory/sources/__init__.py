"""Real images: one way to read an ImageFolder, parquet, a `datasets` folder, or WebDataset tars."""

from collections.abc import Sequence
from pathlib import Path

from factory.errors import SourceError
from factory.sources.folder import list_folder
from factory.sources.image import (
    IMAGE_SUFFIXES,
    SourceImage,
    Wanted,
    fit_image,
    iterate_pixels,
)
from factory.sources.layout import find_files
from factory.sources.table import list_tables
from factory.sources.tar import list_tars

__all__ = [
    "IMAGE_SUFFIXES",
    "SourceImage",
    "fit_image",
    "iterate_pixels",
    "list_classes",
    "list_images",
]


def list_images(
    root: Path,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    image_column: str = "image",
    label_column: str | None = None,
    caption_column: str | None = None,
) -> tuple[SourceImage, ...]:
    """Lists real images with their classes, captions and groups; the order is sorted.

    What `root` may be:

    - An ImageFolder: one folder per class; images straight below `root` have no class. A
      `metadata.csv` or `metadata.jsonl` in `root` (column `file_name`) may give captions and
      groups, and the class where `label_column` asks for it.
    - A parquet file, or a folder of them.
    - A folder that `datasets` wrote with `save_to_disk`, or one `.arrow` file of it.
    - WebDataset: a `.tar` file, or a folder of them. A sample's columns are the fields of its
      `json` member; `cls`, `txt` and `caption` members count too. Nothing is unpacked.
    - A run folder that is finished: its accepted rows.

    In rows and samples, the class is `label_column`, else `class_name`, else `label` (a
    `ClassLabel` becomes its name), else `cls`; the caption is `caption_column`, else `caption`,
    else `txt`, else `text`. Several splits: `train` is read, and without one they are named in the
    error; a folder without `dataset_dict.json` and without `configs` in its README.md has none, and
    all of it is read. Hidden files and folders are passed over.

    Args:
        root: folder or file.
        group_column: column with the patient or slide.
        group_pattern: regular expression on file names (of images, of members in a tar); its first
            group is the patient or slide.
        image_column: column of parquet and arrow with the image struct (bytes, path) or raw bytes.
        label_column: column with the class.
        caption_column: column with the caption.

    Raises:
        SourceError: nothing there, no images, a damaged file, or a column that is missing.
    """
    wanted = Wanted(image_column, label_column, caption_column, group_column, group_pattern)
    kind, files = find_files(root)
    if kind == "table":
        found = list_tables(files, root, wanted)
    elif kind == "tar":
        found = list_tars(files, root, wanted)
    else:
        found = list_folder(files, root, wanted)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(
            f"{root}: holds no images ({suffixes}, or rows and samples of parquet, arrow and .tar)"
        )
    return tuple(found)


def list_classes(images: Sequence[SourceImage]) -> tuple[str, ...]:
    """Returns the class names present, sorted."""
    return tuple(sorted({image.class_name for image in images if image.class_name is not None}))
