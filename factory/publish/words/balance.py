"""Which yes/no questions are asked, as many of yes as of no, and what a blind guess scores."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.hashing import compute_digest, derive_seed

YES, NO = "yes", "no"
EITHER = "either"
"""Truth of what can be asked in both ways, as of two images."""
_MASK = (1 << 64) - 1
_BLIND = ("yes/no", "choice", "open", "number")
"""Kinds whose answers repeat."""


def draw(seed: int, name: str, *what: str | int, among: int) -> int:
    """Returns a place in [0, among), which follows from seed, row and what is drawn alone."""
    return derive_seed(seed, "words", name, *what) % among


class Balance:
    """Chooses of each split, fact and value as many rows of which it holds as of which it does not.

    Rows are told by `add`, then `settle` counts, then `is_asked` answers. Chosen are the rows with
    the lowest hashes, so that neither their order nor other facts matter.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows: dict[tuple[str, str], tuple[array[int], array[int]]] = {}
        self._codes: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._limits: dict[tuple[str, str, str, str], int] = {}
        self.counts: dict[tuple[str, str, str], dict[str, int]] = {}

    def add(self, split: str, name: str, about: str, value: str) -> None:
        """Notes the value of a fact of a row."""
        hashes, values = self._rows.setdefault((split, about), (array("Q"), array("L")))
        hashes.append(self._hash(name))
        codes = self._codes[about]
        values.append(codes.setdefault(value, len(codes)))

    @property
    def abouts(self) -> set[str]:
        """The facts that were noted."""
        return set(self._codes)

    def settle(self, untested: Mapping[str, Iterable[str]]) -> None:
        """Decides how many are asked of each value; `untested` are the values that none names."""
        for (split, about), (hashes, values) in self._rows.items():
            hashed = np.frombuffer(hashes, np.uint64)
            coded = np.frombuffer(values, np.dtype(f"u{values.itemsize}"))
            never = set(untested.get(about, ()))
            for value, code in self._codes[about].items():
                if value == EITHER:
                    self._split(split, about, hashed)
                elif value not in never:
                    self._match(split, about, value, hashed, coded == code)
        self._rows.clear()

    def is_asked(self, split: str, name: str, about: str, value: str, truth: str) -> bool:
        """Whether the row is asked about a value, where `truth` answers it."""
        limit = self._limits.get((split, about, value, truth))
        if limit is None:
            return False
        return _mix_one(self._hash(name) ^ self._key(split, about, value, truth)) <= limit

    def choose(self, split: str, name: str, about: str) -> str | None:
        """Returns the answer that a question is to have which can be asked in both ways."""
        place = _mix_one(self._hash(name) ^ self._key(split, about, EITHER, EITHER))
        return next(
            (
                truth
                for truth in (YES, NO)
                if (limit := self._limits.get((split, about, EITHER, truth))) is not None
                and place <= limit
            ),
            None,
        )

    def _match(
        self,
        split: str,
        about: str,
        value: str,
        hashed: NDArray[np.uint64],
        holds: NDArray[np.bool_],
    ) -> None:
        count = int(min(holds.sum(), (~holds).sum()))
        self._note(split, about, value, count, int(holds.sum()), int((~holds).sum()))
        for truth, rows in ((YES, holds), (NO, ~holds)):
            if count:
                places = _mix(hashed[rows] ^ np.uint64(self._key(split, about, value, truth)))
                self._limits[split, about, value, truth] = int(np.sort(places)[count - 1])

    def _split(self, split: str, about: str, hashed: NDArray[np.uint64]) -> None:
        half = len(hashed) // 2
        self._note(split, about, EITHER, half, len(hashed), len(hashed))
        if half:
            places = np.sort(_mix(hashed ^ np.uint64(self._key(split, about, EITHER, EITHER))))
            self._limits[split, about, EITHER, YES] = int(places[half - 1])
            self._limits[split, about, EITHER, NO] = int(places[2 * half - 1])

    def _note(self, split: str, about: str, value: str, asked: int, yes: int, no: int) -> None:
        found = {"yes": asked, "no": asked, "could_be_yes": yes, "could_be_no": no}
        self.counts[split, about, value] = found

    def _hash(self, name: str) -> int:
        return derive_seed(self._seed, "words balance", name)

    def _key(self, *what: str) -> int:
        return int(compute_digest("words balance", list(what))[:16], 16)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mixes bits as splitmix64 does (Steele et al. 2014, OOPSLA)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _mix_one(value: int) -> int:
    return int(_mix(np.array([value & _MASK], np.uint64))[0])


class Blind:
    """What a guesser scores who sees the questions and no image: the likeliest answer to each.

    Yes/no is told apart by the value asked about; of a choice, the better of the likeliest text and
    the likeliest letter counts. Boxes have no likeliest answer.
    """

    def __init__(self) -> None:
        self._answers: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        self._letters: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, about: str, tested: str, answer: str, letter: str) -> None:
        """Notes an answer: its value, and the letter of a choice."""
        self._answers[kind, about, tested][answer if kind in _BLIND else ""] += 1
        if letter:
            self._letters[kind, about][letter] += 1

    def count(self) -> list[dict[str, Any]]:
        """Returns questions, share of yes, and accuracy of the blind guess, by kind and fact."""
        found = []
        for kind, about in sorted({(kind, about) for kind, about, _ in self._answers}):
            groups = [each for key, each in self._answers.items() if key[:2] == (kind, about)]
            total = sum(each.total() for each in groups)
            right = sum(max(each.values()) for each in groups)
            right = max(right, max(self._letters[kind, about].values(), default=0))
            yes = sum(each[YES] for each in groups)
            told: dict[str, Any] = {"kind": kind, "about": about, "questions": total}
            told |= {"yes": round(yes / total, 4)} if kind == "yes/no" else {}
            told["blind"] = round(right / total, 4) if kind in _BLIND else None
            found.append(told)
        return found
