"""The plan: a pure function from an index to a request, cut into shards, never materialised."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from factory.core.errors import InputError, MismatchError
from factory.core.hashing import diff_values
from factory.data.records import Request, Shard
from factory.engine.diversity import count_pool
from factory.models.generators.settings import find_entry
from factory.models.session import Session
from factory.recipe.conditions import Series, SeriesInfo, build_series
from factory.recipe.recipe import Recipe, is_judging, select_content

MAX_SHARD = 64
"""Requests of a shard, where the recipe does not say and a batch is no larger."""
SHARDS_PER_WORKER = 4
"""Shards that each worker should find, at least, in a small run."""
USUAL_WORKERS = 4
"""Workers of a run that leaves their number to the machine: it is not known while planning."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One growth of a run: the counts of each series that it reached, and how it was cut."""

    counts: Mapping[str, int]
    shard_size: int


@dataclass(frozen=True, slots=True)
class Outline:
    """The series and shards of a run, as a run folder knows them without the recipe's inputs.

    A shard never crosses a series. Growing a run adds a generation that covers only the new end of
    each series, so every shard of an earlier generation stays as it was.

    `stops` tells after how many requests a series ended that was asked for more: what is beyond
    belongs to no shard, and of a shard across it only the rows before count.
    """

    series: tuple[SeriesInfo, ...]
    generations: tuple[Generation, ...]
    stops: Mapping[str, int] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes, in order of appearance: the order of the labels."""
        return tuple(dict.fromkeys(name for part in self.series for name in part.class_names))

    def _repr_html_(self) -> str:
        """What a notebook shows: the images asked for of each series."""
        from factory.engine.notebook import write_table

        total = f"<p>{self.count_requests():,} images in {self.count_shards():,} shards</p>"
        return total + write_table(
            ("condition", "images"), ((part.label, part.count) for part in self.series)
        )

    def count_requests(self) -> int:
        """Returns the number of accepted images asked for."""
        return sum(part.count for part in self.series)

    def cut(self, stops: Mapping[str, int]) -> Self:
        """Returns it with series that end after so many requests."""
        return replace(self, stops=dict(stops))

    def wants(self, key: str, index: int) -> bool:
        """Whether a request lies before the end of its series."""
        return key not in self.stops or index < self.stops[key]

    def count_wanted(self, key: str, count: int) -> int:
        """Returns how many of `count` requests of a series lie before its end."""
        return min(count, self.stops.get(key, count))

    def count_shards(self) -> int:
        """Returns the number of shards, by arithmetic."""
        total = 0
        for generation, before in self._pair_generations():
            for key, count in generation.counts.items():
                new = self.count_wanted(key, count) - before.get(key, 0)
                total += max(0, -(-new // generation.shard_size))
        return total

    def iterate_shards(self) -> Iterator[Shard]:
        """Yields every shard, the series taking turns, so that a stopped run is balanced."""
        for generation, before in self._pair_generations():
            cuts = [
                _cut(
                    key, before.get(key, 0), stop, generation.shard_size, self.stops.get(key, stop)
                )
                for key, stop in generation.counts.items()
            ]
            for turn in itertools.zip_longest(*cuts):
                yield from (shard for shard in turn if shard is not None)

    def find_shards(self, key: str, start: int, stop: int) -> Iterator[Shard]:
        """Yields the shards of a series that hold requests of a range, by arithmetic."""
        for generation, before in self._pair_generations():
            size, first = generation.shard_size, before.get(key, 0)
            count = generation.counts.get(key, 0)
            if start < count:  # where a series was cut, the last shard goes on beyond
                begin = first + max(0, start - first) // size * size
                last = min(stop, self.count_wanted(key, count))
                yield from _cut(key, begin, count, size, last)

    def _pair_generations(self) -> Iterator[tuple[Generation, Mapping[str, int]]]:
        before: Mapping[str, int] = {}
        for generation in self.generations:
            yield generation, before
            before = generation.counts


@dataclass(frozen=True, slots=True)
class Plan(Outline):
    """All requests of a recipe, by series and index, and the shards that they are cut into."""

    series: tuple[Series, ...]

    def list_requests(
        self, shard: Shard, indices: Iterable[int], attempts: int
    ) -> tuple[Request, ...]:
        """Returns requests of a shard for a worker: each with what `attempts` tries may show."""
        found = next(part for part in self.series if part.key == shard.series)
        return tuple(found.request_at(index).limit(attempts) for index in indices)


def build_plan(recipe: Recipe, session: Session) -> Plan:
    """Plans a recipe as a fresh run of one generation; with `pick`, series ask for their pools.

    Raises:
        SourceError: images or captions that are missing or cannot be read.
        CatalogError: a catalog id that is not known.
        InputError: two blocks that ask for the same images, of which a run would make one.
    """
    entry = find_entry(recipe.generator, session.catalogs)
    classes = entry.class_names or () if entry else ()
    series = build_series(recipe, session, classes)
    if not is_judging(recipe):  # of given images there are no more than there are
        series = tuple(
            replace(part, count=count_pool(part.count, recipe.pick))  # type: ignore[type-var]
            for part in series
        )
    counts = {part.key: part.count for part in series}
    if len(counts) < len(series):
        keys = Counter(part.key for part in series)
        twice = next(part.label for part in series if keys[part.key] > 1)
        raise InputError(f"conditions: two blocks ask for the same images, {twice}: join them")
    size = recipe.output.shard_size or choose_shard_size(recipe, sum(counts.values()))
    return Plan(series, (Generation(counts, size),))


def choose_shard_size(recipe: Recipe, requests: int) -> int:
    """Returns whole batches, so few that a small run has several shards for each worker.

    A lone worker gets two batches at least: what one rejects fills the next. No content depends on
    it: a run that was begun with another size goes on with that.
    """
    batch, workers = recipe.generator.batch_size, recipe.workers.count
    count = USUAL_WORKERS if workers == "auto" else workers
    fewest = 1 if count > 1 and workers != "auto" else 2
    batches = -(-requests // (SHARDS_PER_WORKER * count * batch))
    return batch * max(1, min(max(batches, fewest), MAX_SHARD // batch))


def extend_plan(plan: Plan, generations: Sequence[Generation], extend: bool, where: str) -> Plan:
    """Continues what a run folder planned before, and grows it if asked.

    Args:
        plan: the recipe's fresh plan.
        generations: what the run folder recorded.
        extend: whether growth was asked for.
        where: the run folder, for the error.

    Raises:
        MismatchError: a series or a count shrank, or grew without being asked.
    """
    old = generations[-1].counts
    new = plan.generations[-1].counts
    if old == new:
        return Plan(plan.series, tuple(generations))
    shrunk = [key for key, count in old.items() if new.get(key, 0) < count]
    changed = "; ".join(
        f"series {_label(plan, key)}: {before} -> {after}"
        for key, before, after in diff_values(old, new)
    )
    if shrunk:
        raise MismatchError(
            f"{where}: holds more than the recipe asks for ({changed}): a run can only grow; "
            "use another --out"
        )
    if not extend:
        raise MismatchError(f"{where}: the recipe asks for more ({changed}): add --extend")
    return Plan(plan.series, (*generations, plan.generations[-1]))


def describe_content(recipe: Recipe) -> dict[str, Any]:
    """Returns what must stay equal for a run folder to be continued.

    All but what can grow: counts and blocks, and the attempts per request.
    """
    content = select_content(recipe)
    content.pop("conditions")
    content["budget"].pop("attempts")
    return content


def _cut(key: str, start: int, stop: int, size: int, end: int) -> Iterator[Shard]:
    for first in range(start, min(stop, end), size):
        yield Shard(key, first, min(first + size, stop))


def _label(plan: Plan, key: str) -> str:
    return next((part.label for part in plan.series if part.key == key), key)
