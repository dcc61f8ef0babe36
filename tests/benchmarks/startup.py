"""What a command costs before it does anything: CPU seconds of new processes, taken in turns.

    python tests/benchmarks/startup.py [--tree ANOTHER_CHECKOUT ...] [--times 9] [--json FILE]

Each command runs `--times` times in each tree, turn by turn; the least and the median are printed.
CPU seconds of user and system, since seconds that pass tell of the machine's other work. Of `run`
both are told, from the command to the call of the pipeline for its first batch, where it is ended.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measures import tell, write_table

COMMANDS = (
    ("--help",),
    ("--version",),
    ("validate", "recipes/quickstart.yaml"),
    ("validate", "recipes/he-captions.yaml"),
)
TO_FIRST_BATCH = """
import os, sys, time
from factory.models.generators.diffusers import DiffusersGenerator

def end(*given, **named):
    with open(os.environ["FIRST_BATCH"], "w") as stream:
        stream.write(f"{time.time()} {time.process_time()}")
    os._exit(0)

DiffusersGenerator._sample_batch = end
from factory.cli import main
main()
"""
"""Runs a command up to its first batch, and writes when that was, and its CPU seconds."""
RUN = ("run", "recipes/quickstart.yaml")
HEADERS = ("command", "tree", "least", "median")
HERE = Path(__file__).parents[2]


def measure(tree: Path, command: tuple[str, ...]) -> float:
    """Returns the CPU seconds of one process that runs a command of a tree's factory.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "factory", *command],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_first_batch(tree: Path) -> tuple[float, float]:
    """Returns seconds that passed from a `run` to its first batch, and its CPU seconds.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        told, began = Path(folder) / "told", time.time()
        subprocess.run(
            [sys.executable, "-c", TO_FIRST_BATCH, *RUN, "--out", f"{folder}/run"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "FIRST_BATCH": str(told)},
            capture_output=True,
            check=True,
        )
        reached, cpu = map(float, told.read_text().split())
    return reached - began, cpu


def main() -> None:
    """Measures every command in every tree and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tree", type=Path, action="append", default=[])
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trees = [HERE, *(each.absolute() for each in options.tree)]
    rows = []
    for command in COMMANDS:
        taken: dict[Path, list[float]] = {tree: [] for tree in trees}
        for _ in range(options.times):
            for tree in trees:
                taken[tree].append(measure(tree, command))
        for tree, seconds in taken.items():
            name = "this" if tree == HERE else str(tree)
            rows.append((" ".join(command), name, min(seconds), statistics.median(seconds)))
    firsts: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    for _ in range(options.times):
        for tree in trees:
            firsts[tree].append(measure_first_batch(tree))
    for tree, pairs in firsts.items():
        name = "this" if tree == HERE else str(tree)
        for what, values in zip(("seconds", "CPU seconds"), zip(*pairs, strict=True), strict=True):
            row = (f"run to the first batch, {what}", name, min(values), statistics.median(values))
            rows.append(row)
    found = [dict(zip(HEADERS, row, strict=True)) for row in rows]
    tell(
        found,
        options.json,
        write_table("CPU seconds of a command, where nothing else is said", HEADERS, rows),
    )


if __name__ == "__main__":
    main()
