"""Results of `factory evaluate ... --json` as tables: what each evaluation shows, marks first."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.evaluate import view_result
from factory.evaluate.base import Evaluation
from factory.evaluate.figures import REFUSED, SEPARATOR, find_figures, is_metric, write_metric
from factory.publish.card.facts import Facts
from factory.publish.card.text import join_blocks, join_table, list_settings

COLUMNS_MAX = 8
Row = tuple[str, dict[str, str]]
_CAPITALS = re.compile(r"\A[A-Z][A-Z,-]+( [A-Z,-]+)+\b")


def write_evaluations(facts: Facts) -> str:
    """Returns the section with a block for each result, or says that there is none."""
    blocks = [write_evaluation(name, facts.evaluations[name]) for name in sorted(facts.evaluations)]
    if not blocks:
        blocks.append(
            "**Not measured.** What these images are worth for a task is not known: `factory "
            "evaluate` measures it, and results in `evaluation/*.json` are shown here."
        )
    return join_blocks(["## Evaluation", _write_left_out(facts.left_out), *blocks])


def write_evaluation(name: str, result: Mapping[str, Any]) -> str:
    """Returns the block of one result: marks first, tables, settings, notes.

    Of a plug-in that fails, figures and notes are shown as of any other, and it is named.
    """
    block, broken = view_result(result, name, partial(_write_block, name, result))
    return block if broken is None else f"{block}\n\n**Shown plainly:** {escape(broken.brief)}"


def _write_block(name: str, result: Mapping[str, Any], kind: type[Evaluation]) -> str:
    marks = sorted(set(kind.list_marks(result)))
    notes = list(dict.fromkeys(map(_write_note, kind.list_notes(result))))
    notes += [f"refused: {reason}" for reason in dict.fromkeys(_list_refused(result))]
    settings = list_settings(result.get("settings", {}))
    scope = result.get("scope")
    return join_blocks(
        [
            f"### {escape(name)}",
            "\n".join(f"- **{escape(mark)}**" for mark in marks),
            escape(scope) if isinstance(scope, str) else "",
            *_write_tables(kind, result),
            "Brackets: 95 % intervals (of a floor: smallest and largest), of the set as it was "
            "when this was measured.",
            f"Settings: {settings}" if settings else "",
            "\n".join(f"- {_stress(note)}" for note in notes),
        ]
    )


def _write_left_out(left_out: Mapping[str, str]) -> str:
    """Says which results are not shown, as they do not speak of these images."""
    if not left_out:
        return ""
    count = len(left_out)
    counted = "1 result is" if count == 1 else f"{count} results are"
    lines = [
        f"- {write_code(f'evaluation/{name}.json')}: {escape(why)}"
        for name, why in sorted(left_out.items())
    ]
    return "\n".join([f"**{counted} left out**, of other images than these:", "", *lines])


def format_metric(metric: Mapping[str, Any]) -> str:
    """Returns e.g. `0.712 [0.688, 0.741]`, with what makes it weak."""
    text = write_metric(metric, escape)
    is_flagged = metric.get("flag") and text != REFUSED
    return f"{text} **{escape(metric['flag'])}**" if is_flagged else text


def _write_tables(kind: type[Evaluation], result: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table for each run of rows with the same metrics, a line of words before each.

    Rows that stand alone, or have more metrics than fit beside each other, are read from top to
    bottom, all such that follow each other in one table.
    """
    tables: list[tuple[tuple[str, ...], list[Row]]] = []
    for path, metrics in find_figures(kind, result):
        cells = {kind.name_measure(key): format_metric(each) for key, each in metrics.items()}
        row, columns = (SEPARATOR.join(path) or "all", cells), tuple(cells)
        if tables and tables[-1][0] == columns:
            tables[-1][1].append(row)
        else:
            tables.append((columns, [row]))
    tall: list[Row] = []
    for columns, rows in tables:
        if len(columns) > COLUMNS_MAX or len(rows) == 1:
            tall += rows
            continue
        yield from _write_tall(tall)
        tall = []
        yield f"{_find_common(rows)}:"
        heads = map(escape, columns)
        yield join_table(["", *heads], [[escape(label), *row.values()] for label, row in rows])
    yield from _write_tall(tall)


def _write_tall(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield f"{_find_common(rows)}, one measure a line:"
        lines = [[escape(at), escape(key), text] for at, of in rows for key, text in of.items()]
        before = ["", *(at for at, *_ in lines)]
        pairs = zip(before, lines, strict=False)
        shown = [["" if at == last else at, *rest] for last, (at, *rest) in pairs]
        yield join_table(["of", "measure", "mean [low, high]"], shown)


def _find_common(rows: Sequence[Row]) -> str:
    """Returns the words with which all labels begin; those of no label: all."""
    parts = [label.split(SEPARATOR) for label, _ in rows]
    common: list[str] = []
    for each in zip(*parts, strict=False):
        if len(set(each)) > 1:
            break
        common.append(each[0])
    return escape(SEPARATOR.join(common)) or "Measured"


def _write_note(note: Any) -> str:
    return note if isinstance(note, str) else str(shorten_places(note))


def _stress(note: str) -> str:
    """Makes the capitals that a grave note begins with bold."""
    return _CAPITALS.sub(r"**\g<0>**", escape(note))


def _list_refused(value: Any) -> Iterator[str]:
    """Yields why metrics were refused, wherever they stand."""
    if isinstance(value, dict):
        if is_metric(value) and value.get("refused"):
            yield str(value["refused"])
        for each in value.values():
            yield from _list_refused(each)
    elif isinstance(value, list):
        for each in value:
            yield from _list_refused(each)
