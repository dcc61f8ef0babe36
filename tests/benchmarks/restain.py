"""Does another stain move real tiles in nothing else? `python -m tests.benchmarks.restain DIR...`

Each tile, its central 96 px, as it is and in looks of `he-slides`, judged as families of
`factory evaluate robustness` are: each measure beside what saving as JPEG changes in one tile. What
is normalised is so by `restain` itself; beside it stands the same by Reinhard's transfer alone.
"""

import sys
from pathlib import Path

import numpy as np

from factory.catalog.catalog import load_catalogs
from factory.core.stain_transfer import REFERENCE, give_look, restain
from factory.core.stains import count_nuclei, measure_attributes
from factory.core.stats.intervals import LEVEL, bootstrap_mean
from factory.data.images import fit_image, list_images
from factory.evaluate.robustness.measures import (
    ATTRIBUTES,
    COLOUR,
    compare_pairs,
    measure_pixels,
    spoil,
)
from factory.evaluate.robustness.study import compare_values
from factory.evaluate.robustness.verdict import judge_alone

LOOKS = ("cmu-1", "brecahad", "osteosarcoma-case48")
SIDE, EACH = 96, 40
REINHARD = "by Reinhard alone: "


def measure_tiles(tiles):
    """Returns the response of each attribute over looks, with noise, and the verdict."""
    entry = load_catalogs().find_stains("he-slides")
    names = ("as-made", *LOOKS)
    sets = [
        tiles,
        *(np.stack([restain(each, entry.find_look(n)) for each in tiles]) for n in LOOKS),
    ]
    copies = spoil(tiles)
    *plain, noise = [{**measure_pixels(each), **measure_plainly(each)} for each in (*sets, copies)]
    found = {}
    for name in plain[0]:
        values = np.stack([each[name] for each in plain], axis=1)
        found[name] = compare_values(values, names, 0)
        found[name]["noise"] = float(np.nanmean(abs(noise[name] - plain[0][name])))
    tests = sum(found[name]["tested"] for name in ATTRIBUTES)
    for each in found.values():
        each["moves"] = each["tested"] and each["p"] < (1 - LEVEL) / tests
    pairs = [compare_pairs(tiles, each) for each in sets[1:]]
    kept = {name: np.nanmean([each[name] for each in pairs], axis=0) for name in pairs[0]}
    return found, judge_alone(found, COLOUR, True), kept, compare_pairs(tiles, copies)


def measure_plainly(images):
    """Returns what is measured in images once Reinhard's transfer gave them one stain."""
    alike = np.stack([give_look(each, REFERENCE) for each in images])
    found = {**measure_attributes(alike), "nuclei": count_nuclei(alike).astype(float)}
    names = ("nuclear_density", "nuclear_size", "nuclei", "tissue", "fat")
    return {f"{REINHARD}{name}": found[name] for name in names}


def main(folders):
    """Prints a table of one line a measure, the verdict, and what of structure stays."""
    images = [each for folder in folders for each in thin(list_images(Path(folder)))]
    tiles = np.stack([fit_image(each.read_pixels(), SIDE, SIDE, "crop") for each in images])
    found, alone, kept, by_jpeg = measure_tiles(tiles)
    print(f"{len(tiles)} tiles")
    for name, each in found.items():
        ends = each["spread_interval"]
        told = f"{each['spread']:.4f} [{ends['low']:.4f}, {ends['high']:.4f}]"
        print(f"{name}: spread {told}, JPEG {each['noise']:.4f}, p {each['p']:.2g}")
    print(alone)
    for name, each in kept.items():
        one, other = (bootstrap_mean(part[np.isfinite(part)]) for part in (each, by_jpeg[name]))
        print(f"{name}: {one}; JPEG {other}")


def thin(images):
    """Returns EACH of the images at most, evenly."""
    return images[:: max(1, len(images) // EACH)][:EACH]


if __name__ == "__main__":
    main(sys.argv[1:])
