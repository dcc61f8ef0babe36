"""Formats of words: PathVQA-style parquet, LLaVA-style conversations, lists of captions for CLIP.

Each is made of the lines in `words/`, which hold every statement with its facts, and can be made of
them again to be compared.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.files.store import FileStore
from factory.core.hashing import to_canonical_json
from factory.data.columns import IMAGE_TYPE
from factory.data.features import with_features
from factory.data.writers.parquet import ParquetFiles
from factory.publish.words.statements import Statement

AskReport = Callable[[str], str]
"""Sample id -> the question that its report answers."""
Line = Mapping[str, Any]
WORDS = "words"
"""Folder of lines: SPLIT.jsonl of images, SPLIT-pairs.jsonl of two images."""
PAIRS = "-pairs"
_ROWS_PER_FILE = 20_000
_BLOCK = 64
_TEXTS = ("question", "answer", "answer_type", "about", "template", "sample_id", "fact")


def read_words(out: Path, split: str, is_pairs: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the lines of a split; none where there is no such file."""
    path = out / WORDS / f"{split}{PAIRS if is_pairs else ''}.jsonl"
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def join_report(line: Line) -> str:
    """Returns the report of a line as one text."""
    return " ".join(each["answer"] for each in line["report"])


def list_facts(statement: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Any]:
    """Returns the facts that a statement follows from; of yes/no, with the value asked about."""
    tested = {"tested": statement["tested"]} if statement.get("tested") else {}
    return [{**facts[each], **tested} for each in statement["facts"]]


def render_statement(statement: Statement) -> dict[str, Any]:
    """Returns a statement as a line holds it, without what is empty."""
    told = statement.model_dump(mode="json")
    return {name: each for name, each in told.items() if each or name in ("question", "answer")}


@dataclass(frozen=True)
class Table:
    """A format in parquet: `FOLDER/SPLIT-*.parquet`.

    Attributes:
        folder: below the folder of words.
        schema: its columns.
        list_rows: the rows of a line; images are told by the name of their file.
        is_pairs: whether its lines are those of pairs.
    """

    folder: str
    schema: pa.Schema
    list_rows: Callable[[Line], list[dict[str, Any]]]
    is_pairs: bool = False

    def render(self, out: Path, split: str) -> Iterator[dict[str, Any]]:
        """Yields the rows of a split."""
        for line in read_words(out, split, self.is_pairs):
            yield from self.list_rows(line)

    def write(self, out: Path, split: str, ask_report: AskReport) -> None:
        """Writes the files of a split; none where there is nothing to ask."""
        total = sum(1 for _ in self.render(out, split))
        if not total:
            return
        schema, block = with_features(self.schema, ()), []
        images = [field.name for field in schema if field.type == IMAGE_TYPE]
        store = FileStore(str(out))
        with ParquetFiles(store, self.folder, split, schema, total, _ROWS_PER_FILE) as files:
            for number, row in enumerate(self.render(out, split), 1):
                block.append({**row, **{each: _read_image(out, row[each]) for each in images}})
                if len(block) == _BLOCK or number == total:
                    files.write(pa.Table.from_pylist(block, schema=schema))
                    block = []


def _read_image(out: Path, name: str) -> dict[str, Any]:
    return {"bytes": (out / name).read_bytes(), "path": Path(name).name}


def _list_questions(line: Line) -> list[dict[str, Any]]:
    own = {"image": line["file_name"], "class_name": line["class_name"]}
    return [{**own, **_tell(each, line, line["sample_id"])} for each in line["questions"]]


def _list_pair_questions(line: Line) -> list[dict[str, Any]]:
    first, second = (each["file_name"] for each in line["images"])
    names = " ".join(each["name"] for each in line["images"])
    own = {"image_1": first, "image_2": second}
    return [{**own, **_tell(each, line, names)} for each in line["questions"]]


def _list_captions(line: Line) -> list[dict[str, Any]]:
    told = {
        "image": line["file_name"],
        "captions": [each["answer"] for each in line["captions"]],
        "report": join_report(line),
        "sample_id": line["sample_id"],
        "class_name": line["class_name"],
        "facts": to_canonical_json(line["facts"]),
    }
    return [told]


