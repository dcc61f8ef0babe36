"""Checking words: every statement of a folder, computed again from the rows of its data set."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.catalog.catalog import load_catalogs
from factory.catalog.terms import TermsEntry
from factory.core.errors import DamageError, FactoryError, InputError, MismatchError
from factory.core.files.store import FileStore
from factory.core.hashing import hash_bytes
from factory.data.columns import IMAGE_TYPE
from factory.engine.dataset import Dataset
from factory.publish.export import iterate_splits
from factory.publish.words.balance import Balance
from factory.publish.words.facts import read_facts
from factory.publish.words.formats import FORMATS, NEED_IMAGES, PAIRS, WORDS, Table, TextFile
from factory.publish.words.gather import build_family, build_translation, has_source
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.pairs import Member, Pair, name_pair
from factory.publish.words.questions import Asker
from factory.publish.words.record import RECORD, WordsRecord
from factory.publish.words.statements import Statement
from factory.publish.words.telling import count_words

MOST = 100
"""Differences that are listed; all are counted."""
SAID = ("captions", "report", "questions")
"""What a line holds of statements."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One statement, fact or file that the rows do not give."""

    file: str
    sample_id: str
    what: str
    message: str

    def __str__(self) -> str:
        return ": ".join(
            each for each in (self.file, self.sample_id, self.what, self.message) if each
        )


