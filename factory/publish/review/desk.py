"""`Desk`: what readers are told of a reading, and where their answers go; knows no network."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factory.core.errors import DamageError, InputError, MismatchError, StoreError
from factory.core.hashing import compute_digest
from factory.data.artefact import describe_problem
from factory.data.review.answers import (
    MOST_CONFIDENT,
    REASONS,
    ROLES,
    AnswerFile,
    Case,
    Person,
    Reading,
    parse_answer,
)
from factory.data.review.store import ReviewStore
from factory.engine.dataset import DATA, REJECTED, Dataset

MEDIA = {"png": "image/png", "webp": "image/webp"}


class Desk:
    """Hands out the cases of one reading, and takes answers.

    Args:
        store: of the run folder.
        reading: that the store holds.
        dataset: that images of a review are read from.
        cases: those to show; None: all of the reading.
    """

    def __init__(
        self,
        store: ReviewStore,
        reading: Reading,
        dataset: Dataset,
        cases: tuple[Case, ...] | None = None,
    ) -> None:
        self.store, self.reading, self.dataset = store, reading, dataset
        chosen = store.list_cases(reading.id) if cases is None else cases
        is_study = reading.asks.is_study
        self._places = {} if is_study else dict(self._list_places())
        self.cases = {c.id: c for c in chosen if is_study or c.images[0].key in self._places}
        self.read_image = lru_cache(256)(self._read_image)

    def describe(self) -> dict[str, Any]:
        """Returns what the page needs to know of the reading; nothing that unblinds it."""
        reading, asks = self.reading, self.reading.asks
        return {
            "id": reading.id,
            "run": reading.run,
            "kind": reading.kind,
            "question": asks.question,
            "needs": asks.needs,
            "may": asks.may,
            "choices": asks.choices,
            "classes": reading.classes,
            "reasons": REASONS,
            "roles": ROLES,
            "confidence": MOST_CONFIDENT,
            "blind": reading.blind,
        }

    def list_cases(self, name: str) -> list[dict[str, Any]]:
        """Returns the cases in the order of a reader, which hangs on the name alone."""
        seed = self.reading.seed
        order = sorted(self.cases, key=lambda case: compute_digest("order", [seed, name, case]))
        return [self._tell(self.cases[case]) for case in order]

    def _tell(self, case: Case) -> dict[str, Any]:
        told: dict[str, Any] = {"id": case.id, "sides": len(case.images)}
        return told if self.reading.blind else {**told, "class_name": case.class_name}

    def enter(self, given: Any) -> dict[str, Any]:
        """Returns reader, cases and the answers that the reader gave before.

        Raises:
            InputError: no name, or no role.
            StoreError: it cannot be noted.
        """
        person = _parse_person(given)
        reader = self.store.enter(person.name, person.role)
        answers = self.store.list_answers(self.reading.id, reader.number).get(reader.number, [])
        return {
            "reader": reader.to_json(),
            "reading": self.describe(),
            "cases": self.list_cases(reader.name),
            "answers": {
                each.case: each.model_dump(mode="json", exclude_none=True) for each in answers
            },
        }

    def take(self, reader: int, given: Any) -> int:
        """Saves an answer; returns 1, or 0 where it was there already.

        Raises:
            InputError: an answer that does not fit, or a reader who never entered.
            StoreError: it cannot be saved.
        """
        if reader not in {each.number for each in self.store.list_readers()}:
            raise InputError(f"no reader {reader} here: enter again")
        answer = parse_answer(self.reading, given)
        if answer.case not in self.cases:
            raise InputError(f"case {answer.case}: is not in this reading")
        return self.store.add_answers(self.reading.id, reader, [answer])

    def take_file(self, path: Path) -> tuple[Person, int, int]:
        """Reads the answer file of a page that was sent; all of it counts, or nothing.

        Returns:
            Who answered, answers in the file, and how many were new.

        Raises:
            InputError: no answer file, or of another run or reading.
            StoreError: they cannot be saved.
        """
        try:
            found = AnswerFile.parse(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except (DamageError, MismatchError) as error:
            raise InputError(f"{path}: no answer file of a review page: {error}") from error
        if found.run != self.reading.run:
            raise InputError(
                f"{path}: holds answers on another run: name the folder of the run that its page "
                "was made from"
            )
        if found.reading != self.reading.id:
            raise InputError(
                f"{path}: holds answers on another reading of this run (another --study, --seed, "
                "--count or --blind): give the options that its page was made with"
            )
        answers = [parse_answer(self.reading, each) for each in found.answers]
        strange = [each.case for each in answers if each.case not in self.cases]
        if strange:
            raise InputError(f"{path}: case {strange[0]}: is not in this reading")
        reader = self.store.enter(found.reader.name, found.reader.role)
        new = self.store.add_answers(self.reading.id, reader.number, answers)
        return found.reader, len(answers), new

    def count_answers(self) -> dict[str, int]:
        """Returns reader -> cases answered."""
        names = {each.number: each.name for each in self.store.list_readers()}
        found = self.store.list_answers(self.reading.id)
        return {names[number]: len(answers) for number, answers in found.items()}

    def _read_image(self, case: str, side: int) -> tuple[bytes, str]:
        """Returns the encoded image of a case, and its media type.

        Raises:
            InputError: no such case or side.
            StoreError: it cannot be read.
        """
        if case not in self.cases or not 0 <= side < len(self.cases[case].images):
            raise InputError("no such image in this reading")
        if self.reading.asks.is_study:
            png = self.store.read_picture(self.reading.id, case, side)
            if png is None:
                raise DamageError(f"{self.store.path}: the picture of case {case} is gone")
            return png, MEDIA["png"]
        key = self.cases[case].images[side].key
        image = self._read_row(key)["image"]
        return image["bytes"], MEDIA[image["path"].rpartition(".")[2]]

    def _read_row(self, key: str) -> Mapping[str, Any]:
        """Returns the row of an image, sought anew where a refilter has moved it since.

        Raises:
            StoreError: it cannot be read, or is gone.
        """
        with contextlib.suppress(StoreError):
            return self._take_row(key)
        self._places = dict(self._list_places())
        return self._take_row(key)

    def _take_row(self, key: str) -> Mapping[str, Any]:
        row = self.dataset.read_row(*self._places[key]) if key in self._places else None
        if row is None or row.sample_id != key:
            raise DamageError(f"{self.dataset.url}: image {key} is not there any more")
        return row.values

    def _list_places(self) -> Iterator[tuple[str, tuple[str, int]]]:
        for name in (*self.dataset.list_tables(DATA), *self.dataset.list_tables(REJECTED)):
            for row in self.dataset.iterate_rows(name, ["sample_id"]):
                yield str(row.sample_id), (name, row.number)


def _parse_person(given: Mapping[str, Any]) -> Person:
    try:
        found = Person.model_validate({key: given[key] for key in ("name", "role")})
    except (KeyError, TypeError) as error:
        raise InputError("give a name or initials, and a role") from error
    except ValidationError as error:
        raise InputError(f"reader: {describe_problem(error)}") from error
    return found


def parse_json(data: bytes) -> Any:
    """Returns what a request holds.

    Raises:
        InputError: no JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("no JSON") from error
