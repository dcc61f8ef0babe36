"""A worker: it loads its models once and fills shards — generate, judge, retry, commit."""

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from factory.core.hashing import refuse_change
from factory.core.plain import to_plain
from factory.core.thumbnails import describe_images
from factory.data.channels import name_made
from factory.data.records import (
    NONFINITE,
    Candidate,
    Job,
    Progress,
    Report,
    Request,
    Sample,
    round_nonfinite,
)
from factory.data.schema import build_row, build_shard_schema, count_cut
from factory.data.summary import Maker
from factory.engine.drain import Drain, StoppedError
from factory.engine.parts import PartMarker, Parts
from factory.engine.plan import describe_content
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.run_records import (
    compute_run_id,
    count_rejected,
    digest_worker,
    select_shaping_parts,
)
from factory.engine.task import Order, Task
from factory.filters import build_decide, build_filters, map_by_size, score_all
from factory.models.encoders import Encoder
from factory.models.generators import build_generator
from factory.models.generators.environment import describe_environment
from factory.models.generators.settings import find_entry
from factory.recipe.licences import describe_terms
from factory.recipe.recipe import DiversePick, compute_recipe_digest


class Worker:
    """Fills shards of one recipe."""

    def __init__(self, order: Order) -> None:
        recipe, session = order.recipe, order.session.renew()
        entry = find_entry(recipe.generator, session.catalogs)
        self.recipe = recipe
        self.folder = RunFolder(order.run_url)
        self.generator = build_generator(recipe.generator, entry, session.base, session)
        self.filters = build_filters(recipe.filters, session)
        terms = recipe.terms
        self.terms = None if terms is None else session.catalogs.find_terms(terms.catalog)
        names = {name for each in self.filters for name in each.score_names}
        self.score_names = sorted({*names, NONFINITE})
        self.decide = build_decide(self.filters, recipe.accept)
        self.encoder: Encoder | None = None
        if isinstance(recipe.pick, DiversePick):
            self.encoder = session.encoders.load(recipe.pick.encoder, session.base)
        has_features = self.encoder is not None
        has_channels = self.generator.capabilities.channels is not None
        self.schema = build_shard_schema(
            self.score_names, has_features, recipe.columns, has_channels
        )
        self.recipe_sha256 = compute_recipe_digest(recipe)
        self.run_id = compute_run_id(describe_content(recipe))
        self.description: dict[str, Any] = to_plain(
            {
                "generator": {
                    **self.generator.describe(),
                    **describe_environment(recipe.generator, entry, session.base),
                },
                "filters": [each.describe() for each in self.filters],
                "score_names": self.score_names,
                **({} if recipe.dedup is None else {"dedup": recipe.dedup.describe()}),
                **({} if self.encoder is None else {"pick_encoder": self.encoder.describe()}),
                **({} if self.terms is None else {"terms": self.terms.describe()}),
                **({} if entry is None or entry.scale is None else {"scale": entry.scale}),
                **describe_terms(recipe, session),
            }
        )
        self.digest = digest_worker(self.description)
        self.notes: list[str] = []

    def check_same_content(self, other: Maker) -> None:
        """Refuses to go on with what another model, or other filters, began; notes other threads.

        Raises:
            MismatchError: with a diff of what changed.
        """
        mine = Maker(**self.description)
        if other.terms is None:  # made before these were recorded
            mine = mine.model_copy(update={"terms": None})
        refuse_change(
            self.folder.url,
            "was begun with another model, other filters or other terms",
            select_shaping_parts(other),
            select_shaping_parts(mine),
        )
        before, now = other.generator.threads, self.description["generator"].get("threads")
        if before is not None and now is not None and before != now:
            self.notes.append(
                f"{self.folder.url}: was begun with {before} CPU threads and goes on with {now}: "
                "the last bits of pixels may differ, sample ids do not"
            )

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Returns what the generator made of jobs, finished; see `Generator.generate`.

        Raises:
            GenerationError: sampling failed.
            SourceError: what a condition is made from cannot be read.
        """
        samples = self.generator.generate(jobs)
        return [made.finish(job.condition) for job, made in zip(jobs, samples, strict=True)]

    def judge(self, jobs: Sequence[Job], samples: Sequence[Sample]) -> list[Candidate]:
        """Scores and judges what was made of jobs.

        Raises:
            FilterError: scoring failed.
        """
        names = name_made(self.generator.capabilities.channels)
        if names:
            samples = [replace(sample, channel_names=names) for sample in samples]
        scores = score_all(self.filters, samples, [job.condition for job in jobs])
        descriptors: list[Any] = [None] * len(samples)
        features: list[Any] = [None] * len(samples)
        if self.recipe.dedup is not None:
            descriptors = map_by_size(describe_images, samples)
        if self.encoder is not None and samples:
            features = map_by_size(self.encoder.encode, samples)
        candidates = []
        for row, (job, sample) in enumerate(zip(jobs, samples, strict=True)):
            known = {NONFINITE: round_nonfinite(sample.nonfinite), **scores[row]}
            verdict = self.decide(known, job.condition.class_name)
            candidates.append(
                Candidate(job, sample, known, verdict, descriptors[row], features[row])
            )
        return candidates

    def run(self, task: Task, report: Report, drain: Drain) -> Marker:
        """Fills one shard and commits it; a shard that is committed already is left as it is.

        Args:
            task: what to fill.
            report: called at the beginning, and whenever a batch was judged.
            drain: whether to stop; looked at between batches.

        Raises:
            StoppedError: it was; what was made is kept as a part.
            GenerationError: sampling failed.
            FilterError: scoring failed.
            StoreError: the commit failed.
        """
        shard, number = task.shard, task.round
        done = self.folder.read_marker(shard, number)
        if done is not None and done.starts == task.copy_starts():
            return done
        owner = PartMarker(run=self.run_id, worker=self.digest, shard=shard.id, round=number)
        parts = Parts(self.folder.files, owner, self.schema)
        filling = _Filling(self, task, report, parts, drain)
        filling.run()
        table = pa.Table.from_pylist(filling.rows_in_order(), schema=self.schema)
        marker = self.folder.commit(table, filling.build_marker(), shard)
        parts.remove()
        return marker


@dataclass(slots=True)
class _Filling:
    """The state of one shard while it is filled."""

    worker: Worker
    task: Task
    report: Report
    parts: Parts
    drain: Drain
    requests: dict[int, Request] = field(default_factory=dict)
    queue: deque[int] = field(default_factory=deque)
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

    def run(self) -> None:
        """Generates batch after batch; the batch before is judged meanwhile.

        Which tries there are follows from the verdicts alone, so that what parts of an earlier
        start hold stands for what this one would make.
        """
        self.report(self._describe_progress())
        with ThreadPoolExecutor(max_workers=1) as pool:
            judging: Future[list[dict[str, Any]]] | None = None
            size = self.worker.recipe.generator.batch_size
            while self.queue or judging:
                self.parts.save_if_due(self.seconds)
                if judging is not None and (self.drain.is_asked or len(self.queue) < size):
                    self._settle(judging.result())
                    judging = None
                    continue
                if self.drain.is_asked and judging is None:
                    self.parts.save(self.seconds)
                    raise StoppedError
                jobs = self._draw_jobs(size)
                known = [self._recall(job) for job in jobs]
                new = [job for job, row in zip(jobs, known, strict=True) if row is None]
                samples = self._generate(new) if new else ()
                if judging is not None:
                    self._settle(judging.result())
                judging = pool.submit(self._judge, new, samples, known)

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

    def _draw_jobs(self, size: int) -> list[Job]:
        """Takes the next tries; places left over go to further tries of the same requests.

        The forward pass has a fixed shape anyway, so these cost nothing. They are kept: the first
        accepted attempt of a request wins, later ones are spare.
        """
        indices = [self.queue.popleft() for _ in range(min(size, len(self.queue)))]
        jobs = [self._make_job(index) for index in indices]
        budget = self.worker.recipe.budget.attempts
        while len(jobs) < size:
            open_indices = [i for i in indices if self.next_attempt[i] < budget]
            if not open_indices:
                break
            jobs.extend(self._make_job(index) for index in open_indices[: size - len(jobs)])
        return jobs

    def _make_job(self, index: int) -> Job:
        request = self.requests[index]
        attempt = self.next_attempt[index]
        self.next_attempt[index] = request.pass_over(attempt + 1)
        return Job(request, attempt, request.derive_seed(self.worker.recipe.seed, attempt))

    def _generate(self, jobs: Sequence[Job]) -> Sequence[Sample]:
        began = time.perf_counter()
        samples = self.worker.generate(jobs)
        self.seconds["generate"] += time.perf_counter() - began
        return samples

    def _recall(self, job: Job) -> dict[str, Any] | None:
        """Returns the row of a try that a part holds, as this run's: its recipe may have grown."""
        row = self.parts.recall(job.request.index, job.attempt)
        return None if row is None else {**row, "recipe_sha256": self.worker.recipe_sha256}

    def _judge(
        self,
        jobs: Sequence[Job],
        samples: Sequence[Sample],
        known: Sequence[dict[str, Any] | None],
    ) -> list[dict[str, Any]]:
        """Judges what is new of a batch; returns all its rows, in the order of `known`."""
        if not jobs:
            return [row for row in known if row is not None]
        began = time.perf_counter()
        candidates = self.worker.judge(jobs, samples)
        self.seconds["judge"] += time.perf_counter() - began
        began = time.perf_counter()
        new = iter([self._build_row(candidate) for candidate in candidates])
        self.seconds["encode"] += time.perf_counter() - began
        return [next(new) if row is None else row for row in known]

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

    def _settle(self, rows: Sequence[dict[str, Any]]) -> None:
        """Books the verdicts of a batch and queues what still needs a try."""
        self.rows.extend(rows)
        self.recalled += len(rows) - self.parts.add(rows)
        for row in rows:
            if row["accepted"]:
                self.filled.add(row["index"])
        budget = self.worker.recipe.budget.attempts
        tried = dict.fromkeys(row["index"] for row in rows)
        for index in (each for each in tried if each not in self.filled):
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
