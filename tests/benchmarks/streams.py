"""Measures what the streams of a multimodal model do: RNA, masks, and which attribute is whose.

    python tests/benchmarks/streams.py --model DIR --spots PATH/her2st-spots --scores scores.csv
        --tiles PATH/nuinsseg-256 [--images 96] [--steps 16] [--parts rna captions] [--json FILE]

`rna`: an image of each spot of a section and of a patient that no training saw, from its scores
alone; Spearman's correlation of what its pixels measure with what the real spot's do, beside the
same for other spots' images (`shuffled`, 95 % of 200 permutations) and for a ridge regression of
the scores, fitted to the training spots (`ridge`, what the scores know). `masks`: Dice of segmented
nuclei against the mask, of images made from it and of real ones. `segmenter`: the same with a U-Net
that learned nuclei of the real training tiles (three trainings), and the share of the Dice on real
tiles that it reaches on images made from their masks. `ablation`: images asked by
caption, mask, scores and scale at once, and with one of them left out: what becomes of what each
asks for; of haematoxylin also beyond what the share of nuclei in the mask explains. `captions`:
images asked by one phrase of `he-attributes` and nothing else, a level drawn for each; the
correlation of the level with what is measured, and the mean of each level. SCORES has a column
`spot` and a column for each set, scaled by the training spots only (`factory expression score
--like`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measures import tell
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import RidgeCV

from factory.catalog.catalog import load_catalogs
from factory.core.hashing import derive_seed
from factory.core.stains import measure_attributes, segment_nuclei
from factory.core.stats.intervals import bootstrap_mean, draw_rows, take_percentiles
from factory.data.images import fit_image, list_images
from factory.data.label_maps import decode_labels
from factory.evaluate.segmentation import Segmentation
from factory.evaluate.segmentation.segmenter import Segmenter
from factory.filters.mask_agreement import compute_dice
from factory.models.generators.multi import MultiPipeline

TRAINED, SECTION, PATIENT = ("C2", "C3", "C4", "C5"), ("C6",), ("B4",)
MEASURED = ("nuclear_density", "haematoxylin")
SPOT_UM = 0.6889 * 160
EOSIN = ("pale eosin", "moderate eosin", "strong eosin")
SCALES = (0.4, 0.9)
Table = dict[str, Any]


class Maker:
    """Samples a pipeline in batches, an image's noise by its place."""

    def __init__(self, folder: Path, steps: int, guidance: float) -> None:
        self.pipeline = MultiPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.size = int(self.pipeline.image_size)
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance}

    def make(self, count: int, key: str, **streams: Sequence[Any]) -> NDArray[np.uint8]:
        """Returns (N, S, S, 3) images."""
        found = []
        for start in range(0, count, 32):
            rows = range(start, min(start + 32, count))
            generators = [torch.Generator().manual_seed(derive_seed(1, key, row)) for row in rows]
            given = {name: [values[row] for row in rows] for name, values in streams.items()}
            made = self.pipeline(
                **given, generator=generators, output_type="np", return_dict=False, **self.options
            )[0]
            found.append(np.round(made * 255).astype(np.uint8))
        return np.concatenate(found)


def correlate(one: NDArray[Any], other: NDArray[Any]) -> list[float]:
    """Returns Spearman's correlation and its interval over resampled rows."""
    known = np.isfinite(one) & np.isfinite(other)
    one, other = one[known], other[known]
    draw = np.random.default_rng(0)
    rounds = [
        spearmanr(one[rows], other[rows]).statistic
        for block in draw_rows(draw, len(one), 500)
        for rows in block
    ]
    return [round(each, 3) for each in take_percentiles(spearmanr(one, other).statistic, rounds)]


def correlate_given(one: NDArray[Any], other: NDArray[Any], given: NDArray[Any]) -> list[float]:
    """Returns the partial correlation of ranks, and its interval over resampled rows.

    That is Pearson's of what a linear regression of `given`'s ranks leaves of both ranks.
    """
    known = np.isfinite(one) & np.isfinite(other) & np.isfinite(given)
    one, other, given = one[known], other[known], given[known]

    def find(rows: NDArray[Any]) -> float:
        first, second, by = (rankdata(each[rows]) for each in (one, other, given))
        against = np.column_stack([by, np.ones(len(rows))])
        left = [r - against @ np.linalg.lstsq(against, r, rcond=None)[0] for r in (first, second)]
        return float(np.corrcoef(*left)[0, 1])

    draw = np.random.default_rng(0)
    rounds = [find(rows) for block in draw_rows(draw, len(one), 500) for rows in block]
    return [round(each, 3) for each in take_percentiles(find(np.arange(len(one))), rounds)]


