"""Points spread evenly over a line, by index: any number of them meets shares of it evenly."""

from factory.core.hashing import derive_seed

BITS = 128
"""Of a point: the upper 32 are spread, the others are chance, for what is split finer."""

_WORD = (1 << 32) - 1
_CONSTANTS = (0x6C50B47C, 0xB82F1E52, 0xC7AFE638, 0x8D22F6E6)


def spread_point(seed: int, index: int) -> int:
    """Returns the `index`-th point of a seeded sequence on [0, 2**BITS).

    The van der Corput sequence with nested uniform scrambling (Owen 1995) by the hash of Laine and
    Karras, with the constants of Burley (J. Comput. Graph. Tech. 9(4), 2020). Each point
    is uniform; of any n first points a stretch of the line holds its share up to about log2(n).
    """
    block, low = index >> 32, index & _WORD
    bits = (low + derive_seed(seed, "spread", block)) & _WORD
    for constant in _CONSTANTS:
        bits ^= (bits * constant) & _WORD
    upper = int(f"{bits:032b}"[::-1], 2)
    below = derive_seed(seed, "spread", block, low, 0) << 63 | derive_seed(
        seed, "spread", block, low, 1
    )
    return upper << 96 | below & ((1 << 96) - 1)
