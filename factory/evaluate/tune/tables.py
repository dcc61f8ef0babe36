"""The table of a search, for the terminal and as markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

from factory.core.duration import format_duration
from factory.evaluate.figures import align
from factory.evaluate.tune import WRITTEN


def write_lines(result: Mapping[str, Any], markdown: bool = False) -> list[str]:
    """Returns the trials, best first, then the answer."""
    return [*_write_table(result, markdown), "", *_write_answer(result)]


def tabulate_trials(result: Mapping[str, Any]) -> list[list[str]]:
    """Returns a head, and a row of each trial, the best first."""
    trials = sorted(
        result["trials"], key=lambda each: -each["gain"]["mean"] if "gain" in each else 9.0
    )
    keys = list(dict.fromkeys(key for each in trials for key in each["configuration"]))
    head = [*(key.replace("_", " ") for key in keys), "gain on held-out shots", "+synthetic"]
    rows = [[*head, "real", "unfilled", "folds", "state", "seconds"]]
    for each in trials:
        chosen = [str(each["configuration"].get(key, "")) for key in keys]
        has = "gain" in each
        figures = [_show(each["gain"])] if has else [""]
        figures += [f"{each[arm]['mean']:.3f}" if has else "" for arm in ("real+synthetic", "real")]
        unfilled = "" if each["unfilled"] is None else f"{each['unfilled']:.0%}"
        rows.append(
            [
                *chosen,
                *figures,
                unfilled,
                str(each["folds"]),
                each["state"],
                f"{each['seconds']:.0f}",
            ]
        )
    return rows


def _write_table(result: Mapping[str, Any], markdown: bool) -> Iterator[str]:
    rows = tabulate_trials(result)
    if not markdown:
        yield from align(rows)
        return
    for place, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if place == 0:
            yield f"| {' | '.join('---' for _ in row)} |"


def _write_answer(result: Mapping[str, Any]) -> Iterator[str]:
    states, settings = result["states"], result["settings"]
    told = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    yield (
        f"{result['planned']} of {settings['configurations']} configurations: {told}; "
        f"{format_duration(result['seconds'])} of {format_duration(settings['budget_seconds'])}"
    )
    chosen = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in result["chosen"].items())
    yield f"best: {chosen}"
    yield f"  where it was chosen: {_show(result['searched']['gain'])}"
    if result["checked"] is not None:
        yield (
            f"  on other folds: {_show(result['checked']['gain'])}; optimism of the choice "
            f"{result['searched']['optimism']:+.3f}"
        )
    yield ""
    yield (
        f"{result['answer'].upper()}: {result['why']}"
        if result["answer"] != WRITTEN
        else (f"wrote {result['recipe']}: {result['why']}")
    )


def _show(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"
