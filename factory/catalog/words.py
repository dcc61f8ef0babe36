"""Words: what is said of images in captions, questions and reports, and how sure it must be."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from factory.catalog.captions.grid import CaptionGrid, CatalogId
from factory.catalog.captions.layout import list_attributes
from factory.catalog.entries import Strict
from factory.core.attributes import MEASURED
from factory.core.yaml.messages import FieldsError, advise

Text = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$")]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Kind = Literal["yes/no", "choice", "open", "number", "box"]
"""Of an answer."""
CLASS_NAME, MPP, MAGNIFICATION, COUNTS = "class_name", "mpp", "magnification", "counts"
"""Facts of a row beside those that an entry names; COUNTS are the objects of a mask, together."""
OBJECT_FACTS = ("present", "count", "area", "place", "box")
"""Facts of each name of a mask's palette."""
_ONE_OF = frozenset({"yes/no", "choice", "open"})
_TAKEN: Mapping[str, frozenset[str]] = {
    "present": frozenset({"yes/no"}),
    "count": frozenset({"number"}),
    "area": frozenset({"number"}),
    "place": frozenset({"choice", "open"}),
    "box": frozenset({"box"}),
    MPP: frozenset({"number"}),
    MAGNIFICATION: _ONE_OF,
    CLASS_NAME: _ONE_OF,
}
"""Kinds of questions that a fact can answer."""


