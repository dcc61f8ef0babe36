"""What the tests of `budget.stop` share: real images, recipes, workers at once, and the ends."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from factory.engine.executors.base import open_ledger, start_worker
from factory.engine.executors.local import LocalPool
from tests.running import fill_shard, read_json, write_recipe

FINITE = [{"kind": "finite", "min_contrast": 0.1435}]


def save_real(folder: Path, names: dict[str, list[str]]) -> Path:
    """Saves images, no two alike, of class -> names without their ending."""
    generator = np.random.default_rng(0)
    for class_name, stems in names.items():
        (folder / class_name).mkdir()
        for stem in stems:
            pixels = generator.integers(120, 230, 3) + generator.normal(0, 25, (32, 32, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / class_name / f"{stem}.png")
    return folder


def write_rule(folder: Path, rule: dict, counts: dict, attempts: int, **changes) -> Path:
    stop = {**rule, **changes.pop("stop", {})}
    few = [{"kind": "class", "per_class": counts}]
    base = {"filters": FINITE, "conditions": few, "output": {"shard_size": 8}}
    budget = {"attempts": attempts, "stop": stop, **changes.pop("budget", {})}
    return write_recipe(folder, **{**base, **changes, "budget": budget})


class Ahead(LocalPool):
    """Draws several tasks before it works on any, and not in their order: workers at once."""

    def fill(self, tasks, notify, report):
        ledger, drawn, order = open_ledger(self.order, notify), [], random.Random(1)
        while True:
            while len(drawn) < 5 and (task := next(tasks, None)) is not None:
                drawn.append(task)
            if not drawn:
                return
            self.worker = self.worker or start_worker(self.order, self.began_with)
            task = drawn.pop(order.randrange(len(drawn)))
            ledger.record_success(task, fill_shard(self.worker, task, report, self.drain))


def read_series(out: Path) -> list[dict]:
    return read_json(out / "summary.json")["series"]


def read_stops(out: Path) -> dict[str, dict]:
    return {part["label"]: part["stop"] for part in read_series(out)}


def read_ends(out: Path) -> dict[str, int | None]:
    return {label: stop["at"] for label, stop in read_stops(out).items()}


def change_first_test(out: Path, label: str, **figures: float) -> None:
    """Changes what the summary says of the first test of a series."""
    summary = read_json(out / "summary.json")
    part = next(each for each in summary["series"] if each["label"] == label)
    part["stop"]["tests"][0].update(figures)
    (out / "summary.json").write_text(json.dumps(summary))


def change_tests(out: Path, change: Callable[[list[dict]], None]) -> None:
    """Changes the tests that the run's record holds."""
    record = read_json(out / ".factory" / "run.json")
    change(record["stop"]["tests"])
    (out / ".factory" / "run.json").write_text(json.dumps(record))
