"""Real images: one way to read an ImageFolder, parquet, a `datasets` folder, or WebDataset tars."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from factory.core.errors import SourceError
from factory.core.text_rows import find_fault
from factory.data.images.fit import check_fit, fit_image, fit_source, read_fitted, tell_crop
from factory.data.images.folder import list_folder
from factory.data.images.image import IMAGE_SUFFIXES, SourceImage, Wanted
from factory.data.images.layout import Found, find_files
from factory.data.images.passed import Frames
from factory.data.images.table import iterate_rows, list_tables
from factory.data.images.tar import list_tars

__all__ = [
    "IMAGE_SUFFIXES",
    "SourceImage",
    "check_fit",
    "fit_image",
    "fit_source",
    "iterate_images",
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
    return tuple(_iterate(found or find_files(root), root, wanted, may_lack))


def iterate_images(root: Path, wanted: Wanted) -> Iterator[SourceImage]:
    """Yields what `list_images` returns: memory holds a row group, or what a tar says, at a time.

    Of a folder of image files it holds their names.

    Raises:
        SourceError: as `list_images`; what all images together show, once they were yielded.
    """
    yield from _iterate(find_files(root), root, wanted, may_lack=False)


def _iterate(found: Found, root: Path, wanted: Wanted, may_lack: bool) -> Iterator[SourceImage]:
    frames, asked, count = Frames(), _Asked(wanted), 0
    for image in _iterate_found(found, root, wanted):
        _check_texts(image)
        frames.note(image)
        asked.note(image)
        count += 1
        yield image
    if not count:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(
            f"{root}: holds no images ({suffixes}, or rows and samples of parquet, arrow and .tar)"
        )
    frames.tell(root)
    if not may_lack:
        asked.check(root, count)


def _iterate_found(found: Found, root: Path, wanted: Wanted) -> Iterable[SourceImage]:
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


class _Asked:
    """Looks whether columns that were asked for are empty for some images.

    Args:
        wanted: the columns.
    """

    _has: ClassVar[Mapping[str, str]] = {
        "label_column": "class_name",
        "group_column": "group",
        "caption_column": "caption",
    }

    def __init__(self, wanted: Wanted) -> None:
        self._columns = wanted.list_columns()
        self._empty = Counter[str]()
        self._first: dict[str, str] = {}

    def note(self, image: SourceImage) -> None:
        """Looks at one image."""
        for name in self._columns:
            if getattr(image, self._has[name]) is None:
                self._empty[name] += 1
                self._first.setdefault(name, image.key)

    def check(self, root: Path, count: int) -> None:
        """Refuses columns that are empty for some of so many images.

        Raises:
            SourceError: says for how many, and names the first.
        """
        for name, column in self._columns.items():
            if self._empty[name]:
                raise SourceError(
                    f"{root}: {name} {column!r} is empty for {self._empty[name]:,} of {count:,} "
                    f"images, such as {self._first[name]}: fill it, or take these images out"
                )


def list_classes(images: Sequence[SourceImage]) -> tuple[str, ...]:
    """Returns the class names present, sorted."""
    return tuple(sorted({image.class_name for image in images if image.class_name is not None}))
