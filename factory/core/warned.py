"""Warnings of libraries: each told once, in one short line of ours that names the image, if any."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from factory.core.notes import NOTES, tell

LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "torchsde", "huggingface_hub")
_LENGTH = 160  # characters of a warning that are told

_log = logging.getLogger(__name__)
_told: set[str] = set()
_image: ContextVar[str | None] = ContextVar("image", default=None)


@contextmanager
def name_image(place: str) -> Iterator[None]:
    """Says which image a library reads meanwhile, so that its warnings name it."""
    token = _image.set(place)
    try:
        yield
    finally:
        _image.reset(token)


def shorten_warnings() -> None:
    """Makes this process tell warnings once, in one line of ours, and libraries log errors only.

    Called where a command or a worker starts, and where weights are loaded, as libraries set up
    their logs when they are imported. Truncated prompts, which libraries warn of for each, are
    counted and told in sum.
    """
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    if warnings.showwarning is not _show_once:
        warnings.showwarning = _show_once


def _show_once(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = " ".join(str(message).split())
    kind = re.sub(r"[0-9]+", "#", text)[:_LENGTH]
    if kind in _told or issubclass(category, FutureWarning | DeprecationWarning):
        return
    _told.add(kind)
    parts = filename.replace("\\", "/").partition("site-packages/")
    source = parts[2].partition("/")[0] or "python"
    short = text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"
    place = _image.get()
    said = f"{source}: {short}"
    if place is not None:
        said = f"{place}: {source} warns: {short} (others like it are not named)"
    if NOTES.isEnabledFor(logging.INFO):
        tell(said)
    else:
        _log.warning("%s", said)
