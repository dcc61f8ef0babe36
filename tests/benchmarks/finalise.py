"""Memory and time of finalising, of near-duplicates, and of status and resume, by size of a run.

    python -m tests.benchmarks.finalise [--rows 10000 100000] [--workers 1] [--shard 1000]

Shards are real files of tiny images, committed without sampling: rows of one small run, each with
an index, an id and a descriptor of its own. Each size is finalised by a process of its own. Prints
JSON: seconds, CPU seconds of the driver and of jobs (with one worker these are part of the
driver's), the peak of resident memory (MiB), and pairs that were compared.
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
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from factory.api import run
from factory.core.hashing import hash_bytes
from factory.data.features import build_final_schema
from factory.data.records import Shard
from factory.engine import near_pairs, repack, repeats
from factory.engine.continuing import build_record, read_outline
from factory.engine.finalise import survey_run
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
    """CPU seconds of jobs: of their processes, or of themselves where they are done in this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.known, self.here, self.ended = {}, 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for each in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if each.name().startswith("ray::"):
                        times = each.cpu_times()
                        self.known[each.pid] = times.user + times.system

    def spread(self, workers, work, jobs, beside=False):
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
        return self.here + sum(self.known.values())


def finalise(url: str, workers: int) -> dict:
    """Selects and repacks a committed run."""
    compared, others = [], Others()
    others.start()
    if workers == 1:
        near_pairs.spread_jobs = repack.spread_jobs = others.spread

    def find(series, *others, find=repeats.find_pairs):
        find(series, *others)
        compared.extend(near.compared for near in series)

    repeats.find_pairs = find
    folder = RunFolder(url)
    record = folder.require_run()
    recipe, outline = restore_recipe(record.recipe), read_outline(record)
    began = time.perf_counter()
    status = read_status(url)
    told = time.perf_counter() - began
    began = time.perf_counter()
    asked = Workers(executor="local" if workers == 1 else "ray", count=workers)
    policy = build_policy(folder, recipe)
    survey = survey_run(folder, outline, policy, asked)
    selected = time.perf_counter() - began
    schema = build_final_schema(outline.class_names, ["nonfinite"], recipe.columns)
    files = repack.write_dataset(folder, outline, policy, survey, recipe.output, schema, asked)
    others.stop()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": status["generated"] and files["rows"],
        "near_duplicates": sum(each.rejected.total() for each in survey.funnel.values()),
        "status_seconds": round(told, 2),
        "select_seconds": round(selected, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "jobs_cpu_seconds": round(others.seconds, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "compared": sum(compared),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shard", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", help="of a committed run: finalise it, and no more")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(finalise(options.folder, options.workers[0])))
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            made = commit_rows(Path(folder), rows, options.shard)
            for workers in options.workers:
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
