"""What libraries say while they load a model: kept, and not shown."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from factory.core.warned import LIBRARIES

READ_ERRORS = (RuntimeError, ValueError, TypeError, ImportError, SafetensorError)
"""What libraries raise besides `OSError` and `LookupError` for files that they cannot use."""

_NEW_WEIGHTS = "newly initialized"
"""Words of diffusers and transformers for weights that a file lacks: they are drawn at random."""


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
    """Hides bars, log lines and warnings of libraries while a model is loaded, and keeps the lines.

    They are for those who load a model by hand; what matters of them is checked.
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
            yield listener
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        for library in shown:
            library.enable_progress_bar()
