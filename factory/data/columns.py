"""Types of columns, and how their values are hashed."""

from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.hashing import compute_digest, hash_bytes

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded image, as `datasets.Image` stores it: such a column is declared so in the set."""


def is_image(value: Any) -> bool:
    """Whether a cell holds an encoded image."""
    return isinstance(value, dict) and value.keys() == {"bytes", "path"}


def hash_value(value: Any) -> str:
    """Returns the sha256 of a cell: of an image's bytes, of bytes, else of its plain data.

    Raises:
        TypeError: a value that is neither.
    """
    if is_image(value):
        return hash_bytes(value["bytes"])
    if isinstance(value, bytes):
        return hash_bytes(value)
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    return compute_digest("cell", plain)
