"""Files of the descriptors of a series, and of what is reckoned of each before it is compared."""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from factory.core.files.rows import RowFile
from factory.core.thumbnails import DIM, SIDE, Descriptors
from factory.engine.dedup import ORBITS

CHUNK = 4096
"""Rows, or pairs, of descriptors at a time."""
STEPS = 400
"""Steps per unit of the sketch, of 36 numbers that are hardly above 0.3."""
WIDE = 192
"""Invariants of a descriptor."""


@functools.cache
def _build_invariants() -> tuple[NDArray[np.float32], ...]:
    """Returns the (36, 256), (92, 256), (64, 256) and (64, 256) rows that `embed` projects on.

    The symmetry group of the square splits descriptors into orthogonal parts: what all eight poses
    share, what they only change the sign of, and pairs of numbers that they turn.
    """
    line = np.eye(SIDE // 2)
    even = np.concatenate([line, line[:, ::-1]], axis=1) / math.sqrt(2)
    odd = np.concatenate([line, -line[:, ::-1]], axis=1) / math.sqrt(2)
    signed = []
    for waves in (even, odd):
        for i in range(len(waves)):
            for j in range(i + 1):
                outer = np.outer(waves[i], waves[j])
                if i == j:
                    signed += [outer] if waves is odd else []
                    continue
                signed += [(outer - outer.T) / math.sqrt(2)]
                signed += [(outer + outer.T) / math.sqrt(2)] if waves is odd else []
    turned = [np.outer(first, second) for first in odd for second in even]
    parts = [ORBITS, signed, turned, [each.T for each in turned]]
    return tuple(np.asarray(part, np.float32).reshape(-1, DIM) for part in parts)


def embed(descriptors: Descriptors) -> NDArray[np.float32]:
    """Returns (N, 192) numbers that no flip or turn changes.

    Their distances are at most those of the descriptors in the nearest pose.
    """
    shared, signed, first, second = _build_invariants()
    values = descriptors.astype(np.float32)
    lengths = np.hypot(values @ first.T, values @ second.T)
    return np.concatenate([values @ shared.T, np.abs(values @ signed.T), lengths], axis=1)


class DescriptorFile(RowFile):
    """Descriptors, (N, 256)."""

    dtype, width, name = np.float16, DIM, "descriptors"


class InvariantFile(RowFile):
    """What `embed` makes of descriptors, (N, 192)."""

    dtype, width, name = np.float16, WIDE, "invariants"


class SketchFile(RowFile):
    """Sums over orbits in steps, (N, 36): a bound that few unlike pairs pass."""

    dtype, width, name = np.int8, len(ORBITS), "sketch"


NAMES = tuple(kind.name for kind in (DescriptorFile, InvariantFile, SketchFile))


def write_hashed(descriptors: DescriptorFile, start: int, stop: int) -> None:
    """Writes invariants and sketches of descriptors, beside them.

    Args:
        descriptors: of a series.
        start: first of them; those before are written. A multiple of CHUNK.
        stop: a multiple of CHUNK, or where all end.
    """
    folder = descriptors.path.parent
    invariants, sketches = (kind(folder / kind.name, start) for kind in (InvariantFile, SketchFile))
    for begin in range(start, stop, CHUNK):
        values = embed(descriptors.read(begin, min(begin + CHUNK, stop)))
        sketches.add(np.clip(np.rint(STEPS * values[:, : len(ORBITS)]), -127, 127))
        invariants.add(values)
