"""What a run folder keeps as JSON: the run record and markers, and what can be wrong in them."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from factory.core.errors import DamageError
from factory.core.files.new_folder import WORK
from factory.core.files.store import FileStore
from factory.core.hashing import compute_digest, drop_none
from factory.core.plain import write_json
from factory.data.artefact import Artefact, Part
from factory.data.records import Shard
from factory.data.schema import select_shaping
from factory.data.summary import Maker, SeriesPart, StopTest
from factory.recipe.earlier import join_duplicates, split_duplicates
from factory.recipe.ending import FIRST
from factory.recipe.stop import Stop

PATHS_DESCRIBED = frozenset({"model", "models", "images", "held_out", "captions", "path"})
"""Keys of a filter's description that say where it was found; its revision says what it is."""


class GenerationRecord(Part):
    """One growth of the run: counts of each series, and requests per shard."""

    counts: dict[str, int]
    shard_size: int


class SeriesRecord(SeriesPart):
    """What a series is called, and how many images it was last asked for."""

    count: int
    shares: dict[str, dict[str, float]] | None = Field(
        None, description="attribute -> value -> share asked for, where captions state it"
    )
    max_share_per_shot: float | None = Field(
        None, description="most of it that may vary one and the same real image"
    )
    max_share_per_group: float | None = Field(
        None, description="most of it that may vary images of one and the same patient or slide"
    )
    sizes: dict[str, int] | None = Field(
        None, description="what is varied -> images of a whole family, where there are families"
    )
    bag_size: int | None = Field(None, description="patches of a slide, where there are slides")


class StopRecord(Part):
    """The tests of `budget.stop` so far, and the real images that they compare with."""

    real_images: int
    real_sha256: str
    tests: tuple[StopTest, ...] = ()

    @property
    def stops(self) -> dict[str, int]:
        """Series -> requests after which it ended."""
        return {each.series: each.at for each in self.tests if each.stops}

    def find_problem(self, series: Iterable[tuple[str, int]], rule: Stop) -> str:
        """Returns why no run leaves these tests; "" where all is well.

        Args:
            series: key, and images asked for, of each.
            rule: by which they were made.
        """
        counts = dict(series)
        if strange := sorted({each.series for each in self.tests} - {*counts}):
            return f"tests of a series {strange[0]!r}, which is not asked for"
        for key, count in counts.items():
            mine = [each for each in self.tests if each.series == key]
            due = range(FIRST * rule.every, count, rule.every)[: len(mine)]
            if [each.at for each in mine] != [*due]:
                return f"tests of {key} that do not follow each other block by block"
            for test in mine:
                ends = test.is_within(rule.tolerance)
                if test.stops != ends or (ends and test is not mine[-1]):
                    return f"a test of {key} at {test.at:,} whose figures do not say how it went on"
        return ""


class RunRecord(Artefact):
    """`run.json`: what the run folder belongs to."""

    name: str
    recipe_sha256: str
    content: dict[str, Any]
    recipe: dict[str, Any]
    series: tuple[SeriesRecord, ...]
    generations: tuple[GenerationRecord, ...]
    stop: StopRecord | None = Field(None, description="of a recipe with `budget.stop`")


class Quarantine(Artefact):
    """A shard that kept failing, and the last error."""

    shard: str
    round: int
    error: str


class Marker(Artefact):
    """A committed shard, or a further round of it: written last, and what it names exists."""

    run: str | None = Field(None, description="digest of the run's content; None: not recorded")
    shard: str
    series: str
    start: int
    stop: int
    round: int = 0
    data: str = Field(description="name of the data object below the work folder")
    sha256: str
    bytes: int
    rows: int
    asked: int
    filled: int
    generated: int
    rejected: dict[str, int] = Field(description="candidates by rejecting filter")
    reasons: dict[str, int] = Field(description="candidates by reason without its numbers")
    starts: dict[int, int] | None = Field(None, description="round > 0: request -> first attempt")
    tried: dict[int, int] | None = Field(
        None, description="request -> first attempt that is left, where some were forgotten"
    )
    worker: str = Field(description="digest of the worker description that made it")
    seconds: dict[str, float]
    cut: dict[str, tuple[int, int]] = Field(
        {}, description="tokenizer -> candidates whose prompt it cut, tokens that it dropped"
    )

    def find_misfit(self, shard: Shard, round_number: int, run: str | None) -> str:
        """Returns what of it belongs to another shard, round or run; "" where all fits."""
        name = shard.id
        data = name_data(name, round_number, self.sha256)
        wanted = (name, shard.series, shard.start, shard.stop, round_number, data, run)
        found = (self.shard, self.series, self.start, self.stop, self.round, self.data, self.run)
        if found == wanted:
            return ""
        fields = ("shard", "series", "start", "stop", "round", "data", "run")
        both = zip(fields, found, wanted, strict=True)
        field, mine, other = next(each for each in both if each[1] != each[2])
        return f"belongs elsewhere: {field} is {mine!r}, not {other!r}"

    def check_rows(self, table: pa.Table) -> pa.Table:
        """Returns a table that was read under this marker's name, some of its columns or all.

        Raises:
            DamageError: its rows are not those of this shard.
        """
        is_ours = table.num_rows == self.rows
        if is_ours and table.num_rows and "series" in table.column_names:
            is_ours = set(table["series"].unique().to_pylist()) == {self.series}
        if is_ours and table.num_rows and "index" in table.column_names:
            found = table["index"].to_pylist()
            is_ours = self.start <= min(found) and max(found) < self.stop
        if not is_ours:
            raise DamageError(f"{self.data}: holds rows of another shard")
        return table


