"""What plans, runs and data sets show of themselves in a notebook, as HTML; every text escaped."""

import base64
import itertools
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from factory.data.summary import Summary

if TYPE_CHECKING:
    from factory.engine.dataset import Dataset

SHOWN = 16
"""Images that a data set shows."""
SIDE = 96
"""px of an image's side on the page."""


def write_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table; numbers with separators."""
    cells = ["<tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr>"]
    for row in rows:
        cells += ["<tr>", *(f"<td>{escape(_write(value))}</td>" for value in row), "</tr>"]
    return f"<table>{''.join(cells)}</table>"


def show_summary(summary: Summary, url: str) -> str:
    """Returns counts and funnel of a finished run."""
    what = "images judged" if summary.judged else "candidates"
    counts = f"{summary.accepted:,} of {summary.asked:,} accepted, {summary.generated:,} {what}"
    names = tuple(summary.rejected)
    rows = [
        (
            *(part.label, part.asked, part.accepted, part.generated, part.spare),
            *(part.rejected.get(name, 0) for name in names),
        )
        for part in summary.series
    ]
    head = ("condition", "asked", "accepted", "generated", "spare")
    table = write_table((*head, *(f"rejected: {name}" for name in names)), rows)
    title = f"<b>{escape(summary.name)}</b> {escape(counts)}<br><code>{escape(url)}</code>"
    return f"<p>{title}</p>{table}"


def show_dataset(dataset: "Dataset") -> str:
    """Returns HTML with counts, funnel, and the first accepted images.

    Raises:
        StoreError: a damaged file.
    """
    rows = dataset.iterate_rows(dataset.list_tables("data")[0])
    images = [
        (row.values["image"]["bytes"], str(row.values.get("class_name") or ""))
        for row in itertools.islice(rows, SHOWN)
    ]
    summary = dataset.summary
    head = f"<p><code>{escape(dataset.url)}</code></p>"
    if summary is not None:
        head = show_summary(summary, dataset.url)
    return head + show_images(images)


def show_images(images: Iterable[tuple[bytes, str]], side: int = SIDE) -> str:
    """Returns a grid of encoded images (WebP, PNG), `side` px wide, each with its caption below."""
    figures = []
    for data, caption in images:
        kind = "png" if data.startswith(b"\x89PNG") else "webp"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        figures.append(
            '<figure style="display:inline-block;margin:2px;text-align:center">'
            f'<img src="{source}" width="{side}" alt=""><figcaption>{escape(caption)}</figcaption>'
            "</figure>"
        )
    return f"<div>{''.join(figures)}</div>"


def _write(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
