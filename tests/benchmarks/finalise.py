"""Memory and time of finalising, of near-duplicates, and of status and resume, by size of a run.

    python -m tests.benchmarks.finalise [--rows 10000 100000] [--workers 1 2] [--turns 1]

Shards are real files of tiny images, committed without sampling: rows of one small run, each with
an index, an id and a descriptor of its own. Each size is finalised by a process of its own, with
each number of workers in turns. Prints JSON: seconds in all and of each part (starting Ray lies in
that of `pairs`, or of `write`), CPU seconds of the driver, of jobs (with one worker these are part
of the driver's) and of Ray's own processes, the peak of resident memory (MiB), and pairs that were
compared.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from factory.api import run
from factory.core.hashing import hash_bytes
from factory.data.features import build_final_schema
from factory.data.records import Shard
from factory.engine import finalise as finalising
from factory.engine import near_pairs, repack, repeats
from factory.engine.continuing import build_record, read_outline
from factory.engine.executors import cluster
from factory.engine.executors.machines import Machines, open_machines
from factory.engine.finalise import Selected, survey_run
from factory.engine.run import build_policy, find_first_marker, plan_recipe, read_status
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import Marker, RunRecord, compute_run_id
from factory.recipe.file import load_recipe
from factory.recipe.recipe import Workers, restore_recipe
from tests.running import write_recipe


def load(folder: Path, rows: int, shard: int):
    """Returns the recipe of so many images."""
    output = {"shard_size": shard, "formats": ["parquet", "webdataset"]}
    conditions = [{"kind": "class", "per_class": {"normal": rows}}]
    generator = {"model": "fake", "width": 16, "height": 16}
    changes = {"filters": [{"kind": "finite"}], "dedup": {"max_similarity": 0.97}}
    return load_recipe(
        write_recipe(
            folder,
            conditions=conditions,
            generator=generator,
            output=output,
            budget={"attempts": 1},
            **changes,
        )
    )


def commit_rows(folder: Path, rows: int, shard: int = 1000, repeats: int = 100) -> RunFolder:
    """Commits a run of so many images; one of `repeats` has the descriptor of the one before."""
    small, loaded = load(folder / "small", 4, 4), load(folder / "recipe", rows, shard)
    run(small, str(folder / "template"))
    template = RunFolder(str(folder / "template"))
    marker = find_first_marker(template, plan_recipe(small))
    kinds = template.read_table(marker)
    plan, target = plan_recipe(loaded), RunFolder(str(folder / "run"))
    record = build_record(loaded.recipe, plan)
    target.write_run(record)
    draw = np.random.default_rng(0)
    for each in plan.iterate_shards():
        places = np.arange(each.start, each.stop)
        size = len(places)
        described = draw.normal(size=(size, 256)).astype(np.float32)
        described /= np.linalg.norm(described, axis=1, keepdims=True)
        repeated = np.flatnonzero(places % repeats == repeats - 1)
        described[repeated] = described[repeated - 1]
        names = [hash_bytes(str(place).encode())[:32] for place in places.tolist()]
        new = {
            "series": [each.series] * size,
            "index": places,
            "sample_id": names,
            "attempt": np.zeros(size, np.int32),
            "accepted": [True] * size,
            "rejected_by": [None] * size,
            "reason": [None] * size,
            "descriptor": list(described.astype(np.float16)),
        }
        table = kinds.take(pa.array(places % len(kinds)))
        for name, values in new.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
        target.commit(table, move_marker(marker, record, each, rows=size), each)
    return target


def move_marker(marker: Marker, record: RunRecord, shard: Shard, **others: Any) -> Marker:
    """Returns a marker as that of another shard of a run."""
    place = {
        "run": compute_run_id(record.content),
        "shard": shard.id,
        "series": shard.series,
        "start": shard.start,
        "stop": shard.stop,
    }
    return marker.model_copy(update=place | others)


class Others(threading.Thread):
    """CPU seconds of jobs: of their processes, or of themselves where they are done in this one.

    Those of Ray's own processes are counted apart.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs, self.ray, self.here = {}, {}, 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(5.0):  # to look costs CPU seconds of this process
            self.look()

    def look(self) -> None:
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                name, times = each.name(), each.cpu_times()
                is_job = name.startswith("ray::") and not name.endswith("Agent")
                (self.jobs if is_job else self.ray)[each.pid] = times.user + times.system

    def spread(self, machines, work, jobs, beside=False):
        for job in jobs:
            began = time.process_time()
            found = work(job)
            self.here += time.process_time() - began
            yield found

    def stop(self) -> None:
        self.ended.set()
        self.join()

    @property
    def seconds(self) -> float:
        return self.here + sum(self.jobs.values())


