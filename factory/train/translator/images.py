"""Pairs of images of the same place: listed, split by patients, read and cut alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import SourceError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.notes import tell
from factory.data.channel_files import list_values, read_values
from factory.data.channels import Values
from factory.data.groups import hash_group
from factory.data.images.image import match_group
from factory.data.patients import describe_patients
from factory.train.translator.pairs import LEAST, SplitPairs, hold_out
from factory.train.translator.settings import PairedRecipe

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImagePairs(SplitPairs):
    """Images of the same pixels.

    Attributes:
        files: (source, target) of each pair.
        names: of the target's channels; empty where it is RGB.
        windows: (C, 2) values that become 0 and 1; NaN where the type of a file says them.
        size: px that are cut.
    """

    files: Sequence[tuple[Path, Path]]
    names: tuple[str, ...]
    windows: NDArray[np.float64]
    size: int

    @property
    def depth(self) -> int:
        """Channels of a target."""
        return len(self.windows)

    def read(self, row: int, draw: np.random.Generator | None = None) -> tuple[Floats, Floats]:
        """Returns (3, S, S) and (C, S, S) in [0, 1], cut at random, or amid the image.

        Raises:
            SourceError: files that cannot be read, or do not fit each other.
        """
        first, second = self.files[row]
        source, target = read_values(first), read_values(second)
        if source.shape[0] != 3 or source.dtype != np.uint8:
            raise SourceError(f"{first}: want RGB, got {source.shape} {source.dtype}")
        if target.shape[0] != self.depth or target.shape[1:] != source.shape[1:]:
            raise SourceError(
                f"{second}: want {(self.depth, *source.shape[1:])} (channels, and the sides of "
                f"{first.name}), got {target.shape}"
            )
        free = [side - self.size for side in source.shape[1:]]
        if min(free) < 0:
            raise SourceError(
                f"{first}: {source.shape[2]}x{source.shape[1]} px: lower data.image_size"
            )
        top, left = (n // 2 if draw is None else int(draw.integers(n + 1)) for n in free)
        place = (slice(None), slice(top, top + self.size), slice(left, left + self.size))
        return (source[place] / np.float32(255)).astype(np.float32), self._scale(
            target[place], second
        )

    def _scale(self, values: Values, path: Path) -> Floats:
        """Returns values in [0, 1] by the windows, else by the type."""
        is_whole = values.dtype.kind in "ui"
        most = float(np.iinfo(values.dtype).max) if is_whole else 1.0
        low, high = np.where(np.isnan(self.windows), (0.0, most), self.windows).T[..., None, None]
        scaled = (values - low) / (high - low)
        plain = scaled[np.isnan(self.windows[:, 0])]
        if not np.isfinite(scaled).all() or ((plain < 0) | (plain > 1)).any():
            raise SourceError(
                f"{path}: values that are not finite, or numbers beyond [0, 1]: say in "
                "data.windows what becomes 0 and 1"
            )
        found: Floats = np.clip(scaled, 0.0, 1.0).astype(np.float32)
        return found


def load_image_pairs(recipe: PairedRecipe) -> ImagePairs:
    """Returns the pairs of a recipe, whose paths are resolved.

    Raises:
        InputError: a folder that holds nothing.
        SourceError: files that cannot be read, or too few pairs.
    """
    data = recipe.data
    sources, targets = (list_values(side.images) for side in (data.source, data.target))
    keys = sorted(sources.keys() & targets.keys())
    passed = len(sources) + len(targets) - 2 * len(keys)
    if len(keys) < LEAST:
        raise SourceError(
            f"{data.source.images}, {data.target.images}: {len(keys)} pairs, {LEAST} wanted: give "
            "both sides of a pair the same name"
        )
    if passed:
        tell(f"{passed} images have no partner in the other domain and are passed over")
    groups = [match_group(key, data.group_pattern) for key in keys]
    files = [(sources[key], targets[key]) for key in keys]
    depth = read_values(files[0][1]).shape[0]
    names = data.channels
    if len(names or (*"RGB",)) != depth:
        raise SourceError(
            f"{files[0][1]}: has {depth} channels, data.channels names {len(names)}: name each"
        )
    unset = (np.nan, np.nan)
    windows = [data.windows.get(name, unset) for name in names] or [unset] * depth
    hashes = [
        [key, *(hash_bytes(each.read_bytes()) for each in pair)]
        for key, pair in zip(keys, files, strict=True)
    ]
    told = [hash_group(group) for group in groups]
    unknown = 2 * sum(each is None for each in told)
    units = [key if group is None else group for key, group in zip(keys, groups, strict=True)]
    return ImagePairs(
        hold_out(units, data.held_out, recipe.seed),
        passed,
        compute_digest("image-pairs", hashes),
        describe_patients(told, 2 * len(keys), unknown),
        files,
        names,
        np.array(windows, np.float64),
        data.image_size,
    )
