"""A worker: it loads its models once and fills shards — generate, judge, retry, commit."""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa

from factory.core.hashing import refuse_change
from factory.core.plain import to_plain
from factory.core.thumbnails import describe_images
from factory.data.channels import name_made
from factory.data.records import (
    NONFINITE,
    Candidate,
    Job,
    Report,
    Sample,
    round_nonfinite,
)
from factory.data.schema import build_shard_schema
from factory.data.summary import Maker
from factory.engine.drain import Drain
from factory.engine.filling import Filling
from factory.engine.looking import Seen, look_at
from factory.engine.parts import PartMarker, Parts
from factory.engine.plan import describe_content
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.run_records import compute_run_id, digest_worker, select_shaping_parts
from factory.engine.task import Order, Task
from factory.filters import build_decide, build_filters, map_by_size, score_all
from factory.models.encoders import Encoder
from factory.models.generators import build_generator
from factory.models.generators.base import Begun, Pausable
from factory.models.generators.environment import describe_environment
from factory.models.generators.settings import find_entry
from factory.recipe.licences import describe_terms
from factory.recipe.recipe import compute_recipe_digest, list_kept_encoders

Steps = Generator[Future[Any] | None, None, Marker]
"""The filling of one shard: see `Worker.steps`."""


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
        self.early = recipe.early
        own = () if recipe.early is None else recipe.early.score_names
        self.score_names = sorted({*names, *own, NONFINITE})
        self.decide = build_decide(self.filters, recipe.accept)
        self.encoder: Encoder | None = None
        used_by = ""
        for user, spec in list_kept_encoders(recipe):
            self.encoder = session.encoders.load(spec, session.base)
            used_by = f"{user}_encoder"
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
                **({} if self.encoder is None else {used_by: self.encoder.describe()}),
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

        What is made of several jobs alike is made once (`Job.made_from`).

        Raises:
            GenerationError: sampling failed.
            SourceError: what a condition is made from cannot be read.
        """
        keys, distinct = [job.made_from for job in jobs], dict[Any, Job]()
        for key, job in zip(keys, jobs, strict=True):
            distinct.setdefault(key, job)
        made = dict(zip(distinct, self.generator.generate([*distinct.values()]), strict=True))
        return [made[key].finish(job.condition) for key, job in zip(keys, jobs, strict=True)]

    def begin(self, jobs: Sequence[Job]) -> list[Begun]:
        """Returns what the generator foresees of jobs part-way, finished; raises as `generate`."""
        assert self.early is not None
        generator = cast(Pausable, self.generator)
        begun = generator.begin(jobs, self.early.at)
        return [replace(each, foreseen=each.foreseen.finish(each.job.condition)) for each in begun]

    def look(self, begun: Sequence[Begun]) -> list[Seen]:
        """Judges what was begun by what is foreseen of it.

        Raises:
            FilterError: scoring failed.
        """
        assert self.early is not None
        samples = self._name_channels([each.foreseen for each in begun])
        found = look_at(begun, samples, self.filters, self.early)
        return [
            each
            if each.goes_on
            else replace(each, stopped=self.decide(each.scores, each.job.condition.class_name))
            for each in found
        ]

    def finish(self, seen: Sequence[Seen]) -> list[Sample]:
        """Returns what the generator makes of what goes on, finished; raises as `generate`."""
        made = cast(Pausable, self.generator).finish([each.begun for each in seen])
        return [one.finish(each.job.condition) for each, one in zip(seen, made, strict=True)]

    def try_all(self, jobs: Sequence[Job]) -> list[Candidate]:
        """Returns the judged candidates of jobs, in order; raises as `generate` and `judge`."""
        if self.early is None:
            return self.judge(jobs, self.generate(jobs))
        seen = self.look(self.begin(jobs))
        going = [each for each in seen if each.stopped is None]
        samples = self.finish(going) if going else ()
        scores = [each.scores for each in going]
        judged = iter(self.judge([each.job for each in going], samples, scores))
        return [each.to_candidate() or next(judged) for each in seen]

    def judge(
        self,
        jobs: Sequence[Job],
        samples: Sequence[Sample],
        earlier: Sequence[Mapping[str, float]] | None = None,
    ) -> list[Candidate]:
        """Scores and judges what was made of jobs.

        Args:
            jobs: N tries.
            samples: what was made of each.
            earlier: scores that each has already, of `look`.

        Raises:
            FilterError: scoring failed.
        """
        samples = self._name_channels(samples)
        scores = score_all(self.filters, samples, [job.condition for job in jobs])
        descriptors: list[Any] = [None] * len(samples)
        if self.recipe.dedup is not None:
            descriptors = map_by_size(describe_images, samples)
        candidates = []
        for row, (job, sample) in enumerate(zip(jobs, samples, strict=True)):
            before = earlier[row] if earlier is not None else {}
            known = {NONFINITE: round_nonfinite(sample.nonfinite), **before, **scores[row]}
            verdict = self.decide(known, job.condition.class_name)
            candidates.append(Candidate(job, sample, known, verdict, descriptors[row]))
        return self._add_features(candidates)

    def _add_features(self, candidates: list[Candidate]) -> list[Candidate]:
        """Adds what a pick compares, or the tests of `budget.stop`: these see accepted ones."""
        picks = self.recipe.pick is not None
        chosen = [row for row, each in enumerate(candidates) if picks or each.verdict.accepted]
        if self.encoder is None or not chosen:
            return candidates
        features = map_by_size(self.encoder.encode, [candidates[row].sample for row in chosen])
        for row, values in zip(chosen, features, strict=True):
            candidates[row] = replace(candidates[row], features=values)
        return candidates

    def _name_channels(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        names = name_made(self.generator.capabilities.channels)
        return [replace(each, channel_names=names) for each in samples] if names else samples

    def steps(self, task: Task, report: Report, drain: Drain, helper: Executor) -> Steps:
        """Fills one shard and commits it, in steps; one that is committed already is left as it is.

        Args:
            task: what to fill.
            report: called at the beginning, and whenever a batch was judged.
            drain: whether to stop; looked at between batches.
            helper: judges, encodes and commits, one thing after the other.

        Yields:
            Between batches: what it has to wait for, or None where it could go on at once.

        Returns:
            The marker.

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
        filling = Filling(self, task, report, parts, drain)
        yield from filling.steps(helper)
        committing = helper.submit(self._commit, filling)
        yield committing
        return committing.result()

    def _commit(self, filling: Filling) -> Marker:
        """Commits a shard that is filled."""
        table = pa.Table.from_pylist(filling.rows_in_order(), schema=self.schema)
        shard, check = filling.task.shard, filling.drain.check
        marker = self.folder.commit(table, filling.build_marker(), shard, check)
        filling.parts.remove()
        return marker