def shuffle(one: NDArray[Any], other: NDArray[Any]) -> list[float]:
    """Returns between what 95 % of the correlations with permuted rows lie."""
    known, draw = np.isfinite(one) & np.isfinite(other), np.random.default_rng(1)
    one, other = one[known], other[known]
    found = [spearmanr(one, draw.permutation(other)).statistic for _ in range(200)]
    return [round(float(each), 3) for each in np.quantile(found, [0.025, 0.975])]


def read_spots(root: Path, scores: pd.DataFrame, sections: Sequence[str], size: int) -> Table:
    """Returns `pixels` of the spots of sections, and their `values`."""
    images = [each for part in ("train", "test") for each in list_images(root / part)]
    images = [each for each in images if each.class_name in sections]
    pixels = np.stack([fit_image(each.read_pixels(), size, size, "resize") for each in images])
    names = [Path(each.place).stem for each in images]
    return {"pixels": pixels, "values": scores.loc[names].to_numpy(np.float32)}


def measure_rna(maker: Maker, root: Path, scores: pd.DataFrame) -> Table:
    """Compares images of held-out spots' scores with the spots themselves."""
    scores = scores[list(maker.pipeline.vector_names)]
    trained = read_spots(root, scores, TRAINED, maker.size)
    before, found = measure_attributes(trained["pixels"]), {}
    for label, sections in (("section", SECTION), ("patient", PATIENT)):
        spots = read_spots(root, scores, sections, maker.size)
        count = len(spots["values"])
        mpp = [SPOT_UM / maker.size] * count
        made = maker.make(count, f"rna-{label}", vector=spots["values"], mpp=mpp)
        real, seen = measure_attributes(spots["pixels"]), measure_attributes(made)
        for name in MEASURED:
            ridge = RidgeCV(np.logspace(0, 4, 9)).fit(trained["values"], before[name])
            found[f"{label}.{name}"] = {
                "generated": correlate(seen[name], real[name]),
                "shuffled": shuffle(seen[name], real[name]),
                "ridge": correlate(ridge.predict(spots["values"]), real[name]),
                "spots": count,
            }
    return found


