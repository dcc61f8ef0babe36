"""Sums up one reading: a row of hits, ratings or choices for each reader, and what follows."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError, InputError
from factory.core.stats.agreement import (
    compute_cohen_kappa,
    compute_fleiss_kappa,
    count_answers,
    cross_answers,
)
from factory.core.stats.intervals import Interval, compute_wilson
from factory.core.stats.readers import (
    combine_readers,
    combine_shares,
    compare_areas,
    compare_primes,
    compute_d_prime,
)
from factory.data.review.answers import MOST_CONFIDENT, Answer, Case, Reader, Reading
from factory.data.review.store import ReviewStore
from factory.evaluate.base import Context
from factory.evaluate.image_sets import list_set
from factory.evaluate.readers import Readers

Metric = dict[str, Any]
Metrics = dict[str, Metric]
BY_ORIGIN = ("turing", "label")
"""Studies whose real and synthetic images are told apart in the result."""
LEAST = 20
"""Cases of a reader below which a result says so."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the readers of one reading said.

    Attributes:
        reading: what was asked.
        cases: by id.
        given: label of a reader, by number and role -> case -> answer.
        roles: role -> readers.
    """

    reading: Reading
    cases: Mapping[str, Case]
    given: Mapping[str, Mapping[str, Answer]]
    roles: Mapping[str, int]

    @property
    def common(self) -> list[str]:
        """Cases that all readers answered, sorted."""
        return sorted(set.intersection(*(set(each) for each in self.given.values())))

    def split(self, tell: Callable[[Case], str | None]) -> "dict[str, Answers]":
        """Returns the answers on cases of which the same is told, by that; None: of none."""
        names = {case: tell(each) for case, each in self.cases.items()}
        parts = {}
        for name in sorted({each for each in names.values() if each is not None}):
            given = {
                reader: {case: each for case, each in found.items() if names[case] == name}
                for reader, found in self.given.items()
            }
            part = replace(self, given={reader: each for reader, each in given.items() if each})
            if part.given and part.common:
                parts[name] = part
        return parts


def measure(settings: Readers.Settings, context: Context) -> dict[str, Any]:
    """Sums up a reading of a run.

    Raises:
        InputError: nobody answered.
        EvaluationError: no case that all readers answered.
    """
    found = read_answers(ReviewStore(settings.synthetic), settings.study)
    context.say(f"summing up {sum(map(len, found.given.values())):,} answers")
    images = list_set(settings.synthetic)
    return {
        "data": [images.describe_data()],
        "settings": {"seed": found.reading.seed, "size": found.reading.size},
        **sum_up(found),
        "warnings": list_warnings(found, {each for each in images.sample_ids if each}),
    }


def read_answers(store: ReviewStore, study: str | None) -> Answers:
    """Reads the answers of the last reading of a kind; None: of any.

    Raises:
        InputError: nobody answered.
    """
    people = {each.number: each for each in store.list_readers()}
    for reading in reversed(store.list_readings()):
        answers = store.list_answers(reading.id) if study in (None, reading.kind) else {}
        if answers:
            cases = {case.id: case for case in store.list_cases(reading.id)}
            given = {
                _name(place, people[number]): {each.case: each for each in found}
                for place, (number, found) in enumerate(sorted(answers.items()), 1)
            }
            roles = Counter(people[number].role for number in answers)
            return Answers(reading, cases, given, dict(sorted(roles.items())))
    asked = f" on a {study}" if study else ""
    raise InputError(f"{store.path}: nobody has answered{asked}: factory review first")


def _name(place: int, reader: Reader) -> str:
    return f"{place} ({reader.role})"


def sum_up(found: Answers) -> dict[str, Any]:
    """Returns figures of all readers, of each, and by class and origin.

    Raises:
        EvaluationError: no case that all readers answered.
    """
    if not found.common:
        raise EvaluationError("no case that all readers answered: let them go on")
    kind = found.reading.kind
    by_class = found.split(lambda case: case.class_name)
    by_origin = found.split(lambda case: case.images[0].origin) if kind in BY_ORIGIN else {}
    each_reader = {name: replace(found, given={name: a}) for name, a in found.given.items()}
    chance = {"turing": 0.5, "pair": 0.5, "label": 1 / max(1, len(found.reading.classes))}
    return {
        "study": kind,
        "chance": chance.get(kind),
        "who": {
            "roles": found.roles,
            "cases": len(found.cases),
            "answers": sum(map(len, found.given.values())),
            "common": len(found.common),
            "blind": _tell_blind(found.reading),
            "sets": list(found.reading.names),
        },
        "overall": _measure_all(found),
        "by_reader": {name: _measure_all(part) for name, part in each_reader.items()},
        "by_class": {name: _measure_share(part) for name, part in by_class.items()},
        "by_origin": {name: _measure_share(part) for name, part in by_origin.items()},
        "reasons": count_reasons(found),
    }


def _measure_all(found: Answers) -> Metrics:
    metrics = _measure_share(found)
    if found.reading.kind == "turing":
        metrics |= _measure_detection(found)
    if len(found.given) > 1:
        metrics |= _measure_agreement(found)
    seconds = [each.seconds for given in found.given.values() for each in given.values()]
    metrics["seconds"] = {"value": round(statistics.median(seconds), 2)}
    return metrics


def _measure_share(found: Answers) -> Metrics:
    """Returns the share of hits: right answers, accepted images, or the first set preferred."""
    name = {"review": "accepted", "pair": "preferred"}.get(found.reading.kind, "accuracy")
    hits = np.array(
        [[_is_hit(found.cases[case], given[case]) for case in found.common]
         for given in found.given.values()],
        np.float64,
    )  # fmt: skip
    return {name: _round(combine_shares(hits))}


def _is_hit(case: Case, answer: Answer) -> bool:
    if answer.verdict is not None:
        return answer.verdict == "accept" and answer.class_name in (None, case.class_name)
    if answer.choice in ("left", "right"):
        return case.images[0 if answer.choice == "left" else 1].source == case.truth
    return (answer.choice or answer.class_name) == case.truth


def _measure_detection(found: Answers) -> Metrics:
    is_synthetic = np.array([found.cases[case].truth == "synthetic" for case in found.common])
    if min(is_synthetic.sum(), (~is_synthetic).sum()) < 2:
        return {}
    ratings = np.array(
        [[_rate(given[case]) for case in found.common] for given in found.given.values()]
    )
    areas, covariance = compare_areas(ratings, is_synthetic)
    area = combine_readers(areas, covariance)
    if area.low == area.high:  # all readers tell all apart: DeLong has no spread to measure
        area = compute_wilson(area.mean, float(min(is_synthetic.sum(), (~is_synthetic).sum())))
    prime = combine_readers(*compare_primes(ratings > 0, is_synthetic))
    if len(ratings) == 1:
        prime = compute_d_prime(is_synthetic, ratings[0] > 0)
    area = Interval(area.mean, max(0.0, area.low), min(1.0, area.high))
    return {"area": _round(area), "d_prime": _round(prime)}


def _rate(answer: Answer) -> float:
    """Returns how sure a reader is that an image is synthetic: -3 to 3, never 0."""
    sign = 1 if answer.choice == "synthetic" else -1
    return float(sign * (answer.confidence or MOST_CONFIDENT))


def _measure_agreement(found: Answers) -> Metrics:
    said = [{case: _name_answer(found.cases[case], each) for case, each in given.items()}
            for given in found.given.values()]  # fmt: skip
    if len(said) == 2:
        table: NDArray[np.int64] = cross_answers(said[0], said[1])
        kappa, name = compute_cohen_kappa(table) if table.sum() else None, "Cohen's kappa"
    else:
        kappa, name = compute_fleiss_kappa(count_answers(said)), "Fleiss' kappa"
    if kappa is None:
        refused = "all answers are one and the same, so that chance alone agrees always"
        return {name: {"value": None, "refused": refused}}
    return {name: _round(kappa)}


def _name_answer(case: Case, answer: Answer) -> str:
    if answer.choice in ("left", "right"):
        return case.images[0 if answer.choice == "left" else 1].source
    return str(answer.verdict or answer.choice or answer.class_name)


def _tell_blind(reading: Reading) -> str:
    if reading.asks.is_study:
        return "blinded to origin and class, in an order of each reader's own"
    shown = "not shown" if reading.blind else "shown"
    return f"knew that the images were of this run; the class asked for was {shown}"


def list_warnings(found: Answers, present: set[str]) -> list[str]:
    """Returns what makes the figures weak."""
    warnings = []
    fewest = min(map(len, found.given.values()))
    if len(found.given) == 1:
        warnings.append("ONE READER: intervals are over cases alone, and say nothing of others")
    if fewest < LEAST:
        warnings.append(f"FEW CASES: a reader answered {fewest}, fewer than {LEAST}")
    left = len(found.cases) - len(found.common)
    if left:
        warnings.append(f"{left} of {len(found.cases)} cases were not answered by all readers")
    synthetic = {
        image.key
        for case in found.cases.values()
        for image in case.images
        if image.origin == "synthetic"
    }
    gone = len(synthetic - present) if synthetic & present else 0
    if gone and found.reading.kind != "pair":
        warnings.append(f"{gone} of the synthetic images shown are not accepted any more")
    return warnings


def _round(interval: Interval) -> Metric:
    return {
        "value": round(interval.mean, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def count_reasons(found: Answers) -> Metrics:
    """Returns how often each reason of a rejection was given, most first."""
    reasons = Counter(
        each.reason for given in found.given.values() for each in given.values() if each.reason
    )
    return {reason: {"value": count} for reason, count in reasons.most_common()}
