"""Identity: canonical JSON, versioned sha256 digests, and the seeds and ids derived from them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from factory.core.errors import MismatchError

VERSION = 1
"""Part of every digest. Raise it only when the meaning of an existing digest must change."""


def to_canonical_json(value: Any) -> str:
    """Serialises plain data so that equal values give equal text.

    Keys are sorted, separators are tight, and NaN or infinity are refused.

    Raises:
        ValueError: a float that is not finite.
        TypeError: a value that JSON cannot hold.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def compute_digest(purpose: str, value: Any) -> str:
    """Returns the sha256 (64 hex characters) of `value`, separated by purpose and version."""
    text = f"factory/{VERSION}/{purpose}\n{to_canonical_json(value)}"
    return hashlib.sha256(text.encode()).hexdigest()


def hash_bytes(data: bytes) -> str:
    """Returns the sha256 of raw bytes, 64 hex characters."""
    return hashlib.sha256(data).hexdigest()


def derive_seed(seed: int, *key: str | int) -> int:
    """Derives a non-negative 63-bit seed from a root seed and a key.

    Fits int64 columns and `torch.Generator.manual_seed`. Equal arguments give equal seeds on any
    machine; nothing about batches, workers or time enters.
    """
    return int(compute_digest("seed", [seed, *key])[:16], 16) >> 1


def drop_none(value: Any) -> Any:
    """Returns plain data without the fields that are None, at any depth."""
    if isinstance(value, Mapping):
        return {key: drop_none(each) for key, each in value.items() if each is not None}
    return [drop_none(each) for each in value] if isinstance(value, list) else value


def _are_lists_alike(*values: Any) -> bool:
    """Whether all are lists of mappings, and of one length."""
    are_lists = all(isinstance(value, list | tuple) for value in values)
    return are_lists and all(
        len(value) == len(values[0]) and all(isinstance(each, Mapping) for each in value)
        for value in values
    )


def refuse_change(where: str, what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to go on where two nested mappings differ.

    Args:
        where: the folder, for the message.
        what: it is or holds, of the old values.
        old: as stored.
        new: as asked for.

    Raises:
        MismatchError: with a diff.
    """
    differences = diff_values(old, new)
    if differences:
        changed = "\n".join(f"  {name}: {a!r} -> {b!r}" for name, a, b in differences)
        raise MismatchError(
            f"{where}: {what}; nothing was touched. Changed:\n{changed}\n"
            "Restore these, or use another --out"
        )


def diff_values(
    old: Mapping[Any, Any], new: Mapping[Any, Any], prefix: str = ""
) -> tuple[tuple[str, Any, Any], ...]:
    """Lists (dotted field, old value, new value) wherever two nested mappings differ.

    A field that is None and one that is missing are the same; lists of mappings of one length are
    compared place by place.
    """
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*old, *new}):
        field = f"{prefix}{key}"
        before: Any = old.get(key)
        after: Any = new.get(key)
        if _are_lists_alike(before, after):
            before, after = dict(enumerate(before)), dict(enumerate(after))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found.extend(diff_values(before, after, f"{field}."))
        elif drop_none(before) != drop_none(after):
            found.append((field, before, after))
    return tuple(found)