class Parts:
    """Wall-clock seconds of parts of finalising."""

    def __init__(self) -> None:
        self.seconds = Counter()

    def time(self, owner, name, told):
        """Has a function of a module or class timed from now on."""
        do = getattr(owner, name)

        def timed(*given, **named):
            began = time.perf_counter()
            try:
                return do(*given, **named)
            finally:
                self.seconds[told] += time.perf_counter() - began

        setattr(owner, name, timed)

    def tell(self) -> dict:
        return {told: round(seconds, 1) for told, seconds in self.seconds.items()}


def finalise(url: str, workers: int) -> dict:
    """Selects and repacks a committed run."""
    others, parts, series = Others(), Parts(), {}
    others.start()
    if workers == 1:
        near_pairs.spread_jobs = repack.spread_jobs = others.spread
    parts.time(cluster, "start_ray", "ray_start")
    parts.time(Machines, "connect", "ray_awaited")
    parts.time(repeats.Repeats, "find", "pairs")
    parts.time(finalising, "_walk", "walk")
    parts.time(repack, "write_dataset", "write")
    parts.time(Machines, "close", "ray_end")

    def keep(growing):
        for near in growing:
            series[near.key] = near
            yield near

    repeats.find_pairs = lambda growing, *more, find=repeats.find_pairs: find(keep(growing), *more)
    folder = RunFolder(url)
    record = folder.require_run()
    recipe, outline = restore_recipe(record.recipe), read_outline(record)
    began = time.perf_counter()
    status = read_status(url)
    told = time.perf_counter() - began
    began = time.perf_counter()
    asked = Workers(executor="local" if workers == 1 else "ray", count=workers)
    policy = build_policy(folder, recipe)
    with open_machines(asked) as machines:
        survey = survey_run(folder, outline, policy, machines)
        schema = build_final_schema(outline.class_names, ["nonfinite"], recipe.columns)
        selected = Selected(folder, outline, policy, survey)
        files = repack.write_dataset(selected, recipe.output, schema, machines)
        others.look()
        others.stop()
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": status["generated"] and files["rows"],
        "near_duplicates": sum(each.rejected.total() for each in survey.funnel.values()),
        "status_seconds": round(told, 2),
        "seconds": round(seconds, 1),
        "parts": parts.tell(),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "jobs_cpu_seconds": round(others.seconds, 1),
        "ray_cpu_seconds": round(sum(others.ray.values()), 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "compared": sum(near.compared for near in series.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shard", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--folder", help="of a committed run: finalise it, and no more")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(finalise(options.folder, options.workers[0])))
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            made = commit_rows(Path(folder), rows, options.shard)
            for workers in options.workers * options.turns:
                words = [
                    sys.executable,
                    "-m",
                    __spec__.name,
                    "--folder",
                    made.url,
                    "--workers",
                    str(workers),
                ]
                found = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                told = json.loads(found.stdout.splitlines()[-1])
                print(json.dumps({"asked": rows, "workers": workers, **told}), flush=True)


if __name__ == "__main__":
    main()
