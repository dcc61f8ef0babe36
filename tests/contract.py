"""What every generator of the family `diffusers` keeps, tried on one saved pipeline."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory.catalog.catalog import LicenceTerms, ModelEntry
from factory.core.errors import GenerationError, InputError
from factory.data.images import SourceImage
from factory.data.records import Condition, Job, Request
from factory.data.streams import Control, Embedding, Reference
from factory.models.generators import build_generator
from factory.models.generators.families.diffusers import DiffusersFamily
from factory.models.generators.settings import GeneratorSettings

SIZE = 32
PALETTE = ((1, "nucleus"), (2, "gland"))
CAPTIONS = ("tumor cells", "normal stroma", "a", "fat and mucin pools")


@dataclass(frozen=True)
class Drawn:
    """A label map of one number: a square of nuclei beside a gland."""

    place: int

    def describe(self) -> dict[str, Any]:
        return {"sha256": f"{self.place:064x}", "fit": "crop"}

    def read(self, width: int, height: int) -> Any:
        labels = np.zeros((height, width), np.uint8)
        start = 2 + 5 * self.place
        labels[start : start + 12, 4:20] = 1
        labels[4:12, start : start + 8] = 2
        return labels


def draw_reference(folder: Path, number: int, strength: float, size: int = SIZE) -> Reference:
    """A pink and purple pattern, another one for each number."""
    path = folder / f"{number}.png"
    if not path.exists():
        rows, columns = np.mgrid[0:size, 0:size]
        wave = 0.5 + 0.5 * np.sin((rows + 3 * number) / 4.0) * np.cos(columns / (5.0 + number))
        pixels = np.array([220, 150, 200]) * wave[..., None]
        Image.fromarray(
            (pixels + np.array([90, 50, 140]) * (1 - wave[..., None])).clip(0, 255).astype(np.uint8)
        ).save(path)
    image = SourceImage(path.name, "TUM", None, path)
    return Reference(image, f"{number:064x}", strength)


class Contract:
    """One saved pipeline, asked for small images with all streams that it takes."""

    def __init__(self, folder: Path, scratch: Path, **changes: Any) -> None:
        self.folder, self.scratch, self.changes = folder, scratch, changes
        self.width: int = self.changes.pop("embedding_width", SIZE)
        self.caption: str = self.changes.pop("caption", "{}")
        self.size: int = self.changes.get("size", SIZE)
        self.generator = self.build(folder)
        family: DiffusersFamily = self.generator.family
        self.family = family
        required, optional = family.streams
        self.required, self.streams = required, required | (optional or frozenset())

    def build(self, folder: Path, **changes: Any) -> Any:
        values: dict[str, Any] = {"model": str(folder), "steps": 2, "batch_size": 3}
        entry_changes = {**self.changes, **changes}
        width = entry_changes.pop("size", SIZE)
        fixed, small = entry_changes.pop("attributes", {}), entry_changes.pop("module", {})
        values["dtype"] = entry_changes.pop("dtype", "auto")
        settings = GeneratorSettings(**values, width=width, height=width)
        arguments = dict(entry_changes.pop("arguments", {}))
        entry = ModelEntry(
            id="tiny",
            source=str(folder),
            family=entry_changes.pop("family", "diffusers"),
            width=width,
            height=width,
            steps=2,
            guidance=entry_changes.pop("guidance", 3.0),
            licence=LicenceTerms(id="cc0-1.0", date_read="2026-11-26"),
            pipeline_arguments=arguments,
            **entry_changes,
        )
        generator = build_generator(settings, entry, Path())
        pipeline = generator.model.pipeline if fixed or small else None
        for name, value in fixed.items():
            setattr(pipeline, name, value)
        for name, value in small.items():
            place, _, attribute = f"{type(pipeline).__module__}.{name}".rpartition(".")
            if "." in name:
                place = type(pipeline).__module__.rpartition(".")[0] + "." + name.rpartition(".")[0]
            setattr(sys.modules[place], attribute, value)
        return generator

    def make_condition(self, number: int, leave: frozenset[str] = frozenset()) -> Condition:
        """A condition with every stream that is not left out; another number, other streams."""
        takes = self.streams - leave
        call = getattr(self.family, "image_call", None)
        strength = 0.5 if call is None or call.has_strength else 1.0
        others: list[Any] = []
        if "reference" in takes and (number < 100 or "reference" in self.required):
            others.append(draw_reference(self.scratch, number % 100, strength, self.size))
        if "control" in takes:
            others.append(Control(Drawn(number % 3), PALETTE))
        if "embedding" in takes:
            drawn = np.random.default_rng(number).standard_normal((1, self.width))
            others.append(Embedding.of(drawn.astype(np.float32), "drawn"))
        caption = self.caption.format(CAPTIONS[number % 4]) if "caption" in takes else None
        class_name = ("ADI", "LYM", "TUM")[number % 3] if self.family.is_indexed else None
        return Condition(class_name, caption, *others)

    def make_job(self, number: int, seed: int | None = None, **options: Any) -> Job:
        condition = options.get("condition") or self.make_condition(number)
        request = Request("series", number, condition, number)
        return Job(request, 0, 1000 + number if seed is None else seed)

    def check(self) -> None:
        """Raises AssertionError with what is not kept, or what the generator itself raises."""
        jobs = [self.make_job(number) for number in range(3)]
        made = self.generator.generate(jobs)
        pixels = np.stack([sample.pixels for sample in made])
        assert pixels.std() > 1, "the images are empty"
        assert all(sample.nonfinite_fraction == 0 for sample in made), "values are not finite"
        again = self.generator.generate([jobs[1], jobs[2], jobs[0]])[2].pixels.astype(int)
        assert np.abs(again - pixels[0]).max() <= 1, "a second call gives other pixels"
        others = [self.make_job(7), jobs[1], self.make_job(8)]
        beside = self.generator.generate(others)[1].pixels.astype(int)
        assert np.abs(beside - pixels[1]).max() <= 1, "a row depends on its neighbours"
        alone = self.generator.generate([jobs[1]])[0].pixels.astype(int)
        assert np.abs(alone - pixels[1]).max() <= 1, "a row alone is another"
        self.check_streams(jobs[0], pixels[0])
        self.check_reload(jobs, pixels)
        self.check_errors()

    def check_streams(self, job: Job, pixels: Any) -> None:
        other_seed = self.generator.generate([replace(job, seed=5)])[0].pixels
        assert not np.array_equal(other_seed, pixels), "the seed changes nothing"
        for name in sorted(self.streams - {"class_name"} | ({"class_name"} & self.required)):
            there = {each.name: each for each in self.make_condition(0).streams}
            if name not in there:
                continue
            there[name] = next(s for s in self.make_condition(1).streams if s.name == name)
            condition = Condition(None, None, *there.values())
            changed = self.generator.generate([self.make_job(0, job.seed, condition=condition)])
            assert not np.array_equal(changed[0].pixels, pixels), f"{name} changes nothing"

    def check_reload(self, jobs: list[Job], pixels: Any) -> None:
        saved = self.scratch / f"{self.folder.name}-saved"
        self.generator.model.pipeline.save_pretrained(saved, safe_serialization=True)
        reloaded = self.build(saved)
        made = np.stack([sample.pixels for sample in reloaded.generate(jobs)])
        shutil.rmtree(saved)
        assert np.array_equal(made, pixels), "saved and loaded gives other pixels"

    def check_errors(self) -> None:
        for name in sorted(self.required):
            bare = Condition(
                None, None, *(s for s in self.make_condition(0).streams if s.name != name)
            )
            expect(self, bare, f"{name} is missing|condition is empty")
        if "control" not in self.streams:
            strange = Condition(
                None, None, *self.make_condition(0).streams, Control(Drawn(0), PALETTE)
            )
            expect(self, strange, "control is not supported")


def expect(contract: Contract, condition: Condition, words: str) -> None:
    import re

    try:
        contract.generator.generate([contract.make_job(0, condition=condition)])
    except InputError as error:
        assert re.search(words, str(error)), f"said {error}"
    else:
        raise AssertionError(f"took a condition that should fail ({words})")


@dataclass(frozen=True)
class Outcome:
    """How a pipeline keeps the contract: what it does not keep, and whether only one by one."""

    fault: str = ""
    one_per_call: bool = False


def try_contract(folder: Path, scratch: Path, changes: Mapping[str, Any]) -> Outcome:
    """Tries batches, then one image a call, as `factory models adopt` does."""
    faults = []
    for alone in (None, True):
        given = dict(changes) if alone is None else {**changes, "one_per_call": True}
        try:
            contract = Contract(folder, scratch, **given)
            contract.check()
        except (AssertionError, InputError, GenerationError) as error:
            faults.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            return Outcome("", contract.generator.batch_size == 1)
    return Outcome(faults[0], False)
