"""Synthetic images of a study: accepted rows or first attempts of a run, or any images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.hashing import compute_digest
from factory.core.parquet import count_rows, read_parquet
from factory.data.folders import RUN_RECORD, RUN_SUMMARY
from factory.data.images import SourceImage, list_images
from factory.data.shots import ImageSet, make_set
from factory.data.varied import Varied, read_varied
from factory.engine.run_folder import RunFolder
from factory.engine.summary import read_summary
from factory.evaluate.measured import describe_data
from factory.recipe.judge_overlap import list_guides


@dataclass(frozen=True)
class Origin:
    """What a run folder tells of its images; all empty for images of other tools.

    Attributes:
        is_run: whether it is a run folder.
        models: ids of the models that made them.
        adapted: those of them that were sampled with adapters.
        filters: descriptions of the filters that chose them, and of what guided the sampling.
        catalogs: user catalog folders of its recipe.
    """

    is_run: bool = False
    models: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    filters: tuple[Mapping[str, Any], ...] = ()
    catalogs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SyntheticSet:
    """Synthetic images.

    Attributes:
        images: with their classes.
        references: the real image that each one varies.
        origins: what is known of their making.
        data: which sets they are: name, digest and number of images.
    """

    images: ImageSet
    references: tuple[Varied | None, ...]
    origins: tuple[Origin, ...]
    data: tuple[Mapping[str, Any], ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return self.images.class_names

    def choose(self, per_class: int | None, class_names: Sequence[str], seed: int) -> ImageSet:
        """Chooses images of each class by seed; fewer are the first of more.

        Args:
            per_class: of each class; None: all.
            class_names: which classes.
            seed: of the draw; another draw takes others, where there are more than asked for.
        """
        rows: list[int] = []
        for name in class_names:
            mine = self.images.list_rows(name)
            if per_class is not None:
                hashes = self.images.sha256s
                mine.sort(key=lambda row: compute_digest("synthetic", [seed, hashes[row], row]))
                mine = mine[:per_class]
            rows += mine
        return self.images.take(rows)


def read_synthetic(root: Path) -> SyntheticSet:
    """Reads accepted rows of a run folder, or all images of any other set with classes.

    Raises:
        SourceError: nothing there, or images without a class.
    """
    images = list_images(root)
    _check_classes(root, images)
    data = (describe_data(root, (image.path for image in images), len(images)),)
    if not (root / RUN_RECORD).is_file():
        return SyntheticSet(make_set(str(root), images), (None,) * len(images), (Origin(),), data)
    return SyntheticSet(
        make_set(str(root), images), read_varied(images), (read_origin(root),), data
    )


def read_first_attempts(root: Path) -> SyntheticSet | str:
    """Reads the first attempts of a run whatever their verdict, or says why they are not there.

    Raises:
        SourceError: an unfinished run, or images without a class.
    """
    if not (root / RUN_RECORD).is_file():
        return f"{root} is no run folder, so its rejected candidates are not known"
    found = list(list_images(root))
    if _count_rows(root / "rejected"):
        others = list_images(root / "rejected")
        if any(row["image"]["bytes"] is None for row in _read_rows(others[:1], ("image",))):
            return f"{root} kept the scores of rejected candidates only (output.keep_rejected)"
        found += others
    rows = _read_rows(found, ("attempt",))
    images = [image for image, row in zip(found, rows, strict=True) if row["attempt"] == 0]
    _check_classes(root, images)
    return SyntheticSet(make_set(str(root), images), read_varied(images), (read_origin(root),))


def join_sets(sets: Sequence[SyntheticSet]) -> SyntheticSet:
    """Returns several sets as one."""
    return SyntheticSet(
        ImageSet(
            ", ".join(each.images.root for each in sets),
            tuple(image for each in sets for image in each.images.images),
            tuple(sha for each in sets for sha in each.images.sha256s),
        ),
        tuple(reference for each in sets for reference in each.references),
        tuple(origin for each in sets for origin in each.origins),
        tuple(told for each in sets for told in each.data),
    )


def read_origin(root: Path) -> Origin:
    """Reads what a run folder tells of models, filters and recipe."""
    folder = RunFolder(str(root))
    try:
        summary, record = read_summary(folder), folder.require_run()
    except StoreError as error:
        raise SourceError(str(error)) from error
    if summary is None:
        raise SourceError(f"{root}: not finished: has no {RUN_SUMMARY}")
    makers = summary.makers
    return Origin(
        True,
        summary.models,
        tuple(sorted({each.model for each in makers if each.generator.adapters})),
        tuple(each for maker in makers for each in (*maker.filters, *list_guides(maker))),
        tuple(Path(each) for each in record.recipe["catalogs"]),
    )


def _check_classes(root: Path, images: Sequence[SourceImage]) -> None:
    without = next((image.key for image in images if image.class_name is None), None)
    if without is not None:
        raise SourceError(
            f"{root}: {without} has no class: a classifier learns from classes only; make the "
            "images with class or reference conditions"
        )


def _count_rows(folder: Path) -> int:
    """Returns the rows of a folder of parquet, 0 where it is not there."""
    return sum(count_rows(path) for path in folder.glob("*.parquet"))


def _read_rows(images: Sequence[SourceImage], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the columns of the parquet rows that images lie in, in their order."""
    tables: dict[Path, list[dict[str, Any]]] = {}
    for path in dict.fromkeys(image.path for image in images):
        try:
            tables[path] = read_parquet(path, columns).to_pylist()
        except StoreError as error:
            raise SourceError(f"no rows of a run there: {error}") from error
    return [tables[image.path][image.row or 0] for image in images]