@dataclass
class Checked:
    """What was computed again, by kind, and what differs."""

    counts: Counter[str] = field(default_factory=Counter)
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether something was checked and nothing differs."""
        return not self.differing and bool(self.counts)

    def fail(self, file: str, sample_id: str, what: str, message: str) -> None:
        """Notes a difference."""
        self.differing += 1
        if len(self.differences) < MOST:
            self.differences.append(Difference(file, sample_id, what, message))

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        listed = [
            {"file": each.file, "sample_id": each.sample_id, "what": each.what, "why": each.message}
            for each in self.differences
        ]
        told = {"sound": self.is_sound, "checked": dict(self.counts), "differing": self.differing}
        return {**told, "differences": listed}


def check_words(
    folder: Path, dataset: Dataset, say: Callable[[str], None] = lambda line: None
) -> Checked:
    """Computes every statement again: pixels are measured, masks counted, templates filled anew.

    The rules and templates are those that the folder recorded. What a language model reworded is
    not made again, but has to say the same values.

    Args:
        folder: that `write_words` wrote.
        dataset: that it was made of.
        say: called with one line at the start of each step.

    Raises:
        InputError: no folder of words, or one of a newer version.
        StoreError: a damaged data set.
    """
    record = _read_record(folder)
    check = _Check(folder, record)
    say("files")
    check.check_files()
    say("rows")
    for split, row in iterate_splits(dataset):
        if row.get("provenance") and row.get("sample_id") is not None:
            check.check_row(split, row)
    check.check_rest()
    say("pairs")
    check.check_pairs()
    say("formats")
    check.check_formats()
    check.check_counts()
    return check.found


def _read_record(folder: Path) -> WordsRecord:
    path = folder / RECORD
    try:
        record = WordsRecord.parse(path.read_bytes())
    except OSError as error:
        told = f"{path}: cannot be read ({error.strerror})"
        raise InputError(f"{told}: give a folder that `factory words write` wrote") from error
    except (DamageError, MismatchError) as error:
        raise InputError(f"{path}: {error}: write the words again") from error
    if not isinstance(record.settings.get("seed"), int) or not {*record.formats} <= {*FORMATS}:
        raise InputError(f"{path}: tells no seed, or unknown formats: write the words again")
    return record


def _parse(line: bytes, lists: Sequence[str]) -> dict[str, Any]:
    """Returns a line of words; raises ValueError, KeyError or TypeError for one that is none."""
    found: dict[str, Any] = json.loads(line)
    is_fit = isinstance(found["facts"], dict)
    if not (is_fit and all(isinstance(found[each], list) for each in lists)):
        raise TypeError("facts or lists")
    _ = [each["name"] for each in found["images"]] if "images" in lists else found["sample_id"]
    return found


class _Check:
    """One pass over rows, and what has to wait until all were seen."""

    def __init__(self, folder: Path, record: WordsRecord) -> None:
        self.folder, self.record, self.found = folder, record, Checked()
        self.lexicon: Lexicon = record.lexicon
        self.seed: int = record.settings["seed"]
        self._asker = Asker(self.lexicon, self.seed, Balance(self.seed))
        self.terms: TermsEntry | None = None
        if record.terms is not None:
            self.terms = load_catalogs().find_terms(record.terms)
        self.hashes: dict[str, str] = {}
        self._places: dict[tuple[str, str], int] = {}
        for split in record.splits:
            file = f"{WORDS}/{split}.jsonl"
            for place, line in self._read_lines(file, SAID):
                name = str(line["sample_id"])
                if self._places.setdefault((split, name), place) != place:
                    self.found.fail(file, name, f"byte {place}", "is there twice")
        self._pairs: dict[tuple[str, str], Pair] = {}
        self._families: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def _read_lines(self, file: str, lists: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields where each line begins, and what it holds: facts, and `lists` of more."""
        path, place = self.folder / file, 0
        if not path.exists():
            return
        with path.open("rb") as stream:
            for line in stream:
                try:
                    yield place, _parse(line, lists)
                except (ValueError, KeyError, TypeError):
                    self.found.fail(file, "", f"byte {place}", "is no line of words")
                place += len(line)

    def check_files(self) -> None:
        """Compares each file with its recorded hash."""
        for name, sha256 in self.record.files.items():
            path = self.folder / name
            self.found.counts["files"] += 1
            if not path.is_file():
                self.found.fail(name, "", "", "is missing")
            elif hash_bytes(path.read_bytes()) != sha256:
                self.found.fail(name, "", "", "is not the file that was written")

    def check_row(self, split: str, row: Mapping[str, Any]) -> None:
        """Computes facts and statements of a row again."""
        name, file = str(row["sample_id"]), f"{WORDS}/{split}.jsonl"
        place = self._places.pop((split, name), None)
        if place is None:
            self.found.fail(file, name, "", "the words lack this row")
            return
        with (self.folder / file).open("rb") as stream:
            stream.seek(place)
            line = json.loads(stream.readline())
        known = read_facts(row, split, self.lexicon)
        facts = {what: fact.to_json() for what, fact in known.facts.items()}
        self.found.counts["rows"] += 1
        self._compare_facts(file, name, line["facts"], facts)
        if line.get("class_name") != row.get("class_name"):
            self.found.fail(file, name, "class_name", f"is {line.get('class_name')!r}")
        for title in SAID:
            for told in line[title]:
                self._check_statement(file, name, told, facts)
        self._check_image(str(line.get("file_name")), row["image"]["bytes"], name)
        member = Member(name, str(line.get("file_name")), known.measures, facts)
        if row.get("family_id") is not None:
            told = {each: row[each] for each in ("family_id", "varied", "value")}
            kept = {"sample_id": name, "file_name": member.file_name, "family": told}
            kept |= {"measures": known.measures, "facts": facts}
            self._families.setdefault((split, str(row["family_id"])), []).append(kept)
        if self.lexicon.entry.pairs is not None and has_source(row):
            pair = build_translation(row, member, self.lexicon, self.seed)
            self._pairs[split, pair.name] = pair
            real = next(each for each in pair.members if each is not member)
            self._check_image(real.file_name, row["source"]["bytes"], name)

    def _check_image(self, file: str, data: bytes, name: str) -> None:
        self.hashes[file] = hash_bytes(data)
        path = self.folder / file
        if not NEED_IMAGES & set(self.record.formats):
            return
        if not path.is_file():
            self.found.fail(file, name, "image", "is missing")
        elif hash_bytes(path.read_bytes()) != self.hashes[file]:
            self.found.fail(file, name, "image", "is not that of the row")

    def check_rest(self) -> None:
        """Names lines of which the data set has no row."""
        for split, name in self._places:
            self.found.fail(f"{WORDS}/{split}.jsonl", name, "", "the data set has no such row")

    def check_pairs(self) -> None:
        """Computes what is said of two images again."""
        for (split, _), lines in self._families.items():
            for pair in build_family(lines, self.lexicon, self.seed):
                self._pairs[split, pair.name] = pair
        for split in self.record.splits:
            file = f"{WORDS}/{split}{PAIRS}.jsonl"
            for _, line in self._read_lines(file, ("images", "questions")):
                name = name_pair(each["name"] for each in line["images"])
                known = self._pairs.get((split, name))
                if known is None:
                    self.found.fail(file, name, "", "the data set has no such pair")
                    continue
                self.found.counts["pairs"] += 1
                facts = {what: fact.to_json() for what, fact in known.facts.items()}
                self._compare_facts(file, name, line["facts"], facts)
                if [each.to_json() for each in known.members] != line["images"]:
                    self.found.fail(file, name, "images", "are shown in another order")
                for told in line["questions"]:
                    self._check_statement(file, name, told, facts)

    def _compare_facts(
        self, file: str, name: str, told: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        for what in sorted({*told, *facts}):
            self.found.counts["facts"] += 1
            if told.get(what) != json.loads(json.dumps(facts.get(what))):
                now = f"by the row {facts.get(what)}, told {told.get(what)}"
                self.found.fail(file, name, what, now)

    def _check_statement(
        self, file: str, name: str, told: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        try:
            statement = Statement.model_validate(told)
        except ValueError as error:
            self.found.fail(file, name, "statement", f"cannot be read ({error})")
            return
        self.found.counts[statement.kind] += 1
        if statement.is_written and self.record.writer is None:
            self.found.fail(
                file, name, statement.kind, "is reworded, and no model that rewords is told"
            )
        fault = statement.find_fault(facts, self.lexicon, self.terms)
        if fault is not None:
            self.found.fail(file, name, f"{statement.kind} about {statement.about}", fault)

    def check_counts(self) -> None:
        """Counts the statements again, and what a guess scores."""
        try:
            counts, blind = count_words(self.folder, self.record.splits)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.found.fail(RECORD, "", "splits", f"cannot be counted again ({error!r})")
            return
        told = [each.to_json() for each in self.record.blind]
        for name, was, now in (
            ("splits", self.record.splits, counts),
            ("blind", told, blind.count()),
        ):
            self.found.counts["summaries"] += 1
            if was != now:
                self.found.fail(RECORD, "", name, f"is {was}, counted again {now}")

    def check_formats(self) -> None:
        """Compares what the formats hold with what the lines give."""
        for name in self.record.formats:
            for form in FORMATS[name]:
                for split in self.record.splits:
                    try:
                        if isinstance(form, Table):
                            self._check_table(form, split)
                        else:
                            self._check_text(form, split)
                    except (FactoryError, ValueError, KeyError, TypeError, OSError) as error:
                        self.found.fail(name, "", split, f"cannot be compared ({error!r})")

    def _check_text(self, form: TextFile, split: str) -> None:
        file = form.name.format(split=split)
        digest = hashlib.sha256()
        for piece in form.render(self.folder, split, self._asker.ask_report):
            digest.update(piece.encode())
        self.found.counts["format files"] += 1
        if digest.hexdigest() != hash_bytes((self.folder / file).read_bytes()):
            self.found.fail(file, "", "", "is not what the lines of words give")

    def _check_table(self, form: Table, split: str) -> None:
        images = [each.name for each in form.schema if each.type == IMAGE_TYPE]
        wanted = form.render(self.folder, split)
        store = FileStore(str(self.folder))
        names = [each for each in store.list(form.folder) if each.startswith(f"{split}-")]
        rows = 0
        for file in (f"{form.folder}/{each}" for each in sorted(names)):
            self.found.counts["format files"] += 1
            with store.open_parquet(file, check_pages=True) as table:
                for batch in table.iterate_batches(64):
                    for row in batch.to_pylist():
                        rows += 1
                        self._compare_row(file, rows, row, next(wanted, None), images)
        if next(wanted, None) is not None:
            self.found.fail(form.folder, "", split, f"ends after {rows:,} rows")

    def _compare_row(
        self,
        file: str,
        number: int,
        row: dict[str, Any],
        line: Mapping[str, Any] | None,
        images: list[str],
    ) -> None:
        if line is None:
            self.found.fail(file, "", f"row {number}", "is no statement of the words")
            return
        for name, told in line.items():
            if name in images:
                is_same = hash_bytes(row[name]["bytes"]) == self.hashes.get(told)
            else:
                is_same = row[name] == told
            if not is_same:
                self.found.fail(file, str(row.get("sample_id")), name, "differs from the words")
