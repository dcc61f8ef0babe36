"""`mask_agreement`: rejects images whose nuclei lie elsewhere than the mask asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from factory.catalog.entries import ClassName, Fraction
from factory.core.errors import FilterError, SourceError
from factory.core.late import NDArray, np
from factory.core.yaml.messages import advise
from factory.data.records import Condition, Sample
from factory.data.streams import Control
from factory.filters.base import Filter, FilterSettings, Score, Scores
from factory.filters.check import FilterCheck


class MaskAgreementFilter(Filter):
    """Scores `mask_dice`: how well nuclei found in the image agree with the mask asked for.

    Dice's coefficient 2 |A and B| / (|A| + |B|) (Dice 1945) of A, the pixels that the mask marks as
    one of `names`, and B, the nuclei that a simple segmenter finds: the haematoxylin of a colour
    deconvolution above the image's own threshold (Otsu 1979, within bounds; `segment_nuclei`).
    That learned nothing, so no generator can have been taught by it; it finds what is dark and
    blue, so it judges masks of nuclei in H&E, not of glands or tissue. On the 132 test tiles of
    NuInsSeg (seven organs; Mahbod et al. 2024), whose masks were drawn by hand, Dice is 0.58 on
    average, 0.40 at the lower quartile, and 0.19 against the mask of another tile. 1 where neither
    has any. NaN without a mask in the condition: not applicable, accepted.
    """

    scores = (Score("mask_dice", at_least="min_dice", may_be_nan=True),)

    class Settings(FilterSettings):
        kind: Literal["mask_agreement"]
        names: tuple[ClassName, ...] | None = Field(
            None, min_length=1, description="of the palette, those that are nuclei; default: all"
        )
        min_dice: Fraction = Field(0.4, description="1: the same pixels")

    settings: Settings

    def check(self, check: FilterCheck) -> None:
        """Notes that no condition has a mask, or a block whose masks mark none of the names."""
        asked = self.settings.names or ()
        if Control.name not in check.streams:
            check.add("no condition has a mask: remove the filter, or ask by kind: mask")
        for marks in check.marks if asked else ():
            if not set(asked) & set(marks):
                known = advise(asked[0], marks)
                check.add(f"masks mark none of {', '.join(asked)}: {known}", "names")

    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns Dice in [0, 1]; NaN without a mask.

        Raises:
            FilterError: a mask that cannot be read, or that has none of `names` in its palette.
        """
        from factory.core.stains import segment_nuclei

        found = np.full(len(samples), np.nan)
        for row, (sample, condition) in enumerate(zip(samples, conditions, strict=True)):
            control = condition.get(Control)
            if control is not None:
                asked = self._find_asked(control, *sample.pixels.shape[1::-1])
                found[row] = compute_dice(asked, segment_nuclei(sample.pixels[None])[0])
        return {"mask_dice": found}

    def _find_asked(self, control: Control, width: int, height: int) -> NDArray[np.bool_]:
        """Returns (height, width) bool: what the mask marks as nuclei."""
        names = self.settings.names
        ids = [each for each, name in control.palette if names is None or name in names]
        if not ids:
            has = ", ".join(name for _, name in control.palette)
            raise FilterError(f"mask_agreement: names: none is in the palette, which has {has}")
        try:
            return np.isin(control.load(width, height), ids)
        except SourceError as error:
            raise FilterError(f"mask_agreement: {error}") from error


def compute_dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns 2 |A and B| / (|A| + |B|) of two masks (Dice 1945); 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
