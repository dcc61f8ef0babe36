"""Frozen to FFPE: how much structure stays, and how far the look goes, by each method."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measures import make_seeds, read_images, tell, write_table

from factory.catalog.catalog import load_catalogs
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


def draw(folder: Path, count: int, seed: int) -> list[tuple[SourceImage, str]]:
    """Returns so many different images of a folder, by seed, with the hashes of their bytes."""
    unique = {hash_bytes(image.read_bytes()): image for image in list_images(folder)}
    return [(unique[sha256], sha256) for sha256 in rank_shots(unique, seed)[:count]]


def translate(
    settings: GeneratorSettings, sources: Sequence[tuple[SourceImage, str]], domain: Domain,
    way: Translation, seed: int,
) -> list[Sample]:  # fmt: skip
    """Returns the sources as a model has them in a domain's look."""
    catalogs = load_catalogs()
    generator = build_generator(settings, find_entry(settings, catalogs), Path())
    conditions = [Condition(None, None, Source(*each, way, domain.fit), domain) for each in sources]
    seeds = make_seeds(seed, len(sources))
    jobs = [
        Job(Request("benchmark", row, condition, 0), 0, seeds[row])
        for row, condition in enumerate(conditions)
    ]
    made: list[Sample] = []
    for start in range(0, len(jobs), settings.batch_size):
        batch = jobs[start : start + settings.batch_size]
        samples = generator.generate(batch)
        made += [each.finish(job.condition) for job, each in zip(batch, samples, strict=True)]
    return made


def main() -> None:
    """Measures every method on the same sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frozen", type=Path, required=True, help="sections to translate")
    parser.add_argument("--frozen-others", type=Path, required=True, help="of other patients")
    parser.add_argument("--ffpe", type=Path, required=True, help="told to the model")
    parser.add_argument("--ffpe-others", type=Path, required=True, help="of other slides")
    parser.add_argument("--model", default="nano-he-base")
    parser.add_argument("--encoders", nargs="+", default=["color-texture", "he-ssl-eval"])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--others", type=int, default=200, help="images of each domain's mean")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--fit", choices=("crop", "resize"), default="resize")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    settings = GeneratorSettings(
        model=asked.model, steps=asked.steps, guidance=1.0, batch_size=8, device="cpu"
    )
    sources = draw(asked.frozen, asked.count, asked.seed)
    look = sorted(draw(asked.ffpe, 64, asked.seed), key=lambda each: each[1])
    domain = Domain(tuple(i for i, _ in look), tuple(sha for _, sha in look), asked.fit)
    size = (asked.size, asked.fit)
    means = [
        read_images([i for i, _ in draw(folder, asked.others, asked.seed)], *size).pixels
        for folder in (asked.frozen_others, asked.ffpe_others)
    ]
    real = read_images([image for image, _ in sources], *size).pixels
    shown = {"source": real}
    glass = 0.0
    for name, way in WAYS.items():
        made = translate(settings, sources, domain, way, asked.seed)
        shown[name] = np.stack([each.pixels for each in made])
        glass = float(np.mean([each.notes["glass_fraction"] for each in made]))
    bare = translate(settings, sources, domain, replace(WAYS["invert"], keep_glass=False), 0)
    shown["invert, glass too"] = np.stack([each.pixels for each in bare])
    passages = {}
    for encoder in asked.encoders:
        loaded = load_encoder(encoder)
        passages[encoder] = loaded, Passage(*(loaded.encode(each) for each in means))
    found: dict[str, Any] = {"glass_fraction": round(glass, 4), "count": len(sources)}
    for name, pixels in shown.items():
        measured = {
            "haematoxylin_correlation": correlate_haematoxylin(pixels, real),
            "structural_similarity": compare_structure(pixels, real),
        }
        for encoder, (loaded, passage) in passages.items():
            measured[f"domain_reached, {encoder}"] = passage.measure(loaded.encode(pixels))
        found[name] = {
            key: bootstrap_mean(values[np.isfinite(values)], asked.seed).to_dict()
            for key, values in measured.items()
        }
    heads = list(found["source"])
    rows = [[name, *(_write(found[name][head]) for head in heads)] for name in shown]
    tell(found, asked.json, write_table("Frozen to FFPE", ["method", *heads], rows))


def _write(metric: dict[str, Any]) -> str:
    value = metric["value"] if "value" in metric else metric["mean"]
    return f"{value:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


if __name__ == "__main__":
    main()
