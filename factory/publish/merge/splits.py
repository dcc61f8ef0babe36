"""Group-safe splits: real patients stay whole, and what varies an image stays with its patient."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.publish.merge.members import Member

TRAIN, VALIDATION, TEST = "train", "validation", "test"
LEFT_OUT = "left out"

VARIES_TEST = "vary a real image of a patient in test"
SEVERAL = "are made of patients in different splits"
REPEATED = "are in an earlier set already"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each image goes.

    Attributes:
        splits: (N,) split of each member, or LEFT_OUT.
        left_out: reason -> images.
        unplaced: synthetic images whose real image is not here; they go to `train`.
        units: patients (or images, where none is known) in each split.
    """

    splits: tuple[str, ...]
    left_out: Mapping[str, int]
    unplaced: int
    units: Mapping[str, int]


def place_members(
    members: Sequence[Member], shares: Mapping[str, float], seed: int, test_synthetic: bool
) -> Placement:
    """Splits real images by patient or slide and puts synthetic ones where they leak nothing.

    Images of one group are one unit, and so are groups that share an image, by its pixels; an image
    without a group is a unit of its own. A synthetic image goes where the unit of the real image
    that it varies goes, else to `train`; made of patients in different splits, it goes nowhere.

    Args:
        members: real ones and synthetic ones.
        shares: split -> share of the real images of each class; they add up to 1.
        seed: of the choice among equal units.
        test_synthetic: let variations of test patients into `test` instead of leaving them out.

    Raises:
        InputError: fewer units than splits.
    """
    units = _join_units(members)
    counts: dict[str, Counter[str | None]] = defaultdict(Counter)
    pinned = {}
    for member in members:
        if not member.is_synthetic:
            unit = units[f"image {member.image_sha256}"]
            counts[unit][member.class_name] += 1
            if member.is_test:
                pinned[unit] = TEST
    free = {unit: count for unit, count in counts.items() if unit not in pinned}
    split_of = {**assign_splits(free, shares, seed), **pinned}
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    unplaced = 0
    splits = []
    for member in members:
        found = {split_of[unit] for unit in _find_units(member, units)}
        split = next(iter(found), TRAIN)
        reason = None
        if member.is_synthetic:
            is_made_of = member.reference_sha256 is not None or bool(member.groups)
            unplaced += is_made_of and not found
            if member.sample_id is not None and member.sample_id in seen:
                reason = REPEATED
            elif TEST in found and not test_synthetic:
                reason = VARIES_TEST
            elif len(found) > 1:
                reason = SEVERAL
            seen.add(member.sample_id or "")
        left_out.update([reason] if reason else [])
        splits.append(LEFT_OUT if reason else split)
    return Placement(tuple(splits), left_out, unplaced, Counter(split_of.values()))


def assign_splits(
    units: Mapping[str, Mapping[str | None, int]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Gives each unit to a split, so that every class comes near its share in each.

    The largest first, equal ones in a seeded order; each goes where most of its images are missing.

    Args:
        units: unit -> images of each class.
        shares: split -> share, those that are 0 left out.
        seed: of the order.

    Raises:
        InputError: fewer units than splits.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    if len(units) < len(wanted):
        raise InputError(
            f"{len(units)} patients, slides or single images cannot fill {len(wanted)} splits: "
            "give more images, or --validation 0 or --test 0"
        )
    totals: Counter[str | None] = Counter()
    for count in units.values():
        totals.update(count)
    order = sorted(
        units, key=lambda unit: (-sum(units[unit].values()), compute_digest("split", [seed, unit]))
    )
    missing = {
        split: {name: share * total for name, total in totals.items()}
        for split, share in wanted.items()
    }
    chosen: dict[str, str] = {}
    for position, unit in enumerate(order):
        empty = [split for split in wanted if split not in chosen.values()]
        is_last_chance = len(order) - position <= len(empty)
        split = max(
            empty if is_last_chance else wanted,
            key=lambda split: sum(
                count * missing[split][name] / totals[name] for name, count in units[unit].items()
            ),
        )
        chosen[unit] = split
        for name, images in units[unit].items():
            missing[split][name] -= images
    return chosen


def _join_units(members: Sequence[Member]) -> dict[str, str]:
    """Returns the unit of each real image, by `image SHA256`, `pixels SHA256`, `group SHA256`.

    Union-find; a unit is named by its smallest image hash, whatever the order of the images.
    """
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for member in members:
        if member.is_synthetic:
            continue
        image = f"image {member.image_sha256}"
        parent.setdefault(image, image)
        shared = [f"pixels {member.pixels_sha256}"]
        shared += [] if member.group_sha256 is None else [f"group {member.group_sha256}"]
        for key in shared:
            parent.setdefault(key, key)
            parent[find(image)] = find(key)
    names: dict[str, str] = {}
    for key in sorted(key for key in parent if key.startswith("image ")):
        names.setdefault(find(key), key)
    return {key: names[find(key)] for key in parent}


def _find_units(member: Member, units: Mapping[str, str]) -> set[str]:
    """Returns the unit of a real image, or those of all that a synthetic image is made of."""
    keys = [f"image {member.image_sha256}", f"pixels {member.pixels_sha256}"]
    if member.is_synthetic:
        keys += [f"image {member.reference_sha256}", f"pixels {member.reference_pixels_sha256}"]
        keys += [f"group {group}" for group in member.groups]
    return {units[key] for key in keys if key in units}
