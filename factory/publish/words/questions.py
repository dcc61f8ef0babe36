"""Questions about a row, and its sentences, drawn by sample id and seed from its facts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.catalog.terms import TermsEntry
from factory.catalog.words import OBJECT_FACTS, Question
from factory.core.hashing import compute_digest, derive_seed
from factory.models.text_writer import Writer
from factory.publish.words.balance import NO, YES, Balance, draw
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.statements import (
    CAPTION,
    REPORT,
    Facts,
    Statement,
    find_unwritten,
    word_option,
)

ALONE = "the vocabulary has no other value to choose from"
NO_CAPTION = "no template of captions does with what is known"
DRAWS = 8
"""Times that a caption is drawn anew where it says what another one of the image says."""


@dataclass
class Asker:
    """Draws what is asked and said of rows.

    Args:
        lexicon: what is said.
        seed: of every draw, with the sample id.
        balance: of yes/no questions, settled.
        writer: rewords sentences; None: templates stand.
        terms: synonyms by which a reworded sentence may say a value.
    """

    lexicon: Lexicon
    seed: int
    balance: Balance
    writer: Writer | None = None
    terms: TermsEntry | None = None
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def ask(self, split: str, name: str, facts: Facts) -> list[Statement]:
        """Returns the questions about a row, in a drawn order."""
        found: list[Statement] = []
        for place, question in enumerate(self.lexicon.entry.all_questions):
            for what in _list_about(question, facts):
                found += self._ask_one(split, name, facts, what, (question, place))
        ranks = {
            id(each): compute_digest("words order", [self.seed, name, each.about, each.question])
            for each in found
        }
        return sorted(found, key=lambda each: ranks[id(each)])

    def _ask_one(
        self, split: str, name: str, facts: Facts, what: str, asked: tuple[Question, int]
    ) -> Iterator[Statement]:
        question, place = asked
        key = (what, question.type, place)
        template = self.pick(name, question.ask, *key)
        fact, common = facts[what], {"kind": question.type, "about": what, "facts": (what,)}
        words: dict[str, str] = {}
        if question.about in OBJECT_FACTS:
            words = dict(zip(("one", "many"), self.lexicon.name_objects(fact), strict=True))
        if question.type == "yes/no":
            for value in self.lexicon.list_values(what):
                truth = YES if fact["value"] == value else NO
                if not self.balance.is_asked(split, name, what, value, truth):
                    continue
                said = self.pick(name, self.lexicon.word(fact, value), *key, value)
                text = self.pick(name, question.ask, *key, value)
                used = {slot: each for slot, each in words.items() if f"{{{slot}}}" in text}
                used |= {"value": said} if "{value}" in text else {}
                made = Statement(**common, template=text, words=used, tested=value)
                yield made.filled(facts)
            return
        words = {slot: each for slot, each in words.items() if f"{{{slot}}}" in template}
        if question.type == "choice":
            options = self.choose(name, fact, self.lexicon.list_values(what), key)
            if len(options) < 2:
                self.passed[what, ALONE] += 1
                return
            yield Statement(**common, template=template, words=words, options=options).filled(facts)
            return
        words["answer"] = self.pick(name, self.lexicon.word(fact), *key, "answer")
        yield Statement(**common, template=template, words=words).filled(facts)

    def choose(
        self,
        name: str,
        fact: Mapping[str, Any],
        values: Sequence[str],
        key: tuple[str | int, ...],
    ) -> tuple[tuple[str, str], ...]:
        """Returns the truth among distractors, (value, text) each, in a drawn order."""
        others = [each for each in values if each != fact["value"]]
        ranked = self._rank(name, others, *key, "distractors")
        chosen = [fact["value"], *ranked[: self.lexicon.entry.choices - 1]]
        found: dict[str, str] = {}
        for value in self._rank(name, chosen, *key, "places"):
            found[value] = self.pick(name, word_option(self.lexicon, fact, value), *key, value)
        return tuple(found.items())

    def say(
        self, name: str, facts: Facts, captions: int
    ) -> tuple[list[Statement], list[Statement]]:
        """Returns captions of a row that differ, and the sentences of its report."""
        entry = self.lexicon.entry
        found: dict[str, Statement] = {}
        fitting = [each for each in entry.all_captions if self._fits(each, facts)]
        ranked = self._rank(name, fitting, CAPTION)
        if captions and not ranked:
            self.passed[CAPTION, NO_CAPTION] += 1
        for turn in range(DRAWS * captions if ranked else 0):
            if len(found) == captions:
                break
            template = ranked[turn % len(ranked)]
            made = self._say_one(name, facts, CAPTION, template, turn)
            found.setdefault(made.answer, made)
        report = []
        for place, texts in enumerate(entry.report):
            known = [each for each in texts if self._fits(each, facts)]
            most = max((len(self._list_slots(each)) for each in known), default=0)
            known = [each for each in known if len(self._list_slots(each)) == most]
            if known:
                template = self.pick(name, known, REPORT, place)
                report.append(self._say_one(name, facts, REPORT, template, place))
        said = [*found.values()], report
        if self.writer is None:
            return said
        captioned, reported = (
            [self._reword(name, each, facts, place) for place, each in enumerate(kind)]
            for kind in said
        )
        return captioned, reported

    def _say_one(self, name: str, facts: Facts, kind: str, template: str, turn: int) -> Statement:
        words: dict[str, str] = {}
        said: list[str] = []
        for slot in self._list_slots(template):
            said += self.lexicon.list_said(slot, facts)
            words[slot] = self.pick(name, self.lexicon.fill(slot, facts), kind, turn, slot)
        made = Statement(
            kind=kind, about=kind, template=template, words=words, facts=tuple(dict.fromkeys(said))
        )
        return made.filled(facts)

    def _reword(self, name: str, made: Statement, facts: Facts, turn: int) -> Statement:
        """Returns a sentence in the writer's words where they hold, else as it is."""
        assert self.writer is not None
        seed = derive_seed(self.seed, "words writer", name, made.kind, turn)
        text = self.writer.write(made.answer, seed)
        fault = find_unwritten(made, text, facts, self.lexicon, self.terms)
        self.written["held" if fault is None else f"rejected: {fault.split()[0]}"] += 1
        if fault is not None:
            return made
        return made.model_copy(update={"answer": text, "is_written": True})

    def ask_report(self, name: str) -> str:
        """Returns the question that the report of a row answers."""
        return self.pick(name, self.lexicon.entry.describe, REPORT, "ask")

    def pick(self, name: str, options: Sequence[str], *what: str | int) -> str:
        """Returns one of several texts."""
        return options[draw(self.seed, name, *what, among=len(options))]

    def _rank(self, name: str, options: Sequence[str], *what: str | int) -> list[str]:
        return sorted(
            options, key=lambda each: compute_digest("words rank", [self.seed, name, *what, each])
        )

    def _fits(self, template: str, facts: Facts) -> bool:
        slots = self._list_slots(template)
        if not all(self.lexicon.list_said(slot, facts) for slot in slots):
            return False
        return not self.lexicon.contradicts(
            {slot: facts[slot]["value"] for slot in slots if slot in facts}
        )

    def _list_slots(self, template: str) -> tuple[str, ...]:
        known = self.lexicon.entry.facts
        return tuple(slot for slot in known if f"{{{slot}}}" in template)


def _list_about(question: Question, facts: Facts) -> Iterator[str]:
    """Yields the facts of a row that answer a question."""
    for what in facts:
        if what == question.about or what.partition(":")[0] == question.about:
            yield what
