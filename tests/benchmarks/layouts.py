"""Measures drawn masks against real ones that nobody fitted: fitted layouts beside two controls.

    python tests/benchmarks/layouts.py --masks PATH/train [--class NAME ...] [--json FILE]

PATH holds a folder of masks for each class. A pattern is fitted to one half of the masks of a
class, and as many are drawn as the other half has. For counts, areas, distances to the nearest and
coverage stands the Wasserstein distance to that other half: of the drawn masks; of the half that
was fitted to (the floor); of masks with the same outlines but no interaction (`free`); and of those
of the next class (`other`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from factory.data.images import list_images
from factory.data.label_maps import decode_labels
from factory.data.layouts import Pattern
from factory.data.objects import MEASURES, Objects, compare_objects, find_objects
from factory.train.layout.fit import draw_many, fit_pattern
from factory.train.layout.settings import LayoutSettings


def read_masks(root: Path, names: list[str]) -> dict[str, list[Objects]]:
    """Returns class -> the objects of its masks."""
    found: dict[str, list[Objects]] = {}
    for image in list_images(root):
        if not names or image.class_name in names:
            labels = decode_labels(image.read_bytes(), image.place)
            found.setdefault(str(image.class_name), []).append(find_objects(labels, False))
    return found


def compare(pattern: Pattern, held_out: list[Objects], seed: int) -> dict[str, float]:
    """Returns measure -> distance of drawn masks to those held out."""
    size = held_out[0].size
    drawn, _ = draw_many(pattern, len(held_out), size, 1, (seed, "benchmark", 0))
    return dict(compare_objects(drawn, held_out))


def main() -> None:
    """Prints one line for each class and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--class", dest="names", action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    masks = read_masks(options.masks, options.names)
    names = list(masks)
    table: dict[str, Any] = {}
    for position, name in enumerate(names):
        fitted, held_out = masks[name][::2], masks[name][1::2]
        pattern = fit_pattern(fitted, 1, LayoutSettings(), name, lambda line: None)
        free = pattern.model_copy(update={"interaction": (0.0,) * 16, "core": 0.0})
        other = masks[names[(position + 1) % len(names)]]
        found = {
            "drawn": compare(pattern, held_out, 1),
            "floor": dict(compare_objects(fitted, held_out)),
            "free": compare(free, held_out, 1),
            "other": dict(compare_objects(other, held_out)),
        }
        table[name] = found
        for measure in MEASURES:
            line = ", ".join(f"{key} {value[measure]:.4g}" for key, value in found.items())
            print(f"{name}: {measure}: {line}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
