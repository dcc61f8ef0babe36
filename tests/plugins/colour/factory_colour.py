"""Evaluation `colour`: how far the colours of synthetic images are from those of real ones."""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy.stats import wasserstein_distance

from factory.core import fields
from factory.core.errors import EvaluationError
from factory.evaluate.base import TIERS, Evaluation, EvaluationSettings
from factory.evaluate.image_sets import list_set

LEVELS = np.arange(256)


class Colour(Evaluation):
    """Compares the colours of synthetic images with those of real ones, class by class.

    Wasserstein distance between the histograms of red, green and blue, in levels of 255, the mean
    of the three. The floor is what halves of the real images get against each other.
    """

    tier = TIERS[0]
    names = {
        "classes": "colour",
        "distance": "distance in levels",
        "floor": "distance of real halves",
    }
    sources = {"real": "settings.real"}

    class Settings(EvaluationSettings):
        """The sets, and how they are read."""

        kind: Literal["colour"] = "colour"
        real: fields.Images = Field(description="Real images with classes.")
        synthetic: fields.Images = Field(description="Finished run, or images with classes.")
        size: fields.Size = None
        fit: fields.Fitted = "crop"
        halves: int = Field(5, ge=1, le=1000, description="Halvings of the real images.")
        seed: fields.Chance = 0

    def measure(self, context):
        settings = self.settings
        made = list_set(settings.synthetic, size=settings.size, fit=settings.fit)
        real = list_set(settings.real, size=made.size, fit=settings.fit)
        shared = [name for name in real.class_names if name in made.class_names]
        if not shared:
            raise EvaluationError(f"{made.root}: has no class of {real.root}: rename its classes")
        draw = np.random.default_rng(settings.seed)
        classes = {}
        for name in shared:
            context.say(f"colours of {name}")
            ours, theirs = (count_levels(each.take(each.find_rows(name))) for each in (made, real))
            order = [draw.permutation(len(theirs)) for _ in range(settings.halves)]
            middle = len(theirs) // 2
            floor = [measure_distance(theirs[o[:middle]], theirs[o[middle:]]) for o in order]
            classes[name] = {
                "distance": {"value": measure_distance(ours, theirs)},
                "floor": {"mean": np.mean(floor).item(), "low": min(floor), "high": max(floor)},
            }
        described = {"real": str(settings.real), "size": made.size, "halves": settings.halves}
        return {"data": [made.describe_data()], "settings": described, "classes": classes}


def count_levels(images):
    """Returns (N, 3, 256): how many pixels of each image have each level of R, G and B."""
    return np.array(
        [
            [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
            for block in images.iterate_blocks()
            for pixels in block
        ]
    )


def measure_distance(one, other):
    """Returns the mean distance of the three channels, in levels of 255."""
    pairs = zip(one.sum(axis=0), other.sum(axis=0), strict=True)
    return float(np.mean([wasserstein_distance(LEVELS, LEVELS, a, b) for a, b in pairs]))
