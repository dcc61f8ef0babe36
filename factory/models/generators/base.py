"""What a generator is: it samples one image per job and says what it can be asked for."""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol

from factory.catalog.catalog import ModelEntry
from factory.catalog.entries import ImageChannels
from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.data.channels import describe_channels
from factory.data.records import Job, Sample
from factory.models.generators.settings import GeneratorSettings

if TYPE_CHECKING:
    from factory.models.generators.families.base import Family


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a generator accepts, and what it makes.

    `required` and `optional` are condition streams (`class_name`, `caption`, `reference`).
    `class_names` is None where any class goes (it reaches the model through a prompt). `width`,
    `height` are the px of its images for the present recipe, `mpp` their µm per pixel if known.
    `token_limits` maps a tokenizer's component name to the tokens it keeps. `channels` are those of
    its samples beside the RGB composite; None: RGB alone.
    """

    required: frozenset[str]
    optional: frozenset[str]
    class_names: tuple[str, ...] | None
    width: int
    height: int
    mpp: float | None
    token_limits: Mapping[str, int]
    channels: ImageChannels | None = None


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
        guidance_scale, width, height, mpp, dtype, device, adapters, libraries (name -> version);
        and `describe_channels` of its channels.
        """
        ...


def name_model(settings: GeneratorSettings, entry: ModelEntry | None) -> str:
    """Returns the catalog id, the Hub id, or the name of a folder (rows tell no one's disk)."""
    if entry is not None:
        return entry.id
    is_path = settings.model.startswith(("/", "./", "../", "~"))
    return PurePath(settings.model).name if is_path else settings.model


@dataclass(frozen=True, slots=True)
class Begun:
    """A try that was begun: the image foreseen, and what its generator goes on from.

    The foreseen sample notes STOPPED: it is that of the job with `until`.
    """

    job: Job
    foreseen: Sample
    state: Any


class Pausable(Generator, Protocol):
    """A generator that stops part-way: of a family that `pauses`."""

    def begin(self, jobs: Sequence[Job], until: float) -> list[Begun]:
        """Samples jobs up to a share of their steps, in order; raises as `generate`."""
        ...

    def go_on(self, begun: Sequence[Begun], until: float) -> list[Begun]:
        """Samples what was begun up to a later share of its steps: as `begin` up to there."""
        ...

    def finish(self, begun: Sequence[Begun]) -> list[Sample]:
        """Samples what was begun to its end, in order, whatever calls it was begun in.

        The samples are those of `generate`; raises as it does.
        """
        ...


class PlainGenerator(ABC):
    """A generator without pipeline, weights and batches: one image after the other.

    A subclass makes an image and tells what made it: `revision`, which changes with its pixels.

    Args:
        family: of a recipe.
    """

    revision: str = "1"

    def __init__(self, family: "Family") -> None:
        self.family, self.settings, self.entry = family, family.settings, family.entry

    @abstractmethod
    def make(self, job: Job) -> Sample:
        """Makes one image, by the condition and the seed of the job alone."""

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it: what family and catalog entry say."""
        return self.family.capabilities

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Makes one image per job, in order.

        Raises:
            InputError: a condition without a stream that is required, of a class that the catalog
                entry does not list, or with a stream that is not as it says.
        """
        required, names = self.capabilities.required, self.capabilities.class_names
        for condition in (job.condition for job in jobs):
            missing = required - {stream.name for stream in condition.streams}
            if missing:
                raise InputError(f"model {self.settings.model}: needs {', '.join(sorted(missing))}")
            if names is not None and condition.class_name not in (None, *names):
                raise InputError(
                    f"model {self.settings.model}: no class {condition.class_name!r}: "
                    f"it has {', '.join(names)}"
                )
            self.family.check_streams(condition)
        return [self.make(job) for job in jobs]

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance."""
        kind, capabilities = self.family.kind, self.capabilities
        return {
            "model": name_model(self.settings, self.entry),
            "model_revision": self.revision,
            "weights_sha256": compute_digest("weights", [kind, self.revision]),
            "family": kind,
            "pipeline": type(self).__name__,
            "scheduler": "none",
            "num_inference_steps": 0,
            "guidance_scale": 1.0,
            "width": capabilities.width,
            "height": capabilities.height,
            "mpp": capabilities.mpp,
            "dtype": "float32",
            "device": "cpu",
            "device_name": "cpu",
            "adapters": [],
            "libraries": {"numpy": importlib.metadata.version("numpy")},
            **describe_channels(capabilities.channels),
        }
