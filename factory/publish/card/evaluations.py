"""Results of `factory evaluate ... --json` as tables: whatever the command, its metrics and marks.

A metric is an object with `mean` or `value`, mostly with `low` and `high`; a row is an object that
holds metrics, named by the way to it. So a new evaluation needs no code here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.evaluate.names import name_measure
from factory.publish.card.facts import Facts
from factory.publish.card.text import join_blocks, join_table, list_settings

SKIPPED = frozenset(
    {
        "settings",
        "per_class",
        "paired_metrics",
        "curve",
        "by_seed",
        "seconds",
        "encoder",
        "pairs",
        "train",
        "cells",
    }
)
"""Parts of results that a card leaves to the JSON file."""
NOTES = ("warnings", "notes", "leaks", "circular")
COLUMNS_MAX = 8
SEPARATOR = " · "
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
    """Returns the block of one result: marks first, tables, settings, notes."""
    marks = sorted({str(mark) for found in _list_marks(result) for mark in found})
    notes = list(dict.fromkeys(_list_notes(result)))
    notes += [f"refused: {reason}" for reason in dict.fromkeys(_list_refused(result))]
    settings = list_settings(result.get("settings", {}))
    scope = result.get("scope")
    return join_blocks(
        [
            f"### {escape(name)}",
            "\n".join(f"- **{escape(mark)}**" for mark in marks),
            escape(scope) if isinstance(scope, str) else "",
            *_write_tables(result),
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


def is_metric(value: Any) -> bool:
    """Whether a part of a result is one measured number."""
    if not isinstance(value, dict):
        return False
    return any(name in value and not isinstance(value[name], dict) for name in ("mean", "value"))


def format_metric(metric: Mapping[str, Any]) -> str:
    """Returns e.g. `0.712 [0.688, 0.741]`, with what makes it weak."""
    value = metric.get("mean", metric.get("value"))
    if value is None:
        return "refused"
    text = _format(value)
    if metric.get("low") is not None and metric.get("high") is not None:
        text += f" [{_format(metric['low'])}, {_format(metric['high'])}]"
    return f"{text} **{escape(metric['flag'])}**" if metric.get("flag") else text


def _format(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(value)


def _write_tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table for each run of rows with the same metrics, a line of words before each.

    Rows that stand alone, or have more metrics than fit beside each other, are read from top to
    bottom, all such that follow each other in one table.
    """
    tables: list[tuple[tuple[str, ...], list[Row]]] = []
    for row in _find_rows(result, ()):
        columns = tuple(row[1])
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
        heads = map(_name, columns)
        yield join_table(["", *heads], [[escape(label), *row.values()] for label, row in rows])
    yield from _write_tall(tall)


def _write_tall(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield f"{_find_common(rows)}, one measure a line:"
        lines = [[escape(at), _name(key), text] for at, of in rows for key, text in of.items()]
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


def _name(key: str) -> str:
    return escape(name_measure(key))


def _find_rows(value: Any, path: tuple[str, ...]) -> Iterator[Row]:
    if isinstance(value, list):
        for place, each in enumerate(value):
            if isinstance(each, dict):
                yield from _find_rows(each, (*path, _name_item(each, place)))
        return
    if not isinstance(value, dict) or is_metric(value):
        return
    if "shots" in value and isinstance(value["shots"], dict):  # the top repeats the largest
        value = {"shots": value["shots"]}
    metrics = {name: format_metric(each) for name, each in value.items() if is_metric(each)}
    if metrics:
        yield SEPARATOR.join(path) or "all", metrics
    for name, each in value.items():
        if name not in SKIPPED:
            hidden = name in ("arms", "figures", "metrics")
            yield from _find_rows(each, path if hidden else (*path, name_measure(name)))


def _name_item(item: Mapping[str, Any], place: int) -> str:
    encoder = item.get("encoder")
    parts: list[Any] = [encoder.get("spec") if isinstance(encoder, dict) else None]
    parts += [item.get("synthetic"), item.get("class", "") or "overall" if "class" in item else ""]
    named = [str(shorten_places(part)) for part in parts if isinstance(part, str) and part]
    return SEPARATOR.join(named) or str(place)


def _list_marks(result: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """Yields marks such as LABELS SEEN, which stand above every number."""
    marks = result.get("marks", {})
    if isinstance(marks, dict):
        for arm, found in marks.items():
            listed = found if isinstance(found, list) else [found]
            yield [f"{arm}: {mark}" for mark in listed]
    elif isinstance(marks, list):
        yield marks
    for each in (result.get("shots") or {}).values() if "shots" in result else ():
        yield from _list_marks(each)


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


def _list_notes(result: Mapping[str, Any]) -> Iterator[str]:
    for name in NOTES:
        for note in result.get(name) or ():
            text = note if isinstance(note, str) else str(shorten_places(note))
            yield f"NOT INDEPENDENT: {text}" if name == "circular" else text
    for figure in result.get("figures") or ():
        for part in figure.get("circular") or ():
            yield f"NOT INDEPENDENT: {shorten_places(part)}"
