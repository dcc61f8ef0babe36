"""`training_copy`: rejects images that copy their reference or another named real image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.catalog.entries import Fraction
from factory.core.errors import FilterError, SourceError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.core.thumbnails import DIM, REVISION, compare_all, describe_images
from factory.data.images import SourceImage, fit_image
from factory.data.images.fields import ImageColumn
from factory.data.records import Condition, Sample
from factory.data.splits import find_leaks
from factory.data.streams import Reference
from factory.filters.base import Filter, FilterSettings, RealImages, Score, Scores
from factory.filters.batches import Size, group_by_size
from factory.filters.check import FilterCheck
from factory.models.session import Session


class TrainingCopyFilter(Filter):
    """Scores `copy_similarity`: the largest similarity to the images that must not be copied.

    Those are the condition's own reference, fitted as the generator saw it, and every image of
    `images` and of `held_out`, both at its own scale (centre crop) and as a whole (resized).
    Similarity is that of `factory.core.thumbnails`. Without any the score is NaN: not
    applicable, accepted.

    It finds exact, flipped, turned, recompressed and recoloured copies, not shifted ones or copied
    parts, and it knows nothing of a generator's training data unless `images` names it.
    """

    scores = (Score("copy_similarity", at_most="max_similarity", may_be_nan=True),)
    likeness = "copy_similarity"
    revision = REVISION

    class Settings(FilterSettings):
        kind: Literal["training_copy"]
        max_similarity: Fraction = 0.95
        images: Path | None = Field(
            None, description="real set to compare with, besides references"
        )
        held_out: Path | None = Field(
            None,
            description="test set: not to be copied either, nor shared with what the recipe uses",
        )
        image_column: ImageColumn = None

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._sets: dict[Size, NDArray[np.float32]] = {}
        self._references: dict[tuple[str, str, Size], NDArray[np.float32]] = {}

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """The sets that must not be copied."""
        settings = self.settings
        named = (("images", settings.images), ("held_out", settings.held_out))
        columns = {"image_column": settings.image_column}
        return tuple(
            RealImages(field, self.context.resolve(path), field == "held_out", columns)
            for field, path in named
            if path is not None
        )

    def check(self, check: FilterCheck) -> None:
        """Notes missing images, and used ones that the held-out set has too."""
        if not self.real_images and not check.varied:
            check.add("has nothing to compare with: set images, or remove the filter")
        for real in self.real_images if check.check_files else ():
            try:
                real.list(self.context)
                if real.is_held_out:
                    self._check_held_out(check, real)
            except SourceError as error:
                check.add(str(error), real.field)

    def _check_held_out(self, check: FilterCheck, real: RealImages) -> None:
        """What conditions vary and other filters compare with shares no image or patient with it.

        Raises:
            SourceError: a group column that the held-out set does not have.
        """
        for used in (*check.varied, *check.judged_with):
            both = {**real.columns, **used.columns}
            held_out = replace(real, columns=both).list(self.context)
            leaks = find_leaks(used.list(), held_out, self.context.images)
            if leaks:
                path = self.settings.held_out
                check.add(f"{used.name} uses images of {path}: {leaks}: take others", "held_out")

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns the similarity in [-1, 1], or NaN where there is nothing to compare with.

        Raises:
            FilterError: a real image cannot be read any more.
        """
        found = np.full(len(samples), np.nan)
        for size, rows in group_by_size(sample.pixels for sample in samples).items():
            queries = describe_images(np.stack([samples[i].pixels for i in rows]))
            try:
                real = self._describe_set(size)
                own = [self._describe_reference(conditions[i].get(Reference), size) for i in rows]
            except SourceError as error:
                raise FilterError(f"training_copy: {error}") from error
            if len(real):
                found[rows] = compare_all(queries, real)
            for row, query, reference in zip(rows, queries, own, strict=True):
                if reference is not None:
                    found[row] = np.fmax(found[row], compare_all(query[None], reference)[0])
        return {"copy_similarity": found}

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold, revision, and digests of the real images compared with.

        Raises:
            FilterError: a real image cannot be read.
        """
        digests: dict[str, str] = {}
        for real in self.real_images:
            try:
                hashes = sorted(map(self.context.images.hash_bytes, real.list(self.context)))
            except SourceError as error:
                raise FilterError(f"training_copy: {error}") from error
            digests[real.field] = compute_digest("images", hashes)
        described = {
            **self.settings.model_dump(mode="json", exclude={"held_out", "image_column"}),
            "revision": self.revision,
            "images_sha256": digests.get("images"),
        }
        if self.settings.held_out is not None:
            described["held_out"] = str(self.settings.held_out)
            described["held_out_sha256"] = digests["held_out"]
        return described

    def _describe_set(self, size: Size) -> NDArray[np.float32]:
        """Returns (M, 256) float32 of the named images at one size; kept in memory."""
        if size not in self._sets:
            images = (image for real in self.real_images for image in real.list(self.context))
            rows = [_describe_fitted(image, size) for image in images]
            self._sets[size] = np.concatenate([np.zeros((0, DIM), np.float32), *rows])
        return self._sets[size]

    def _describe_reference(
        self, reference: Reference | None, size: Size
    ) -> NDArray[np.float32] | None:
        if reference is None:
            return None
        key = (reference.sha256, reference.fit, size)
        if key not in self._references:
            self._references[key] = _describe_fitted(reference.image, size, (reference.fit,))
        return self._references[key]


def _describe_fitted(
    image: SourceImage, size: Size, fits: tuple[str, ...] = ("crop", "resize")
) -> NDArray[np.float32]:
    """Returns (1 or 2, 256) float32: an image fitted to (height, width) in the given ways."""
    pixels = image.read_pixels()
    height, width = size
    fitted = [fit_image(pixels, width, height, fit) for fit in fits]
    if len(fitted) > 1 and pixels.shape[:2] == size:
        fitted = fitted[:1]
    return describe_images(np.stack(fitted)).astype(np.float32)
