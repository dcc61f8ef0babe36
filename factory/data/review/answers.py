"""An answer of a person on an image, and which answers each kind of reading takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from factory.catalog.entries import Fraction
from factory.core.errors import InputError
from factory.data.artefact import Artefact, Part, describe_problem

ReadingKind = Literal["review", "turing", "label", "pair"]
CaseId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Name = Annotated[Text, StringConstraints(strip_whitespace=True)]
MOST_CONFIDENT = 3
"""Confidence goes from 1, a guess, to this."""
REASONS = (
    "not this class",
    "artefact",
    "blurred",
    "impossible tissue",
    "stain or colour",
    "not tissue",
    "copies another image",
)
"""What reviewers may pick; they may write others."""
ROLES = ("pathologist", "pathologist in training", "technician", "researcher", "other")


class Answer(BaseModel):
    """What one person said of one case; `key` is the page's own, so that none counts twice."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    key: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    case: CaseId
    seconds: float = Field(ge=0.0, le=86_400.0, description="from when it was shown")
    verdict: Literal["accept", "reject"] | None = None
    reason: Text | None = None
    class_name: Text | None = None
    region: tuple[Fraction, Fraction, Fraction, Fraction] | None = Field(
        None, description="left, top, right, bottom, as shares of width and height"
    )
    choice: Literal["real", "synthetic", "left", "right"] | None = None
    confidence: int | None = Field(None, ge=1, le=MOST_CONFIDENT)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of reading asks.

    Attributes:
        question: as people read it.
        needs: fields that an answer must have.
        may: fields that it may have besides.
        choices: values of the field `choice`.
        is_study: it is drawn once, blinded, and its cases stay as they are.
    """

    question: str
    needs: tuple[str, ...]
    may: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_study: bool = True


KINDS: Mapping[str, Kind] = {
    "review": Kind(
        "Is this image good?", ("verdict",), ("reason", "class_name", "region"), is_study=False
    ),
    "turing": Kind(
        "Is this image real or synthetic?",
        ("choice", "confidence"),
        choices=("real", "synthetic"),
    ),
    "label": Kind("Which class does this image show?", ("class_name",), ("confidence",)),
    "pair": Kind("Which of the two is better?", ("choice",), choices=("left", "right")),
}
ANSWERED = ("verdict", "reason", "class_name", "region", "choice", "confidence")


class Shown(Part):
    """One image of a case, as it is told to nobody who answers."""

    origin: Literal["real", "synthetic"]
    source: str = Field(description="name of the set that it is of, or of the run")
    key: str = Field(description="sample id, or the key of a real image in its set")


class Case(Part):
    """One question: an image, or two side by side, and what is right, where that is known."""

    id: CaseId
    images: tuple[Shown, ...]
    class_name: str | None = Field(None, description="asked for, or that of the real image")
    truth: str | None = Field(
        None, description="the right answer of a study; of a pair, the first set"
    )


class Reading(Part):
    """Cases that people look at: all accepted images of a run, or the draw of a study.

    Attributes:
        id: of a study a digest of what was drawn.
        run: digest of what the run makes: answers of another run are not taken.
        blind: classes asked for are not shown, and of studies no origin either.
        classes: that an answer may name.
    """

    id: str
    kind: ReadingKind
    run: str
    seed: int = 0
    blind: bool = False
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = Field((), description="of a pair study: the two sets compared")
    size: int | None = Field(None, description="px of all images of a study")

    @property
    def asks(self) -> Kind:
        """What it asks."""
        return KINDS[self.kind]


class Person(Part):
    """Who answered: only the role is told outside of the run folder."""

    name: Name
    role: Text


class Reader(Person):
    """A person who looks, as a run folder numbers them."""

    number: int


class AnswerFile(Artefact):
    """What the page that is sent by mail saves: all answers of one person on one reading."""

    format: Literal["factory-review-answers"]
    reading: str
    run: str
    reader: Person
    answers: tuple[dict[str, Any], ...]


def parse_answer(reading: Reading, given: Any) -> Answer:
    """Returns an answer that fits a reading.

    Raises:
        InputError: it does not; names the field.
    """
    try:
        answer = Answer.model_validate(given)
    except ValidationError as error:
        raise InputError(f"answer: {describe_problem(error)}") from error
    problem = _find_problem(reading, answer)
    if problem:
        raise InputError(f"answer: {problem}")
    return answer


def _find_problem(reading: Reading, answer: Answer) -> str:
    asks, region = reading.asks, answer.region
    given = [name for name in ANSWERED if getattr(answer, name) is not None]
    missing = [name for name in asks.needs if name not in given]
    if answer.verdict == "reject" and answer.reason is None:
        missing.append("reason")
    faults = [f"{name}: is missing" for name in missing]
    faults += [f"{n}: is not asked here" for n in given if n not in (*asks.needs, *asks.may)]
    if answer.choice is not None and answer.choice not in asks.choices:
        faults.append(f"choice: want {' or '.join(asks.choices)}, got {answer.choice!r}")
    if answer.class_name is not None and answer.class_name not in reading.classes:
        faults.append(f"class_name: no class {answer.class_name!r} here")
    if answer.reason is not None and answer.verdict != "reject":
        faults.append("reason: only of what is rejected")
    if region is not None and not (region[0] < region[2] and region[1] < region[3]):
        faults.append("region: want left < right and top < bottom")
    return next(iter(faults), "")
