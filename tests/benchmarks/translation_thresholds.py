"""What thresholds of `structure` and `domain_reached` do to real pairs and real domains.

A pair is one place of a slide under two scanners: the perfect translation. Who is rejected among
pairs is rejected wrongly; who is accepted among images of other places, or of the source's domain,
is accepted wrongly.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from measures import Pixels, read_images, tell, write_table
from numpy.typing import NDArray

from factory.core.metrics.domains import Passage
from factory.core.metrics.structure import compare_structure, correlate_haematoxylin
from factory.core.stats.intervals import compute_wilson
from factory.data.images import list_images
from factory.data.shots import rank_shots
from factory.models.encoders import load_encoder

THRESHOLDS = {
    "haematoxylin_correlation": (0.3, 0.5, 0.6, 0.7, 0.8),
    "structural_similarity": (0.2, 0.3, 0.4, 0.5, 0.6),
    "domain_reached": (0.1, 0.3, 0.5, 0.7),
}


def read(folder: Path, size: int, count: int) -> Pixels:
    """Returns so many images of a folder, centre crops."""
    images = {str(image.path): image for image in list_images(folder)}
    return read_images([images[key] for key in rank_shots(images, 0)[:count]], size, "crop").pixels


def read_pairs(folders: list[Path], size: int) -> tuple[Pixels, Pixels]:
    """Returns the images of both scanners, those of one name at one row."""
    one, other = ({image.path.name: image for image in list_images(each)} for each in folders)
    names = sorted(set(one) & set(other))
    first, second = (
        read_images([side[name] for name in names], size, "crop").pixels for side in (one, other)
    )
    return first, second


def compare_pairs(first: Pixels, second: Pixels) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Returns scores of pairs, and of each image with those of other places."""
    count = len(first)
    rows, others = np.nonzero(~np.eye(count, dtype=bool))
    measures = {
        "haematoxylin_correlation": correlate_haematoxylin,
        "structural_similarity": compare_structure,
    }
    return {
        name: (measure(second, first), measure(second[others], first[rows]))
        for name, measure in measures.items()
    }


def list_rows(what: str, name: str, wanted: Any, unwanted: Any) -> list[dict[str, Any]]:
    """Returns what each threshold rejects of those that should stay, and of the others."""
    found = []
    for threshold in THRESHOLDS[name]:
        row: dict[str, Any] = {"of": what, "score": name, "threshold": threshold}
        for key, values in (("wrongly rejected", wanted), ("rightly rejected", unwanted)):
            rejected = int((values < threshold).sum())
            interval = compute_wilson(rejected / len(values), len(values))
            row[key] = f"{rejected}/{len(values)} [{interval.low:.2f}, {interval.high:.2f}]"
        found.append(row)
    return found


def main() -> None:
    """Scores pairs and domains, and tells what each threshold would do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs=2, type=Path, action="append", default=[])
    parser.add_argument(
        "--domains", nargs=4, type=Path, action="append", default=[],
        help="source and target for the means, then source and target that are scored",
    )  # fmt: skip
    parser.add_argument("--encoders", nargs="+", default=["color-texture"])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for pair in asked.pairs:
        for name, values in compare_pairs(*read_pairs(pair, asked.size)).items():
            rows += list_rows(f"{pair[0].name} to {pair[1].name}", name, *values)
    for folders in asked.domains:
        images = [read(folder, asked.size, asked.count) for folder in folders]
        for encoder in asked.encoders:
            start, aim, source, target = (load_encoder(encoder).encode(each) for each in images)
            passage = Passage(start, aim)
            what = f"{folders[2].name} to {folders[3].name}, {encoder}"
            scored = passage.measure(target), passage.measure(source)
            rows += list_rows(what, "domain_reached", *scored)
    heads = list(rows[0])
    table = [[str(row[head]) for head in heads] for row in rows]
    tell({"rows": rows}, asked.json, write_table("Thresholds", heads, table))


if __name__ == "__main__":
    main()