def compute_run_id(content: Mapping[str, Any]) -> str:
    """Returns the digest of what a run folder belongs to, which its markers name."""
    return compute_digest("run", join_duplicates(drop_none(content)))[:16]


def select_shaping_parts(maker: Maker) -> dict[str, Any]:
    """Returns what of a worker's description shapes content: another one does not go on."""
    recorded = [each.to_json() for each in maker.filters]
    described = split_duplicates({"filters": recorded, "dedup": maker.dedup})
    filters = {
        each["kind"]: {key: each[key] for key in each if key not in PATHS_DESCRIBED}
        for each in described["filters"]
    }
    pick = {"pick_encoder": maker.pick_encoder.weights_sha256} if maker.pick_encoder else {}
    stop = {"stop_encoder": maker.stop_encoder.weights_sha256} if maker.stop_encoder else {}
    terms = {"terms": maker.terms} if maker.terms else {}
    generator = select_shaping(maker.generator.to_json())
    return {
        "generator": generator,
        "filters": filters,
        "dedup": described["dedup"],
        **pick,
        **stop,
        **terms,
    }


def name_reason(reason: str | None) -> str:
    """Returns the first word of a reason, without its numbers, so that reasons can be counted."""
    return (reason or "").split(" ", 1)[0]


def count_rejected(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns `rejected` and `reasons` of a marker, by what workers decided of its rows."""
    refused = [row for row in rows if not row["accepted"]]
    rejected = Counter(str(row["rejected_by"]) for row in refused)
    reasons = Counter(f"{row['rejected_by']}: {name_reason(row['reason'])}" for row in refused)
    return {"rejected": dict(sorted(rejected.items())), "reasons": dict(sorted(reasons.items()))}


def dump_record(record: BaseModel) -> bytes:
    """Returns a record as indented JSON."""
    return record.model_dump_json(indent=1).encode()


def dump_table(table: pa.Table) -> bytes:
    """Returns candidates as the parquet file of a shard, or of a part of one."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=256)
    return buffer.getvalue()


def parse_worker(data: bytes, digest: str) -> Maker:
    """Reads the record of the worker of this digest.

    Raises:
        DamageError: it is damaged, or another's; the message is without its place.
        MismatchError: a newer version of factory wrote it.
    """
    found = Maker.parse(data)
    try:
        is_ours = digest_worker(json.loads(data)) == digest
    except (ValueError, RecursionError):  # JSON that no worker writes
        is_ours = False
    if not is_ours:
        raise DamageError("was changed: its content does not have the digest of its name")
    return found


def find_other(files: FileStore) -> str | None:
    """Returns what a folder without a run record holds, or None where it is empty."""
    if files.exists(f"{WORK}/shards"):
        return f"shards whose {WORK}/run.json is gone"
    return next((each for each in files.list("") if each != WORK), None)


def name_marker(shard: Shard, round_number: int) -> str:
    """Returns the name of a marker in the run folder."""
    return f"{WORK}/shards/{shard.id}-r{round_number}.json"


def name_data(shard: str, round_number: int, sha256: str) -> str:
    """Returns the name of a data object in the work folder."""
    return f"shards/{shard}-r{round_number}-{sha256[:16]}.parquet"


def dump_worker(description: Mapping[str, Any]) -> bytes:
    """Returns a worker's description as the JSON of its record."""
    return write_json(description, sort_keys=True).encode()


def digest_worker(description: Mapping[str, Any]) -> str:
    """Returns the digest of a worker's description that its record, and its markers, are named by.

    It is that of what the record holds: keys that are numbers are text there.
    """
    return compute_digest("worker", json.loads(dump_worker(description)))[:16]


def name_worker(digest: str) -> str:
    """Returns the name of a worker's description in the run folder."""
    return f"{WORK}/workers/{digest}.json"
