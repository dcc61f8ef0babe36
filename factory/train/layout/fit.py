"""Fitting a pattern: densities, outlines, and how the objects of real masks lie to each other.

The interaction is found by iterative Boltzmann inversion (Soper 1996; Reith, Puetz & Mueller-Plathe
2003): patterns are drawn, their pair correlation is compared with that of the real masks, and the
logarithm of the ratio is added to the interaction, step by step of distance. It is a minimum
contrast on the pair correlation (Diggle 2003) with as many parameters as steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import SourceError
from factory.core.hashing import derive_seed
from factory.data.layouts import RAYS, Pattern, Shapes, draw_density, draw_pattern
from factory.data.objects import MEASURES, Objects, compare_objects, find_objects
from factory.train.layout.settings import LayoutSettings

STEPS = 16
"""Of distance, in which pairs are counted."""
QUANTILES = 33
"""Of density that are kept."""
DRAWN = 24
"""Masks that are drawn in each round."""
DAMPING = 0.7
SPLITS = 5
"""Random halves of the real masks, for the floor of what is measured."""
LEAST_MASKS = 4
LEAST_SHAPES = 10
_STRONGEST = (-5.0, 2.0)
_PAIRS = 200_000

Floats = NDArray[np.float64]


def fit_pattern(
    found: Sequence[Objects],
    gap: int,
    settings: LayoutSettings,
    name: str,
    say: Callable[[str], None],
) -> Pattern:
    """Fits the pattern of one class.

    Args:
        found: the objects of its masks, all of one size.
        gap: px that stay free around objects.
        settings: of the fit.
        name: of the class, for messages.
        say: called with a line a round.

    Raises:
        SourceError: too few masks, or too few whole objects.
    """
    if len(found) < LEAST_MASKS:
        raise SourceError(f"{name}: {len(found)} masks, but a pattern needs {LEAST_MASKS} or more")
    size = found[0].size
    area = size[0] * size[1]
    radii = np.sqrt(np.concatenate([each.areas for each in found]) / np.pi)
    step = max(1.0, round(float(np.median(radii)) / 2, 2))
    real = correlate(found, step)
    ids = np.concatenate([each.ids for each in found])
    shares = {str(key): float((ids == key).mean()) for key in np.unique(ids).tolist()}
    pattern = Pattern(
        masks=len(found),
        densities=_take_quantiles([len(each.areas) / area * 1e6 for each in found]),
        excess=1.0,
        step=step,
        interaction=_round(np.log(np.clip(real, np.exp(_STRONGEST[0]), np.exp(_STRONGEST[1])))),
        core=_find_core(found),
        shares={key: round(share, 6) for key, share in shares.items()},
        shapes={key: take_shapes(found, int(key), settings, name) for key in shares},
    )
    for turn in range(settings.rounds):
        drawn, wanted = draw_many(pattern, DRAWN, size, gap, (settings.seed, name, turn))
        seen = correlate(drawn, step)
        change = DAMPING * (np.log(real) - np.log(seen))
        bent = np.clip(np.array(pattern.interaction) + change, *_STRONGEST)
        count = float(np.mean([len(each.areas) for each in drawn]))
        excess = pattern.excess * wanted / max(count, 0.5)
        contrast = float(np.mean((np.sqrt(real) - np.sqrt(seen)) ** 2))
        told = f"{count:.1f} objects for {wanted:.1f}, contrast {contrast:.4f}"
        say(f"{name}: round {turn + 1}: {told}")
        update = {"interaction": _round(bent), "excess": round(float(np.clip(excess, 0.2, 5)), 4)}
        pattern = pattern.model_copy(update=update)
    measured = measure_pattern(pattern, found, gap, (settings.seed, name))
    return pattern.model_copy(update={"measured": measured})


def correlate(found: Sequence[Objects], step: float) -> Floats:
    """Returns (STEPS,) pair correlation: pairs at a distance, over those of points by chance.

    Chance is the same number of points spread evenly over the same window, so that borders weigh
    the same in both. A pair is added on either side, so that no step is empty.
    """
    edges = np.arange(STEPS + 1) * step
    width, height = found[0].size
    pairs = np.zeros(STEPS)
    total = 0.0
    for each in found:
        away = each.centres[:, None] - each.centres[None]
        distances = np.hypot(away[..., 0], away[..., 1])[np.triu_indices(len(each.areas), 1)]
        pairs += np.histogram(distances, edges)[0]
        total += len(distances)
    chance = np.random.default_rng(0).random((_PAIRS, 4)) * [width, height, width, height]
    spread = np.hypot(chance[:, 0] - chance[:, 2], chance[:, 1] - chance[:, 3])
    expected = np.histogram(spread, edges)[0] / _PAIRS * total
    result: Floats = (pairs + 1) / (expected + 1)
    return result


def take_shapes(
    found: Sequence[Objects], identifier: int, settings: LayoutSettings, name: str
) -> Shapes:
    """Returns outlines of whole objects of an id.

    Objects that touch the border are left out; as this hits large ones more often, an object is
    drawn with the weight 1 / (chance that a window holds it whole) (Miles 1974, Lantuejoul 1980).

    Raises:
        SourceError: too few whole objects.
    """
    outlines, weights = [], []
    for each in found:
        width, height = each.size
        for number, box in enumerate(each.boxes):
            if each.ids[number] != identifier:
                continue
            rows, columns = box
            is_cut = rows.start == 0 or columns.start == 0
            if is_cut or rows.stop == height or columns.stop == width:
                continue
            tall, wide = rows.stop - rows.start, columns.stop - columns.start
            mask = each.labels[box] == number + 1
            centre = each.centres[number] - [columns.start, rows.start]
            outlines.append(trace_rays(mask, centre))
            weights.append(width * height / ((width - wide) * (height - tall)))
    if len(outlines) < LEAST_SHAPES:
        raise SourceError(f"{name}: {len(outlines)} whole objects, but {LEAST_SHAPES} are needed")
    draw = np.random.default_rng(derive_seed(settings.seed, "shapes", name, identifier))
    ranks = np.log(draw.random(len(weights))) / np.array(weights)  # Efraimidis & Spirakis 2006
    chosen = np.argsort(-ranks)[: settings.most_shapes]
    return Shapes.encode(np.array(outlines)[np.sort(chosen)])


def trace_rays(mask: NDArray[np.bool_], centre: Floats) -> Floats:
    """Returns (RAYS,) distances from a centre (x, y) to the outline.

    They are scaled so that their polygon has the area of the mask.

    Args:
        mask: (H, W) of one object.
        centre: px; may lie outside of a bent object.
    """
    reach = np.arange(0.0, np.hypot(*mask.shape) + 1, 0.25)
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    x = np.rint(centre[0] + reach[:, None] * np.cos(angles)).astype(np.int64)
    y = np.rint(centre[1] + reach[:, None] * np.sin(angles)).astype(np.int64)
    is_there = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    inside = np.zeros(x.shape, bool)
    inside[is_there] = mask[y[is_there], x[is_there]]
    last = np.where(inside, reach[:, None], 0.5).max(0)
    polygon = 0.5 * np.sin(2 * np.pi / RAYS) * float((last * np.roll(last, -1)).sum())
    outline: Floats = last * np.sqrt(mask.sum() / polygon)
    return outline


def measure_pattern(
    pattern: Pattern, found: Sequence[Objects], gap: int, key: tuple[int, str]
) -> dict[str, dict[str, float]]:
    """Returns, for each of MEASURES, how far drawn masks lie from real ones, and these from others.

    `distance` is the Wasserstein distance of half as many drawn masks to a half of the real ones,
    `floor` that of the other half: both the mean over SPLITS random halves.
    """
    half = len(found) // 2
    sums: dict[str, list[list[float]]] = {name: [[], []] for name in MEASURES}
    for split in range(SPLITS):
        order = np.random.default_rng(derive_seed(key[0], "split", key[1], split)).permutation(
            len(found)
        )
        one, other = ([found[i] for i in part] for part in (order[:half], order[half : 2 * half]))
        drawn, _ = draw_many(pattern, half, found[0].size, gap, (*key, 1000 + split))
        for place, against in enumerate((drawn, other)):
            for name, value in compare_objects(one, against).items():
                sums[name][place].append(value)
    return {
        name: {
            "distance": round(float(np.mean(far)), 4),
            "floor": round(float(np.mean(floor)), 4),
        }
        for name, (far, floor) in sums.items()
    }


def draw_many(
    pattern: Pattern, count: int, size: tuple[int, int], gap: int, key: tuple[int, str, int]
) -> tuple[list[Objects], float]:
    """Returns the objects of drawn masks, and how many one should have by the densities drawn."""
    found, wanted = [], 0.0
    for index in range(count):
        seed = derive_seed(key[0], "fit", key[1], key[2], index)
        labels = draw_pattern(pattern, np.random.default_rng(seed), *size, gap)
        found.append(find_objects(labels, True))
        wanted += draw_density(pattern, np.random.default_rng(seed)) * size[0] * size[1] / count
    return found, wanted


def _find_core(found: Sequence[Objects]) -> float:
    """Returns the 5 % quantile of distances to the nearest, in sums of radii, at most 1."""
    scaled = []
    for each in found:
        if len(each.areas) < 2:
            continue
        radii = np.sqrt(each.areas / np.pi)
        away = each.centres[:, None] - each.centres[None]
        distances = np.hypot(away[..., 0], away[..., 1]) / (radii[:, None] + radii[None])
        np.fill_diagonal(distances, np.inf)
        scaled.append(distances.min(1))
    if not scaled:
        return 0.0
    return round(min(1.0, float(np.quantile(np.concatenate(scaled), 0.05))), 4)


def _take_quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return _round(np.quantile(values, np.linspace(0, 1, QUANTILES)))


def _round(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
