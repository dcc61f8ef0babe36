"""`Teller`: writes the lines of `words/`: of each image, and each pair, facts and statements."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Self

from factory.core.hashing import to_canonical_json
from factory.publish.words.balance import Blind
from factory.publish.words.formats import PAIRS, WORDS, render_statement
from factory.publish.words.gather import Gathered
from factory.publish.words.pairs import ask_pair, name_pair
from factory.publish.words.questions import Asker
from factory.publish.words.statements import Statement

_KEPT = ("sample_id", "file_name", "class_name", "facts")


class Teller:
    """Draws and counts the statements of all rows.

    Args:
        build: folder to write into.
        rows: what is known.
        asker: what draws.

    Attributes:
        counts: split -> images, pairs, captions, reports, questions.
        blind: what a guess scores.
    """

    def __init__(self, build: Path, rows: Gathered, asker: Asker) -> None:
        self.build, self.rows, self.asker = build, rows, asker
        self.counts = {each: Counter(images=n) for each, n in sorted(rows.images.items())}
        self.blind = Blind()

    def write_images(self, captions: int) -> None:
        """Writes a line for each image, with so many captions at most."""
        with _Lines(self.build / WORDS) as files:
            for line in _iterate(self.rows.lines):
                split, name, facts = line["split"], line["sample_id"], line["facts"]
                asked = self.asker.ask(split, name, facts)
                said, report = self.asker.say(name, facts, captions)
                kept = {each: line[each] for each in _KEPT}
                kept |= {"family": line["family"]} if "family" in line else {}
                for title, found in (("captions", said), ("report", report), ("questions", asked)):
                    kept[title] = [render_statement(each) for each in found]
                files.write(split, kept)
                self.counts[split].update(
                    captions=len(said), reports=int(bool(report)), questions=len(asked)
                )
                self._add_blind(asked, facts)

    def write_pairs(self) -> None:
        """Writes a line for each pair of images of which something can be asked."""
        with _Lines(self.build / WORDS) as files:
            for line in _iterate(self.rows.pair_lines):
                split = line.pop("split")
                name = name_pair(each["name"] for each in line["images"])
                asked = ask_pair(self.asker, split, name, line["facts"])
                if not asked:
                    continue
                line["questions"] = [render_statement(each) for each in asked]
                files.write(f"{split}{PAIRS}", line)
                self.counts[split].update(pairs=1, pair_questions=len(asked))
                self._add_blind(asked, line["facts"])

    def _add_blind(self, asked: list[Statement], facts: Mapping[str, Mapping[str, Any]]) -> None:
        for each in asked:
            value = str(facts[each.facts[0]]["value"])
            answer = each.answer if each.kind == "yes/no" else value
            letter = each.answer[:1] if each.options else ""
            self.blind.add(each.kind, each.about, each.tested, answer, letter)


class _Lines(AbstractContextManager["_Lines"]):
    """Files of lines by name, open while they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        """Appends a line to `NAME.jsonl`."""
        if name not in self._files:
            self._files[name] = (self.folder / f"{name}.jsonl").open("w", encoding="utf-8")
        self._files[name].write(to_canonical_json(line) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        for file in self._files.values():
            file.close()


def _iterate(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    lines.seek(0)
    for line in lines:
        yield json.loads(line)
