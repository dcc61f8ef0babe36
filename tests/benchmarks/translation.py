"""Frozen to FFPE: how much structure stays, and how far the look goes, by each method."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measures import Pixels, make_seeds, read_images, tell, write_table
from numpy.typing import NDArray
from PIL import Image
from stain_transfer import transfer_macenko, transfer_reinhard

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.glass import find_glass
from factory.core.hashing import hash_bytes
from factory.core.metrics.domains import Passage
from factory.core.metrics.structure import compare_structure, correlate_haematoxylin
from factory.core.stats.intervals import bootstrap_mean
from factory.data.images import SourceImage, list_images
from factory.data.records import Condition, Job, Request, Sample
from factory.data.shots import rank_shots
from factory.data.streams import Domain, Source
from factory.data.streams.source import Injection, Translation
from factory.models.encoders import load_encoder
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings, find_entry

WAYS = {
    "invert": Translation("invert"),
    "invert, injected": Translation("invert", inject=Injection(share=0.5)),
    "image_to_image 0.5": Translation("image_to_image", 0.5),
    "image_to_image 0.7": Translation("image_to_image", 0.7),
}
KEPT = ({"keep_glass": False}, {}, {"keep_haematoxylin": True})
"""What of the source is laid into what was made: nothing, its glass, its haematoxylin too."""


def draw(folder: Path, count: int, seed: int) -> list[tuple[SourceImage, str]]:
    """Returns so many different images of a folder, by seed, with the hashes of their bytes."""
    unique = {hash_bytes(image.read_bytes()): image for image in list_images(folder)}
    return [(unique[sha256], sha256) for sha256 in rank_shots(unique, seed)[:count]]


def translate(
    settings: GeneratorSettings, catalogs: Catalogs, sources: Sequence[tuple[SourceImage, str]],
    domain: Domain | None, way: Translation, seed: int,
) -> list[Sample]:  # fmt: skip
    """Returns the sources as a model has them in a domain's look, before anything is kept."""
    generator = build_generator(settings, find_entry(settings, catalogs), Path())
    told = () if domain is None else (domain,)
    conditions = [Condition(None, None, Source(*each, way, "crop"), *told) for each in sources]
    seeds = make_seeds(seed, len(sources))
    jobs = [
        Job(Request("benchmark", row, condition, 0), 0, seeds[row])
        for row, condition in enumerate(conditions)
    ]
    made: list[Sample] = []
    for start in range(0, len(jobs), settings.batch_size):
        made += generator.generate(jobs[start : start + settings.batch_size])
    return made


def keep(made: Pixels, sources: Sequence[tuple[SourceImage, str]], **kept: bool) -> Pixels:
    """Returns images with what is kept of their sources, as rows have them."""
    way = replace(Translation(), **kept)
    pairs = zip(made, sources, strict=True)
    return np.stack([Source(*each, way, "crop").finish(pixels)[0] for pixels, each in pairs])


def measure_cast(made: Pixels, real: Pixels) -> NDArray[np.float64]:
    """Returns (N,) the mean difference of values on the glass of the sources; NaN without any."""
    found = []
    for one, other in zip(made.astype(np.float64), real, strict=True):
        glass = find_glass(other)
        found.append(np.abs(one - other)[glass].mean() if glass.any() else np.nan)
    return np.array(found)


def translate_all(asked: argparse.Namespace, real: Pixels, look: list[Any]) -> dict[str, Pixels]:
    """Returns the sources by every method, and real images of the target that were told."""
    sources, catalogs = draw(asked.frozen, asked.count, asked.seed), load_catalogs()
    told = read_images([image for image, _ in look], asked.size, "crop").pixels
    shown = {"source": real, "FFPE that was told": told}
    for name, transfer in (("Reinhard", transfer_reinhard), ("Macenko", transfer_macenko)):
        shown[name] = made = transfer(real, told)
        shown[f"{name}, keep_haematoxylin"] = keep(made, sources, keep_haematoxylin=True)
    domain = Domain(tuple(i for i, _ in look), tuple(sha for _, sha in look), "crop")
    values = {"steps": asked.steps, "guidance": 1.0, "batch_size": 8, "device": "cpu"}
    runs = [(name, asked.model, domain, WAYS[name]) for name in asked.ways]
    if asked.translator is not None:
        catalogs = load_catalogs((asked.translator,))
        runs.append(("CUT", asked.translator.name, None, Translation()))
        values |= {"width": asked.size, "height": asked.size}
    for name, model, seen, way in runs:
        options = values if seen is not None else {**values, "steps": None, "guidance": None}
        settings = GeneratorSettings(model=model, **options)
        made = np.stack(
            [each.pixels for each in translate(settings, catalogs, sources, seen, way, asked.seed)]
        )
        for kept in KEPT:
            shown[", ".join([name, *(f"{k}: {v}".lower() for k, v in kept.items())])] = keep(
                made, sources, **kept
            )
    return shown


def main() -> None:
    """Measures every method on the same sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frozen", type=Path, required=True, help="sections to translate")
    parser.add_argument("--frozen-others", type=Path, required=True, help="where the way begins")
    parser.add_argument("--ffpe", type=Path, required=True, help="told to every method")
    parser.add_argument("--ffpe-others", type=Path, required=True, help="where the way ends")
    parser.add_argument("--model", default="nano-he-base")
    parser.add_argument("--translator", type=Path, help="folder of a network of one pass, too")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--encoders", nargs="+", default=["he-ssl-eval", "color-texture"])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--others", type=int, default=100, help="images of each domain's mean")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--size", type=int, default=64, help="px, cut out of the middle")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="picture of eight sources by every method")
    asked = parser.parse_args()
    look = sorted(draw(asked.ffpe, 64, asked.seed), key=lambda each: each[1])
    read = partial(read_images, size=asked.size, fit="crop")
    real = read([image for image, _ in draw(asked.frozen, asked.count, asked.seed)]).pixels
    means = [
        read([image for image, _ in draw(folder, asked.others, asked.seed)]).pixels
        for folder in (asked.frozen_others, asked.ffpe_others)
    ]
    shown = translate_all(asked, real, look)
    passages = {}
    for encoder in asked.encoders:
        loaded = load_encoder(encoder)
        passages[encoder] = loaded, Passage(*(loaded.encode(each) for each in means))
    found: dict[str, Any] = {}
    for name, pixels in shown.items():
        measured = {}
        if pixels.shape == real.shape and name != "FFPE that was told":
            measured = {
                "haematoxylin_correlation": correlate_haematoxylin(pixels, real),
                "structural_similarity": compare_structure(pixels, real),
                "cast_on_glass": measure_cast(pixels, real),
            }
        for encoder, (loaded, passage) in passages.items():
            measured[f"domain_reached, {encoder}"] = passage.measure(loaded.encode(pixels))
        found[name] = {
            key: bootstrap_mean(values[np.isfinite(values)], asked.seed).to_dict()
            for key, values in measured.items()
        }
    heads = list(found["source"])
    rows = [[name, *(_write(found[name].get(head)) for head in heads)] for name in shown]
    table = write_table("Frozen to FFPE", ["method", *heads], rows)
    tell({"count": len(real), **found}, asked.json, table)
    if asked.sheet is not None:
        few = min(8, len(real))
        lines = [np.concatenate(list(pixels[:few]), axis=1) for pixels in shown.values()]
        Image.fromarray(np.concatenate(lines)).save(asked.sheet)


def _write(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "-"
    value = metric["value"] if "value" in metric else metric["mean"]
    return f"{value:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


if __name__ == "__main__":
    main()
