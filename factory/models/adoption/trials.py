"""What a model is asked for when it is adopted: conditions that differ in one stream each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.catalog.entries import ModelEntry
from factory.core.errors import InputError
from factory.core.hashing import derive_seed, hash_bytes
from factory.data.images import SourceImage
from factory.data.records import Condition, Job, Request
from factory.data.streams import Caption, ClassName, Control, Embedding, Reference, Stream
from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.families import FAMILIES
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.loading import LoadedModel
from factory.models.generators.settings import GeneratorSettings

CAPTIONS = (
    "H&E stained histology, lymph node, dense nuclei",
    "fat and pale stroma",
    "mucin pools, no nuclei",
)
PALETTE = ((1, "nucleus"), (2, "gland"))


@dataclass(frozen=True, slots=True)
class DrawnMask:
    """A mask of two squares, another one for each number."""

    number: int

    def describe(self) -> dict[str, Any]:
        """Returns the number."""
        return {"sha256": f"{self.number:064x}", "fit": "crop"}

    def read(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns the (height, width) map."""
        labels = np.zeros((height, width), np.uint8)
        row, column = (1 + self.number) * height // 8, (2 + self.number) * width // 8
        labels[row : row + height // 2, : width // 2] = 1
        labels[: height // 3, column : column + width // 4] = 2
        return labels


@dataclass(frozen=True)
class Trials:
    """A model under trial: conditions by number, and generators of its entry.

    Args:
        entry: as far as it is known; changed by `change`.
        settings: of every generator: size, steps, device.
        loaded: the model, which all generators share.
        scratch: folder for drawn images.
        embedding: (tokens, dim) of a model that takes embeddings.
    """

    entry: ModelEntry
    settings: GeneratorSettings
    loaded: LoadedModel
    scratch: Path
    embedding: tuple[int, int] = (1, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of a model of class embeddings."""
        return self.entry.class_names or ()

    def change(self, **changes: Any) -> "Trials":
        """Returns trials of an entry with other values."""
        return replace(self, entry=self.entry.model_copy(update=changes))

    def build(self, **changes: Any) -> DiffusersGenerator:
        """Returns the generator of some settings.

        Raises:
            InputError: settings that contradict the model.
        """
        settings = self.settings.model_copy(update=changes)
        family = FAMILIES.get(self.entry.family)(settings, self.entry)
        if not isinstance(family, PipelineFamily):
            raise InputError(f"family {self.entry.family!r} calls no pipeline of diffusers")
        return DiffusersGenerator(family, self.loaded)

    def make_streams(self, number: int, names: Sequence[str], whole: bool) -> dict[str, Stream]:
        """Returns the streams of one condition by name; another number, other streams.

        Args:
            number: which of the conditions.
            names: of the streams.
            whole: the model looks at an image as it is, and has no strength.
        """
        found: dict[str, Stream] = {}
        for name in names:
            if name == Caption.name:
                found[name] = Caption(CAPTIONS[number % len(CAPTIONS)])
            elif name == ClassName.name and self.class_names:
                found[name] = ClassName(self.class_names[number % len(self.class_names)])
            elif name == Reference.name:
                image = self._draw_image(number)
                sha256 = hash_bytes(image.read_bytes())
                found[name] = Reference(image, sha256, 1.0 if whole else 0.5)
            elif name == Control.name:
                found[name] = Control(DrawnMask(number % 3), PALETTE)
            elif name == Embedding.name:
                noise = np.random.default_rng(number).standard_normal(self.embedding)
                found[name] = Embedding.of(noise.astype(np.float32), "adoption")
        return found

    def _draw_image(self, number: int) -> SourceImage:
        path = self.scratch / f"reference-{number}.png"
        if not path.exists():
            rows, columns = np.mgrid[0 : self.entry.height, 0 : self.entry.width]
            wave = 0.5 + 0.5 * np.sin(rows / (4.0 + number)) * np.cos(columns / (6.0 - number % 3))
            pink, blue = np.array([230, 160, 200]), np.array([90, 50, 140])
            pixels = pink * wave[..., None] + blue * (1 - wave[..., None])
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        return SourceImage(path.name, None, None, path)


def make_job(number: int, streams: dict[str, Stream], seed: int | None = None) -> Job:
    """Returns the job of a condition; the seed is its number's, where none is given."""
    condition = Condition(None, None, *streams.values())
    request = Request("adoption", number, condition, number)
    return Job(request, 0, derive_seed(0, "adoption", number, 0) if seed is None else seed)
