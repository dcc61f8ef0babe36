"""`WordsRecord`: what a folder of words says of itself, in `words.json`."""

from typing import Any

from pydantic import Field

from factory.data.artefact import Artefact, Part
from factory.publish.words.lexicon import Lexicon

RECORD = "words.json"


class Passed(Part):
    """What is not said, why, and how often."""

    about: str
    reason: str
    count: int


class BlindGuess(Part):
    """What a guesser scores who sees no image, by kind of answer and fact."""

    kind: str
    about: str
    questions: int
    yes: float | None = Field(None, description="share of yes")
    blind: float | None = Field(None, description="accuracy; None: answers do not repeat")


class Balanced(Part):
    """How many yes/no questions name a value, and how many could have."""

    split: str
    about: str
    value: str
    yes: int
    no: int
    could_be_yes: int
    could_be_no: int


class WordsRecord(Artefact):
    """What is said, by which rules, how often, and what is not."""

    origin: dict[str, Any] = Field(description="run, recipe, licence, version of factory")
    settings: dict[str, Any]
    lexicon: Lexicon
    writer: dict[str, Any] | None = Field(
        None, description="what reworded sentences, and how often"
    )
    terms: str | None = Field(None, description="catalog of synonyms that rewording may use")
    formats: tuple[str, ...] = ()
    splits: dict[str, dict[str, int]] = Field(
        description="split -> images, pairs, captions, reports, questions"
    )
    left_out: dict[str, int] = Field({}, description="reason -> rows of which nothing is said")
    sources: int = Field(0, description="real images of pairs, that rows translate")
    unfinished: str = Field("", description="why the data set is not the whole of its run")
    passed: tuple[Passed, ...] = ()
    blind: tuple[BlindGuess, ...] = ()
    balance: tuple[Balanced, ...] = ()
    files: dict[str, str] = Field({}, description="file -> sha256, images apart")

    @property
    def overall(self) -> dict[str, dict[str, float]]:
        """Kind of answer -> questions, and accuracy of the blind guess where there is one."""
        found: dict[str, dict[str, float]] = {}
        for kind in sorted({each.kind for each in self.blind}):
            mine = [each for each in self.blind if each.kind == kind]
            total = sum(each.questions for each in mine)
            told: dict[str, float] = {"questions": total}
            if all(each.blind is not None for each in mine):
                right = sum((each.blind or 0.0) * each.questions for each in mine)
                told["blind"] = round(right / total, 4)
            if kind == "yes/no":
                yes = sum((each.yes or 0.0) * each.questions for each in mine)
                told["yes"] = round(yes / total, 4)
            found[kind] = told
        return found
