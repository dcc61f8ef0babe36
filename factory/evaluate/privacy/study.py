"""Membership inference from synthetic images alone: attacks, and their areas with intervals."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import EvaluationError, InputError
from factory.core.hashing import derive_seed
from factory.core.metrics import find_nearest
from factory.core.stats.intervals import ROUNDS, take_percentiles
from factory.core.stats.ranking import measure_auroc
from factory.core.stats.resampling import name_unit, number_groups
from factory.data.splits import find_leaks
from factory.data.varied import find_varied
from factory.evaluate.base import Context
from factory.evaluate.copies.similarity import CopySearch
from factory.evaluate.features import encode_set, fit_scaling
from factory.evaluate.image_sets import ImageSet, list_set, read_columns
from factory.evaluate.privacy import Privacy
from factory.models.encoders import load_encoder

LEAST = 5
"""Images of a side below which nothing is told."""


def measure(settings: Privacy.Settings, context: Context) -> dict[str, Any]:
    """Attacks membership by features and by pixels.

    Both attacks rank a real image by its nearest synthetic one, the black-box attack of GAN-Leaks
    (Chen et al. 2020, arXiv 1909.03935, section 4.3, with a distance of features or pixels).

    Raises:
        InputError: sets that share images or patients, or an encoder that cannot be had.
        SourceError: a set that cannot be read.
        EvaluationError: too few images.
    """
    made, real, held_out = _list_sets(settings)
    _refuse_leaks(real, held_out, made)
    members, how = choose_members(real, made)
    for name, images in (("used", members), ("held-out", held_out)):
        if len(images) < LEAST:
            raise EvaluationError(f"{images.root}: {len(images)} {name} images, {LEAST} are needed")
    encoder = load_encoder(
        settings.encoder, device=settings.device, catalogs=context.session.catalogs
    )
    sides = (members, held_out, made)
    context.say(f"{settings.encoder}: {sum(map(len, sides)):,} images")
    found = [encode_set(images, encoder, settings.cache).values for images in sides]
    scaling = fit_scaling(np.concatenate(found[:2]), encoder.describe())
    queries, reference = scaling.apply(np.concatenate(found[:2])), scaling.apply(found[2])
    context.say(f"similarity, as of the filter training_copy, to {len(made):,} images")
    search = CopySearch(made.images)
    similar = [search.search_set(images).similarity for images in sides[:2]]
    scores = {
        "distance": -find_nearest(queries, reference)[1],
        "similarity": np.concatenate(similar),
    }
    warnings = []
    groups = [number_groups(images.groups) for images in sides[:2]]
    if any(group is None for group in groups):
        warnings.append(
            "patients or slides are not known, or too few: intervals are over images, and too "
            "narrow where a patient has several"
        )
        groups = [None, None]
    return {
        "data": [made.describe_data()],
        "scope": f"{len(members):,} images of {real.name} ({how}) against {len(held_out):,} of "
        f"{held_out.name}, over {name_unit(groups[0])}s",
        "members": members.describe(),
        "held_out": held_out.describe(),
        "attacks": {
            name: {"auroc": measure_attack(each, len(members), groups, settings.seed)}
            for name, each in scores.items()
        },
        "encoder": {"spec": settings.encoder, **encoder.describe(), "scaling": scaling.name},
        "warnings": warnings,
        "settings": {"seed": settings.seed, "rounds": ROUNDS, "size": made.size},
    }


def _list_sets(settings: Privacy.Settings) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Returns the synthetic images, and the real ones that were used and that were not."""
    made = list_set(settings.synthetic, size=settings.size, fit=settings.fit)
    options: dict[str, Any] = {"size": made.size, "fit": settings.fit}
    options["columns"] = read_columns(settings)
    return made, list_set(settings.real, **options), list_set(settings.held_out, **options)


def choose_members(real: ImageSet, made: ImageSet) -> tuple[ImageSet, str]:
    """Returns the real images that count as used, and how they are told: those that rows vary."""
    varied = find_varied(made.references, real.images)
    if not varied:
        return real, "all"
    places = {image: place for place, image in enumerate(real.images)}
    return real.take(sorted({places[image] for image in varied.values()})), "those that rows vary"


def measure_attack(
    scores: NDArray[np.float64],
    members: int,
    groups: list[Any],
    seed: int,
) -> dict[str, float]:
    """Returns the area under the curve, and its interval over resampled patients of each side.

    Args:
        scores: (N,) of members first, then of held-out images; high for members.
        members: how many are members.
        groups: of each side (n,) the number of each image's patient, or None for images.
        seed: of the resampling.
    """
    is_member = np.arange(len(scores)) < members
    sides = (members, len(scores) - members)
    draw = np.random.default_rng(derive_seed(seed, "privacy", *sides))
    weights = []
    for count, numbers in zip(sides, groups, strict=True):
        owners = np.arange(count) if numbers is None else numbers
        units = int(owners.max()) + 1
        times = draw.multinomial(units, np.full(units, 1 / units), ROUNDS)
        weights.append(times[:, owners])
    drawn = np.concatenate(weights, axis=1).astype(np.float64)
    value = float(measure_auroc(scores, is_member, np.ones((1, len(scores))))[0])
    return take_percentiles(value, measure_auroc(scores, is_member, drawn)).to_dict()


def _refuse_leaks(real: ImageSet, held_out: ImageSet, made: ImageSet) -> None:
    leaks = find_leaks(real.images, held_out.images)
    if leaks:
        raise InputError(
            f"{real.root} and {held_out.root} share {leaks}: nobody can be told apart from "
            "himself; give images of other patients"
        )
    if find_varied(made.references, held_out.images):
        raise InputError(f"{made.root}: varies images of {held_out.root}: they were used")
