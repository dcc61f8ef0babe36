"""Finalizing: selects over the whole set, repacks the accepted rows, and cross-checks."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from factory.core.errors import InputError, StoreError
from factory.core.hashing import hash_bytes
from factory.data.channel_tables import build_table
from factory.data.features import build_final_schema, with_features
from factory.data.provenance import GeneratorRecord
from factory.data.records import Shard
from factory.data.streams.base import HasFields
from factory.data.writers.parquet import ParquetFiles, fit_rows_per_file
from factory.data.writers.webdataset import TarFiles
from factory.engine.diversity import Pick
from factory.engine.families import LEFT_OUT, Families
from factory.engine.later import Later
from factory.engine.placing import BUILD, put_in_place
from factory.engine.plan import Outline
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.selection import (
    NOT_PICKED,
    Decision,
    GroupQuota,
    PickPools,
    Selector,
    SeriesFunnel,
    read_seen,
)
from factory.engine.shard import name_reason
from factory.engine.task import Task
from factory.filters import Decide
from factory.recipe.conditions.series import find_quotas, find_shares, find_sizes
from factory.recipe.recipe import Output

SELECTION_COLUMNS = (
    "series",
    "index",
    "attempt",
    "sample_id",
    "class_name",
    "scores",
    "accepted",
    "rejected_by",
    "reason",
    "descriptor",
    "reference_sha256",
)
SUMMARY = "summary.json"
"""Written after the data set, so that without it the data set is written again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How candidates are selected: None for `decide` trusts the verdicts of the workers.

    `pick` chooses among the accepted images of each series once all are there, by `seed`; `later`
    are scores that came after the run.
    """

    attempts: int
    max_similarity: float | None
    decide: Decide | None = None
    pick: Pick | None = None
    seed: int = 0
    later: Later = field(default_factory=Later)


@dataclass(slots=True)
class Survey:
    """What a walk over all committed shards found."""

    funnel: dict[str, SeriesFunnel] = field(default_factory=lambda: defaultdict(SeriesFunnel))
    goes_on: list[Task] = field(default_factory=list)
    missing: list[Shard] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)
    shards: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokenizer -> candidates whose prompt it cut, and tokens that it dropped of them."""
    filled: dict[str, int] = field(default_factory=dict)
    """Requests of each series that have their image, those that a pick leaves out among them."""
    left_out: frozenset[int] = frozenset()
    """Sample ids of good images that a pick did not keep, or whose family is not whole."""

    @property
    def accepted(self) -> int:
        """Accepted rows over all series."""
        return sum(each.accepted for each in self.funnel.values())

    @property
    def others(self) -> int:
        """Candidates that were not taken."""
        return sum(each.generated - each.accepted for each in self.funnel.values())


def survey_run(folder: RunFolder, plan: Outline, policy: Policy) -> Survey:
    """Selects over all committed shards without reading an image.

    Returns:
        The funnel, the shards without a marker, and the further rounds for near-duplicates and
        for shots over their quota.

    Raises:
        StoreError: a shard is damaged.
    """
    survey = Survey()
    for part in plan.series:
        funnel = survey.funnel[part.key]
        funnel.asked, funnel.shares = part.count, find_shares(part)
    selectors = _Selectors(plan, policy)
    pools = PickPools(policy.pick, policy.seed)
    families = Families({each.key: sizes for each in plan.series if (sizes := find_sizes(each))})
    columns = (*SELECTION_COLUMNS, *pools.columns, *families.columns)
    saying = (*columns, "provenance")
    for shard in plan.iterate_shards():
        markers = read_markers(folder, shard)
        if not markers:
            survey.missing.append(shard)
            continue
        for marker in markers:
            survey.workers.add(marker.worker)
            survey.shards.append(marker.sha256)
            for name, value in marker.seconds.items():
                survey.seconds[name] += value
            for name, (count, dropped) in marker.cut.items():
                before = survey.cut.get(name, (0, 0))
                survey.cut[name] = before[0] + count, before[1] + dropped
        funnel = survey.funnel[shard.series]
        is_telling = funnel.shares or selectors.reads_groups(shard)
        rows = _read_rows(folder, markers, saying if is_telling else columns, policy.later)
        starts: dict[int, int] = {}
        for index, candidates, decisions in selectors.select(shard, rows):
            is_filled = _count(funnel, candidates, decisions)
            pools.add(shard.series, candidates, decisions)
            families.add(shard.series, candidates, decisions)
            if not is_filled and len(candidates) < policy.attempts:
                starts[index] = len(candidates)
        if starts:
            survey.goes_on.append(Task(shard, len(markers), starts))
    survey.filled = {key: funnel.accepted for key, funnel in survey.funnel.items()}
    survey.left_out = pools.pick(survey.funnel) | families.leave_out(survey.funnel)
    return survey


