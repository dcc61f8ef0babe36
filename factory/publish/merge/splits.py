"""Group-safe splits: real patients stay whole, and what varies an image stays with its patient."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from factory.core.errors import InputError
from factory.core.files.disk_map import DiskMap
from factory.core.hashing import compute_digest
from factory.publish.merge.members import Member

TRAIN, VALIDATION, TEST = "train", "validation", "test"
LEFT_OUT = "left out"
_LARGEST = 10**15
"""More images than a unit has."""

VARIES_TEST = "vary a real image of a patient in test"
SEVERAL = "are made of patients in different splits"
REPEATED = "are in an earlier set already"

ClassCounts = Sequence[tuple[str | None, int]]
"""Classes, each once, and images of them."""


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
    members: Iterable[Member], shares: Mapping[str, float], seed: int, test_synthetic: bool
) -> Placement:
    """Splits real images by patient or slide and puts synthetic ones where they leak nothing.

    Images of one group are one unit, and so are groups that share an image, by its pixels; an image
    without a group is a unit of its own. A synthetic image goes where the unit of the real image
    that it varies goes, else to `train`; made of patients in different splits, it goes nowhere.

    Args:
        members: real ones and synthetic ones; walked through several times.
        shares: split -> share of the real images of each class; they add up to 1.
        seed: of the choice among equal units.
        test_synthetic: let variations of test patients into `test` instead of leaving them out.

    Raises:
        InputError: fewer units than splits.
    """
    units = _join_units(members)
    counts: DiskMap[ClassCounts] = DiskMap()
    pinned: DiskMap[str] = DiskMap()
    for member in members:
        if not member.is_synthetic:
            unit = units.find(f"image {member.image_sha256}")
            counts[unit] = _count_one(counts.get(unit, ()), member.class_name)
            if member.is_test:
                pinned[unit] = TEST
    for unit in pinned:
        del counts[unit]
    split_of = assign_splits(counts, shares, seed)
    for unit, split in pinned.items():
        split_of[unit] = split
    left_out: Counter[str] = Counter()
    seen: DiskMap[int] = DiskMap()
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
            seen[member.sample_id or ""] = 1
        left_out.update([reason] if reason else [])
        splits.append(LEFT_OUT if reason else sys.intern(split))
    return Placement(tuple(splits), left_out, unplaced, Counter(split_of.values()))


def _count_one(counts: ClassCounts, class_name: str | None) -> ClassCounts:
    """Returns the counts with one image more, classes in the order that they came in."""
    found = dict(counts)
    found[class_name] = found.get(class_name, 0) + 1
    return [*found.items()]


def assign_splits(
    units: Mapping[str, ClassCounts], shares: Mapping[str, float], seed: int
) -> DiskMap[str]:
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
    count = len(units)
    if count < len(wanted):
        raise InputError(
            f"{count} patients, slides or single images cannot fill {len(wanted)} splits: "
            "give more images, or --validation 0 or --test 0"
        )
    totals: Counter[str | None] = Counter()
    order: DiskMap[str] = DiskMap()
    for unit, found in units.items():
        totals.update(dict(found))
        rank = _LARGEST - sum(images for _, images in found)
        order[f"{rank:016d} {compute_digest('split', [seed, unit])}"] = unit
    missing = {
        split: {name: share * total for name, total in totals.items()}
        for split, share in wanted.items()
    }
    chosen: DiskMap[str] = DiskMap()
    empty = list(wanted)
    for position, unit in enumerate(order.values()):
        is_last_chance = count - position <= len(empty)
        found = units[unit]
        split = max(
            empty if is_last_chance else wanted,
            key=lambda split: sum(
                images * missing[split][name] / totals[name] for name, images in found
            ),
        )
        chosen[unit] = split
        empty = [each for each in empty if each != split]
        for name, images in found:
            missing[split][name] -= images
    return chosen


class _Units:
    """Sets of images that must not be parted, by `image SHA256`, `pixels SHA256`, `group SHA256`.

    Union-find; a unit is named by its smallest image hash, whatever the order of the images.
    """

    def __init__(self) -> None:
        self._above: DiskMap[str] = DiskMap()

    def __contains__(self, key: str) -> bool:
        return key in self._above

    def find(self, key: str) -> str:
        """Returns the unit of a key."""
        while (above := self._above[key]) != key:
            higher = self._above[above]
            if higher != above:
                self._above[key] = higher
            key = higher
        return key

    def join(self, image: str, others: Iterable[str]) -> None:
        """Puts an image into one unit with all that has one of the other keys."""
        unit = self.find(self._above.setdefault(image, image))
        for key in others:
            first, last = sorted((unit, self.find(self._above.setdefault(key, unit))))
            self._above[last] = unit = first


def _join_units(members: Iterable[Member]) -> _Units:
    """Returns the units of the real images."""
    units = _Units()
    for member in members:
        if not member.is_synthetic:
            shared = [f"pixels {member.pixels_sha256}"]
            shared += [] if member.group_sha256 is None else [f"group {member.group_sha256}"]
            units.join(f"image {member.image_sha256}", shared)
    return units


def _find_units(member: Member, units: _Units) -> set[str]:
    """Returns the unit of a real image, or those of all that a synthetic image is made of."""
    keys = [f"image {member.image_sha256}", f"pixels {member.pixels_sha256}"]
    if member.is_synthetic:
        keys += [f"image {member.reference_sha256}", f"pixels {member.reference_pixels_sha256}"]
        keys += [f"group {group}" for group in member.groups]
    return {units.find(key) for key in keys if key in units}
