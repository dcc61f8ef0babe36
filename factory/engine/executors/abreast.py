"""One worker fills shards abreast: while one waits for verdicts or its commit, the next samples."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from factory.core.errors import StoreError
from factory.data.records import Report
from factory.engine.drain import Drain, StoppedError
from factory.engine.run_folder import Marker
from factory.engine.shard import Steps, Worker
from factory.engine.task import Task

ABREAST = 2
"""Shards that a worker has begun at a time: the tail of one is shorter than the other."""
_LOOK = 0.1
"""Seconds between looks for another task, while all that were begun wait."""

Answer = tuple[Marker | None, str, bool]
"""The marker or None, the error text, and whether storage itself failed; None and no text where the
task was laid down."""


@dataclass(slots=True)
class _Open:
    """A shard that was begun, and what it waits for."""

    task: Task
    steps: Steps
    waits: Future[Any] | None = None

    @property
    def is_ready(self) -> bool:
        return self.waits is None or self.waits.done()


@dataclass(slots=True)
class Abreast:
    """The shards that one worker has begun; all sampling is in the thread that calls.

    Args:
        worker: what fills them.
        report: called with how far each is.
        drain: whether to stop.
    """

    worker: Worker
    report: Report
    drain: Drain
    again: deque[Task] = field(default_factory=deque)
    """Tasks that are to be tried again, before others."""
    _open: list[_Open] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Shards that may be open; with `budget.stop` one, as a test may end what comes next."""
        return ABREAST if self.worker.recipe.budget.stop is None else 1

    def fill(self, draw: Callable[[bool], Task | None]) -> Iterator[tuple[Task, Answer]]:
        """Yields each task with its answer, as it ends.

        The oldest that could go on does, by one batch; another is begun where none could.

        Args:
            draw: returns another task, or None: no more, or none yet; told whether any is open.
        """
        with ThreadPoolExecutor(1, "beside", initializer=follow_threads) as helper:
            try:
                while True:
                    ready = next((each for each in self._open if each.is_ready), None)
                    if ready is None and len(self._open) < self.most:
                        task = self.again.popleft() if self.again else draw(bool(self._open))
                        if task is not None:
                            steps = self.worker.steps(task, self.report, self.drain, helper)
                            ready = _Open(task, steps)
                            self._open.append(ready)
                    if ready is not None:
                        answer = self._advance(ready)
                        if answer is not None:
                            self._open.remove(ready)
                            yield ready.task, answer
                    elif self._open:
                        asked = [each.waits for each in self._open if each.waits is not None]
                        wait(asked, _LOOK, FIRST_COMPLETED)
                    else:
                        return
            finally:
                helper.shutdown(wait=False, cancel_futures=True)

    def _advance(self, each: _Open) -> Answer | None:
        """Makes a batch of a shard; the one place where every exception is caught.

        Returns:
            The answer, where the shard ended.
        """
        try:
            each.waits = next(each.steps)
        except StopIteration as end:
            return end.value, "", False
        except StoppedError:
            return None, "", False
        except StoreError as error:
            return None, str(error), True
        except Exception as error:
            return None, f"{type(error).__name__}: {error}", False
        return None


def follow_threads() -> None:
    """Has torch compute in this thread with as many as were set in another.

    A count that was set holds for a new thread once that one has asked; some operations do not.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.get_num_threads()
