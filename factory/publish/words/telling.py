"""`Teller`: writes the lines of `words/`: of each image, and each pair, facts and statements."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Self

from factory.core.hashing import to_canonical_json
from factory.publish.words.balance import Blind
from factory.publish.words.formats import PAIRS, WORDS, read_words, render_statement
from factory.publish.words.gather import Gathered
from factory.publish.words.pairs import ask_pair, name_pair
from factory.publish.words.questions import Asker

_KEPT = ("sample_id", "file_name", "class_name", "facts")


class Teller:
    """Draws the statements of all rows, and writes them.

    Args:
        build: folder to write into.
        rows: what is known.
        asker: what draws.
    """

    def __init__(self, build: Path, rows: Gathered, asker: Asker) -> None:
        self.build, self.rows, self.asker = build, rows, asker

    def write_images(self, captions: int) -> None:
        """Writes a line for each image, with so many captions at most."""
        with _Lines(self.build / WORDS) as files:
            for line in _iterate(self.rows.lines):
                name, facts = line["sample_id"], line["facts"]
                asked = self.asker.ask(line["split"], name, facts)
                said, report = self.asker.say(name, facts, captions)
                kept = {each: line[each] for each in _KEPT}
                kept |= {"family": line["family"]} if "family" in line else {}
                for title, found in (("captions", said), ("report", report), ("questions", asked)):
                    kept[title] = [render_statement(each) for each in found]
                files.write(line["split"], kept)

    def write_pairs(self) -> None:
        """Writes a line for each pair of images of which something can be asked."""
        with _Lines(self.build / WORDS) as files:
            for line in _iterate(self.rows.pair_lines):
                split = line.pop("split")
                name = name_pair(each["name"] for each in line["images"])
                asked = ask_pair(self.asker, split, name, line["facts"])
                if asked:
                    line["questions"] = [render_statement(each) for each in asked]
                    files.write(f"{split}{PAIRS}", line)


def count_words(folder: Path, splits: Iterable[str]) -> tuple[dict[str, dict[str, int]], Blind]:
    """Counts what the lines of a folder hold.

    Returns:
        Split -> images, captions, reports, questions, pairs, and questions on pairs; and what a
        guess scores.
    """
    counts, blind = {}, Blind()
    for split in splits:
        found: Counter[str] = Counter()
        for line in read_words(folder, split):
            said, asked = line["captions"], line["questions"]
            found.update(images=1, captions=len(said), reports=int(bool(line["report"])))
            found["questions"] += len(asked)
            _add_blind(blind, line)
        for line in read_words(folder, split, is_pairs=True):
            found.update(pairs=1, pair_questions=len(line["questions"]))
            _add_blind(blind, line)
        counts[split] = dict(found)
    return counts, blind


def _add_blind(blind: Blind, line: Mapping[str, Any]) -> None:
    for each in line["questions"]:
        answer = each["answer"]
        if each["kind"] != "yes/no":
            answer = str(line["facts"][each["facts"][0]]["value"])
        letter = each["answer"][:1] if each.get("options") else ""
        blind.add(each["kind"], each["about"], each.get("tested", ""), answer, letter)


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