def read_tiles(
    root: Path, label: int, size: int, part: str = "test"
) -> tuple[NDArray[np.uint8], list[Any]]:
    """Returns held-out tiles, or others, and their masks of `label`."""
    pixels, masks = [], []
    for image in list_images(root / part):
        place = root / "masks" / part / Path(image.place).relative_to(root / part)
        mask = decode_labels(place.with_suffix(".png").read_bytes(), str(place)) > 0
        step = max(1, mask.shape[0] // size)
        masks.append(mask[::step, ::step][:size, :size] * label)
        pixels.append(fit_image(image.read_pixels(), size, size, "resize"))
    return np.stack(pixels), masks


def measure_masks(maker: Maker, root: Path, label: int, count: int) -> Table:
    """Compares segmented nuclei with masks: of real images, and of those made from the masks."""
    pixels, masks = read_tiles(root, label, maker.size)
    rows = np.random.default_rng(2).permutation(len(masks))[:count]
    pixels, masks = pixels[rows], [masks[row] for row in rows]
    made = maker.make(len(masks), "masks", control_maps=masks)
    found = {"real": pixels, "generated": made, "other": np.roll(made, 1, axis=0)}
    return {
        name: [
            round(each, 3)
            for each in bootstrap_mean(
                [
                    compute_dice(mask > 0, nuclei)
                    for mask, nuclei in zip(masks, segment_nuclei(images), strict=True)
                ]
            )
        ]
        for name, images in found.items()
    }


def measure_segmenter(maker: Maker, root: Path, label: int, seeds: int = 3) -> Table:
    """Holds what a segmenter of real tiles finds in made images against what it finds in real ones.

    It has seen no image that is made and no tile that it is asked about; intervals are of images.
    """
    learned, marks = read_tiles(root, label, maker.size, "train")
    pixels, masks = read_tiles(root, label, maker.size)
    made = maker.make(len(masks), "masks", control_maps=masks)
    settings = Segmentation.Settings(
        real=root, test=root, synthetic=root, steps=150, width=12, batch_size=8
    )
    truth, is_made = np.stack(marks) > 0, np.zeros(len(learned), bool)
    both, scores = np.concatenate([pixels, made]), []
    for seed in range(seeds):
        found = Segmenter(settings).fit_predict(learned, truth, is_made, both, seed)
        pairs = zip([*masks, *masks], found, strict=True)
        scores.append([compute_dice(mask > 0, nuclei) for mask, nuclei in pairs])
    real, generated = np.mean(scores, axis=0).reshape(2, -1)
    blocks = draw_rows(np.random.default_rng(4), len(real), 1000)
    share = np.concatenate([generated[each].mean(1) / real[each].mean(1) for each in blocks])
    return {
        "real": [round(each, 3) for each in bootstrap_mean(real)],
        "generated": [round(each, 3) for each in bootstrap_mean(generated)],
        "share": take_percentiles(generated.mean() / real.mean(), share).to_dict(),
        "by_seed": np.mean(np.reshape(scores, (seeds, 2, -1)), axis=2).round(3).tolist(),
    }


def measure_ablation(maker: Maker, tiles: Path, spots: Table, label: int, count: int) -> Table:
    """Asks for four things at once, each drawn by itself, and leaves one out in turn."""
    draw = np.random.default_rng(3)
    _, masks = read_tiles(tiles, label, maker.size)
    asked = draw.integers(0, len(EOSIN), count)
    wide = draw.integers(0, len(SCALES), count)
    # Scores stand for how much haematoxylin the real spot of them has.
    rows = draw.integers(0, len(spots["values"]), count)
    stained = measure_attributes(spots["pixels"])["haematoxylin"][rows]
    streams: dict[str, Any] = {
        "prompt": [f"{EOSIN[each]}." for each in asked],
        "control_maps": [masks[each] for each in draw.integers(0, len(masks), count)],
        "vector": spots["values"][rows],
        "mpp": [SCALES[each] for each in wide],
    }
    nothing = {
        "prompt": [""] * count,
        "control_maps": [None] * count,
        "vector": np.full_like(streams["vector"], np.nan),
        "mpp": [None] * count,
    }
    covered = np.array([np.mean(each > 0) for each in streams["control_maps"]])
    found = {}
    for name in ("all", *streams):
        given = streams if name == "all" else streams | {name: nothing[name]}
        made = maker.make(count, "ablation", **given)
        seen, nuclei = measure_attributes(made), segment_nuclei(made)
        agreed = [
            compute_dice(mask > 0, each)
            for mask, each in zip(streams["control_maps"], nuclei, strict=True)
        ]
        found["without " + name if name != "all" else "all"] = {
            "prompt: eosin": correlate(asked.astype(float), seen["eosin"]),
            "control_maps: Dice": [round(each, 3) for each in bootstrap_mean(agreed)],
            "vector: haematoxylin": correlate(stained, seen["haematoxylin"]),
            "vector: haematoxylin, given the mask": correlate_given(
                stained, seen["haematoxylin"], covered
            ),
            "mpp: nuclear size": correlate(-wide.astype(float), seen["nuclear_size"]),
        }
    return found


def measure_captions(maker: Maker, count: int) -> Table:
    """Asks for a level of one attribute in each image, in words alone."""
    grid, found = load_catalogs().find_captions("he-attributes"), {}
    for name, measure in grid.measures.items():
        levels = list(grid.attributes[name].values())
        asked = np.random.default_rng(4).integers(0, len(levels), count)
        made = maker.make(count, "captions", prompt=[f"{levels[each][0]}." for each in asked])
        seen = measure_attributes(made)[measure.by]
        means = [float(np.nanmean(seen[asked == each])) for each in range(len(levels))]
        found[name] = {
            "rho": correlate(asked.astype(float), seen),
            "means": [round(each, 3) for each in means],
        }
    return found


def main() -> None:
    """Prints the tables as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--spots", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument(
        "--parts", nargs="+", help="of rna, masks, segmenter, ablation, captions; all"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    maker = Maker(options.model, options.steps, options.guidance)
    label = maker.pipeline.control_labels.index("nucleus") + 1
    scores = pd.read_csv(options.scores).set_index("spot")
    known = scores[list(maker.pipeline.vector_names)]
    measures = {
        "rna": lambda: measure_rna(maker, options.spots, scores),
        "masks": lambda: measure_masks(maker, options.tiles, label, options.images),
        "segmenter": lambda: measure_segmenter(maker, options.tiles, label),
        "ablation": lambda: measure_ablation(
            maker, options.tiles, read_spots(options.spots, known, SECTION, maker.size), label,
            options.images,
        ),
        "captions": lambda: measure_captions(maker, options.images),
    }  # fmt: skip
    found: Table = {name: measures[name]() for name in options.parts or measures}
    tell(found, options.json)


if __name__ == "__main__":
    main()
