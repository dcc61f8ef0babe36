"""Facts of a row: what it was asked to show and what its pixels measure, each with its rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.words import CLASS_NAME, MAGNIFICATION, MPP, WordsEntry
from factory.core.images import decode_image
from factory.core.stains import measure_attributes
from factory.data.channels import COLUMN as CHANNELS
from factory.data.provenance import Provenance, read_provenance
from factory.data.streams.control import Control
from factory.filters.stain import measure_plausibility
from factory.publish.annotations.marked import read_mpp
from factory.publish.words.known import Fact, Known
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.objects import read_object_facts

CONTRADICTED = "what was asked and what is measured differ"
NEAR = "too near to a cut point"
UNDEFINED = "the measure is not defined in the image"
NO_HE = "not the colours of H&E, which the measures are of"
CHANNELS_BESIDE = "a composite of channels: the measures are of H&E"
TOO_SMALL = "the image is too small to be measured"
OTHER_SCALE = "its scale is not known, or not that of the cut points"
TWICE = "the mask says it, by a little else"
BEYOND = "beyond what the measure tells apart"
UNNAMED = "asked, and no section of the words names it"
UNKNOWN = "asked, and the vocabulary has no such value"
JUDGES = {"class_margin": 0.0, "zero_shot_margin": 0.0, "class_agreement": 0.5}
"""Scores that judge the class, and the least of each that does not contradict it."""
DENSITY = "nuclear_density"
DECIMALS = 4
"""Of measures, so that last bits of another machine change no word."""
_LEAST_SIDE = 16
_NOTES = frozenset({"wording"})
"""Attributes of rows that are notes on their captions."""


def read_facts(row: Mapping[str, Any], split: str, lexicon: Lexicon) -> Known:
    """Reads all facts of a row; pixels are measured.

    Raises:
        SourceError: image or mask cannot be read.
        DamageError: the provenance is no JSON, or does not fit the mask.
    """
    known, record = Known(), read_provenance(row)
    pixels = decode_image(row["image"]["bytes"], str(row["sample_id"]))
    measured, why = measure(pixels, lexicon, row.get(CHANNELS) is not None)
    known.measures = {name: each for name, each in measured.items() if math.isfinite(each)}
    _read_class(row, known)
    _read_asked(record, lexicon, known)
    mpp = read_mpp(row, record)
    seen = Measured(measured, why, record.attributes, mpp)
    wrong = _read_levels(seen, lexicon, known)
    _read_numbers(seen, wrong, lexicon, known)
    _read_scale(mpp, lexicon, known)
    if (row.get("mask") or {}).get("bytes") and Control.name in record.condition:
        is_he = not why
        read_object_facts(row, split, lexicon.entry, pixels if is_he else None, known)
        _settle_shares(lexicon, known)
    return known


def measure(
    pixels: NDArray[np.uint8], lexicon: Lexicon, has_channels: bool = False
) -> tuple[dict[str, float], str]:
    """Returns measure -> number of DECIMALS decimals, or nothing and why.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        lexicon: what is said.
        has_channels: it is a composite of channels.
    """
    if has_channels:
        return {}, CHANNELS_BESIDE
    if min(pixels.shape[:2]) < _LEAST_SIDE:
        return {}, TOO_SMALL
    if measure_plausibility(pixels) < lexicon.entry.min_plausibility:
        return {}, NO_HE
    found = measure_attributes(np.ascontiguousarray(pixels)[None])
    return {name: round(float(each[0]), DECIMALS) for name, each in found.items()}, ""


def _read_class(row: Mapping[str, Any], known: Known) -> None:
    name = row.get(CLASS_NAME)
    if name is None:
        return
    judged = {
        score: value
        for score, value in (row.get("scores") or {}).items()
        if score.rpartition(".")[2] in JUDGES and value is not None and math.isfinite(value)
    }
    least = {score: JUDGES[score.rpartition(".")[2]] for score in judged}
    if any(value < least[score] for score, value in judged.items()):
        known.leave(CLASS_NAME, CONTRADICTED)
        return
    rule = "as asked; no filter judged it"
    more: dict[str, Any] = {}
    if judged:
        rule = "as asked; " + ", ".join(f"{each} >= {least[each]:g}" for each in sorted(judged))
        distance = min(value - least[score] for score, value in judged.items())
        more = {"judged": dict(sorted(judged.items())), "distance": round(distance, DECIMALS)}
    known.add(Fact(CLASS_NAME, name, "asked", rule, more=more))


def _read_asked(record: Provenance, lexicon: Lexicon, known: Known) -> None:
    entry = lexicon.entry
    for name, value in record.attributes.items():
        if name in entry.levels or name in _NOTES:
            continue
        if name not in entry.asked:
            known.leave(name, UNNAMED)
        elif value not in lexicon.attributes[name]:
            known.leave(name, UNKNOWN)
        else:
            known.add(Fact(name, value, "asked", "as asked; nothing measures it"))


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures of an image, or why there are none; what was asked of it; µm per pixel."""

    numbers: Mapping[str, float]
    why: str
    asked: Mapping[str, str]
    mpp: float | None

    def find_fault(self, measure: str, mpp: tuple[float, float] | None) -> str | None:
        """Says why nothing can be said by a measure; None: something can."""
        if not math.isfinite(self.numbers.get(measure, math.nan)):
            return self.why or UNDEFINED
        is_fit = mpp is None or (self.mpp is not None and mpp[0] <= self.mpp <= mpp[1])
        return None if is_fit else OTHER_SCALE


