"""Filling one shard: which tries are made, batch after batch, and what is booked of them."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from factory.data.records import STOPPED, Candidate, Job, Progress, Report, Request, Sample
from factory.data.schema import build_row, count_cut
from factory.engine.drain import Drain, StoppedError
from factory.engine.looking import Seen
from factory.engine.parts import Parts
from factory.engine.run_folder import Marker
from factory.engine.run_records import count_rejected
from factory.engine.task import Task
from factory.models.generators.base import Begun

if TYPE_CHECKING:
    from factory.engine.shard import Worker

_MOST = 16
"""Tries in a batch for each of its places, at most: what is made of many alike is held at once."""
Row = dict[str, Any]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Going:
    """A try that goes on: as it was seen, or the row of it that a part holds."""

    job: Job
    seen: Seen | None
    row: Row | None


@dataclass(frozen=True, slots=True)
class _Judged:
    """What became of a batch: rows of what is judged, and tries that go on."""

    rows: list[Row]
    going: list[_Going] = field(default_factory=list)


@dataclass(slots=True)
class Filling:
    """The state of one shard while it is filled."""

    worker: "Worker"
    task: Task
    report: Report
    parts: Parts
    drain: Drain
    requests: dict[int, Request] = field(default_factory=dict)
    queue: deque[int] = field(default_factory=deque)
    going: list[_Going] = field(default_factory=list)
    in_flight: Counter[int] = field(default_factory=Counter)
    next_attempt: dict[int, int] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)
    given_up: int = 0
    tried: int = 0
    recalled: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        starts = self.task.starts or {}
        self.requests = dict(zip(self.task.indices, self.task.requests, strict=True))
        self.next_attempt = {
            index: each.pass_over(starts.get(index, 0)) for index, each in self.requests.items()
        }
        budget = self.worker.recipe.budget.attempts
        self.queue.extend(index for index, first in self.next_attempt.items() if first < budget)
        self.given_up = len(self.requests) - len(self.queue)
        self.seconds.update(self.parts.seconds)

    def steps(self, helper: Executor) -> Iterator[Future[_Judged] | None]:
        """Generates batch after batch; the batch before is judged and encoded meanwhile.

        Which tries there are follows from the verdicts alone, so that what parts of an earlier
        start hold stands for what this one would make. With `early` tries are begun first; those
        that go on wait until they fill a batch, or until nothing is left to begin.

        Args:
            helper: judges beside the sampling, one batch after the other.

        Yields:
            Between batches: verdicts without which it cannot go on, or None where it could at once.
        """
        self.report(self._describe_progress())
        judging: Future[_Judged] | None = None
        size = self.worker.recipe.generator.batch_size
        while self.queue or self.going or judging:
            self.parts.save_if_due(self.seconds)
            is_full = max(len(self.queue), len(self.going)) >= size
            if judging is not None and (self.drain.is_asked or not is_full):
                yield judging
                self._settle(judging.result())
                judging = None
                continue
            if self.drain.is_asked and judging is None:
                self.parts.save(self.seconds)
                raise StoppedError
            judge = self._make_batch(size)
            if judging is not None:
                self._settle(judging.result())
            judging = helper.submit(judge)
            yield None

    def rows_in_order(self) -> list[dict[str, Any]]:
        """Returns all rows by request, then attempt."""
        return sorted(self.rows, key=lambda row: (row["index"], row["attempt"]))

    def build_marker(self) -> Marker:
        """Returns the marker of what was done, before the data object has a name."""
        shard = self.task.shard
        return Marker(
            run=self.worker.run_id,
            shard=shard.id,
            series=shard.series,
            start=shard.start,
            stop=shard.stop,
            round=self.task.round,
            data="",
            sha256="",
            bytes=0,
            rows=len(self.rows),
            asked=len(self.next_attempt),
            filled=len(self.filled),
            generated=len(self.rows),
            **count_rejected(self.rows),
            starts=self.task.copy_starts(),
            tried={i: self.next_attempt[i] for i, r in self.requests.items() if r.passed} or None,
            worker=self.worker.digest,
            seconds={name: round(value, 4) for name, value in sorted(self.seconds.items())},
            cut=count_cut(self.rows),
        )

    def _make_batch(self, size: int) -> Callable[[], _Judged]:
        """Makes the next batch, or begins it; returns what judges it."""
        if self.going and (len(self.going) >= size or not self.queue):
            return self._finish(self.going[:size])
        jobs = self._draw_jobs(size)
        known = [self._recall(job) for job in jobs]
        new = [job for job, row in zip(jobs, known, strict=True) if row is None]
        if self.worker.early is not None:
            begun = self._time("generate", self.worker.begin, new) if new else []
            return lambda: self._look(jobs, known, begun)
        samples = self._time("generate", self.worker.generate, new) if new else []
        return lambda: _Judged(self._join_rows(known, new, samples))

    def _finish(self, going: Sequence[_Going]) -> Callable[[], _Judged]:
        """Makes what was begun to its end."""
        del self.going[: len(going)]
        seen = [each.seen for each in going if each.seen is not None]
        samples = self._time("generate", self.worker.finish, seen) if seen else []
        jobs, scores = [each.job for each in seen], [each.scores for each in seen]
        known = [each.row for each in going]
        return lambda: _Judged(self._join_rows(known, jobs, samples, scores))

    def _look(
        self, jobs: Sequence[Job], known: Sequence[Row | None], begun: Sequence[Begun]
    ) -> _Judged:
        """Judges what was begun: rows of what is stopped, and what goes on."""
        seen = iter(self._time("judge", self.worker.look, begun) if begun else ())
        judged = _Judged([])
        for job, row in zip(jobs, known, strict=True):
            looked = next(seen) if row is None else None
            candidate = None if looked is None else looked.to_candidate()
            if candidate is not None:
                judged.rows.append(self._time("encode", self._build_row, candidate))
            elif row is not None and row["scores"][STOPPED] > 0:
                judged.rows.append(row)
            else:
                judged.going.append(_Going(job, looked, row))
        return judged

    def _join_rows(
        self,
        known: Sequence[Row | None],
        jobs: Sequence[Job],
        samples: Sequence[Sample],
        scores: Sequence[Mapping[str, float]] | None = None,
    ) -> list[Row]:
        """Judges what is new of a batch; returns all its rows, in the order of `known`."""
        if not jobs:
            return [row for row in known if row is not None]
        candidates = self._time("judge", self.worker.judge, jobs, samples, scores)
        new = iter(self._time("encode", lambda: [self._build_row(each) for each in candidates]))
        return [next(new) if row is None else row for row in known]

    def _time(self, name: str, work: Callable[..., ResultT], *given: Any) -> ResultT:
        """Does a part of the work, and counts its seconds."""
        began = time.perf_counter()
        found = work(*given)
        self.seconds[name] += time.perf_counter() - began
        return found

    def _draw_jobs(self, size: int) -> list[Job]:
        """Takes the next tries; places left over go to further tries of the same requests.

        The forward pass has a fixed shape anyway, so these cost nothing. They are kept: the first
        accepted attempt of a request wins, later ones are spare. What is made of several tries
        alike is made once, and takes one place; with `early` each has its own.
        """
        jobs: list[Job] = []
        places: set[Any] = set()

        def take(index: int) -> None:
            jobs.append(self._make_job(index))
            places.add(self._find_place(jobs[-1]))

        while self.queue and (
            len(places) < size or self._find_place(self._build_job(self.queue[0])) in places
        ):
            take(self.queue.popleft())
            if len(jobs) >= _MOST * size:
                return jobs
        indices = [job.request.index for job in jobs]
        budget = self.worker.recipe.budget.attempts
        while len(places) < size:
            open_indices = [i for i in indices if self.next_attempt[i] < budget]
            if not open_indices:
                break
            for index in open_indices[: size - len(places)]:
                take(index)
        return jobs

    def _find_place(self, job: Job) -> tuple[Any, ...]:
        """Returns what tells the place of a batch that a try takes."""
        return job.made_from if self.worker.early is None else (job.request.index, job.attempt)

    def _build_job(self, index: int) -> Job:
        """Returns the next try of a request, which is not booked yet."""
        request, attempt = self.requests[index], self.next_attempt[index]
        return Job(request, attempt, request.derive_seed(self.worker.recipe.seed, attempt))

    def _make_job(self, index: int) -> Job:
        job = self._build_job(index)
        self.next_attempt[index] = job.request.pass_over(job.attempt + 1)
        self.in_flight[index] += 1
        return job

    def _recall(self, job: Job) -> dict[str, Any] | None:
        """Returns the row of a try that a part holds, as this run's: its recipe may have grown."""
        row = self.parts.recall(job.request.index, job.attempt)
        return None if row is None else {**row, "recipe_sha256": self.worker.recipe_sha256}

    def _build_row(self, candidate: Candidate) -> dict[str, Any]:
        worker, output = self.worker, self.worker.recipe.output
        row = build_row(
            candidate,
            worker.description["generator"],
            worker.description["filters"],
            worker.recipe_sha256,
            worker.score_names,
            output.image_format,
            keep_image=candidate.verdict.accepted or output.keep_rejected == "images",
        )
        if worker.terms is not None:
            said = (row[name] for name in ("class_name", "caption", "prompt"))
            row["concepts"] = list(worker.terms.find_concepts("\n".join(filter(None, said))))
        return row

    def _settle(self, judged: _Judged) -> None:
        """Books the verdicts of a batch and queues what still needs a try."""
        rows = judged.rows
        self.going.extend(judged.going)
        self.rows.extend(rows)
        self.recalled += len(rows) - self.parts.add(rows)
        for row in rows:
            self.in_flight[row["index"]] -= 1
            if row["accepted"]:
                self.filled.add(row["index"])
        budget = self.worker.recipe.budget.attempts
        tried = dict.fromkeys(row["index"] for row in rows)
        for index in (each for each in tried if each not in self.filled):
            if self.in_flight[index]:  # another try of it goes on
                continue
            if self.next_attempt[index] < budget:
                self.queue.append(index)
            else:
                self.given_up += 1
        self.tried += len(rows)
        self.report(self._describe_progress())

    def _describe_progress(self) -> Progress:
        task, asked, filled = self.task, len(self.next_attempt), len(self.filled)
        counts = (asked, self.tried, filled, self.given_up, self.recalled)
        notes = (*self.worker.notes, *self.parts.notes)
        return Progress(task.shard, task.round, *counts, note="; ".join(notes))
