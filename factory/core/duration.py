"""Durations in words, and read from them."""

import re

from factory.core.errors import InputError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def format_duration(seconds: float) -> str:
    """Returns e.g. `1 h 05 min`, `3 min`, `12 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def parse_duration(text: str) -> float:
    """Returns the seconds of e.g. `90s`, `30m`, `1.5h`.

    Raises:
        InputError: no such duration, or none at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text.strip())
    seconds = 0.0 if found is None else float(found[1]) * UNITS[found[2]]
    if not seconds:
        raise InputError(f"want a duration such as 90s, 30m or 2h, got {text!r}")
    return seconds
