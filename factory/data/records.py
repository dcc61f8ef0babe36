"""Frozen values that travel between the parts: conditions, requests, candidates, scores, shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from factory.core.hashing import compute_digest, derive_seed
from factory.core.late import NDArray, np
from factory.data.family import Family
from factory.data.streams import Caption, ClassName, Stream

StreamT = TypeVar("StreamT", bound=Stream)

SCORE_DECIMALS = 4
"""Scores are rounded before they are stored and compared, so that last bits never decide."""

NONFINITE = "nonfinite_fraction"
"""Score known of every sample, with or without filters: what is above 0 is never accepted."""

STOPPED = "stopped_at"
"""Score of a recipe with `early`: share of the steps after which a try was stopped, else 0."""
FORESEEN = "foreseen_"
"""What the scores of the image foreseen there begin with."""


def round_nonfinite(share: float) -> float:
    """Returns the share of values that were NaN or infinite as it is stored: never rounded to 0."""
    return max(round(share, SCORE_DECIMALS), 10.0**-SCORE_DECIMALS) if share > 0 else 0.0


@dataclass(frozen=True, slots=True, init=False)
class Condition:
    """What one image should show: a set of streams, each at most once, sorted by name.

    Args:
        class_name: the class, if any: the stream that labels rows.
        caption: the text, if any.
        *streams: all others.
    """

    streams: tuple[Stream, ...]

    def __init__(
        self, class_name: str | None = None, caption: str | None = None, *streams: Stream
    ) -> None:
        texts = [] if class_name is None else [ClassName(class_name)]
        texts += [] if caption is None else [Caption(caption)]
        found = sorted((*texts, *streams), key=lambda stream: stream.name)
        object.__setattr__(self, "streams", tuple(found))

    def get(self, stream: type[StreamT]) -> StreamT | None:
        """Returns a stream by its class, or None where the condition has none."""
        return next((each for each in self.streams if type(each) is stream), None)

    @property
    def class_name(self) -> str | None:
        """The class, if it has one."""
        found = self.get(ClassName)
        return None if found is None else found.text

    @property
    def caption(self) -> str | None:
        """The text, if it has one."""
        found = self.get(Caption)
        return None if found is None else found.text

    @property
    def is_existing(self) -> bool:
        """Whether the image is there, so that none is made."""
        return any(stream.is_image for stream in self.streams)

    @property
    def shown(self) -> frozenset[str]:
        """Names of the streams that a model is told of."""
        return frozenset(stream.name for stream in self.streams if stream.is_shown)

    def describe(self) -> dict[str, Any]:
        """Returns the streams in use as plain data: what the condition key is made of."""
        return {stream.recorded: stream.identity() for stream in self.streams}

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute -> value, as its streams tell: what a grid's caption says, its prototype."""
        told = (stream.list_attributes() for stream in self.streams)
        return {name: value for each in told for name, value in each.items()}

    def columns(self) -> dict[str, Any]:
        """Returns what a row shows of the streams, by column."""
        return {
            name: value
            for stream in self.streams
            for name, value in stream.columns(stream.identity()).items()
        }

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns what the row of an image of that size, px, keeps of the streams, by column.

        Raises:
            SourceError: what a stream is made from cannot be read.
        """
        return {
            name: value
            for stream in self.streams
            for name, value in stream.keep(width, height).items()
        }

    def draw(self, width: int, height: int) -> list[NDArray[np.uint8]]:
        """Returns what people see of the streams beside an image of that size; raises as `keep`."""
        drawn = (stream.draw(width, height) for stream in self.streams)
        return [picture for picture in drawn if picture is not None]

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of the patients or slides that its streams come from."""
        return tuple(dict.fromkeys(one for each in self.streams for one in each.groups()))

    @property
    def key(self) -> str:
        """The condition key: equal streams give equal keys; the `condition_id` column."""
        return compute_digest("condition", self.describe())[:16]


