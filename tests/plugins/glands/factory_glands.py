"""`glands`: rings of nuclei around a lumen; regular in normal tissue, broken in a tumour."""

import numpy as np

from factory.data.records import Job, Sample
from factory.models.generators.base import PlainGenerator
from factory.models.generators.families.base import Family

GROUND, LUMEN, NUCLEUS = (236, 190, 214), (248, 240, 246), (96, 60, 140)


class GlandFamily(Family):
    """Glands, drawn by numpy: of a class, which the catalog entry names `normal` or `tumor`."""

    kind = "glands"
    required = frozenset({"class_name"})

    def load(self) -> "GlandGenerator":
        """Returns what draws them."""
        return GlandGenerator(self)


class GlandGenerator(PlainGenerator):
    """Draws three glands of 24 nuclei; those of a tumour lie where chance puts them."""

    revision = "1"

    def make(self, job: Job) -> Sample:
        """Draws an image, by the class and the seed of the job alone."""
        width, height = self.capabilities.width, self.capabilities.height
        draw = np.random.default_rng(job.seed)
        spread = 0.35 if job.condition.class_name == "tumor" else 0.04
        pixels = np.tile(np.array(GROUND, np.uint8), (height, width, 1))
        rows, columns = np.mgrid[:height, :width]
        for _ in range(3):
            x, y, radius = draw.uniform(0, width), draw.uniform(0, height), draw.uniform(7, 12)
            pixels[np.hypot(columns - x, rows - y) < radius] = LUMEN
            for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
                away = radius * (1 + spread * draw.normal())
                nucleus = columns - x - away * np.cos(angle), rows - y - away * np.sin(angle)
                pixels[np.hypot(*nucleus) < 1.5] = NUCLEUS
        return Sample(pixels=pixels)
