"""The metrics in a result, whatever the evaluation, and how they are written.

A metric is an object with `mean` or `value`, mostly with `low` and `high`; a row is an object that
holds metrics, named by the way to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factory.core.places import shorten_places

if TYPE_CHECKING:
    from factory.evaluate.base import Evaluation

UNNAMED = ("arms", "figures", "metrics")
"""Parts that add nothing to the way."""
SEPARATOR = " · "
REFUSED = "refused"
Kind = type["Evaluation"]
Figures = tuple[tuple[str, ...], dict[str, Mapping[str, Any]]]
"""The way to metrics in words, and the metrics by key."""


def is_metric(value: Any) -> bool:
    """Whether a part of a result is one measured number."""
    if not isinstance(value, dict):
        return False
    return any(name in value and not isinstance(value[name], dict) for name in ("mean", "value"))


def write_metric(metric: Mapping[str, Any], tell: Callable[[Any], str] = str) -> str:
    """Returns e.g. `0.712 [0.688, 0.741]`; `tell` writes what is no fraction."""
    value = metric.get("mean", metric.get("value"))
    if value is None:
        return REFUSED
    value, *ends = (
        f"{each:.3g}" if isinstance(each, float) else tell(each)
        for each in (value, metric.get("low"), metric.get("high"))
        if each is not None
    )
    return f"{value} [{', '.join(ends)}]" if len(ends) == 2 else value


def find_figures(kind: Kind, result: Mapping[str, Any]) -> Iterator[Figures]:
    """Yields all metrics that a card shows of a result, those of one object together."""
    return _find(kind, dict(kind.show(result)), ())


def tabulate_figures(kind: Kind, result: Mapping[str, Any]) -> list[str]:
    """Returns a line for each metric of a result, columns aligned."""
    rows = [
        [SEPARATOR.join(path) or kind.kind, kind.name_measure(key), write_metric(metric)]
        for path, metrics in find_figures(kind, result)
        for key, metric in metrics.items()
    ]
    return align([["of", "measure", "value [95 %]"], *rows])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _find(kind: Kind, value: Any, path: tuple[str, ...]) -> Iterator[Figures]:
    if isinstance(value, list):
        for place, each in enumerate(value):
            if isinstance(each, dict):
                yield from _find(kind, each, (*path, _name_item(each, place)))
        return
    if not isinstance(value, dict) or is_metric(value):
        return
    metrics = {name: each for name, each in value.items() if is_metric(each)}
    if metrics:
        yield path, metrics
    for name, each in value.items():
        if not kind.hides(name):
            inner = path if name in UNNAMED else (*path, kind.name_measure(name))
            yield from _find(kind, each, inner)


def _name_item(item: Mapping[str, Any], place: int) -> str:
    encoder = item.get("encoder")
    parts: list[Any] = [encoder.get("spec") if isinstance(encoder, dict) else None]
    parts += [item.get("synthetic"), item.get("class", "") or "overall" if "class" in item else ""]
    named = [str(shorten_places(part)) for part in parts if isinstance(part, str) and part]
    return SEPARATOR.join(named) or str(place)
