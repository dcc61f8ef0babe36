"""What a search found as plain data: the answer, why, and every trial."""

from collections import Counter
from pathlib import Path
from typing import Any

from factory import __version__
from factory.core.stats.intervals import LEVEL
from factory.data.shots import count_classes
from factory.evaluate.fewshot.scores import ROUNDS
from factory.evaluate.tune import ADD_NOTHING, UNDECIDED, WRITTEN
from factory.evaluate.tune.asking import write_making
from factory.evaluate.tune.study import FAILED, MEASURED, OPEN, STOPPED, Found, Search
from factory.evaluate.tune.writing import show

CURSE = (
    "the gain of the chosen one on the folds by which it was chosen is too high by that choice "
    "(winner's curse); the check takes other folds and new images, but the same shots, so that "
    "a part of it may stay: only other patients can tell"
)


def build_result(search: Search, written: Path | None) -> dict[str, Any]:
    """Returns what `tune.json` holds, but its version."""
    best, check = search.best, search.check
    assert best.gain is not None
    counts = Counter(each.state for each in search.trials)
    searched = best.gain.to_json()
    checked = None if check is None else check.to_json()
    if check is not None:
        searched["optimism"] = round(best.gain.gain.mean - check.gain.mean, 6)
    return {
        "kind": "tune",
        "answer": _answer(search),
        "why": _explain(search),
        "chosen": dict(best.configuration),
        "searched": searched,
        "checked": checked,
        "recipe": None if written is None else str(written),
        "trials": [_describe_trial(each, search) for each in search.trials],
        "planned": len(search.trials),
        "states": {state: counts[state] for state in (MEASURED, STOPPED, FAILED, OPEN)},
        "seconds": round(search.seconds, 1),
        "notes": _list_notes(search),
        "settings": _describe(search),
    }


def _answer(search: Search) -> str:
    if not search.adds_nothing:
        return WRITTEN
    return ADD_NOTHING if search.is_decided else UNDECIDED


def _explain(search: Search) -> str:
    """Says what the answer rests on."""
    best, check = search.best, search.check
    assert best.gain is not None
    if best.gain.gain.mean <= 0:
        return f"no configuration gained anything: the best one {show(best.gain.gain)}"
    if check is None:
        return (
            f"the best one gained {show(best.gain.gain)} where it was chosen, and there was no "
            "time to check it on other folds: run the same command again"
        )
    where = "is above zero" if check.is_above else "is not above zero"
    asked = search.settings.repeats
    if check.repeats < asked:
        where += (
            f"; there was time for {check.repeats} of {asked} repeats: the same command goes on"
        )
    return (
        f"on other folds than those by which it was chosen the best one gains {show(check.gain)} "
        f"balanced accuracy over real shots alone ({check.real.mean:.3f}): the interval {where}"
    )


def _describe_trial(trial: Found, search: Search) -> dict[str, Any]:
    cells = list(trial.cells.values())
    runs = [cell.told["made"] for cell in cells if cell.told.get("made")]
    asked, accepted = (sum(run[name] for run in runs) for name in ("asked", "accepted"))
    heads = Counter(
        each["classifier"]
        for cell in cells
        for each in cell.told.get("chosen", ())
        if each["arm"] == "real+synthetic"
    )
    making = write_making(trial.configuration, search.base, trial.configuration.get("filter"))
    return {
        "configuration": dict(trial.configuration),
        "state": trial.state,
        "folds": len(cells),
        **({} if trial.gain is None else trial.gain.to_json()),
        **({"failed": trial.failed} if trial.failed else {}),
        "heads": dict(heads.most_common()),
        "unfilled": round(1 - accepted / asked, 4) if asked else None,
        "missing": sorted({cell.told["missing"] for cell in cells if cell.told.get("missing")}),
        "seconds": round(sum(cell.seconds for cell in cells), 1),
        "set": [each for each in making.overrides if each not in search.base.overrides],
    }


def _list_notes(search: Search) -> list[str]:
    notes = [CURSE]
    if any(image.group is None for image in search.shots.images):
        notes.append(
            "patients or slides are not known (--group-column, --group-pattern): shots of one "
            "patient may lie on both sides of a fold, which flatters every arm"
        )
    cells = [cell for each in search.trials for cell in each.cells.values()]
    told = [cell.told.get("notes", ()) for cell in cells]
    doubts = sum(any("than guessing" in note for note in notes) for notes in told)
    if doubts:
        notes.append(
            f"in {doubts} of {len(cells)} measured folds a classifier of the training shots could "
            "not be shown to beat guessing: what it kept, or led to, may be chosen by chance"
        )
    if search.adds_nothing and search.settings.out.exists():
        notes.append(f"{search.settings.out} is of an earlier answer, which does not hold")
    every = dict.fromkeys(note for each in told for note in each)
    leaks = [f"FORCED {note}" for note in every if note.startswith(("LABELS SEEN", "OTHER SHOTS"))]
    return [*leaks, *notes]


def _describe(search: Search) -> dict[str, Any]:
    settings, shots = search.settings, search.shots
    return {
        **search.describe(),
        "real": str(settings.real),
        "shots": {
            "images": len(shots),
            "per_class": dict(count_classes(shots, shots.class_names)),
            "patients_known": all(image.group is not None for image in shots.images),
            "sha256": shots.digest,
        },
        "configurations": search.space.count(search.base),
        "trials": settings.trials,
        "budget_seconds": settings.seconds,
        "rule": "the 95 % interval of the gain on other folds than those of the choice, above zero",
        "interval": {
            "level": LEVEL,
            "rounds": ROUNDS,
            "method": "percentile bootstrap over shots (patients or slides, where known) and "
            "repeats (pigeonhole, Owen 2007), shots within their class; paired",
        },
        "factory_version": __version__,
    }
