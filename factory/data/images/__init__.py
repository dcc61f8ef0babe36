"""Real images: one way to read an ImageFolder, parquet, a `datasets` folder, or WebDataset tars."""

from collections.abc import Sequence
from pathlib import Path

from factory.core.errors import SourceError
from factory.core.text_rows import find_fault
from factory.data.images.fit import check_fit, fit_image, fit_source, read_fitted, tell_crop
from factory.data.images.folder import list_folder
from factory.data.images.image import IMAGE_SUFFIXES, SourceImage, Wanted
from factory.data.images.layout import Found, find_files
from factory.data.images.passed import tell_frames
from factory.data.images.table import iterate_rows, list_tables
from factory.data.images.tar import list_tars

__all__ = [
    "IMAGE_SUFFIXES",
    "SourceImage",
    "check_fit",
    "fit_image",
    "fit_source",
    "iterate_rows",
    "list_classes",
    "list_images",
    "read_fitted",
    "tell_crop",
]


def list_images(
    root: Path,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    may_lack: bool = False,
    found: Found | None = None,
) -> tuple[SourceImage, ...]:
    """Lists real images with their classes, captions and groups; the order is sorted.

    What `root` may be:

    - An ImageFolder: the first folder level is the class; images straight below `root` have none.
      Where every class has folders, these are the groups. A `metadata.csv` or `metadata.jsonl` in
      `root` (column `file_name`) may give captions and groups, and the class where `label_column`
      asks for it.
    - A parquet file, or a folder of them.
    - A folder that `datasets` wrote with `save_to_disk`, or one `.arrow` file of it.
    - WebDataset: a `.tar` file, or a folder of them. A sample's columns are the fields of its
      `json` member; `cls`, `txt` and `caption` members count too. Nothing is unpacked.
    - A run folder that is finished: its accepted rows.

    In rows and samples, the class is `label_column`, else `class_name`, else `label` (a
    `ClassLabel` becomes its name), else `cls`; the caption is `caption_column`, else `caption`,
    else `txt`, else `text`. Several splits, declared or told by names as `datasets` reads them:
    `train` is read, and without one they are named in the error. Links are followed; hidden files
    and folders are left out. What else is left out is told (`factory.core.notes`).

    Args:
        root: folder or file.
        group_column: column with the patient or slide.
        group_pattern: regular expression on file names (of images, of members in a tar); its first
            group is the patient or slide.
        image_column: column of parquet and arrow with the image struct (bytes, path) or raw bytes;
            default: `image`, else the only such column.
        label_column: column with the class.
        caption_column: column with the caption.
        may_lack: let the columns asked for be empty for some images.
        found: what `find_files` gave, where it was asked before.

    Raises:
        SourceError: nothing there, no images, a damaged file, a column that is missing, or one
            asked for that is empty for some images.
    """
    wanted = Wanted(image_column, label_column, caption_column, group_column, group_pattern)
    images = _list_found(found or find_files(root), root, wanted)
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(
            f"{root}: holds no images ({suffixes}, or rows and samples of parquet, arrow and .tar)"
        )
    for image in images:
        _check_texts(image)
    tell_frames(images, root)
    if not may_lack:
        _check_asked(images, root, wanted)
    return tuple(images)


def _list_found(found: Found, root: Path, wanted: Wanted) -> Sequence[SourceImage]:
    if found.kind == "table":
        return list_tables(found.paths, root, wanted)
    if found.kind == "tar":
        return list_tars(found.paths, root, wanted)
    return list_folder(found, root, wanted)


def _check_texts(image: SourceImage) -> None:
    for text in (image.key, image.class_name, image.group, image.caption):
        fault = None if text is None else find_fault(text)
        if fault is not None:
            raise SourceError(f"{image.place}: {text!r} {fault}: rename it, or write it anew")


def _check_asked(images: Sequence[SourceImage], root: Path, wanted: Wanted) -> None:
    """Refuses columns that were asked for and are empty for some images.

    Raises:
        SourceError: says for how many, and names the first.
    """
    has = {
        "label_column": lambda image: image.class_name,
        "group_column": lambda image: image.group,
        "caption_column": lambda image: image.caption,
    }
    for name, column in wanted.list_columns().items():
        empty = [image.key for image in images if has[name](image) is None]
        if empty:
            raise SourceError(
                f"{root}: {name} {column!r} is empty for {len(empty):,} of {len(images):,} images, "
                f"such as {empty[0]}: fill it, or take these images out"
            )


def list_classes(images: Sequence[SourceImage]) -> tuple[str, ...]:
    """Returns the class names present, sorted."""
    return tuple(sorted({image.class_name for image in images if image.class_name is not None}))
