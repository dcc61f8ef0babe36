"""What thresholds cost: acceptance with its interval, candidates, seconds and shortfalls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.stats.intervals import compute_wilson
from factory.engine.estimate import expect_attempts
from factory.evaluate.calibrate.scored import Scored


@dataclass(frozen=True, slots=True)
class Ask:
    """What a series asks for: `pool` accepted images, of which `count` are kept."""

    key: str
    label: str
    count: int
    pool: int


def describe_share(accepted: NDArray[np.bool_]) -> dict[str, Any]:
    """Returns images, accepted, share (None without images) and the Wilson interval."""
    hits, total = int(accepted.sum()), len(accepted)
    found = compute_wilson(hits / total if total else math.nan, total)
    return {
        "images": total,
        "accepted": hits,
        "share": round(found.mean, 4) if total else None,
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def measure_cost(
    rows: Sequence[Scored],
    accepted: NDArray[np.bool_],
    asks: Sequence[Ask],
    attempts: int,
    seconds: float,
) -> dict[str, Any]:
    """Expects what a run would need, taking tries of a series for equally promising.

    A request has `attempts` tries. Near-duplicates, which are looked for at the end of a run, come
    on top.

    Args:
        rows: synthetic ones.
        accepted: (N,) verdicts on them.
        asks: the series; those without any row are left out of the totals.
        attempts: budget per request.
        seconds: per candidate.

    Returns:
        `acceptance` (share and interval over all rows), `series` (each with acceptance, expected
        accepted, shortfall, its bound at the low end of the interval, candidates per accepted
        image, and `attempts_needed` for no shortfall; None: no number suffices or none is known),
        and the totals `short`, `candidates_per_accepted` and `seconds_per_accepted`.
    """
    series = []
    candidates = kept = short = 0.0
    for ask in asks:
        mine = accepted[[row.series == ask.key for row in rows]]
        described = _measure_series(ask, mine, attempts)
        series.append(described)
        if len(mine):
            candidates += described["candidates"]
            kept += described["expected_accepted"]
            short += described["short"]
    per_accepted = candidates / kept if kept > 0 else None
    return {
        "acceptance": describe_share(accepted),
        "series": series,
        "short": round(short, 2),
        "candidates_per_accepted": _round(per_accepted),
        "seconds_per_accepted": _round(None if per_accepted is None else per_accepted * seconds),
    }


def _measure_series(ask: Ask, accepted: NDArray[np.bool_], attempts: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "series": ask.label,
        "asked": ask.count,
        **({"pool": ask.pool} if ask.pool != ask.count else {}),
        "acceptance": describe_share(accepted),
        "expected_accepted": None,
        "short": None,
        "short_at_worst": None,
        "candidates": None,
        "candidates_per_accepted": None,
        "attempts_needed": None,
    }
    if not len(accepted):
        return described
    share = float(accepted.mean())
    filled = _expect_filled(ask, share, attempts)
    candidates = ask.pool * expect_attempts(share, attempts)
    worst = ask.count - _expect_filled(ask, described["acceptance"]["low"], attempts)
    return described | {
        "expected_accepted": round(filled, 2),
        "short": round(ask.count - filled, 2),
        "short_at_worst": round(worst, 2),
        "candidates": round(candidates, 1),
        "candidates_per_accepted": _round(candidates / filled if filled > 0 else None),
        "attempts_needed": _find_attempts(ask, share),
    }


def is_short(part: dict[str, Any]) -> bool:
    """Says whether a series of `measure_cost` is expected to end under its count."""
    return part["short"] is not None and round(part["short"]) >= 1


def _expect_filled(ask: Ask, share: float, attempts: int) -> float:
    """Expected images kept: each request is filled with probability 1 - (1 - share)^attempts."""
    return min(float(ask.count), ask.pool * (1.0 - (1.0 - share) ** attempts))


def _find_attempts(ask: Ask, share: float) -> int | None:
    """Returns the attempts at which less than half an image is expected to miss."""
    if share <= 0:
        return None
    if share >= 1:
        return 1
    open_share = (ask.pool - ask.count + 0.5) / ask.pool
    return max(1, math.ceil(math.log(min(open_share, 1.0)) / math.log(1.0 - share)))


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
