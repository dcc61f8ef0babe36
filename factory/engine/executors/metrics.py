"""What a run tells Ray, which shows it to Prometheus on the metrics port of the driver's node."""

import time
from collections.abc import Callable
from typing import Any

from factory.engine.executors.base import Notify, Outcome


class RunMetrics:
    """Counts of one run, each with the tag `run`, the name of its recipe.

    Ray writes `ray_` before each name, and `_total` behind those that count.

    Args:
        name: of the recipe.
        count_workers: how many are at hand.
        count_queued: shards that were sent to workers and have not ended.
    """

    def __init__(
        self, name: str, count_workers: Callable[[], int], count_queued: Callable[[], int]
    ) -> None:
        from ray.util.metrics import Counter, Gauge

        def make(kind: Any, metric: str, text: str) -> Any:
            made = kind(f"factory_{metric}", description=text, tag_keys=("run",))
            made.set_default_tags({"run": name})
            return made

        self.count_workers, self.count_queued = count_workers, count_queued
        self._accepted = make(Counter, "accepted", "Requests that have their image.")
        self._candidates = make(Counter, "candidates", "Images that were made.")
        self._acceptance = make(Gauge, "acceptance", "Requests filled by candidate made.")
        self._busy = make(Gauge, "busy_share", "Share of the workers' time that sampling took.")
        self._queue = make(Gauge, "queued_shards", "Shards that workers have, and not yet filled.")
        self._workers = make(Gauge, "workers", "Workers, those that load their models too.")
        self._filled = self._made = 0
        self._sampled = self._offered = 0.0
        self._looked = time.monotonic()

    def watch(self, notify: Notify) -> Notify:
        """Returns what books an outcome here, too."""

        def book(outcome: Outcome) -> None:
            self._book(outcome)
            notify(outcome)

        return book

    def look(self) -> None:
        """Tells how many workers there are now, and what they wait for."""
        now, workers = time.monotonic(), self.count_workers()
        self._offered += workers * (now - self._looked)
        self._looked = now
        self._workers.set(workers)
        self._queue.set(self.count_queued())

    def _book(self, outcome: Outcome) -> None:
        marker = outcome.marker
        if marker is None:
            return
        self.look()
        self._filled += marker.filled
        self._made += marker.generated
        self._sampled += marker.seconds.get("generate", 0.0)
        self._accepted.inc(marker.filled)
        self._candidates.inc(marker.generated)
        self._acceptance.set(self._filled / max(self._made, 1))
        self._busy.set(min(self._sampled / max(self._offered, 1e-9), 1.0))
