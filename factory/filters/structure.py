"""`structure`: rejects translated images that do not show what their source shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from factory.core.errors import FilterError, SourceError
from factory.core.late import np
from factory.data.records import Condition, Sample
from factory.data.streams import Source
from factory.filters.base import Filter, FilterSettings, Score, Scores
from factory.filters.check import FilterCheck


class StructureFilter(Filter):
    """Scores how much of its source's structure a translated image has.

    `haematoxylin_correlation`: Pearson's, of the haematoxylin of a colour deconvolution: nuclei
    where nuclei are; for H&E to H&E. `structural_similarity`: SSIM of grey values (Wang et al.
    2004), for any stains. NaN without a source in the condition, and the correlation where an image
    has the same haematoxylin everywhere: not applicable, accepted.
    """

    scores = (
        Score("haematoxylin_correlation", at_least="min_correlation", may_be_nan=True),
        Score("structural_similarity", at_least="min_similarity", may_be_nan=True),
    )

    class Settings(FilterSettings):
        kind: Literal["structure"]
        min_correlation: float | None = Field(
            0.7, ge=-1.0, le=1.0, description="of haematoxylin; null where a stain has none"
        )
        min_similarity: float | None = Field(None, ge=-1.0, le=1.0, description="1: the same image")

    def check(self, check: FilterCheck) -> None:
        """Notes that no condition has a source."""
        if Source.name not in check.streams:
            check.add("no condition has a source: remove the filter, or ask by kind: translate")

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns both in [-1, 1], or NaN.

        Raises:
            FilterError: a source that cannot be read, or images smaller than 11 px.
        """
        from factory.core.metrics.structure import compare_structure, correlate_haematoxylin

        found = {name: np.full(len(samples), np.nan) for name in self.score_names}
        for row, (sample, condition) in enumerate(zip(samples, conditions, strict=True)):
            source = condition.get(Source)
            if source is None:
                continue
            made = sample.pixels[None]
            if min(made.shape[1:3]) < 11:
                raise FilterError("structure: takes images of 11 px a side or more")
            try:
                real = source.load(*sample.pixels.shape[1::-1])[None]
            except SourceError as error:
                raise FilterError(f"structure: {error}") from error
            found["haematoxylin_correlation"][row] = correlate_haematoxylin(made, real)[0]
            found["structural_similarity"][row] = compare_structure(made, real)[0]
        return found
