"""Signs of life of Ray actors, and the words while none has started."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from factory.core.errors import RunBrokenError
from factory.engine.executors.cluster import Cluster, list_free, list_nodes

POLL = 1.0
"""Seconds between looks at the actors."""
FETCH = 60.0
"""Seconds that an answer may take from another node."""
SILENCE = 600.0
"""Seconds without an answer after which an actor that had answered counts as hung."""
WORD_AFTER = 30.0
"""Seconds without a started worker until that is said; again after twice as long, and so on."""


@dataclass(slots=True)
class Pulse:
    """Asks each actor's `ping` from time to time; every actor must have that method."""

    heard: dict[Any, float] = field(default_factory=dict)
    """When an actor answered last; those without one have no place in the cluster yet."""
    asked: dict[Any, Any] = field(default_factory=dict)
    """Questions that are not answered yet -> actor."""
    _last: float = float("-inf")

    def ask(self, actors: list[Any]) -> None:
        """Asks those that owe no answer, at most every POLL seconds."""
        if time.monotonic() - self._last < POLL:
            return
        self._last = time.monotonic()
        owing = set(self.asked.values())
        for actor in actors:
            if actor not in owing:
                self.asked[actor.ping.remote()] = actor

    def hear(self, ref: Any) -> tuple[Any, Any]:
        """Returns an actor and what it answered.

        Raises:
            RayError: it died.
        """
        actor = self.asked.pop(ref)
        answer = get_answer(ref)
        self.heard[actor] = time.monotonic()
        return actor, answer

    def forget(self, actor: Any) -> None:
        """Expects nothing more of an actor."""
        self.heard.pop(actor, None)
        self.asked = {ref: each for ref, each in self.asked.items() if each is not actor}

    def list_silent(self) -> list[Any]:
        """Actors that answered once, and not for a long time."""
        now = time.monotonic()
        return [actor for actor, when in self.heard.items() if now - when > SILENCE]


@dataclass(slots=True)
class Waiting:
    """Bounds the time in which no worker has a place, and says what is missing meanwhile.

    Args:
        cluster: where.
        ask: what workers need, in words.
        limit: seconds.
        say: takes the words.
    """

    cluster: Cluster
    ask: str
    limit: float
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    """Since when none is ready."""
    moved: float = field(default_factory=time.monotonic)
    """Since when none has a place."""
    _next: float = field(default_factory=lambda: WORD_AFTER)

    def look(self, placed: int, ready: int = 0) -> None:
        """Takes how many workers have their place, and how many of them their models.

        Raises:
            RunBrokenError: none had a place for too long, or Ray itself broke.
        """
        self.cluster.check()
        now = time.monotonic()
        if ready:
            self.began = self.moved = now
            self._next = WORD_AFTER
            return
        if placed:
            self.moved = now
        if now - self.moved > self.limit:
            raise RunBrokenError(
                f"no worker could start in {self.limit:g} s: {self._describe()}: run the same "
                "command again when there is room, ask for less (workers.cpus, workers.gpus), or "
                "wait longer (workers.wait)"
            )
        waited = now - self.began
        if waited > self._next:
            self._next *= 2
            if placed:
                self.say(f"workers that load their models since {waited:.0f} s: {placed}")
            else:
                self.say(
                    f"no worker has started after {waited:.0f} s: {self._describe()}; waits up to "
                    f"{self.limit:g} s (workers.wait)"
                )

    def _describe(self) -> str:
        total = describe_resources(list_nodes())
        free = describe_resources([dict(list_free())])
        return f"asked for {self.ask}; free are {free} of {total}"


def wait_for(refs: list[Any], pulse: Pulse) -> list[Any]:
    """Returns which of some answers, and of the signs of life, are there: at least one, or POLL."""
    import ray

    wanted = [*refs, *pulse.asked]
    if not wanted:
        time.sleep(POLL)
        return []
    ready, _ = ray.wait(wanted, num_returns=1, timeout=POLL)
    if ready:
        ready, _ = ray.wait(wanted, num_returns=len(wanted), timeout=0)
    found: list[Any] = ready
    return found


def make_remote(kind: type) -> Any:
    """Returns the Ray actor of a class whose `ping` and `stop` answer while others work."""
    import ray

    for method in (kind.ping, kind.stop):  # type: ignore[attr-defined]
        ray.method(concurrency_group="pulse")(method)
    return ray.remote(concurrency_groups={"pulse": 1})(kind)


def get_answer(ref: Any) -> Any:
    """Returns an answer that is there.

    Raises:
        RayError: the actor died, or its node, which took the answer with it.
    """
    import ray

    return ray.get(ref, timeout=FETCH)


def describe_resources(nodes: list[dict[str, float]]) -> str:
    """Returns CPUs and GPUs of nodes in words."""
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    where = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    return f"{cpus:g} CPUs and {gpus:g} GPUs{where}"
