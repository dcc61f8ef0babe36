"""Patients whom a run folder was made to forget: kept as keyed digests, and kept out of its plan.

`.factory/forgotten.json` names no patient and no image. Who knows the hash of a patient can tell
whether it is in there, as the run itself must to make nothing of theirs again.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import Field

from factory.core.errors import DamageError, MismatchError
from factory.core.files.new_folder import WORK
from factory.data.artefact import Artefact
from factory.data.records import Condition, Request
from factory.data.summary import Forgot
from factory.engine.plan import Plan
from factory.engine.run_folder import RunFolder
from factory.recipe.conditions.series import Series, find_bag_size

FORGOTTEN = f"{WORK}/forgotten.json"
INSTEAD = 1 << 40
"""First ordinal of what is asked for instead: no series is so long."""
LOOKS = 128
"""Requests that are looked at for it: the next ones, then as many over the whole series."""


class ForgottenRecord(Artefact):
    """`forgotten.json`: written before anything is removed, and again when all is."""

    key: str = Field(description="of the digests: 32 hex characters, by chance")
    patients: tuple[str, ...] = Field(description="keyed digests of hashes of patients or slides")
    rows: int = Field(description="candidates that were removed for them")
    removing: int | None = Field(
        None, description="rows among these that are being removed now; None: all is done"
    )
    ended: str | None = Field(
        None, description="what learned from them, so that nothing can be made here any more"
    )


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Tells whose rows a run folder must not hold; `record` is None where nobody was forgotten."""

    record: ForgottenRecord | None = None
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def digest(self, group: str) -> str:
        """Returns the keyed digest of a patient's or slide's hash (HMAC of RFC 2104, SHA-256)."""
        assert self.record is not None
        key = bytes.fromhex(self.record.key)
        return hmac.new(key, group.encode(), hashlib.sha256).hexdigest()[:32]

    def matches(self, groups: Iterable[str]) -> bool:
        """Whether a hash of a patient or slide is of one that was forgotten."""
        if self.record is None:
            return False
        for group in groups:
            if group not in self._known:
                self._known[group] = self.digest(group) in self.record.patients
            if self._known[group]:
                return True
        return False

    def describe(self) -> Forgot | None:
        """Returns what is told of it outside of the run's own records: counts."""
        if self.record is None:
            return None
        return Forgot(patients=len(self.record.patients), rows=self.record.rows)

    @property
    def half(self) -> str:
        """Says that somebody is half forgotten, and how that is ended; empty where nobody is."""
        if self.record is None or self.record.removing is None:
            return ""
        return (
            "a `factory forget` was stopped in the middle: give it again, with the same --group, "
            "before anything else"
        )

    def refuse_half(self, url: str) -> None:
        """Refuses to work on a folder in which somebody is half forgotten.

        Raises:
            MismatchError: says how that is ended.
        """
        if self.half:
            raise MismatchError(f"{url}: {self.half}")

    def refuse_ended(self, url: str) -> None:
        """Refuses to make rows with what learned from a patient who was forgotten; see above.

        Raises:
            MismatchError: names what must be trained again.
        """
        self.refuse_half(url)
        if self.record is not None and self.record.ended is not None:
            raise MismatchError(
                f"{url}: {self.record.ended} learned from a patient whom this run forgot: train it "
                "again without that patient, and run the recipe with it into another --out"
            )

    def spare(self, plan: Plan, attempts: int) -> Plan:
        """Returns a plan whose requests pass over what those patients' images would make.

        Args:
            plan: of the recipe.
            attempts: tries of each request.
        """
        if self.record is None:
            return plan
        series = [SparedSeries(part, self, attempts) for part in plan.series]
        return Plan(tuple(cast("list[Series]", series)), plan.generations)


@dataclass(frozen=True)
class SparedSeries:
    """A series as it is, whose requests pass over some of their tries.

    One that nothing else could fill asks for the next condition instead, by ordinals of its own, so
    that no image is asked for twice; not in families and slides, which are of one condition.

    All else that a series has is that of the series.
    """

    base: Series
    forgotten: Forgotten
    attempts: int

    def __getattr__(self, name: str) -> Any:
        if name == "base" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def details(self) -> tuple[str, ...]:
        """Those of the series, without the names of images of the forgotten."""
        told: Sequence[str] = getattr(self.base, "details", None) or ()
        conditions: Iterable[Condition] = getattr(self.base, "conditions", ()) if told else ()
        hidden = [each for each in conditions if self._is_theirs(each)]
        return hide_hashes(told, (each for one in hidden for each in _list_hashes(one)))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request, with the tries that it is not to make."""
        asked = self.base.request_at(index)
        conditions = [asked.condition_at(attempt) for attempt in range(self.attempts)]
        passed = tuple(each for each, one in enumerate(conditions) if self._is_theirs(one))
        if len(passed) == self.attempts and asked.family is None and not find_bag_size(self.base):
            other = self._find_other(index)
            if other is not None:
                return replace(asked, condition=other, ordinal=INSTEAD + index, pool=())
        return replace(asked, passed=passed) if passed else asked

    def _is_theirs(self, condition: Condition) -> bool:
        return self.forgotten.matches(condition.groups())

    def _find_other(self, index: int) -> Condition | None:
        """Returns the next condition of the series that is not theirs, to be asked for instead.

        None where there is none near, or where each is asked for once, such as images to translate.
        """
        count = self.base.count
        if not count or self.base.request_at(count - 1).ordinal == 0:
            return None
        stride = count // LOOKS + 1
        steps = (*range(1, LOOKS + 1), *range(LOOKS + stride, count, stride))
        for step in steps:
            found = self.base.request_at((index + step) % count).condition
            if not self._is_theirs(found):
                return found
        return None


def hide_hashes(lines: Iterable[str], hashes: Iterable[str]) -> tuple[str, ...]:
    """Returns lines in which hashes, whole or their first 12 characters, are not told."""
    found = sorted({each[:12] for each in hashes})
    if not found:
        return tuple(lines)
    pattern = re.compile(f"(?:{'|'.join(found)})[0-9a-f]*")
    return tuple(pattern.sub("forgotten", line) for line in lines)


def read_forgotten(folder: RunFolder) -> Forgotten:
    """Returns whom a run folder forgot.

    Raises:
        StoreError: the record is damaged, or of a newer version.
    """
    if not folder.files.exists(FORGOTTEN):
        return Forgotten()
    try:
        return Forgotten(ForgottenRecord.parse(folder.files.read(FORGOTTEN)))
    except DamageError as error:
        raise DamageError(f"{folder.url}/{FORGOTTEN}: {error}: copy it back") from error
    except MismatchError as error:
        raise MismatchError(f"{folder.url}/{FORGOTTEN}: {error}") from error


def _list_hashes(condition: Condition) -> list[str]:
    told = [[stream.identity(), stream.record()] for stream in condition.streams]
    return re.findall(r"[0-9a-f]{64}", json.dumps(told, default=str))