def _check_range(found: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= found[0] < found[1]:
        raise ValueError(f"must be two numbers that rise, got {list(found)}")
    return found


Range = Annotated[tuple[float, float], AfterValidator(_check_range)]
"""Least and most."""


class LevelRule(Strict):
    """An attribute of the vocabulary that is measured: its value follows from cut points."""

    margin: float = Field(ge=0, description="nearer to a cut point, nothing is said")
    never_tested: tuple[str, ...] = Field((), description="values that no yes/no question names")
    unsaid: tuple[str, ...] = Field((), description="wordings that say more than is measured")
    mpp: Range | None = Field(
        None, description="µm per pixel for which the vocabulary's cut points hold; null: all"
    )


class NumberRule(Strict):
    """A measure that is said as a number."""

    measure: str
    times: float = Field(1.0, gt=0)
    decimals: int = Field(0, ge=0, le=4)
    unit: str = ""
    say: Text = Field("{number}", description="how; {number} is the rounded number")
    range: Range | None = Field(None, description="of the measure; beyond it, nothing is said")
    mpp: Range | None = Field(None, description="µm per pixel for which it can be measured")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.measure not in MEASURED:
            raise ValueError(f"{self.measure!r} is not measured: {advise(self.measure, MEASURED)}")
        if list_attributes(self.say) != ("number",):
            raise ValueError(f"say: want {{number}} and no other braces, got {self.say!r}")
        return self


class ObjectName(Strict):
    """How objects of a mask are called; `is_nuclei` lets them be compared with the image."""

    one: Text
    many: Text
    is_nuclei: bool = False


class Question(Strict):
    """Ways to ask one thing."""

    about: str = Field(description="the fact that answers it")
    type: Kind
    ask: Texts = Field(
        description="{value} of yes/no is what is asked about; {one} and {many} name objects"
    )

    @property
    def slots(self) -> frozenset[str]:
        """The names in braces that a text of it may have."""
        return frozenset({"one", "many"} if self.about in OBJECT_FACTS else ()) | (
            frozenset({"value"}) if self.type == "yes/no" and self.about != "present" else set()
        )


class Comparison(Strict):
    """Ways to ask in which of two images there is more of an attribute."""

    which: Texts
    more: Texts = Field(description="yes/no; {one} and {other} are the places of the images")


class Relation(Strict):
    """Ways to say how two images are related; {made}, {real} are places, {varied} what differs."""

    ask: Texts
    translation: Texts
    family: Texts


class VariedWords(Strict):
    """Ways to ask what was varied, and its names."""

    ask: Texts
    names: dict[str, Text]


class PairWords(Strict):
    """What is said of two images: of a source and its translation, or of members of a family."""

    places: tuple[Text, Text] = ("first", "second")
    compare: dict[str, Comparison] = Field({}, description="level -> questions")
    answer: Text = "In the {place} image."
    relation: Relation
    varied: VariedWords


class WordsEntry(Strict):
    """Facts, and the templates that say them; `base` has the sections that this one lacks."""

    id: CatalogId
    title: str = ""
    base: CatalogId | None = None
    vocabulary: CatalogId = Field(description="caption grid: values, wordings and cut points")
    levels: dict[str, LevelRule] = Field({})
    asked: tuple[str, ...] = Field((), description="attributes that nothing measures")
    numbers: dict[Annotated[str, Field(pattern=r"^[a-z]\w*$")], NumberRule] = Field({})
    magnifications: dict[Text, Annotated[float, Field(gt=0)]] = Field(
        {}, description="what it is called -> µm per pixel"
    )
    magnification_within: float = Field(0.15, ge=0, lt=0.3, description="share of its µm per pixel")
    objects: dict[str, ObjectName] = Field({}, description="name of palettes -> how it is called")
    least_px: int = Field(8, ge=1, description="px that an object has at least; others are specks")
    largest_by: float = Field(
        1.25, ge=1, description="times the next object that the largest one must have"
    )
    min_dice: float = Field(
        0.4, ge=0, le=1, description="of nuclei of the mask and the image; below, nothing is said"
    )
    min_plausibility: float = Field(
        0.5, ge=0, le=1, description="of H&E colours (filter stain); below, nothing is measured"
    )
    choices: int = Field(4, ge=2, le=26, description="of a choice, at most")
    questions: tuple[Question, ...] = ()
    more_questions: tuple[Question, ...] = Field(
        (), description="behind `questions`, of a base too"
    )
    captions: tuple[Text, ...] = ()
    more_captions: tuple[Text, ...] = Field((), description="behind those of `captions`")
    report: tuple[Texts, ...] = Field((), description="sentences; of each, one that can be said")
    describe: Texts = Field(("Describe the patch.",), description="what the report answers")
    pairs: PairWords | None = None

    @property
    def all_questions(self) -> tuple[Question, ...]:
        """Those of its base, where it has none of its own, and more."""
        return (*self.questions, *self.more_questions)

    @property
    def all_captions(self) -> tuple[Text, ...]:
        """Those of its base, where it has none of its own, and more."""
        return (*self.captions, *self.more_captions)

    @property
    def nuclei(self) -> tuple[str, ...]:
        """Names of palettes that are nuclei."""
        return tuple(name for name, each in self.objects.items() if each.is_nuclei)

    @property
    def facts(self) -> tuple[str, ...]:
        """Names of facts that captions and reports may say."""
        own = (*self.levels, *self.asked, *self.numbers)
        return (*own, CLASS_NAME, MPP, MAGNIFICATION, COUNTS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = [*self._find_faults()]
        if faults:
            raise FieldsError(faults)
        return self

    def _find_faults(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        kinds = {**_TAKEN, **dict.fromkeys((*self.levels, *self.asked), _ONE_OF)}
        kinds |= dict.fromkeys(self.numbers, frozenset({"number"}))
        if len(set(self.facts)) < len(self.facts):
            yield ("numbers",), f"a fact has two meanings: {', '.join(self.facts)}: rename one"
        listed = [(("questions", n), each) for n, each in enumerate(self.questions)]
        listed += [(("more_questions", n), each) for n, each in enumerate(self.more_questions)]
        for at, question in listed:
            if question.about not in kinds:
                yield (*at, "about"), f"no fact: {advise(question.about, tuple(kinds))}"
            elif question.type not in kinds[question.about]:
                known = ", ".join(sorted(kinds[question.about]))
                yield (*at, "type"), f"{question.about} answers {known}, got {question.type}"
            for number, text in enumerate(question.ask):
                wanted = question.slots - {"one", "many"}
                yield from _check_slots((*at, "ask", number), text, question.slots, wanted)
        for title, texts in (("captions", self.captions), ("more_captions", self.more_captions)):
            for place, text in enumerate(texts):
                yield from _check_sentence((title, place), text, self.facts)
        for place, texts in enumerate(self.report):
            for number, text in enumerate(texts):
                yield from _check_sentence(("report", place, number), text, self.facts)
        if self.pairs is not None:
            yield from self._find_pair_faults(self.pairs)

    def _find_pair_faults(self, pairs: PairWords) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if pairs.places[0] == pairs.places[1]:
            yield ("pairs", "places"), f"{pairs.places[0]!r} names both images: give two names"
        for name, each in pairs.compare.items():
            at = ("pairs", "compare", name)
            if name not in self.levels:
                yield at, f"no level: {advise(name, tuple(self.levels))}"
            for number, text in enumerate(each.more):
                yield from _check_slots(
                    (*at, "more", number), text, ("one", "other"), ("one", "other")
                )
        yield from _check_slots(("pairs", "answer"), pairs.answer, ("place",), ("place",))
        for name, slots in (("translation", ("made", "real")), ("family", ("varied",))):
            for number, text in enumerate(getattr(pairs.relation, name)):
                yield from _check_slots(("pairs", "relation", name, number), text, slots)

    def find_unknown(self, grid: CaptionGrid) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yields what the vocabulary lacks, as field and message."""
        for name, rule in self.levels.items():
            if name not in grid.measures:
                known = advise(name, tuple(grid.measures))
                yield ("levels", name), f"{grid.id} has no measure of it: {known}"
                continue
            values = grid.attributes[name]
            yield from _check_unsaid(name, rule, values)
            for value in (each for each in rule.never_tested if each not in values):
                known = advise(value, tuple(values))
                yield ("levels", name, "never_tested"), f"no value {value!r}: {known}"
        for place, name in enumerate(self.asked):
            if name not in grid.attributes:
                known = advise(name, tuple(grid.attributes))
                yield ("asked", place), f"{grid.id} has no attribute {name!r}: {known}"


def _check_unsaid(
    name: str, rule: LevelRule, values: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields wordings that are left out and not there, and values that are left without any."""
    at = ("levels", name, "unsaid")
    texts = {text for value, known in values.items() for text in known or (value,)}
    for text in (each for each in rule.unsaid if each not in texts):
        yield at, f"no wording {text!r}: {advise(text, sorted(texts))}"
    for value, known in values.items():
        if set(known or (value,)) <= set(rule.unsaid):
            yield at, f"leaves no wording of {value!r}: keep one"


def _check_sentence(
    at: tuple[str | int, ...], text: str, known: Iterable[str]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields what is wrong with a sentence: what names no fact follows from none."""
    if "{" not in text:
        yield at, f"{text!r} names no fact that it follows from: add one in braces"
    yield from _check_slots(at, text, known)


def _check_slots(
    at: tuple[str | int, ...], text: str, known: Iterable[str], wanted: Iterable[str] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields what is wrong with the names in braces of a template."""
    try:
        found = list_attributes(text)
    except ValueError as error:
        yield at, str(error)
        return
    names = tuple(sorted(known))
    for name in (each for each in found if each not in names):
        yield at, f"{text!r} names {{{name}}}: {advise(name, names) if names else 'remove it'}"
    for name in (each for each in wanted if each not in found):
        yield at, f"{text!r} lacks {{{name}}}: add it"
