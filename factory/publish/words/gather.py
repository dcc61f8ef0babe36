"""Reading all rows of a data set once: their facts, their pairs, and their images into a folder."""

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from factory.catalog.words import CLASS_NAME, WordsEntry
from factory.core.errors import InputError
from factory.core.hashing import to_canonical_json
from factory.core.images import decode_image
from factory.data.columns import is_image
from factory.engine.dataset import Dataset
from factory.publish.export import iterate_splits
from factory.publish.words.balance import EITHER, Balance
from factory.publish.words.facts import list_tested, measure, read_facts
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.pairs import (
    SOURCE,
    Member,
    Pair,
    pair_family,
    pair_translation,
)

NO_PROVENANCE = "a real image, of which nothing was asked"
IMAGES = "images"


@dataclass
class Gathered:
    """What is known of all rows; the facts of each wait on disk.

    Attributes:
        lines: a line of JSON for each row.
        pair_lines: likewise for each pair of images.
        balance: of yes/no questions, settled.
        class_names: of the rows.
        images: split -> rows.
        left: reason -> rows that nothing is said of.
        passed: (fact, reason) -> times that a fact is not said.
        recipes: digest of a recipe -> rows.
        sources: real images that rows translate, written beside theirs.
    """

    lines: IO[bytes]
    pair_lines: IO[bytes]
    balance: Balance
    class_names: set[str] = field(default_factory=set)
    images: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    sources: int = 0
    _families: "defaultdict[tuple[str, str], array[int]]" = field(
        default_factory=lambda: defaultdict(lambda: array("Q"))
    )

    def read_all(self, dataset: Dataset, lexicon: Lexicon, out: Path, seed: int) -> None:
        """Reads the rows, writes their images below `out`, and settles the balance.

        Raises:
            InputError: one image twice, or no row of which anything is known.
            StoreError: a damaged file.
        """
        for split, row in iterate_splits(dataset):
            if not row.get("provenance") or row.get("sample_id") is None:
                self.left[NO_PROVENANCE] += 1
                continue
            self._read(split, row, lexicon, out, seed)
        if not self.images:
            why = "; ".join(f"{count:,}: {reason}" for reason, count in self.left.items())
            raise InputError(f"{dataset.url}: no row tells what its image shows ({why})")
        if lexicon.entry.pairs is not None:
            for split, pair in self._pair_families(lexicon, seed):
                self._add_pair(split, pair)
        self.balance.settle(list_untested(lexicon.entry, self.balance.abouts))

    def _read(
        self, split: str, row: Mapping[str, Any], lexicon: Lexicon, out: Path, seed: int
    ) -> None:
        name = str(row["sample_id"])
        known = read_facts(row, split, lexicon)
        facts = {what: fact.to_json() for what, fact in known.facts.items()}
        path = f"{IMAGES}/{split}/{name}{Path(row['image']['path']).suffix}"
        write_image(out / path, row["image"]["bytes"])
        line: dict[str, Any] = {"split": split, "sample_id": name, "file_name": path}
        line |= {"class_name": row.get(CLASS_NAME), "facts": facts, "measures": known.measures}
        if row.get("family_id") is not None:
            line["family"] = {each: row[each] for each in ("family_id", "varied", "value")}
            self._families[split, str(row["family_id"])].append(self.lines.tell())
        self.lines.write(f"{to_canonical_json(line)}\n".encode())
        for what, value in list_tested(facts, lexicon.entry):
            self.balance.add(split, name, what, value)
        if row.get(CLASS_NAME) is not None:
            self.class_names.add(str(row[CLASS_NAME]))
        self.images[split] += 1
        self.passed.update(known.passed)
        self.recipes[str(row.get("recipe_sha256"))] += 1
        if lexicon.entry.pairs is not None and has_source(row):
            self.sources += 1
            member = Member(name, path, known.measures, facts)
            self._add_pair(split, build_translation(row, member, lexicon, seed, out))

    def _pair_families(self, lexicon: Lexicon, seed: int) -> Iterator[tuple[str, Pair]]:
        for (split, _), places in self._families.items():
            lines = []
            for place in places:
                self.lines.seek(place)
                lines.append(json.loads(self.lines.readline()))
            self.lines.seek(0, 2)
            for pair in build_family(lines, lexicon, seed):
                yield split, pair

    def _add_pair(self, split: str, pair: Pair) -> None:
        self.passed.update(pair.passed)
        facts = {what: fact.to_json() for what, fact in pair.facts.items()}
        for what in (each for each in facts if each.startswith("more:")):
            self.balance.add(split, pair.name, what, EITHER)
        images = [each.to_json() for each in pair.members]
        line = {"split": split, "kind": pair.kind, "images": images, "facts": facts}
        self.pair_lines.write(f"{to_canonical_json(line)}\n".encode())


def has_source(row: Mapping[str, Any]) -> bool:
    """Whether a row keeps the image that it translates; in a merged set, `source` names a set."""
    return is_image(row.get("source")) and row["source"]["bytes"] is not None


def build_translation(
    row: Mapping[str, Any], made: Member, lexicon: Lexicon, seed: int, out: Path | None = None
) -> Pair:
    """Returns a row and its source; writes the source's image below `out`."""
    data = row["source"]["bytes"]
    suffix = Path(row["source"].get("path") or "source.png").suffix
    path = Path(made.file_name).with_suffix("")
    name = f"{path.as_posix()}-source{suffix}"
    if out is not None:
        write_image(out / name, data)
    measured, _ = measure(decode_image(data, f"{made.name}: source"), lexicon)
    finite = {each: number for each, number in measured.items() if math.isfinite(number)}
    real = Member(made.name + SOURCE, name, finite, {})
    return pair_translation(made, real, lexicon, seed)


def build_family(lines: list[dict[str, Any]], lexicon: Lexicon, seed: int) -> Iterator[Pair]:
    """Yields the pairs of a family, by the lines of its members."""
    members = [
        Member(each["sample_id"], each["file_name"], each["measures"], each["facts"])
        for each in lines
    ]
    told = lines[0]["family"]
    values = {each["sample_id"]: each["family"]["value"] for each in lines}
    if len(members) > 1:
        yield from pair_family(members, (told["varied"], values), lexicon, seed)


def list_untested(entry: WordsEntry, abouts: set[str]) -> dict[str, tuple[str, ...]]:
    """Returns fact -> the values that no yes/no question names."""
    told = {name: rule.never_tested for name, rule in entry.levels.items()}
    return told | {each: ("no",) for each in abouts if each.startswith("present:")}


def write_image(path: Path, data: bytes) -> None:
    """Writes an image, byte for byte.

    Raises:
        InputError: it is there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise InputError(f"{path.name}: the data set holds two images of that name: merge anew")
    path.write_bytes(data)
