"""`ExistingGenerator`: hands on images that are there, so that they are judged as samples are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from factory.catalog.catalog import ModelEntry
from factory.core.errors import InputError
from factory.data.records import Job, Sample
from factory.data.streams import Existing
from factory.models.generators.base import Capabilities, name_model
from factory.models.generators.settings import GeneratorSettings


class ExistingGenerator:
    """Reads the image of each condition, at its own size; nothing is generated.

    Args:
        settings: the recipe's generator section; all but the batch size changes nothing.
        entry: the catalog entry `given`, or None.
        base: unused; the protocol's constructors share their arguments.
    """

    required: ClassVar = frozenset({Existing.name})
    optional: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: GeneratorSettings, entry: ModelEntry | None, base: Path) -> None:
        self._settings = settings
        self._entry = entry

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it: existing images only, of any size."""
        return Capabilities(
            required=self.required,
            optional=self.optional,
            class_names=None,
            width=0,
            height=0,
            mpp=None,
            token_limits={},
        )

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Reads one image per job, in order.

        Raises:
            SourceError: an image that cannot be read.
            InputError: a condition without an image.
        """
        samples = []
        for job in jobs:
            existing = job.condition.get(Existing)
            if existing is None:
                raise InputError("model given: takes conditions of kind existing only")
            groups = existing.groups()
            notes = {"group_sha256": groups[0]} if groups else {}
            samples.append(Sample(pixels=existing.load(0, 0), notes=notes))
        return samples

    def describe(self) -> dict[str, Any]:
        """Returns that nothing made the pixels, as plain data for provenance."""
        return {
            "model": name_model(self._settings, self._entry),
            "model_revision": None,
            "weights_sha256": None,
            "family": "given",
            "pipeline": "none",
            "scheduler": "none",
            "num_inference_steps": 0,
            "guidance_scale": None,
            "width": None,
            "height": None,
            "mpp": None,
            "dtype": "none",
            "device": "cpu",
            "device_name": "cpu",
            "adapters": [],
            "libraries": {},
        }
