"""`domain_reached`: rejects translated images that still look like their source's domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.core.errors import FilterError, SourceError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.core.metrics.domains import Passage
from factory.data.images import SourceImage, check_fit, fit_image
from factory.data.images.fields import ImageColumn
from factory.data.records import Condition, Sample
from factory.data.shots import rank_shots
from factory.filters.base import FilterSettings, RealImages, Score, Scores
from factory.filters.batches import Size, group_by_size
from factory.filters.check import FilterCheck
from factory.filters.encoded import EncodedFilter
from factory.models.encoders import EncoderSpec
from factory.models.session import Session

_BLOCK = 64


class DomainReachedFilter(EncodedFilter):
    """Scores `domain_reached`: the share of the way from a source domain to a target domain.

    In an encoder's feature space, standardised within the domains: the projection of the image on
    the line from the mean of real source images to that of real target images, 0 at the one and 1
    at the other. Real images of either scatter around their mean, so look at their own shares
    before a threshold is chosen (`factory calibrate`). Never NaN.
    """

    scores = (Score("domain_reached", at_least="min_share"),)

    class Settings(FilterSettings):
        kind: Literal["domain_reached"]
        source: Path = Field(description="real images of the domain that is left")
        target: Path = Field(description="real images of the domain that is sought")
        encoder: EncoderSpec = Field("color-texture", min_length=1, description="image encoder")
        fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")
        limit: int = Field(500, ge=2, le=10_000, description="most real images used of each domain")
        seed: int = Field(0, ge=0, description="chooses them, where there are more")
        image_column: ImageColumn = None
        min_share: float = Field(0.3, ge=-10.0, le=10.0, description="1: the target's mean")

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._passages: dict[Size, Passage] = {}

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """Those of both domains."""
        settings, resolve = self.settings, self.context.resolve
        return tuple(
            RealImages(field, resolve(path), columns={"image_column": settings.image_column})
            for field, path in (("source", settings.source), ("target", settings.target))
        )

    def check(self, check: FilterCheck) -> None:
        """Notes domains that are missing or too small, and a missing encoder."""
        super().check(check)
        checker, settings = check.checker, self.settings
        for real in self.real_images if check.check_files else ():
            try:
                images = self._choose(real)
                if checker.pixels is not None:
                    read_size = self.context.images.read_size
                    check_fit(images, *checker.pixels, settings.fit, real.path, read_size)
            except SourceError as error:
                check.add(str(error), real.field)

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns the shares.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: real images that cannot be read or are alike in both domains, or the
                encoder failed.
        """
        found = np.empty(len(samples))
        for size, rows in group_by_size(sample.pixels for sample in samples).items():
            features = self.encode([samples[i].pixels for i in rows])
            found[rows] = self._find_passage(size).measure(features)
        return {"domain_reached": found}

    def describe(self) -> dict[str, Any]:
        """Returns kind, threshold, revision, encoder, and digests of the real images.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: a real image cannot be read.
        """
        digests = {}
        for real in self.real_images:
            hashes = sorted(map(self.context.images.hash_bytes, self._list_used(real)))
            digests[f"{real.field}_sha256"] = compute_digest("images", hashes)
        return {**super().describe(), **digests}

    def _choose(self, real: RealImages) -> list[SourceImage]:
        """Returns those that are used, equal ones once.

        Raises:
            SourceError: they cannot be read, or are fewer than two.
        """
        unique = {self.context.images.hash_bytes(each): each for each in real.list(self.context)}
        if len(unique) < 2:
            raise SourceError(f"{real.path}: a single image is no domain: add more")
        chosen = rank_shots(unique, self.settings.seed)[: self.settings.limit]
        return [unique[sha256] for sha256 in chosen]

    def _list_used(self, real: RealImages) -> list[SourceImage]:
        try:
            return self._choose(real)
        except SourceError as error:
            raise FilterError(f"domain_reached: {error}") from error

    def _find_passage(self, size: Size) -> Passage:
        """Returns the way between images of one size; kept in memory."""
        if size not in self._passages:
            source, target = (self._encode_all(real, size) for real in self.real_images)
            try:
                self._passages[size] = Passage(source, target)
            except ValueError as error:
                message = f"domain_reached: {error}: give other folders, or another encoder"
                raise FilterError(message) from error
        return self._passages[size]

    def _encode_all(self, real: RealImages, size: Size) -> NDArray[np.float32]:
        (height, width), images = size, self._list_used(real)
        blocks = []
        for start in range(0, len(images), _BLOCK):
            try:
                pixels = [each.read_pixels() for each in images[start : start + _BLOCK]]
            except SourceError as error:
                raise FilterError(f"domain_reached: {error}") from error
            fitted = [fit_image(each, width, height, self.settings.fit) for each in pixels]
            blocks.append(self.encode(np.stack(fitted)))
        return np.concatenate(blocks)
