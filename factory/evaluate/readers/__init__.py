"""`readers`: what people said of images: real or synthetic, which class, which is better, good?"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.evaluate import base

TIER = "readers"


class Readers(base.Evaluation):
    """Sums up what people answered on `factory review`: accuracy, d', ROC, agreement, time.

    Intervals are over readers and cases (Obuchowski-Rockette), of one reader over cases. Studies
    are blinded draws; a review says how many images people accept, and how far they agree.
    """

    tier = TIER
    names: ClassVar[Mapping[str, str]] = {
        "accuracy": "accuracy",
        "area": "area under the ROC curve",
        "d_prime": "d'",
        "kappa": "kappa",
        "seconds": "median seconds a case",
        "by_reader": "reader",
        "by_class": "class",
        "by_origin": "origin",
        "overall": "all readers",
        "reasons": "rejected for",
    }
    hidden = frozenset({"who"})
    is_optional = True

    class Settings(base.EvaluationSettings):
        """The run that people looked at, and which reading of it."""

        kind: Literal["readers"] = "readers"
        synthetic: fields.Folder = Field(description="Run folder that holds the answers.")
        study: Literal["review", "turing", "label", "pair"] | None = Field(
            None, description="Which reading; default: the last one that has answers."
        )

    class Result(base.EvaluationResult):
        """Figures of all readers, of each, and by class and origin.

        Attributes:
            study: which reading it was.
            chance: the accuracy, or share, of an answer drawn at random.
            who: readers by role, cases, answers, and how blind they were.
        """

        study: str = ""
        chance: float | None = None
        who: base.Parts
        overall: base.Parts
        by_reader: base.Parts
        by_class: base.Parts
        by_origin: base.Parts
        reasons: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Sums up the last reading, where people looked at the run.

        Raises:
            InputError: nobody did.
        """
        from factory.data.review.store import ReviewStore

        if not ReviewStore(given.synthetic).exists():
            raise InputError(f"{given.synthetic}: nobody has looked (factory review)")
        return super().adapt(given, **others)

    def describe_work(self) -> str:
        """Says what is summed up."""
        return "answers of people, no image is read"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the figures of all readers together."""
        beside = "" if result.get("chance") is None else f"chance {result['chance']:.3g}"
        who = tell_who(result["who"])
        for key, metric in result["overall"].items():
            by = beside if key in ("accuracy", "area", "preferred") else ""
            measure = f"{cls.name_measure(key)} ({result['study']}: {who})"
            yield base.Row.of(TIER, measure, metric, by)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns what the command prints."""
        chance = result.get("chance")
        lines = [f"{result['study']}: {tell_who(result['who'])}; {result['who']['blind']}"]
        lines += super().write_lines(result)
        return lines if chance is None else [*lines, f"chance: {chance:.3g}"]

    @classmethod
    def list_notes(cls, result: Mapping[str, Any]) -> Iterator[Any]:
        """Yields who looked, at how many, how blind; then what weakens the figures."""
        who = result.get("who") or {}
        yield f"{tell_who(who)}; {who.get('blind', '')}"
        yield from super().list_notes(result)


def tell_who(who: Mapping[str, Any]) -> str:
    """Returns e.g. `1 pathologist, 1 technician, 40 cases, 80 answers`."""
    roles = ", ".join(f"{count} {role}" for role, count in (who.get("roles") or {}).items())
    return f"{roles}, {who.get('cases', 0):,} cases, {who.get('answers', 0):,} answers"
