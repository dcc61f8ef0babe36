"""`Statement`: one question with its answer, or one sentence; rendered from facts, and checked."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from factory.catalog.captions.faithful import find_phrase, find_unfaithful
from factory.catalog.terms import TermsEntry
from factory.catalog.words import OBJECT_FACTS
from factory.data.artefact import Part
from factory.publish.words.balance import NO, YES
from factory.publish.words.lexicon import Lexicon

Facts = Mapping[str, Mapping[str, Any]]
"""What -> fact, as plain data."""
CAPTION, REPORT = "caption", "report"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_DENIED = re.compile(
    r"\b(?:no|not|non|none|never|neither|nor|without|lack(?:s|ing)?|absen(?:t|ce)|free of|"
    r"rather than|instead of)\b|n[\u2019']t\b",
    re.IGNORECASE,
)
_OWN = frozenset({"value", "one", "many", "answer"})
"""Slots that are no facts."""
_OF_PAIRS = frozenset({"more", "relation", "varied"})
"""Facts of two images."""


class Statement(Part):
    """What is said or asked.

    Attributes:
        kind: of the answer, or CAPTION, REPORT.
        about: the fact, or as `kind`.
        template: as the entry has it.
        words: slot -> what fills it.
        facts: names of the facts that it follows from.
        tested: the value that a yes/no question names.
        options: value and text of each choice, in their order.
        reply: template of the answer, where it is one.
        question: as it is asked; empty for a sentence.
        answer: as it is answered; the sentence.
        is_written: whether a language model reworded the sentence.
    """

    kind: str
    about: str
    template: str
    words: dict[str, str] = Field({})
    facts: tuple[str, ...] = ()
    tested: str = ""
    options: tuple[tuple[str, str], ...] = ()
    reply: str = ""
    question: str = ""
    answer: str = ""
    is_written: bool = False

    def render(self, facts: Facts) -> tuple[str, str]:
        """Returns question and answer by the template, from the facts that it follows from."""
        text = capitalise(self.template.format_map(self.words))
        if self.kind in (CAPTION, REPORT):
            return "", text
        fact = facts[self.facts[0]]
        if self.kind == "yes/no":
            return text, YES if fact["value"] == self.tested else NO
        if self.options:
            letters = [f"{letter(place)}. {said}" for place, (_, said) in enumerate(self.options)]
            values = [value for value, _ in self.options]
            return "\n".join([text, *letters]), letters[values.index(fact["value"])]
        if self.reply:
            return text, self.reply.format_map(self.words)
        return text, self.words["answer"]

    def filled(self, facts: Facts) -> "Statement":
        """Returns it with question and answer."""
        question, answer = self.render(facts)
        return self.model_copy(update={"question": question, "answer": answer})

    def find_fault(
        self, facts: Facts, lexicon: Lexicon, terms: TermsEntry | None = None
    ) -> str | None:
        """Says why it does not follow from the facts of its row; None: it does."""
        fault = next(self._find_faults(facts, lexicon), None)
        if fault is not None:
            return fault
        try:
            question, answer = self.render(facts)
        except (KeyError, ValueError, IndexError) as error:
            return f"cannot be rendered: {error!r}"
        if question != self.question:
            return f"the question is {self.question!r}, by the facts {question!r}"
        if self.is_written and self.kind in (CAPTION, REPORT):
            return find_unwritten(self, self.answer, facts, lexicon, terms)
        is_same = answer == self.answer
        return None if is_same else f"the answer is {self.answer!r}, by the facts {answer!r}"

    def _find_faults(self, facts: Facts, lexicon: Lexicon) -> Iterator[str]:
        """Yields what of its parts the facts, templates and wordings do not give."""
        missing = [each for each in self.facts if each not in facts]
        if missing or not self.facts:
            yield f"nothing is known of {missing[0] if missing else 'what it says'}"
            return
        if self.template not in list_templates(lexicon, self.kind, self.about):
            yield f"no template {self.template!r} of {self.kind} about {self.about}"
        if self.kind not in (CAPTION, REPORT) and self.facts != (self.about,):
            yield f"follows from {', '.join(self.facts)}, and is about {self.about}"
        if self.about.startswith("present:") and self.tested != YES:
            yield f"asks whether it is there, and notes {self.tested!r}"
        for slot, text in self.words.items():
            if text not in list_fillings(self, slot, facts, lexicon):
                yield f"{{{slot}}} is not {text!r} by the facts"
        fact = facts[self.facts[0]]
        if self.reply and self.reply not in _list_replies(lexicon, fact):
            yield f"no template {self.reply!r} of answers about {self.about}"
        values = [value for value, _ in self.options]
        if self.options and (values.count(fact["value"]) != 1 or len(set(values)) < len(values)):
            yield f"its choices {values} do not have {fact['value']!r} once"
        for value, text in self.options:
            if text not in word_option(lexicon, fact, value):
                yield f"the choice {text!r} is no wording of {value!r}"


def letter(place: int) -> str:
    """Returns the letter of a choice."""
    return chr(ord("A") + place)


def capitalise(text: str) -> str:
    """Returns a sentence with a capital at its start; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def list_templates(lexicon: Lexicon, kind: str, about: str) -> Sequence[str]:
    """Returns the templates of a kind about a fact."""
    entry, name = lexicon.entry, about.partition(":")[0]
    if kind == CAPTION:
        return entry.all_captions
    if kind == REPORT:
        return [text for texts in entry.report for text in texts]
    found = [
        text
        for each in entry.all_questions
        if (each.about, each.type) == (name, kind)
        for text in each.ask
    ]
    if entry.pairs is not None:
        found += _list_pair_templates(lexicon, kind, about)
    return found


