"""What runs inside a Ray actor: a worker, and what answers beside it."""

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from factory.core.errors import FactoryError
from factory.data.records import Progress
from factory.engine.drain import Drain
from factory.engine.executors.abreast import Abreast, Answer, follow_threads
from factory.engine.executors.base import start_worker
from factory.engine.shard import Worker
from factory.engine.task import Order, Task


@dataclass(slots=True)
class _Asked:
    """A task that was sent, and its answer."""

    task: Task
    answer: Future[Answer] = field(default_factory=Future)


class RayWorker:
    """Exceptions come back as text, never as a dead actor."""

    def __init__(self, order: Order, began_with: str | None, threads: int) -> None:
        self.order, self.began_with, self.threads = order, began_with, threads
        self.worker: Worker | None = None
        self.progress: Progress | None = None
        self.drain = Drain()
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._begun: list[_Asked] = []

    def start(self) -> tuple[str, int]:
        """Loads the models; returns the error text and exit code, or ("", 0)."""
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(self.threads)
        try:
            self.worker = start_worker(self.order, self.began_with)
        except FactoryError as error:
            return str(error), error.exit_code
        threading.Thread(target=self._serve, args=(self.worker,), daemon=True).start()
        return "", 0

    def run(self, task: Task) -> Answer:
        """Fills one shard; a second call may wait, and samples where the first cannot."""
        if self.worker is None:
            return None, "worker was not started", False
        asked = _Asked(task)
        self._asked.put(asked)
        return asked.answer.result()

    def ping(self) -> Progress | None:
        """Returns how far the task at work is; answers beside `run`, in a thread of its own."""
        return self.progress

    def stop(self) -> None:
        """Has tasks laid down; answers beside `run`, too."""
        self.drain.is_asked = True

    def _keep(self, progress: Progress) -> None:
        self.progress = progress

    def _serve(self, worker: Worker) -> None:
        """Fills what is asked for, for as long as the actor lives; all sampling is in here."""
        follow_threads()
        abreast = Abreast(worker, self._keep, self.drain)
        try:
            for task, answer in abreast.fill(self._draw):
                found = next(each for each in self._begun if each.task is task)
                self._begun.remove(found)
                found.answer.set_result(answer)
        finally:  # something broke: else `run` would wait for ever
            self.worker = None
            while self._draw(is_busy=True) is not None:
                pass
            for each in self._begun:
                each.answer.cancel()

    def _draw(self, is_busy: bool) -> Task | None:
        """Returns what was asked for next; waits for it where nothing is at work."""
        try:
            self._begun.append(self._asked.get(block=not is_busy))
        except queue.Empty:
            return None
        return self._begun[-1].task
