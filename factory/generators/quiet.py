"""What libraries say while they load and sample: once, in one short line, or not at all."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from safetensors import SafetensorError

READ_ERRORS = (RuntimeError, ValueError, TypeError, ImportError, SafetensorError)
"""What libraries raise besides `OSError` and `LookupError` for files that they cannot use."""

LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "torchsde", "huggingface_hub")
_LENGTH = 160  # characters of a warning that are told
_NEW_WEIGHTS = "newly initialized"
"""Words of diffusers and transformers for weights that a file lacks: they are drawn at random."""

_log = logging.getLogger(__name__)
_told: set[str] = set()


class _Listener(logging.Handler):
    """Keeps what is logged; nothing of it is shown."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.messages.append(record.getMessage())

    def find_new_weights(self) -> str | None:
        """Returns the message that says that weights were missing, in one line."""
        found = (each for each in self.messages if _NEW_WEIGHTS in each)
        return next((" ".join(each.split()) for each in found), None)


@contextmanager
def listen_to_libraries() -> Iterator[_Listener]:
    """Hides loading bars and log lines of libraries while a model is loaded, and keeps the lines.

    Their lines are for those who load a model by hand; what matters of them is checked.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()
    listener, loggers = _Listener(), [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [listener], False
        logger.setLevel(logging.WARNING)
    try:
        yield listener
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        for library in shown:
            library.enable_progress_bar()


def shorten_warnings() -> None:
    """Makes this process tell warnings once, in one line of ours, and libraries log errors only.

    Called where weights are loaded, so in workers of Ray too. Truncated prompts, which libraries
    warn of for each, are counted and told in sum.
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
    if text[:_LENGTH] in _told or issubclass(category, FutureWarning | DeprecationWarning):
        return
    _told.add(text[:_LENGTH])
    parts = filename.replace("\\", "/").partition("site-packages/")
    source = parts[2].partition("/")[0] or "python"
    _log.warning("%s: %s", source, text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…")
