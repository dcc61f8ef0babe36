"""`Watcher`: how far a run is, read from its folder alone, again and again and cheaply."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.data.records import Shard
from factory.data.summary import Summary
from factory.engine.committed import read_markers
from factory.engine.continuing import read_outline
from factory.engine.lease import Holder
from factory.engine.run_folder import LEASE, Marker, RunFolder, RunRecord
from factory.engine.run_records import name_marker
from factory.engine.summary import describe_unfinished, read_summary
from factory.publish.review.desk import MEDIA
from factory.recipe.recipe import is_judging, restore_recipe

NEWEST = 12
"""Images that the page shows."""
REASONS = 12
_SHARDS = 6
"""Last committed shards that the newest images are taken from."""
_COLUMNS = ["index", "attempt", "sample_id", "class_name", "accepted", "rejected_by", "reason"]


@dataclass(slots=True)
class _Seen:
    """A committed shard: its rounds, and when the last was committed, where that is known."""

    markers: list[Marker]
    at: float | None


@dataclass(slots=True)
class Watcher:
    """Tells how far a run is; a shard that was read once is not read again.

    Attributes:
        url: run folder or fsspec URL.
        clock: seconds since the epoch.
    """

    url: str
    clock: Callable[[], float] = time.time
    folder: RunFolder = field(init=False)
    seen: dict[str, _Seen] = field(default_factory=dict)
    newest: dict[str, Marker] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder = RunFolder(self.url)
        self.folder.require_run()

    def read(self) -> dict[str, Any]:
        """Returns what the page shows, as plain data; pages may ask at one time.

        Raises:
            StoreError: damaged records.
        """
        with self._lock:
            return self._read()

    def _read(self) -> dict[str, Any]:
        record = self.folder.require_run()
        outline = read_outline(record)
        shards = list(outline.iterate_shards())
        summary = read_summary(self.folder)
        names = {shard.id for shard in shards}  # what lies beyond the end of a series counts not
        self.seen = {name: each for name, each in self.seen.items() if name in names}
        left = [shard for shard in shards if shard.id not in self.seen]
        if not left and self._find_problem(summary, 0):
            left = shards  # all have been made once; topping up adds rounds to some
        for shard in left:
            if found := read_markers(self.folder, shard):
                self.seen[shard.id] = _Seen(found, self._find_time(shard))
        holder = self._read_holder()
        markers = self._list_markers()
        generated = sum(marker.generated for marker in markers)
        done = len(self.seen)
        problem = self._find_problem(summary, len(shards) - done)
        filled = Counter[str]()
        for marker in markers:
            filled[marker.series] += marker.filled
        if summary is not None and not problem:  # near-duplicates, picks and refilters count
            filled = Counter({part.key: part.accepted for part in summary.series})
        series = self._list_series(record, markers, filled)
        speed = self._measure_speed(holder)
        return {
            "name": record.name,
            "judged": is_judging(restore_recipe(record.recipe)),
            "shards": len(shards),
            "done": done,
            "finalized": not problem,
            "unfinished": problem,
            "asked": sum(part["asked"] for part in series),
            "accepted": filled.total(),
            "generated": generated,
            "acceptance": filled.total() / generated if generated else None,
            "series": series,
            "rejected": _count(marker.rejected for marker in markers),
            "reasons": dict(list(_count(m.reasons for m in markers).items())[:REASONS]),
            "speed": speed,
            "left": self._expect_left(series, speed, record.recipe["budget"]["attempts"]),
            "holder": None if holder is None else holder.describe(),
            "workers": self._list_workers(markers),
            "quarantined": [each.to_json() for each in self.folder.list_quarantined()],
            "newest": self._list_newest(record),
        }

    def read_image(self, sample_id: str) -> tuple[bytes, str]:
        """Returns an image that `read` listed, and its media type.

        Raises:
            InputError: it did not.
            StoreError: a damaged shard.
        """
        marker = self.newest.get(sample_id)
        rows = self.folder.read_rows(marker, {sample_id}, ["image"]) if marker else []
        if not rows or rows[0]["image"]["bytes"] is None:
            raise InputError(f"no image {sample_id} among the newest")
        image = rows[0]["image"]
        return image["bytes"], MEDIA[image["path"].rpartition(".")[2]]

    def _list_markers(self) -> list[Marker]:
        return [marker for each in self.seen.values() for marker in each.markers]

    def _find_problem(self, summary: Summary | None, missing: int) -> str:
        return describe_unfinished(summary, missing, sum(m.rows for m in self._list_markers()))

    def _find_time(self, shard: Shard) -> float | None:
        if not self.folder.files.is_local:
            return None
        place = Path(self.folder.files.resolve(name_marker(shard, 0)))
        return place.stat().st_mtime if place.exists() else None

    def _read_holder(self) -> Holder | None:
        """Returns the command that works on the run now, if one lives."""
        if not self.folder.files.exists(LEASE):
            return None
        found = Holder.model_validate_json(self.folder.files.read(LEASE))
        return None if found.is_dead() or found.is_silent() else found

    def _measure_speed(self, holder: Holder | None) -> float | None:
        """Returns images a second since the command that works on the run began."""
        if holder is None:
            return None
        new = [each for each in self.seen.values() if (each.at or 0.0) >= holder.since]
        made = sum(marker.generated for each in new for marker in each.markers)
        seconds = self.clock() - holder.since
        return made / seconds if made and seconds > 0 else None

    @staticmethod
    def _list_series(
        record: RunRecord, markers: list[Marker], filled: Counter[str]
    ) -> list[dict[str, Any]]:
        tried, settled = Counter[str](), Counter[str]()
        for marker in markers:
            tried[marker.series] += marker.generated
            settled[marker.series] += marker.asked
        return [
            {
                "label": part.label,
                "asked": part.count,
                "accepted": filled[part.key],
                "tried": tried[part.key],
                "settled": settled[part.key],
            }
            for part in record.series
        ]

    @staticmethod
    def _expect_left(
        series: list[dict[str, Any]], speed: float | None, attempts: int
    ) -> float | None:
        """Returns seconds: each series goes on to cost as many tries a request as it did."""
        if speed is None:
            return None
        tried, settled = (sum(part[name] for part in series) for name in ("tried", "settled"))
        usual = tried / settled if settled else 1.0
        tries = 0.0
        for part in series:
            cost = part["tried"] / part["settled"] if part["settled"] else usual
            tries += max(0, part["asked"] - part["settled"]) * min(attempts, cost)
        return tries / speed

    def _list_workers(self, markers: list[Marker]) -> list[dict[str, Any]]:
        found = []
        for digest in sorted({marker.worker for marker in markers}):
            own = [marker for marker in markers if marker.worker == digest]
            generator = self.folder.read_worker(digest).generator
            work = sum(sum(marker.seconds.values()) for marker in own)
            images = sum(marker.generated for marker in own)
            found.append(
                {
                    "model": str(generator.model).rpartition("/")[2],
                    "device": generator.device,
                    "shards": len(own),
                    "images": images,
                    "speed": images / work if work else None,
                }
            )
        return found

    def _list_newest(self, record: RunRecord) -> list[dict[str, Any]]:
        labels = {part.key: part.label for part in record.series}
        keeps = record.recipe["output"]["keep_rejected"] == "images"
        last = sorted(self.seen.values(), key=lambda each: each.at or 0.0)[-_SHARDS:]
        found: list[dict[str, Any]] = []
        newest: dict[str, Marker] = {}
        for marker in (each.markers[-1] for each in reversed(last)):
            rows = self.folder.read_table(marker, _COLUMNS).to_pylist()
            for row in reversed(rows):
                if len(found) < NEWEST and (row["accepted"] or keeps):
                    newest[row["sample_id"]] = marker
                    why = f"{row['rejected_by']}: {row['reason']}"
                    found.append(
                        {
                            "id": row["sample_id"],
                            "label": labels.get(marker.series, ""),
                            "verdict": "accepted" if row["accepted"] else why,
                        }
                    )
        self.newest = newest  # at once: pages load images of it meanwhile
        return found


def _count(counts: Any) -> dict[str, int]:
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return dict(total.most_common())
