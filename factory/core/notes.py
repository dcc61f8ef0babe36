"""Notes: what a user should be told that is no error; the command line prints each once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTES = logging.getLogger("factory.core.notes")
"""Silent unless somebody listens at level INFO."""


def tell(text: str) -> None:
    """Tells one line to whoever listens."""
    NOTES.info("%s", text)


@contextmanager
def listen(show: Callable[[str], object] | None = None) -> Iterator[list[str]]:
    """Yields a list that takes each different note while open; `show` is called with each."""
    listener = _Listener(show)
    NOTES.addHandler(listener)
    level = NOTES.level
    NOTES.setLevel(logging.INFO)
    try:
        yield listener.heard
    finally:
        NOTES.removeHandler(listener)
        NOTES.setLevel(level)


class _Listener(logging.Handler):
    def __init__(self, show: Callable[[str], object] | None) -> None:
        super().__init__(logging.INFO)
        self.heard: list[str] = []
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.heard:
            self.heard.append(text)
            if self._show is not None:
                self._show(text)