def _list_pair_templates(lexicon: Lexicon, kind: str, about: str) -> Iterator[str]:
    pairs = lexicon.entry.pairs
    assert pairs is not None
    name, _, of = about.partition(":")
    if name == "more" and of in pairs.compare:
        yield from pairs.compare[of].more if kind == "yes/no" else pairs.compare[of].which
    if name == "relation":
        yield from pairs.relation.ask
    if name == "varied":
        yield from pairs.varied.ask


def _list_replies(lexicon: Lexicon, fact: Mapping[str, Any]) -> Sequence[str]:
    """Returns the templates of answers about two images."""
    pairs = lexicon.entry.pairs
    if pairs is None:
        return ()
    if fact["what"] == "relation":
        return (
            pairs.relation.translation if fact["value"] == "translation" else pairs.relation.family
        )
    return (pairs.answer,)


def word_option(lexicon: Lexicon, fact: Mapping[str, Any], value: str) -> tuple[str, ...]:
    """Returns the ways to say a value among choices."""
    pairs = lexicon.entry.pairs
    if fact["what"] == "varied":
        return (pairs.varied.names.get(value, value),) if pairs else ()
    known = lexicon.list_values(fact["what"])
    return lexicon.word(fact, value) if value in known else ()


def list_fillings(statement: Statement, slot: str, facts: Facts, lexicon: Lexicon) -> Sequence[str]:
    """Returns what may fill a slot of a statement."""
    fact, name = facts[statement.facts[0]], statement.about.partition(":")[0]
    known: Sequence[str] = ()
    if name in _OF_PAIRS:
        return _list_pair_fillings(statement, slot, fact, lexicon)
    if slot in ("one", "many") and name in OBJECT_FACTS:
        known = [lexicon.name_objects(fact)[slot == "many"]]
    elif slot == "value" and statement.tested in lexicon.list_values(statement.facts[0]):
        known = lexicon.word(fact, statement.tested)
    elif slot == "answer":
        known = lexicon.word(fact)
    elif slot not in _OWN:
        said = lexicon.list_said(slot, facts)
        if said and set(said) <= set(statement.facts):
            known = lexicon.fill(slot, facts)
    return known


def _list_pair_fillings(
    statement: Statement, slot: str, fact: Mapping[str, Any], lexicon: Lexicon
) -> Sequence[str]:
    pairs = lexicon.entry.pairs
    if pairs is None:
        return ()
    if slot in ("one", "other"):
        is_one = slot == "one"
        return [each for each in pairs.places if (each == statement.tested) == is_one]
    if slot == "varied":
        return [pairs.varied.names.get(fact["varied"], fact["varied"])]
    if slot in ("made", "real"):
        return [fact[slot]] if slot in fact else ()
    return [fact["value"]] if slot == "place" else ()


def find_unwritten(
    statement: Statement,
    text: str,
    facts: Facts,
    lexicon: Lexicon,
    terms: TermsEntry | None,
) -> str | None:
    """Says which value a reworded sentence drops, changes or adds; None: it says the same.

    Values of the vocabulary by any of their wordings but those that say more than is measured;
    numbers, and what else fills the template, as they stand in the template's own sentence, and no
    other numbers. It denies no more than that sentence, and names no other concept of the terms:
    what neither vocabulary nor terms know is not seen.
    """
    _, own = statement.render(facts)
    if sorted(_NUMBER.findall(text)) != sorted(_NUMBER.findall(own)):
        return "has other numbers"
    if len(_DENIED.findall(text)) != len(_DENIED.findall(own)):
        return "denies more or less than the template does"
    concepts = (
        set() if terms is None else {*terms.find_concepts(text)} - {*terms.find_concepts(own)}
    )
    if concepts:
        return f"adds {', '.join(sorted(concepts))}"
    for name, rule in lexicon.entry.levels.items():
        for each in rule.unsaid:
            if find_phrase(each, text):
                return f"adds {name} by {each!r}, which says more than is measured"
    values = {what: facts[what]["value"] for what in statement.facts if what in lexicon.attributes}
    for slot, said in statement.words.items():
        if slot not in values and said.casefold() not in text.casefold():
            return f"drops {slot} {said!r}"
    return find_unfaithful(lexicon, values, text, terms)
