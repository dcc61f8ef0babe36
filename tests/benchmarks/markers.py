"""Status, resume and the driver's memory, by the shards that are committed and the images planned.

    python -m tests.benchmarks.markers [--shards 1000 100000] [--planned 1000 100000000]

Markers are real files without data, of all shards but the last: status and resume read no more.
Each size is measured by a process of its own. Prints JSON: seconds of status and of a resume until
its first shard is drawn, and the peak of resident memory (MiB).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from factory.api import run
from factory.engine import run as engine
from factory.engine.continuing import build_record
from factory.engine.run import find_first_marker, plan_recipe, read_status
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import dump_record, name_data, name_marker
from factory.recipe.file import load_recipe
from tests.benchmarks.finalise import move_marker
from tests.running import write_recipe


class Drawn(Exception):
    """The first shard is about to be made."""


def load(folder: Path, images: int):
    """Returns a recipe of shards of one image, or of the usual size where they would be many."""
    output = {"shard_size": 1} if images <= 1_000_000 else {}
    conditions = [{"kind": "class", "per_class": {"normal": images}}]
    return load_recipe(write_recipe(folder, conditions=conditions, output=output, filters=[]))


def write_markers(folder: Path, shards: int) -> str:
    """Writes the markers of all shards but the last; returns the run folder."""
    small, loaded = load(folder / "small", 1), load(folder / "recipe", shards)
    run(small, str(folder / "template"))
    template = RunFolder(str(folder / "template"))
    marker = find_first_marker(template, plan_recipe(small))
    plan, target = plan_recipe(loaded), RunFolder(str(folder / "run"))
    record = build_record(loaded.recipe, plan)
    target.write_run(record)
    worker = f".factory/workers/{marker.worker}.json"
    target.files.write(worker, template.files.read(worker))
    (folder / "run" / ".factory" / "shards").mkdir()
    for each in plan.iterate_shards():
        if each.stop < shards:
            data = name_data(each.id, 0, marker.sha256)
            path = folder / "run" / name_marker(each, 0)
            path.write_bytes(dump_record(move_marker(marker, record, each, data=data)))
    return target.url


def measure(folder: str, images: int, has_markers: bool) -> dict:
    """Asks for the status, if there is one, and begins the run until a shard is drawn."""
    url, told = f"{folder}/run", {}
    began = time.perf_counter()
    if has_markers:
        read_status(url)
        told["status_seconds"] = round(time.perf_counter() - began, 2)
    loaded = load(Path(folder) / "recipe", images)
    began = time.perf_counter()

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def fill(self, tasks, notify, report):
            next(iter(tasks))
            raise Drawn

    engine.open_pool = lambda *given: Pool()
    try:
        engine.run_recipe(loaded, url, lambda outcome: None, lambda line: None)
    except Drawn:
        told["resume_seconds"] = round(time.perf_counter() - began, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**told, "peak_mib": round(peak / 1024)}


def main() -> None:
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument("--planned", type=int, nargs="*", default=[1000, 100_000_000])
    parser.add_argument("--folder", help="to measure, and no more")
    parser.add_argument("--images", type=int, help="of that folder")
    options = parser.parse_args()
    if options.folder:
        is_there = (Path(options.folder) / "run").exists()
        print(json.dumps(measure(options.folder, options.images, is_there)))
        return
    for kind, sizes in (("shards", options.shards), ("planned", options.planned)):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                if kind == "shards":
                    write_markers(Path(folder), size)
                words = [sys.executable, "-m", __spec__.name, "--folder", folder]
                words += ["--images", str(size)]
                found = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                print(json.dumps({kind: size, **json.loads(found.stdout)}), flush=True)


if __name__ == "__main__":
    main()
