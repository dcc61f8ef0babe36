"""`given`: hands on images that are there, so that they are judged as samples are."""

from typing import Any

from factory.core.errors import InputError
from factory.data.records import Job, Sample
from factory.data.streams import Existing
from factory.models.generators.base import Capabilities, PlainGenerator
from factory.models.generators.families.base import Family


class ExistingFamily(Family):
    """Existing images only, of any size; all settings but the batch size change nothing."""

    kind = "given"
    required = frozenset({Existing.name})
    generates = False

    @property
    def native_size(self) -> None:
        """That of each image."""

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it: existing images only, of any size."""
        return Capabilities(
            self.required,
            frozenset(),
            class_names=None,
            width=0,
            height=0,
            mpp=None,
            token_limits={},
        )

    def load(self) -> "ExistingGenerator":
        """Returns what reads them."""
        return ExistingGenerator(self)

    def explain_missing(self) -> str:
        """Says what to do with it."""
        return "judges only: factory judge"


class ExistingGenerator(PlainGenerator):
    """Reads the image of each condition, at its own size; nothing is generated."""

    def make(self, job: Job) -> Sample:
        """Reads an image.

        Raises:
            SourceError: it cannot be read.
            InputError: a condition without an image.
        """
        existing = job.condition.get(Existing)
        if existing is None:
            raise InputError("model given: takes conditions of kind existing only")
        groups = existing.groups()
        notes = {"group_sha256": groups[0]} if groups else {}
        return Sample(pixels=existing.load(0, 0), notes=notes)

    def describe(self) -> dict[str, Any]:
        """Returns that nothing made the pixels, as plain data for provenance."""
        return {
            **super().describe(),
            "model_revision": None,
            "weights_sha256": None,
            "pipeline": "none",
            "guidance_scale": None,
            "width": None,
            "height": None,
            "mpp": None,
            "dtype": "none",
            "libraries": {},
        }
