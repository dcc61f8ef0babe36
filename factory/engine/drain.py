"""A run that is asked to stop lays down its work in bounded time; a second signal is hard."""

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from factory.core.errors import RunBrokenError, StoreError

GRACE = 25.0
"""Seconds for the batches in hand to end: less than the 30 s that Kubernetes gives."""
HARD = 10.0
"""Seconds after a second signal, or GRACE, until the process ends, whatever it hangs in."""


class StoppedError(Exception):
    """A worker laid its shard down; what was made of it is kept as a part."""


class Drained(KeyboardInterrupt):
    """A run was asked to stop, and all that its workers made is kept."""


class Drain:
    """Whether a run is asked to stop, by SIGTERM, SIGINT, or the driver of a worker.

    Args:
        say: takes the line that tells what happens now.
        tell_lost: why nothing more may be written, as when the run folder was lost; "": it may.

    Attributes:
        is_asked: workers lay down their shards; no other is begun.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: None,
        tell_lost: Callable[[], str] = str,
    ) -> None:
        self.is_asked = False
        self._say, self._tell_lost = say, tell_lost
        self._ended = threading.Event()
        self._is_last = threading.Lock()

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Takes signals, where this is the main thread.

        Raises:
            Drained: one was taken, and what was to end has ended.
            KeyboardInterrupt: a second one was, or GRACE is over.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._ended.set()
            for each, handler in before.items():
                signal.signal(each, handler)
        if self.is_asked:
            raise Drained
        self._ended.clear()

    def check(self) -> None:
        """Looks whether anything may still be written.

        Raises:
            StoreError: no, and why.
        """
        if self._tell_lost():
            raise StoreError(self._tell_lost())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked or self._tell_lost():
            self._start(self._end_hard)
            raise KeyboardInterrupt
        self.is_asked = True
        self._start(self._end_late)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="drain", daemon=True).start()

    def _end_late(self) -> None:
        """Tells what happens, in a thread of its own: a handler may stand amid another print."""
        self._say(
            f"stopping: batches in hand are ended and kept, for up to {GRACE:.0f} s; the same "
            "signal again stops at once"
        )
        if not self._ended.wait(GRACE):
            _thread.interrupt_main()
            self._end_hard()  # a library that does not return to Python is not interrupted

    def _end_hard(self) -> None:
        if not self._ended.wait(HARD) and self._is_last.acquire(blocking=False):
            last = "stopped amid a batch that does not end; run the same command again to go on"
            saying = threading.Thread(target=self._say, args=(last,), daemon=True)
            saying.start()
            saying.join(1.0)  # printing may be what hangs
            os._exit(RunBrokenError.exit_code)
