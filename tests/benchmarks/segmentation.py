"""Measures what a segmenter learns from images that a model draws by masks: nuclei of NuInsSeg.

    python tests/benchmarks/segmentation.py --tiles PATH/nuinsseg-256 --out DIR [--images 200]
        [--sampling-steps 10] [--steps 150] [--seeds 3] [--width 12] [--batch-size 8]

Masks of the training tiles, a whole tile at 128 px, ask `he-multi-base` for `--images` accepted
images (`mask_agreement` at its default); then `factory evaluate segmentation`, real training tiles
against them, tested on the tiles of the test organs. No patients are known, and organs differ
between the parts, so an organ stands for one. The same command goes on in DIR. The model has seen
the training tiles and their masks, never those of the test.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml

from factory import api

LICENCE = {
    "id": "cc-by-4.0",
    "date_read": "2026-11-26",
    "attribution": ["A. Mahbod et al. 2024"],
}


def write_organs(tiles: Path, folder: Path) -> Path:
    """Links tiles, and writes the organ of each as its group."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for organ in sorted(each for each in tiles.iterdir() if each.is_dir()):
        (folder / organ.name).mkdir(exist_ok=True)
        for path in sorted(organ.iterdir()):
            link = folder / organ.name / path.name
            if not link.exists():
                link.symlink_to(path.absolute())
            rows.append((f"{organ.name}/{path.name}", organ.name))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "organ"), *rows])
    return folder


def write_recipe(tiles: Path, path: Path, images: int, steps: int) -> Path:
    """Writes the recipe of images by masks."""
    size = {"width": 128, "height": 128}
    recipe: dict[str, Any] = {
        "name": "nuclei-from-masks",
        "seed": 7,
        "generator": {"model": "he-multi-base", "batch_size": 8, "steps": steps, **size},
        "conditions": [
            {
                "kind": "mask",
                "masks": str(tiles.absolute() / "masks" / "train"),
                "palette": {1: "nucleus"},
                "count": images,
                "fit": "resize",
                "licence": LICENCE,
            }
        ],
        "filters": [{"kind": "finite"}, {"kind": "mask_agreement"}],
        "budget": {"attempts": 3, "on_shortfall": "warn"},
        "card": {"license": "cc-by-4.0"},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def main() -> None:
    """Prints the table, and leaves the result in DIR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--sampling-steps", type=int, default=10)
    for name, value in (("steps", 150), ("seeds", 3), ("width", 12), ("batch-size", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(
        given.tiles, given.out / "recipe.yaml", given.images, given.sampling_steps
    )
    run = given.out / "run"
    api.run(api.load_recipe(recipe), run, extend=True, say=print)
    sides = [write_organs(given.tiles / part, given.out / part) for part in ("train", "test")]
    training = {name: getattr(given, name) for name in ("steps", "seeds", "width", "batch_size")}
    masks = {
        name: given.tiles / "masks" / part
        for name, part in (("masks", "train"), ("test_masks", "test"))
    }
    look = {"size": 128, "fit": "resize", "group_column": "organ", "out": given.out / "trained"}
    result = api.evaluate_segmentation(
        *sides, run, {**training, **masks, **look}, given.out / "segmentation.json", print
    )
    print(json.dumps({name: result[name] for name in ("arms", "paired", "share")}, indent=1))


if __name__ == "__main__":
    main()
