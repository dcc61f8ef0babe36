"""The tables that `factory evaluate fewshot` prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.evaluate.fewshot.protocol import tell_changes
from factory.evaluate.figures import align

StudyResult = Mapping[str, Any]


def list_studies(result: StudyResult) -> list[StudyResult]:
    """Returns the study of every count of shots."""
    return list((result.get("shots") or {"": result}).values())


def write_study(study: StudyResult) -> Iterator[str]:
    """Yields settings, arms, differences, classes and curve of one count of shots."""
    if study["settings"].get("protocol"):
        yield tell_changes(study["settings"]["protocol"])
    yield _describe(study["settings"])
    for leak in study["leaks"]:
        yield f"FORCED {leak}"
    metrics = list(next(iter(study["arms"].values())))
    rows = [["arm", "real", "synthetic", *(name.replace("_", " ") for name in metrics), "gain"]]
    for arm, figures in study["arms"].items():
        gain = study["relative_gain"].get(arm)
        rows.append(
            [
                _mark(arm, study),
                *_count_images(study["images"][arm]),
                *(_show(figures[name]) for name in metrics),
                "" if gain is None else f"{gain['mean']:+.1%}",
            ]
        )
    yield from align(rows)
    if study["paired"]:
        yield "\ndifference in balanced accuracy"
        yield from align(
            [[_mark_pair(k, study), _show(v, "+")] for k, v in study["paired"].items()]
        )
    yield "\nrecall by class"
    names = study["settings"]["classes"]
    rows = [["arm", *names]]
    for arm, found in study["per_class"].items():
        rows.append([_mark(arm, study), *(_show(found[name]["recall"]) for name in names)])
    yield from align(rows)
    yield from _write_tuned(study.get("tuned") or {})
    yield from _write_fidelity(study)
    yield from _write_making(study)
    if study["curve"]:
        mark = "".join(f" [{each}]" for each in study["marks"].get("real+synthetic", ()))
        yield f"\nreal+synthetic by synthetic images of each class{mark}"
        rows = [[str(p["per_class"]), _show(p["balanced_accuracy"])] for p in study["curve"]]
        yield from align(rows)
    yield ""


def _write_tuned(tuned: StudyResult) -> Iterator[str]:
    """Yields arms of the chosen classifiers, what they gain, and those of each classifier."""
    if not tuned:
        return
    marks = tuned["marks"]
    yield ""
    yield (
        f"tuned inside the shots, {tuned['settings']['folds']} folds: balanced accuracy of the "
        "classifier that each draw chose, and of each one"
    )
    arms = list(tuned["arms"])
    named = [arm + "".join(f" [{mark}]" for mark in marks.get(arm, ())) for arm in arms]
    rows = [["classifier", *named], ["chosen", *(_find(tuned["arms"], arm) for arm in arms)]]
    for name, found in tuned["classifiers"].items():
        rows.append([name, *(_find(found, arm) for arm in arms)])
    yield from align(rows)
    yield "\nagainst the best baseline, and the untuned classifier"
    gains = [value["mean"] for value in tuned["relative_gain"].values()]
    pairs = zip(tuned["paired"].items(), gains, strict=True)
    yield from align([[name, _show(value, "+"), f"{gain:+.1%}"] for (name, value), gain in pairs])


def _find(arms: StudyResult, arm: str) -> str:
    return _show(arms[arm]["balanced_accuracy"]) if arm in arms else ""


def _write_making(study: StudyResult) -> Iterator[str]:
    """Yields how far the test set is from the training set, and what the images cost."""
    gap = study.get("domain_gap")
    if gap:
        yield (
            f"\ndomain gap: test images are told from training images with AUROC "
            f"{_show(gap['auroc'])} on {gap['encoder']} (.5: alike)"
        )
    runs = study.get("making")
    if runs:
        total = {
            name: sum(run[name] for run in runs) for name in ("asked", "accepted", "generated")
        }
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        shares = [run["largest_share"] for run in runs if run["largest_share"] is not None]
        most = f"; one shot gives {max(shares):.0%} of a class at most" if shares else ""
        yield (
            f"\nsynthetic images: {total['accepted']:,} of {total['asked']:,} asked for "
            f"({1 - total['accepted'] / total['asked']:.1%} unfilled) of {total['generated']:,} "
            f"candidates, {seconds:,.0f} s for those of a draw{most}"
        )


def _write_fidelity(study: StudyResult) -> Iterator[str]:
    if study["label_fidelity"]:
        yield ""
        yield "label fidelity: share whose class a classifier of all real images but the shots sees"
        names = study["settings"]["classes"]
        rows = [["images of", "number", "mean of classes", *names]]
        for kind, found in study["label_fidelity"].items():
            shares = [found["recall"].get(name) for name in names]
            cells = ("" if share is None else _show(share) for share in shares)
            rows.append([kind, str(found["images"]), _show(found["balanced_accuracy"]), *cells])
        yield from align(rows)


def _describe(settings: Mapping[str, Any]) -> str:
    if settings["model"] is None:
        made = f"linear head on {settings['encoder']['id']}"
    else:
        made = f"{settings['model']} from {settings['start']}, {settings['dtype']}"
    steps = f"{settings['steps']} steps of {settings['batch_size']} for every arm"
    if "steps_of" in settings:
        counts = [each for found in settings["steps_of"].values() for each in found]
        steps = f"{min(counts)} to {max(counts)} steps of {settings['batch_size']}"
    return (
        f"{settings['shots']} shots, {len(settings['seeds'])} draws; {made}, {settings['size']} px "
        f"({settings['fit']}); {steps} "
        f"({settings['steps_rule']}); tested on {settings['test']['images']:,} images; 95 % "
        f"intervals over {settings['interval']['resampled']}"
    )


def _mark(arm: str, study: StudyResult) -> str:
    return arm + "".join(f" [{mark}]" for mark in study["marks"].get(arm, ()))


def _mark_pair(pair: str, study: StudyResult) -> str:
    marks = [mark for arm in pair.split(" - ") for mark in study["marks"].get(arm, ())]
    return pair + "".join(f" [{mark}]" for mark in dict.fromkeys(marks))


def _count_images(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns real and synthetic images of an arm, over all classes, as ranges over draws."""
    cells = []
    for kind in ("real", "synthetic"):
        totals = sorted({sum(each[kind].values()) for each in images})
        low, high = totals[0], totals[-1]
        cells.append(f"{low:,}" if low == high else f"{low:,}-{high:,}")
    return cells


def _show(interval: Mapping[str, float], sign: str = "") -> str:
    """E.g. `.712 (.690-.734)`; differences with signs."""
    mean, low, high = (format(interval[name], f"{sign}.3f") for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if sign else f"{mean} ({low}-{high})"
