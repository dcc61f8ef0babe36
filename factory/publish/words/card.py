"""The README of a folder of words: origin, counts, rules, the blind guess, and what is not said."""

from collections.abc import Iterator
from typing import Any

from factory.core.markdown import escape, write_code, write_line
from factory.publish.card.text import join_blocks, join_table
from factory.publish.words.balance import EITHER
from factory.publish.words.record import RECORD, WordsRecord

_TASKS = {
    "vqa": "visual-question-answering",
    "captions": "image-to-text",
    "llava": "visual-question-answering",
    "clip": "zero-shot-image-classification",
}
_FILES = {
    "vqa": "`vqa/SPLIT-*.parquet`: `image`, `question`, `answer`, `answer_type`, `fact`, as "
    "PathVQA; `vqa-pairs/` of two images",
    "captions": "`captions/SPLIT-*.parquet`: `image`, `captions` (several), `report`, `facts`",
    "llava": "`llava/SPLIT.json`: `conversations`, one for each report and question, as LLaVA",
    "clip": "`clip/SPLIT.tsv`: `filepath` and `title`, with tabs, as open_clip reads them",
}


def build_readme(record: WordsRecord) -> str:
    """Returns the card: a header for the Hub, and what a user of the words has to know."""
    origin, entry = record.origin, record.lexicon.entry
    counted = ("split", "images", "captions", "reports", "questions", "pairs", "of pairs")
    blocks = [
        "\n".join(["---", *_list_header(record), "---"]),
        f"# Words on {escape(origin['run'])}",
        "Captions, questions with answers, and short reports on **synthetic** images of "
        f"{write_code(str(origin['recipe']))}, written by templates ({write_code(entry.id)}) from "
        "what each row was asked to show and what its pixels measure. No person checked them; no "
        "statement is a diagnosis.",
        f"**{record.sources:,} images are real**: those called `NAME-source`, which rows "
        "translate; their terms are those of the real images."
        if record.sources
        else "",
        _describe_licence(record),
        "## Files",
        "\n".join(
            [
                *(f"- {_FILES[each]}" for each in record.formats),
                "- `words/SPLIT.jsonl`: every statement with its template, words and facts",
                f"- `{RECORD}`: templates, cut points, counts, hashes of files",
            ]
        ),
        "Each fact says `what`, `value`, `source` (asked or measured), `rule`, and for levels "
        "`number`, `edges`, `margin` and `distance` to the nearest cut point. `factory words check "
        "FOLDER DIR` computes all of them again from the rows.",
        "## How much",
        join_table(counted, [_list_counts(*each) for each in record.splits.items()]),
        "## What a blind guess scores",
        "The likeliest answer to each kind of question, without the image: what a model scores "
        "that learned the answers and not to look. Yes and no are as many for every value asked "
        "about, in each split.",
        join_table(
            ("answer", "about", "questions", "yes", "blind"),
            [
                (each.kind, escape(each.about), each.questions, _show(each.yes), _show(each.blind))
                for each in record.blind
            ],
        ),
        *_describe_cuts(record),
        *_describe_writer(record),
        "## What is not said",
        *_list_unsaid(record),
    ]
    return join_blocks(blocks) + "\n"


def _list_header(record: WordsRecord) -> Iterator[str]:
    licence = record.origin.get("license")
    if licence:
        yield write_line("license", licence)
    yield write_line("tags", ["synthetic", "pathology", "histology", "factory"])
    yield write_line("task_categories", [*dict.fromkeys(_TASKS[each] for each in record.formats)])
    configs: list[dict[str, Any]] = []
    for folder in ("vqa", "vqa-pairs", "captions"):
        files = [
            {"split": split, "path": f"{folder}/{split}-*.parquet"}
            for split in record.splits
            if any(name.startswith(f"{folder}/{split}-") for name in record.files)
        ]
        if files:
            configs.append({"config_name": folder, "data_files": files})
    if configs:
        yield write_line("configs", configs)


def _describe_licence(record: WordsRecord) -> str:
    licence = record.origin.get("license")
    told = f"Licence: {escape(licence)}" if licence else "Licence: the data set states none"
    return (
        f"{told}, as the data set; its card has the terms of the models and of the real images "
        "that it was made with, which hold for these words too."
    )


def _list_counts(split: str, counts: dict[str, int]) -> list[str]:
    names = ("images", "captions", "reports", "questions", "pairs", "pair_questions")
    return [escape(split), *(f"{counts.get(name, 0):,}" for name in names)]


def _show(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _describe_cuts(record: WordsRecord) -> Iterator[str]:
    if not record.lexicon.cuts:
        return
    yield "## Levels"
    yield (
        "A level is said by the cut points of its measure alone, and not where the measure is "
        "nearer to one than the margin."
    )
    rows = []
    for name, cut in record.lexicon.cuts.items():
        edges = ", ".join(f"{each:g}" for each in cut.edges)
        rows.append((name, cut.by, edges, f"{cut.margin:g}", escape(cut.origin)))
    yield join_table(("level", "measure", "cut points", "margin", "from"), rows)


def _describe_writer(record: WordsRecord) -> Iterator[str]:
    writer = record.writer
    if writer is None:
        return
    yield "## Reworded"
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(writer["sentences"].items()))
    yield (
        f"Captions and reports were reworded by {escape(writer['model'])} "
        f"({escape(writer['revision'])}; licence: {escape(writer['license'])}). A sentence that "
        "drops, changes or adds a value is rejected, and the template's stands: "
        f"{escape(counts) or 'none was asked for'}."
    )


def _list_unsaid(record: WordsRecord) -> Iterator[str]:
    left = [f"- {count:,} rows: {escape(each)}" for each, count in sorted(record.left_out.items())]
    if record.unfinished:
        left.append(f"- the run was not finished: {escape(record.unfinished)}")
    yield "\n".join(left)
    if record.passed:
        rows = [(escape(each.about), f"{each.count:,}", each.reason) for each in record.passed]
        yield join_table(("about", "times", "why"), rows)
    lost: dict[tuple[str, str], list[str]] = {}
    for one in record.balance:
        if not one.yes and one.value != EITHER:
            lost.setdefault((one.split, one.about), []).append(one.value)
    yield "\n".join(
        f"- {escape(split)}: no yes/no question on {escape(about)} names "
        f"{escape(', '.join(values))}, "
        "as every image there has it, or none has"
        for (split, about), values in sorted(lost.items())
    )
    if not (left or record.passed or lost):
        yield "Nothing was passed over."
