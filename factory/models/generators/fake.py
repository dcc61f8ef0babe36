"""`FakeGenerator`: H&E-like blobs without a model, for tests and dry runs."""

import importlib.metadata
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import ModelEntry
from factory.core.errors import InputError
from factory.core.hashing import compute_digest, derive_seed, to_canonical_json
from factory.data.records import Condition, Job, Sample
from factory.data.streams import Caption, ClassName, Reference
from factory.models.generators.base import Capabilities, name_model
from factory.models.generators.prompts import choose_wording, write_prompt
from factory.models.generators.settings import GeneratorSettings

_EOSIN = np.array([233.0, 168.0, 202.0])
_HAEMATOXYLIN = np.array([98.0, 58.0, 140.0])
_REVISION = "1"
_DRAWN = (ClassName.name, Caption.name, Reference.name)


class FakeGenerator:
    """Draws nuclei on a pink ground: the class or caption sets how many, how large and how dark.

    Implements the whole protocol with numpy alone: pixels depend on seed and condition only.

    Args:
        settings: the recipe's generator section; steps, guidance and the like change nothing.
        entry: a catalog entry of family `fake`, or None. Its `pipeline_arguments` may hold
            `seconds_per_image`, a pause that stands for the work of a real model.
        base: unused; the protocol's constructors share their arguments.

    Raises:
        InputError: an argument in the entry that it does not know.
    """

    required: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar = None
    """Any stream: what it does not know by name changes how the image looks all the same."""

    def __init__(self, settings: GeneratorSettings, entry: ModelEntry | None, base: Path) -> None:
        self._settings = settings
        self._entry = entry
        self._template, self._class_prompts = choose_wording(settings, entry)
        arguments = dict(entry.pipeline_arguments) if entry is not None else {}
        self._seconds = float(arguments.pop("seconds_per_image", 0.0))
        if arguments:
            raise InputError(
                f"model {settings.model}: pipeline_arguments: fake knows seconds_per_image only, "
                f"got {', '.join(sorted(arguments))}"
            )

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it: any class or caption, a reference, and what its entry adds."""
        entry, settings = self._entry, self._settings
        return Capabilities(
            required=frozenset(),
            optional=frozenset({*_DRAWN, *(entry.optional if entry is not None else ())}),
            class_names=entry.class_names if entry is not None else None,
            width=settings.width or (entry.width if entry is not None else 64),
            height=settings.height or (entry.height if entry is not None else 64),
            mpp=entry.mpp if entry is not None else None,
            token_limits={},
        )

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Draws one image per job, in order.

        Raises:
            InputError: a class that the catalog entry does not list.
            SourceError: a reference that cannot be read.
        """
        names = self.capabilities.class_names
        samples = []
        for job in jobs:
            condition = job.condition
            if names is not None and condition.class_name not in (None, *names):
                raise InputError(
                    f"model {self._settings.model}: no class {condition.class_name!r}: "
                    f"it has {', '.join(names)}"
                )
            if self._seconds:
                time.sleep(self._seconds)
            samples.append(
                Sample(
                    pixels=self._draw(condition, job.seed),
                    prompt=write_prompt(condition, self._template, self._class_prompts),
                    batch_size=self._settings.batch_size,
                )
            )
        return samples

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance."""
        capabilities = self.capabilities
        return {
            "model": name_model(self._settings, self._entry),
            "model_revision": _REVISION,
            "weights_sha256": compute_digest("weights", ["fake", _REVISION]),
            "family": "fake",
            "pipeline": type(self).__name__,
            "scheduler": "none",
            "num_inference_steps": 0,
            "guidance_scale": 1.0,
            "prompt_template": self._template,
            "width": capabilities.width,
            "height": capabilities.height,
            "mpp": capabilities.mpp,
            "dtype": "float32",
            "device": "cpu",
            "device_name": "cpu",
            "adapters": [],
            "libraries": {"numpy": importlib.metadata.version("numpy")},
        }

    def _draw(self, condition: Condition, seed: int) -> NDArray[np.uint8]:
        width, height = self.capabilities.width, self.capabilities.height
        words = f"{condition.class_name or ''}|{condition.caption or ''}"
        others = [stream.identity() for stream in condition.streams if stream.name not in _DRAWN]
        words += f"|{to_canonical_json(others)}" if others else ""
        look = np.random.default_rng(derive_seed(0, "fake", words))
        draw = np.random.default_rng(seed)
        nuclei = int(look.integers(8, 30)) * max(1, width * height // 4096)
        radius = look.uniform(2.0, 5.0) * draw.uniform(0.8, 1.25, nuclei)
        stain = _paint_nuclei(draw, nuclei, radius, width, height) * look.uniform(0.6, 1.0)
        grain = draw.normal(0.0, 6.0, (height, width, 1))
        pixels = _EOSIN + stain[..., None] * (_HAEMATOXYLIN - _EOSIN) + grain
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
