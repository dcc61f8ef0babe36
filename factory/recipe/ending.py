"""What `budget.stop` needs of a recipe: real images to compare with, and series that are long."""

from collections.abc import Container, Sequence

from factory.core.errors import SourceError
from factory.core.metrics.growing import GROUPS
from factory.data.records import SCORE_DECIMALS
from factory.filters.real.set import RealImage, RealSet, choose_real_set
from factory.models.session import Session
from factory.recipe.conditions import Series
from factory.recipe.conditions.series import find_bag_size, find_sizes
from factory.recipe.stop import Stop

FIRST = 2
"""Blocks of the first test: one, and the newest."""
Finding = tuple[str, str]
"""Field below `budget.stop`, and what is wrong with it."""


def read_real(rule: Stop, session: Session, asked: Container[str]) -> RealSet:
    """Returns the real images that are compared with.

    Args:
        rule: says where they are.
        session: that reads them.
        asked: classes that are asked for; of others there may be few.

    Raises:
        SourceError: they cannot be read, are too few, or name a patient in part only.
    """
    real = choose_real_set(rule, session)
    is_limited = real.found > len(real.images)
    remedy = "add some, or raise budget.stop.limit" if is_limited else "add some"
    for name in [each for each in real.class_names if each in asked] or (None,):
        count = sum(name in (None, image.class_name) for image in real.images)
        if count < GROUPS:
            where = "" if name is None else f" of class {name!r}"
            raise SourceError(
                f"{real.root}: {count} different images{where} are too few to compare with: "
                f"{remedy}: {GROUPS} at least"
            )
    lone = [image for image in real.images if image.group_sha256 is None]
    if rule.is_joint and 0 < len(lone) < len(real.images):
        raise SourceError(
            f"{lone[0].source.place}: names no patient, and so do {len(lone) - 1:,} others of "
            f"{len(real.images):,}: name that of every image, or of none"
        )
    return real


def tells_patients(real: RealSet) -> bool:
    """Whether the source tells whose the images are."""
    return all(image.group_sha256 is not None for image in real.images)


def name_unit(image: RealImage) -> str:
    """Returns the patient of an image, or the image where none is told."""
    return image.group_sha256 or image.sha256


def list_classes(series: Sequence[Series]) -> tuple[str, ...]:
    """Returns the classes of series, sorted: those that a classifier learns."""
    return tuple(sorted({name for part in series for name in part.class_names}))


def check_series(series: Sequence[Series], rule: Stop, real: RealSet) -> Finding | None:
    """Returns why no series can end early, or one must not; None where all is well."""
    for part in series:
        if find_sizes(part) or find_bag_size(part):
            return "every", (
                f"{part.label}: families and slides count whole only, and a series that ends in "
                "the middle would cut them: remove budget.stop"
            )
    longest = max((part.count for part in series), default=0)
    if longest <= FIRST * rule.every:
        return "every", (
            f"the longest series asks for {longest:,} images, and the first test comes after "
            f"{FIRST * rule.every:,}: budget.stop.every must be below {-(-longest // FIRST):,}, or "
            "remove budget.stop"
        )
    return _check_joint(series, rule, real) if rule.is_joint else None


def _check_joint(series: Sequence[Series], rule: Stop, real: RealSet) -> Finding | None:
    """Returns why a classifier cannot learn of series, or be judged on real images well enough."""
    from factory.core.metrics.teaching import count_needed, find_least_width

    classes = list_classes(series)
    without = [part.label for part in series if not part.class_names]
    if without or len(classes) < 2:
        why = f"{without[0]} has none" if without else f"there is {len(classes)}"
        message = f"a classifier learns two classes or more, of all series, and {why}"
        return "when", f"{message}: ask for classes, or take fidelity"
    if lacking := sorted({*classes} - {*real.class_names}):
        return "images", (
            f"{real.root} has no class {lacking[0]!r}, which is asked for: take labelled real "
            "images of every class"
        )
    counts = {
        name: len({name_unit(image) for image in real.images if image.class_name == name})
        for name in classes
    }
    fewest = min(counts, key=lambda name: counts[name])
    width = find_least_width([*counts.values()], rule.confidence) if counts[fewest] > 1 else 1.0
    least = round(width, SCORE_DECIMALS)
    if least <= rule.tolerance:
        return None
    who = "patients" if tells_patients(real) else "images (patients are not told)"
    needed = count_needed(len(classes), rule.tolerance, rule.confidence)
    more = f", or a tolerance of {least:.4f} or more" if least < 1 else ""
    if real.found > len(real.images):
        more += f"; limit leaves out {real.found - len(real.images):,} of {real.found:,} images"
    return "tolerance", (
        f"{real.root}: {counts[fewest]:,} {who} of class {fewest!r} can tell a change of no less "
        f"than {least:.4f}, even where none is told otherwise, so that no series could end: it "
        f"needs {needed:,} {who.partition(' ')[0]} of each class{more}"
    )
