"""`fake`: H&E-like blobs without a model, for tests and dry runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from factory.catalog.entries import ImageChannels
from factory.core.errors import InputError
from factory.core.hashing import derive_seed, to_canonical_json
from factory.core.late import NDArray, np
from factory.data.channels import compose_rgb
from factory.data.records import STOPPED, Condition, Job, Sample
from factory.data.streams import Caption, ClassName, Control, Reference, Source
from factory.models.generators.base import Begun, PlainGenerator
from factory.models.generators.families.base import Family
from factory.models.generators.prompts import choose_wording, write_prompt

_EOSIN = (233.0, 168.0, 202.0)
_HAEMATOXYLIN = (98.0, 58.0, 140.0)
_DRAWN = (ClassName.name, Caption.name, Control.name, Reference.name, Source.name)


class FakeFamily(Family):
    """Takes any stream: one that it does not know by name changes how the image looks all the same.

    The catalog entry's `pipeline_arguments` may hold `seconds_per_image`, a pause that stands for
    the work of a real model. Steps, guidance and the like change nothing.
    """

    kind = "fake"
    optional = None
    pauses = True

    def load(self) -> FakeGenerator:
        """Returns the generator.

        Raises:
            InputError: an argument in the entry that it does not know.
        """
        return FakeGenerator(self)


class FakeGenerator(PlainGenerator):
    """Draws nuclei on a pink ground: the class or caption sets how many, how large and how dark.

    With a mask it stains what that marks, and nothing else; with a source, what is dark there.
    Where the catalog entry declares channels, the first holds the nuclei and each other a marker of
    some of them.

    Implements the whole protocol with numpy alone: pixels depend on seed and condition only.
    """

    def __init__(self, family: FakeFamily) -> None:
        super().__init__(family)
        self._template, self._class_prompts = choose_wording(self.settings, self.entry)
        arguments = dict(self.entry.pipeline_arguments) if self.entry is not None else {}
        self._seconds = float(arguments.pop("seconds_per_image", 0.0))
        if arguments:
            raise InputError(
                f"model {self.settings.model}: pipeline_arguments: fake knows seconds_per_image "
                f"only, got {', '.join(sorted(arguments))}"
            )

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Draws one image per job, in order.

        Raises:
            InputError: a class that the catalog entry does not list.
            SourceError: a reference, a mask or a source that cannot be read.
        """
        return super().generate(jobs)

    def begin(self, jobs: Sequence[Job], until: float) -> list[Begun]:
        """Draws each image, pale, after a share of its pause; see `Pausable.begin`."""
        made = super().generate([replace(job, until=until) for job in jobs])
        return [Begun(job, each, until) for job, each in zip(jobs, made, strict=True)]

    def go_on(self, begun: Sequence[Begun], until: float) -> list[Begun]:
        """Draws what was begun once more, less pale; see `Pausable.go_on`."""
        return self.begin([each.job for each in begun], until)

    def finish(self, begun: Sequence[Begun]) -> list[Sample]:
        """Draws what was begun, after the rest of its pause; see `Pausable.finish`."""
        time.sleep(self._seconds * sum(1.0 - each.state for each in begun))
        return [self._make_whole(each.job) for each in begun]

    def make(self, job: Job) -> Sample:
        """Draws an image, after the pause; pale, and after a share of it, where the job ends so."""
        share = 1.0 if job.until is None else job.until
        if self._seconds:
            time.sleep(self._seconds * share)
        whole = self._make_whole(job)
        if job.until is None:
            return whole
        mean = whole.pixels.mean((0, 1))
        pale = np.rint(mean + share * (whole.pixels - mean)).astype(np.uint8)
        return replace(whole, pixels=pale, notes={**whole.notes, STOPPED: job.until})

    def _make_whole(self, job: Job) -> Sample:
        pixels, channels = self._draw(job.condition, job.seed), None
        if self.capabilities.channels is not None:
            channels = self._draw_channels(pixels, job.seed, self.capabilities.channels)
            pixels = compose_rgb(channels, self.capabilities.channels)
        return Sample(
            pixels=pixels,
            channels=channels,
            prompt=write_prompt(job.condition, self._template, self._class_prompts),
            batch_size=self.settings.batch_size,
        )

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance."""
        return {**super().describe(), "prompt_template": self._template}

    @staticmethod
    def _draw_channels(
        pixels: NDArray[np.uint8], seed: int, declared: ImageChannels
    ) -> NDArray[Any]:
        """Returns (C, H, W): the nuclei of the pixels, then markers that some of them have."""
        height, width = pixels.shape[:2]
        nuclei = np.clip(_EOSIN[0] - pixels[..., 0].astype(np.float64), 0.0, None) / _EOSIN[0]
        planes = [nuclei]
        for channel in declared.named[1:]:
            draw = np.random.default_rng(derive_seed(seed, "channel", channel.name))
            cells = 6 * max(1, width * height // 4096)
            planes.append(nuclei * _paint_nuclei(draw, cells, np.full(cells, 6.0), width, height))
        top = np.iinfo(declared.dtype).max if declared.dtype.startswith("uint") else 1
        found: NDArray[Any] = (np.clip(np.stack(planes), 0, 1) * top).astype(declared.dtype)
        return found

    def _draw(self, condition: Condition, seed: int) -> NDArray[np.uint8]:
        width, height = self.capabilities.width, self.capabilities.height
        words = f"{condition.class_name or ''}|{condition.caption or ''}"
        shown = (each for each in condition.streams if each.is_shown)
        others = [stream.identity() for stream in shown if stream.name not in _DRAWN]
        words += f"|{to_canonical_json(others)}" if others else ""
        look = np.random.default_rng(derive_seed(0, "fake", words))
        draw = np.random.default_rng(seed)
        control, source = condition.get(Control), condition.get(Source)
        if control is not None:
            stain = (control.load(width, height) > 0) * look.uniform(0.6, 1.0)
        elif source is not None:
            darkness = 1.0 - source.load(width, height).mean(-1) / 255.0
            stain = np.clip(2.0 * darkness - 0.4, 0.0, 1.0) * look.uniform(0.6, 1.0)
        else:
            nuclei = int(look.integers(8, 30)) * max(1, width * height // 4096)
            radius = look.uniform(2.0, 5.0) * draw.uniform(0.8, 1.25, nuclei)
            stain = _paint_nuclei(draw, nuclei, radius, width, height) * look.uniform(0.6, 1.0)
        grain = draw.normal(0.0, 6.0, (height, width, 1))
        eosin, haematoxylin = np.array(_EOSIN), np.array(_HAEMATOXYLIN)
        pixels = eosin + stain[..., None] * (haematoxylin - eosin) + grain
        reference = condition.get(Reference)
        if reference is not None:
            fitted = reference.load(width, height)
            pixels = reference.strength * pixels + (1.0 - reference.strength) * fitted
        drawn: NDArray[np.uint8] = np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8)
        return drawn


def _paint_nuclei(
    draw: np.random.Generator, nuclei: int, radius: NDArray[np.float64], width: int, height: int
) -> NDArray[np.float64]:
    """Returns (height, width) stain density in [0, 1]: elliptic blobs with soft edges."""
    across, down = draw.uniform(0, width, nuclei), draw.uniform(0, height, nuclei)
    stretch = draw.uniform(0.7, 1.4, nuclei)
    columns = (np.arange(width)[None, :] - across[:, None]) / (radius * stretch)[:, None]
    rows = (np.arange(height)[None, :] - down[:, None]) / (radius / stretch)[:, None]
    density = np.zeros((height, width))
    for row, column in zip(np.exp(-(rows**2)), np.exp(-(columns**2)), strict=True):
        np.maximum(density, np.outer(row, column), out=density)
    return np.clip(4.0 * density - 1.0, 0.0, 1.0)