def _tell(question: Mapping[str, Any], line: Line, name: str) -> dict[str, Any]:
    return {
        "question": question["question"],
        "answer": question["answer"],
        "answer_type": question["kind"],
        "about": question["about"],
        "template": question["template"],
        "sample_id": name,
        "fact": to_canonical_json(list_facts(question, line["facts"])),
    }


@dataclass(frozen=True)
class TextFile:
    """A format in text: a file for each split.

    Attributes:
        name: of the file, with {split}.
        render: its pieces, of the lines of a split.
    """

    name: str
    render: Callable[[Path, str, AskReport], Iterator[str]]

    def write(self, out: Path, split: str, ask_report: AskReport) -> None:
        """Writes the file of a split."""
        path = out / self.name.format(split=split)
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(self.render(out, split, ask_report))


def _render_llava(out: Path, split: str, ask_report: AskReport) -> Iterator[str]:
    """Yields a conversation for each report and each question: none holds the answer to another."""
    mark = "[\n"
    for is_pairs in (False, True):
        for line in read_words(out, split, is_pairs):
            for made in _list_talks(line, None if is_pairs else ask_report):
                yield mark + to_canonical_json(made)
                mark = ",\n"
    yield "[]\n" if mark == "[\n" else "\n]\n"


def _list_talks(line: Line, ask_report: AskReport | None) -> Iterator[dict[str, Any]]:
    """Yields the conversations of an image, or of a pair where no report is asked for."""
    files = [each["file_name"] for each in line.get("images", (line,))]
    name = line["sample_id"] if ask_report else " ".join(each["name"] for each in line["images"])
    own = {"image": files[0] if ask_report else files}

    def build(end: str | int, asked: str, answer: str, facts: list[Any]) -> dict[str, Any]:
        turns = [
            {"from": "human", "value": "<image>\n" * len(files) + asked},
            {"from": "gpt", "value": answer},
        ]
        return {"id": f"{name} {end}", **own, "facts": facts, "conversations": turns}

    if ask_report and line["report"]:
        said = sorted({what for each in line["report"] for what in each["facts"]})
        told = [line["facts"][what] for what in said]
        yield build("report", ask_report(name), join_report(line), told)
    for number, each in enumerate(line["questions"]):
        yield build(number, each["question"], each["answer"], list_facts(each, line["facts"]))


def _render_clip(out: Path, split: str, ask_report: AskReport) -> Iterator[str]:
    """Yields `filepath` and `title` of each caption, with tabs between, as open_clip reads them."""
    yield _write_row(["filepath", "title"])
    for line in read_words(out, split):
        for each in line["captions"]:
            yield _write_row([line["file_name"], each["answer"]])


def _write_row(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", lineterminator="\n").writerow(cells)
    return text.getvalue()


_STRINGS = [(name, pa.string()) for name in _TEXTS]
QUESTIONS = Table(
    "vqa",
    pa.schema([("image", IMAGE_TYPE), *_STRINGS, ("class_name", pa.string())]),
    _list_questions,
)
PAIR_QUESTIONS = Table(
    "vqa-pairs",
    pa.schema([("image_1", IMAGE_TYPE), ("image_2", IMAGE_TYPE), *_STRINGS]),
    _list_pair_questions,
    is_pairs=True,
)
_LIST = pa.list_(pa.field("element", pa.string()))  # the name that parquet gives items
CAPTIONS = Table(
    "captions",
    pa.schema(
        [
            ("image", IMAGE_TYPE),
            ("captions", _LIST),
            *((name, pa.string()) for name in ("report", "sample_id", "class_name", "facts")),
        ]
    ),
    _list_captions,
)
FORMATS: Mapping[str, tuple[Table | TextFile, ...]] = {
    "vqa": (QUESTIONS, PAIR_QUESTIONS),
    "captions": (CAPTIONS,),
    "llava": (TextFile("llava/{split}.json", _render_llava),),
    "clip": (TextFile("clip/{split}.tsv", _render_clip),),
}
"""What each format writes."""
NEED_IMAGES = frozenset({"llava", "clip"})
"""Formats that name files of images; the others hold them."""
