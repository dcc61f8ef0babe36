"""Whether what is varied moves alone: every other measure beside the noise of the measure."""

from collections.abc import Mapping, Sequence
from typing import Any

from factory.evaluate.robustness.measures import ATTRIBUTES, READS_STAIN


def judge_alone(
    measures: Mapping[str, Mapping[str, Any]], own: Sequence[str], is_colour: bool
) -> dict[str, Any]:
    """Returns which of the other attributes move, which stay, and which may be either.

    One stays where the interval of its spread lies within its noise (what saving as JPEG changes
    in one image); it moves where it does by the permutation test and the interval lies above the
    noise. What is read above a level of haematoxylin is not judged where the stain is what varies:
    the same, normalised, is. Tissue and open space are judged as they are, and normalised.

    Args:
        measures: name -> response, with `noise` and `moves`.
        own: the measures of what is varied.
        is_colour: whether that is the stain.
    """
    left_out = {*own, *(READS_STAIN if is_colour else ())}
    found: dict[str, list[str]] = {"moving": [], "still": [], "undecided": []}
    for name in (each for each in ATTRIBUTES if each not in left_out):
        one = measures[name]
        noise, ends = one["noise"], one["spread_interval"]
        place = "undecided"
        if one["families"] and ends["high"] is not None and noise is not None:
            if ends["high"] <= noise:
                place = "still"
            elif one["moves"] and ends["low"] > noise:
                place = "moving"
        found[place].append(name)
    answer = "no" if found["moving"] else "undecided" if found["undecided"] else "yes"
    return {"answer": answer, **found}
