"""What a generator is: it samples one image per job and says what it can be asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

from factory.catalog.catalog import ModelEntry
from factory.data.records import Job, Sample
from factory.models.generators.settings import GeneratorSettings


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a generator accepts, and what it makes.

    `required` and `optional` are condition streams (`class_name`, `caption`, `reference`).
    `class_names` is None where any class goes (it reaches the model through a prompt). `width`,
    `height` are the px of its images for the present recipe, `mpp` their µm per pixel if known.
    `token_limits` maps a tokenizer's component name to the tokens it keeps.
    """

    required: frozenset[str]
    optional: frozenset[str]
    class_names: tuple[str, ...] | None
    width: int
    height: int
    mpp: float | None
    token_limits: Mapping[str, int]


class Generator(Protocol):
    """Samples images. One instance lives in one worker and loads its models once."""

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it."""
        ...

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Samples one image per job, in order.

        The caller sends at most its batch size; the generator pads the batch to a fixed shape. Each
        job's noise comes from its own seed alone, through one CPU `torch.Generator` per image.

        Raises:
            OutOfMemoryError: the device is full; fewer jobs may fit.
            GenerationError: the pipeline failed.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance.

        At least: model, model_revision, weights_sha256, pipeline, scheduler, num_inference_steps,
        guidance_scale, width, height, mpp, dtype, device, adapters, libraries (name -> version).
        """
        ...


def name_model(settings: GeneratorSettings, entry: ModelEntry | None) -> str:
    """Returns the catalog id, the Hub id, or the name of a folder (rows tell no one's disk)."""
    if entry is not None:
        return entry.id
    is_path = settings.model.startswith(("/", "./", "../", "~"))
    return PurePath(settings.model).name if is_path else settings.model
