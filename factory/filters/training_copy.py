"""`training_copy`: rejects images that copy their reference or another named real image."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import FilterError, SourceError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.thumbnails import DIM, REVISION, compare_all, describe_images
from factory.data.images import SourceImage, fit_image, list_images
from factory.data.records import Condition, Sample, Verdict
from factory.data.streams import Reference
from factory.filters.base import Surroundings
from factory.filters.settings import TrainingCopyFilter

Size = tuple[int, int]


class TrainingCopyJudge:
    """Scores `copy_similarity`: the largest similarity to the images that must not be copied.

    Those are the condition's own reference, fitted as the generator saw it, and every image of
    `images` and of `held_out`, both at its own scale (centre crop) and as a whole (resized).
    Similarity is that of `factory.core.thumbnails`. Without any the score is NaN: not
    applicable, accepted.

    It finds exact, flipped, turned, recompressed and recoloured copies, not shifted ones or copied
    parts, and it knows nothing of a generator's training data unless `images` names it.
    """

    kind: ClassVar[str] = "training_copy"
    score_names: tuple[str, ...] = ("copy_similarity",)
    may_be_nan: ClassVar[frozenset[str]] = frozenset(score_names)
    thresholds: ClassVar[Mapping[str, str]] = {"max_similarity": "copy_similarity"}

    def __init__(self, settings: TrainingCopyFilter, surroundings: Surroundings) -> None:
        self.settings = settings
        named = (("images", settings.images), ("held_out", settings.held_out))
        self._roots = {field: surroundings.base / path for field, path in named if path is not None}
        self._listed: dict[str, tuple[SourceImage, ...]] = {}
        self._sets: dict[Size, NDArray[np.float32]] = {}
        self._references: dict[tuple[str, str, Size], NDArray[np.float32]] = {}
        self._digests: dict[str, str] = {}

    def score(
        self, samples: Sequence[Sample], conditions: Sequence[Condition]
    ) -> Mapping[str, NDArray[np.float64]]:
        """Returns the similarity in [-1, 1], or NaN where there is nothing to compare with.

        Raises:
            FilterError: a real image cannot be read any more.
        """
        found = np.full(len(samples), np.nan)
        sizes = [sample.pixels.shape[:2] for sample in samples]
        for height, width in dict.fromkeys(sizes):
            rows = [i for i, size in enumerate(sizes) if size == (height, width)]
            queries = describe_images(np.stack([samples[i].pixels for i in rows]))
            try:
                real = self._describe_set((height, width))
                own = [
                    self._describe_reference(conditions[i].get(Reference), (height, width))
                    for i in rows
                ]
            except SourceError as error:
                raise FilterError(f"training_copy: {error}") from error
            if len(real):
                found[rows] = compare_all(queries, real)
            for row, query, reference in zip(rows, queries, own, strict=True):
                if reference is not None:
                    found[row] = np.fmax(found[row], compare_all(query[None], reference)[0])
        return {"copy_similarity": found}

    def decide(self, scores: Mapping[str, float]) -> Verdict:
        """Rejects more similarity than `max_similarity`; NaN is accepted."""
        similarity, most = scores["copy_similarity"], self.settings.max_similarity
        if similarity > most:
            return Verdict(False, self.kind, f"copy_similarity {similarity:g} > {most:g}")
        return Verdict(True)

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold, revision, and digests of the real images compared with.

        Raises:
            FilterError: a real image cannot be read.
        """
        for field in self._roots.keys() - self._digests.keys():
            try:
                hashes = sorted(hash_bytes(image.read_bytes()) for image in self._list(field))
            except SourceError as error:
                raise FilterError(f"training_copy: {error}") from error
            self._digests[field] = compute_digest("images", hashes)
        described = {
            **self.settings.model_dump(mode="json", exclude={"held_out", "image_column"}),
            "revision": REVISION,
            "images_sha256": self._digests.get("images"),
        }
        if self.settings.held_out is not None:
            described["held_out"] = str(self.settings.held_out)
            described["held_out_sha256"] = self._digests["held_out"]
        return described

    def _list(self, field: str) -> tuple[SourceImage, ...]:
        if field not in self._listed:
            self._listed[field] = list_images(
                self._roots[field], image_column=self.settings.image_column
            )
        return self._listed[field]

    def _describe_set(self, size: Size) -> NDArray[np.float32]:
        """Returns (M, 256) float32 of the named images at one size; kept in memory."""
        if size not in self._sets:
            images = (image for field in self._roots for image in self._list(field))
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