@dataclass(frozen=True, slots=True)
class Request:
    """One slot to fill: the `ordinal`-th image of a condition, at `index` in its series.

    `pool` is for slots that any of several conditions may fill, such as variations of any shot of a
    class: attempt 0 takes `condition`, each further attempt the next of the pool, in turn. So one
    bad shot does not leave its slots empty. Members of a `family` share their seed. Attempts that
    are `passed` are never made: their patient was forgotten.
    """

    series: str
    index: int
    condition: Condition
    ordinal: int
    pool: tuple[Condition, ...] = ()
    family: Family | None = None
    passed: tuple[int, ...] = ()

    def condition_at(self, attempt: int) -> Condition:
        """Returns what a try is to show."""
        if not self.pool:
            return self.condition
        return self.pool[(self.index + attempt) % len(self.pool)]

    def limit(self, attempts: int) -> Request:
        """Returns the request with no more of its pool than its first tries show: to be sent."""
        if len(self.pool) <= attempts:
            return self
        shown = {
            (self.index + each) % attempts: self.condition_at(each) for each in range(attempts)
        }
        return replace(self, pool=tuple(shown[place] for place in range(attempts)))

    def pass_over(self, attempt: int) -> int:
        """Returns the first attempt from `attempt` on that may be made."""
        while attempt in self.passed:
            attempt += 1
        return attempt

    def derive_seed(self, recipe_seed: int, attempt: int) -> int:
        """Returns the seed of one try: from identity alone (DESIGN section 3)."""
        key = self.condition_at(attempt).key if self.family is None else self.family.seed_key
        return derive_seed(recipe_seed, key, self.ordinal, attempt)


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive requests [start, stop) of one series: the unit of work, retry and commit."""

    series: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def id(self) -> str:
        """Names the shard in the run folder; sorts by series, then position."""
        return f"{self.series}-{self.start:010d}-{self.stop:010d}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one round of a shard is, counted from the start of this try at it.

    Of `asked` requests, `filled` got their image and `given_up` spent their budget; `tried`
    candidates were judged for it, spare ones among them; `recalled` of these an earlier start had
    judged. `note` says what of an earlier start cannot be used.
    """

    shard: Shard
    round: int
    asked: int
    tried: int
    filled: int
    given_up: int
    recalled: int = 0
    note: str = ""


Report = Callable[[Progress], None]
"""Called when a shard is begun, and whenever a batch of it was judged."""


@dataclass(frozen=True, slots=True)
class Job:
    """One try at a request, ready to sample.

    One with `until` ends after that share of its steps: its image is the one foreseen there.
    """

    request: Request
    attempt: int
    seed: int
    until: float | None = None

    @property
    def condition(self) -> Condition:
        """What this try is to show."""
        return self.request.condition_at(self.attempt)

    @property
    def made_from(self) -> tuple[Any, ...]:
        """What decides what a model makes of it: the members of a family of stains share it.

        They differ in what is laid over the image alone, of which no model is told.
        """
        if self.request.family is None:
            return self.request.series, self.request.index, self.attempt
        shown = {each.recorded: each.identity() for each in self.condition.streams if each.is_shown}
        return self.seed, self.until, compute_digest("shown", shown)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a generator made of one job.

    Attributes:
        pixels: (H, W, 3) uint8 RGB; where there are channels, their composite.
        nonfinite_fraction: share of values that were NaN or infinite before quantising, in [0, 1].
        prompt: text as sent to the pipeline, or None.
        tokens: per tokenizer, (kept, dropped) token counts of the prompt.
        batch_size: fixed number of images in the forward pass that made it.
        notes: anything else that belongs into the row's provenance.
        channels: (C, H, W), as the catalog entry of the model declares them; None: RGB alone.
        channel_names: (C,) names; the worker sets them, for filters.
    """

    pixels: NDArray[np.uint8]
    nonfinite_fraction: float = 0.0
    prompt: str | None = None
    tokens: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    batch_size: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)
    channels: NDArray[Any] | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def nonfinite(self) -> float:
        """Share of values that were NaN or infinite, of the pixels or the channels, in [0, 1]."""
        if self.channels is None:
            return self.nonfinite_fraction
        return max(self.nonfinite_fraction, 1.0 - float(np.isfinite(self.channels).mean()))

    def finish(self, condition: Condition) -> Sample:
        """Returns it as the streams of its condition let it stand (`Stream.finish`).

        The composite of channels stands as it is: it shows them, and nothing else.

        Raises:
            SourceError: what a stream is made from cannot be read.
        """
        if self.channels is not None:
            return self
        pixels, notes = self.pixels, dict(self.notes)
        for stream in condition.streams:
            pixels, noted = stream.finish(pixels)
            notes |= noted
        return replace(self, pixels=pixels, notes=notes)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accept or reject; a rejection names the filter and says why."""

    accepted: bool
    filter: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One try at a request, judged: pixels, every score, and the verdict."""

    job: Job
    sample: Sample
    scores: Mapping[str, float]
    verdict: Verdict
    descriptor: NDArray[np.float16] | None = None
    features: NDArray[np.float32] | None = None