def write_dataset(
    folder: RunFolder,
    plan: Outline,
    policy: Policy,
    survey: Survey,
    output: Output,
    score_names: list[str],
    streams: Iterable[type[HasFields]] = (),
    maker: GeneratorRecord | None = None,
) -> dict[str, Any]:
    """Repacks the selected rows into `data/`, `rejected/` and `webdataset/`.

    Built aside and moved into place when whole; every image's hash, every sample id's uniqueness
    and the counts of `survey` (made with the same policy) are checked on the way. `maker` says
    which channels there are beside RGB.

    Returns:
        Row counts, and sha256 and bytes of each file by its name.

    Raises:
        StoreError: damaged images, or one sample id twice.
        InputError: a candidate to accept whose image was not kept.
    """
    files = folder.files
    files.remove(BUILD)
    schema = build_final_schema(plan.class_names, score_names, streams, maker)
    per_file = output.rows_per_file
    kept = ParquetFiles(files, f"{BUILD}/data", "train", schema, survey.accepted, per_file)
    extra = [("rejected_by", pa.string()), ("reason", pa.string()), ("status", pa.string())]
    dropped_schema = pa.schema([*schema, *(pa.field(*each) for each in extra)], schema.metadata)
    dropped_schema = with_features(dropped_schema, plan.class_names)
    dropped = ParquetFiles(
        files, f"{BUILD}/rejected", "rejected", dropped_schema, survey.others, per_file
    )
    per_tar = fit_rows_per_file(survey.accepted, per_file)
    tars = TarFiles(files, f"{BUILD}/webdataset", "train", per_tar)
    seen: set[int] = set()
    with kept, dropped, tars:
        for accepted, others in _iterate_final(folder, plan, policy, survey.left_out):
            _check_rows(accepted, seen)
            kept.write(build_table(accepted, schema))
            dropped.write(build_table(others, dropped_schema))
            if "webdataset" in output.formats:
                tars.write({name: row[name] for name in schema.names} for row in accepted)
    if kept.rows != survey.accepted:
        raise StoreError(f"{folder.url}: {kept.rows} rows written, {survey.accepted} accepted")
    folder.confirm()
    put_in_place(files, SUMMARY, (*kept.names, *dropped.names, *tars.names))
    files.remove(BUILD)
    hashes = {**kept.hashes, **dropped.hashes, **tars.hashes}
    sizes = {**kept.sizes, **dropped.sizes, **tars.sizes}
    return {
        "rows": kept.rows,
        "rejected_rows": dropped.rows,
        "tars": len(tars.names),
        "sha256": {name.removeprefix(f"{BUILD}/"): sha for name, sha in hashes.items()},
        "bytes": {name.removeprefix(f"{BUILD}/"): size for name, size in sizes.items()},
    }


