"""Synthetic images of a study: accepted rows or first attempts of a run, or any images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.hashing import compute_digest
from factory.core.parquet import count_rows
from factory.data.folders import tell_kind
from factory.data.images import SourceImage, iterate_rows, list_images
from factory.data.provenance import read_origin as read_told
from factory.data.shots import LabelledSet, make_set
from factory.data.varied import Varied, read_varied
from factory.engine.dataset import Dataset
from factory.evaluate.measured import describe_data
from factory.filters import EARLY
from factory.recipe.judge_overlap import list_guides


@dataclass(frozen=True)
class Origin:
    """What a run, or a copy of one, tells of its images; all empty for images of other tools.

    Attributes:
        is_run: whether it is a run at all.
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
        sources: hashes of files or pixels of all real images that rows tell they are made of.
        groups: hashes of the patients or slides of these.
    """

    images: LabelledSet
    references: tuple[Varied | None, ...]
    origins: tuple[Origin, ...]
    data: tuple[Mapping[str, Any], ...] = ()
    sources: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return self.images.class_names

    def choose(self, per_class: int | None, class_names: Sequence[str], seed: int) -> LabelledSet:
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
    told = (read_origin(root),), data, *_read_sources(images)
    return SyntheticSet(make_set(str(root), images), read_varied(images), *told)


def read_first_attempts(root: Path) -> SyntheticSet | str:
    """Reads the first attempts of a run whatever their verdict, or says why they are not there.

    Raises:
        SourceError: an unfinished run, or images without a class.
    """
    if not tell_kind(root).has_rows:
        return f"{root} is no run, nor a copy of one, so its rejected candidates are not known"
    found = list(list_images(root))
    if any(count_rows(path) for path in (root / "rejected").glob("*.parquet")):
        others = list_images(root / "rejected")
        if any(row["image"]["bytes"] is None for row in iterate_rows(others[:1], ("image",))):
            return f"{root} kept the scores of rejected candidates only (output.keep_rejected)"
        if any(row["rejected_by"] == EARLY for row in iterate_rows(others, ("rejected_by",))):
            return f"{root} stopped candidates part-way (early): their images are not whole"
        found += others
    rows = zip(found, iterate_rows(found, ("attempt",)), strict=True)
    images = [image for image, row in rows if row["attempt"] == 0]
    _check_classes(root, images)
    return SyntheticSet(make_set(str(root), images), read_varied(images), (read_origin(root),))


def join_sets(sets: Sequence[SyntheticSet]) -> SyntheticSet:
    """Returns several sets as one."""
    return SyntheticSet(
        LabelledSet(
            ", ".join(each.images.root for each in sets),
            tuple(image for each in sets for image in each.images.images),
            tuple(sha for each in sets for sha in each.images.sha256s),
        ),
        tuple(reference for each in sets for reference in each.references),
        tuple(origin for each in sets for origin in each.origins),
        tuple(told for each in sets for told in each.data),
        frozenset[str]().union(*(each.sources for each in sets)),
        frozenset[str]().union(*(each.groups for each in sets)),
    )


def _read_sources(images: Sequence[SourceImage]) -> tuple[frozenset[str], frozenset[str]]:
    """Returns hashes of the real images that rows are made of, and of their patients or slides.

    Raises:
        SourceError: a damaged file, or provenance that is no JSON.
    """
    sources, groups = set[str](), set[str]()
    try:
        for image, row in zip(images, iterate_rows(images, ("provenance",)), strict=True):
            if row.get("provenance"):
                origin = read_told(row, f"{image.path}#{image.row}")
                sources |= origin.sources
                groups |= set(origin.groups)
    except StoreError as error:
        raise SourceError(str(error)) from error
    return frozenset(sources), frozenset(groups)


def read_origin(root: Path) -> Origin:
    """Reads what a run, or a copy of one, tells of models, filters and recipe.

    Raises:
        SourceError: damaged records.
    """
    if not tell_kind(root).has_rows:
        return Origin()
    dataset = Dataset(str(root))
    try:
        recipe, summary = dataset.require_finished()
    except StoreError as error:
        raise SourceError(str(error)) from error
    makers = summary.makers
    return Origin(
        True,
        summary.models,
        tuple(sorted({each.model for each in makers if each.generator.adapters})),
        tuple(each.to_json() for maker in makers for each in (*maker.filters, *list_guides(maker))),
        tuple(Path(each) for each in recipe.catalogs),
    )


def _check_classes(root: Path, images: Sequence[SourceImage]) -> None:
    without = next((image.key for image in images if image.class_name is None), None)
    if without is not None:
        raise SourceError(
            f"{root}: {without} has no class: a classifier learns from classes only; make the "
            "images with class or reference conditions"
        )