def _read_levels(seen: Measured, lexicon: Lexicon, known: Known) -> set[str]:
    """Reads levels; returns the measures that contradict what was asked."""
    wrong = set()
    for name, cut in lexicon.cuts.items():
        fault = seen.find_fault(cut.by, cut.mpp)
        if fault is not None:
            known.leave(name, fault)
            continue
        values, number = tuple(lexicon.attributes[name]), seen.numbers[cut.by]
        value = values[sum(number >= edge for edge in cut.edges)]
        asked = {"asked": seen.asked[name]} if name in seen.asked else {}
        if asked and asked["asked"] in values and asked["asked"] != value:
            known.leave(name, CONTRADICTED)
            wrong.add(cut.by)
            continue
        distance = round(min(abs(number - edge) for edge in cut.edges), DECIMALS)
        if distance < cut.margin:
            known.leave(name, NEAR)
            continue
        more = {"measure": cut.by, "number": number, "edges": list(cut.edges)}
        more |= {"margin": cut.margin, "distance": distance, **asked}
        rule = tell_level(cut.by, values, cut.edges, value)
        known.add(Fact(name, value, "measured", rule, "", more))
    return wrong


def _read_numbers(seen: Measured, wrong: AbstractSet[str], lexicon: Lexicon, known: Known) -> None:
    """Reads the numbers of measures that contradict nothing that was asked."""
    for name, rule in lexicon.entry.numbers.items():
        fault = seen.find_fault(rule.measure, rule.mpp)
        number = seen.numbers.get(rule.measure, math.nan)
        if fault is None and rule.measure in wrong:
            fault = CONTRADICTED
        if fault is None and rule.range and not rule.range[0] <= number <= rule.range[1]:
            fault = BEYOND
        if fault is not None:
            known.leave(name, fault)
            continue
        said = f"{number * rule.times:.{rule.decimals}f}"
        told = f"{rule.measure} x {rule.times:g}, rounded to {rule.decimals} decimals"
        more = {"measure": rule.measure, "number": number}
        known.add(Fact(name, said, "measured", told, rule.unit, more))


def _settle_shares(lexicon: Lexicon, known: Known) -> None:
    """Keeps one answer to how much nuclei cover, where a mask and the pixels both give one."""
    entry = lexicon.entry
    asked = [
        what
        for what, fact in known.facts.items()
        if what.startswith("area:") and fact.more["of"] in entry.nuclei
    ]
    margins = [cut.margin for cut in lexicon.cuts.values() if cut.by == DENSITY]
    for name, rule in entry.numbers.items():
        if rule.measure != DENSITY or name not in known.facts or not asked:
            continue
        total = sum(known.facts[what].more["number"] for what in asked)
        apart = abs(total - known.facts[name].more["number"])
        if apart >= max(margins, default=0.0):
            for what in (name, *asked):
                del known.facts[what]
                known.leave(what, CONTRADICTED)
            return
        del known.facts[name]
        known.leave(name, TWICE)


def tell_level(by: str, values: Sequence[str], edges: Sequence[float], value: str) -> str:
    """Says between which cut points a measure lies, as `0.2 <= nuclear_density < 0.36`."""
    place = values.index(value)
    low = f"{edges[place - 1]:g} <= " if place else ""
    high = f" < {edges[place]:g}" if place < len(edges) else ""
    return f"{low}{by}{high}"


def _read_scale(mpp: float | None, lexicon: Lexicon, known: Known) -> None:
    entry = lexicon.entry
    if mpp is None:
        return
    known.add(Fact(MPP, round(mpp, DECIMALS), "asked", "asked, else of the model", "µm per pixel"))
    if not entry.magnifications:
        return
    name, nominal = min(entry.magnifications.items(), key=lambda each: abs(math.log(mpp / each[1])))
    within = round(abs(mpp / nominal - 1), DECIMALS)
    if within > entry.magnification_within:
        known.leave(MAGNIFICATION, NEAR)
        return
    rule = f"{mpp:g} µm per pixel is within {entry.magnification_within:g} of {nominal:g}"
    more = {"number": round(mpp, DECIMALS)}
    more |= {"distance": round(entry.magnification_within - within, DECIMALS)}
    known.add(Fact(MAGNIFICATION, name, "asked", rule, "", more))


def list_tested(
    facts: Mapping[str, Mapping[str, Any]], entry: WordsEntry
) -> Iterator[tuple[str, str]]:
    """Yields (what, value) of the facts of a row that yes/no questions are about."""
    tested = {each.about for each in entry.all_questions if each.type == "yes/no"}
    for what, fact in facts.items():
        if what.partition(":")[0] in tested:
            yield what, str(fact["value"])