def iterate_decisions(
    folder: RunFolder,
    plan: Outline,
    policy: Policy,
    left_out: frozenset[int],
    columns: tuple[str, ...] | None = None,
) -> Iterator[tuple[Shard, list[tuple[dict[str, Any], Decision]]]]:
    """Yields each committed shard's candidates with what became of them, by request and attempt.

    Args:
        folder: run folder.
        plan: its series and shards.
        policy: how candidates are selected.
        left_out: sample ids that a pick does not keep, as `survey_run` found them.
        columns: those to read, SELECTION_COLUMNS among them; None: all, with hashes checked.

    Raises:
        StoreError: a shard is damaged.
    """
    selectors = _Selectors(plan, policy)
    instead = NOT_PICKED if policy.pick is not None else LEFT_OUT
    for shard in plan.iterate_shards():
        markers = read_markers(folder, shard)
        if not markers:
            continue
        found: list[tuple[dict[str, Any], Decision]] = []
        more = ("provenance",) if selectors.reads_groups(shard) else ()
        wanted = None if columns is None else tuple(dict.fromkeys((*columns, *more)))
        rows = _read_rows(folder, markers, wanted, policy.later)
        for _, candidates, decisions in selectors.select(shard, rows):
            for row, decision in zip(candidates, decisions, strict=True):
                is_good = decision.status == "accepted"
                is_left_out = is_good and int(row["sample_id"], 16) in left_out
                found.append((row, instead if is_left_out else decision))
        yield shard, found


def read_markers(folder: RunFolder, shard: Shard) -> list[Marker]:
    """Returns the markers of a shard's rounds, from round 0 on."""
    markers: list[Marker] = []
    while (marker := folder.read_marker(shard, len(markers))) is not None:
        markers.append(marker)
    return markers


class _Selectors:
    """One selector per series, walked shard by shard."""

    def __init__(self, plan: Outline, policy: Policy) -> None:
        self.policy = policy
        self.quotas = {part.key: find_quotas(part) for part in plan.series}
        self.by_series: dict[str, Selector] = {}
        self.taken: set[int] = set()

    def reads_groups(self, shard: Shard) -> bool:
        """Whether a quota asks whose images rows vary, which their provenance tells."""
        return GroupQuota.field in self.quotas[shard.series]

    def select(
        self, shard: Shard, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[int, list[dict[str, Any]], list[Decision]]]:
        if shard.series not in self.by_series:
            policy = self.policy
            quotas = self.quotas[shard.series]
            selector = Selector(policy.decide, policy.max_similarity, self.taken, quotas)
            self.by_series[shard.series] = selector
        selector = self.by_series[shard.series]
        for index, group in itertools.groupby(rows, key=lambda row: row["index"]):
            candidates = list(group)
            yield index, candidates, selector.select(candidates)


def _count(
    funnel: SeriesFunnel, candidates: list[dict[str, Any]], decisions: list[Decision]
) -> bool:
    is_filled = False
    for candidate, decision in zip(candidates, decisions, strict=True):
        funnel.generated += 1
        if decision.status == "accepted":
            funnel.accepted += 1
            is_filled = True
            funnel.note(read_seen(candidate))
        elif decision.status == "spare":
            funnel.spare += 1
        else:
            funnel.rejected[str(decision.rejected_by)] += 1
            funnel.reasons[f"{decision.rejected_by}: {name_reason(decision.reason)}"] += 1
    return is_filled


def _read_rows(
    folder: RunFolder, markers: list[Marker], columns: tuple[str, ...] | None, later: Later
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for marker in markers:
        rows.extend(folder.read_table(marker, columns, verify=columns is None).to_pylist())
    later.lay_over(rows)
    return sorted(rows, key=lambda row: (row["index"], row["attempt"]))


def _iterate_final(
    folder: RunFolder, plan: Outline, policy: Policy, left_out: frozenset[int]
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    labels = {name: label for label, name in enumerate(plan.class_names)}
    for _, candidates in iterate_decisions(folder, plan, policy, left_out):
        accepted: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for row, final in candidates:
            row["label"] = labels.get(row["class_name"])
            row["status"] = final.status
            row["rejected_by"], row["reason"] = final.rejected_by, final.reason
            (accepted if final.status == "accepted" else others).append(row)
        yield accepted, others


def _check_rows(rows: list[dict[str, Any]], seen: set[int]) -> None:
    for row in rows:
        name, data = row["sample_id"], row["image"]["bytes"]
        if data is None:
            raise InputError(
                f"{name}: would be accepted now, but its image was not kept (output.keep_rejected: "
                "scores): choose thresholds that accept no more than before"
            )
        if hash_bytes(data) != row["image_sha256"]:
            raise StoreError(f"{name}: the image does not have the hash that was recorded")
        if int(name, 16) in seen:
            raise StoreError(f"{name}: accepted twice")
        seen.add(int(name, 16))
