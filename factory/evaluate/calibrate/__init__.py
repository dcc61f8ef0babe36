"""Calibration: thresholds proposed from real images and first tries, with pictures and prices."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, MismatchError
from factory.core.files.atomic import write_file
from factory.core.files.new_folder import refuse_foreign
from factory.core.hashing import compute_digest
from factory.core.plain import write_json
from factory.engine.diversity import count_kept
from factory.engine.plan import Plan, describe_content
from factory.evaluate.calibrate.costs import Ask
from factory.evaluate.calibrate.foresight import (
    can_watch,
    list_shares,
    propose_early,
    watch_tries,
)
from factory.evaluate.calibrate.picture import draw_calibration
from factory.evaluate.calibrate.scored import (
    MISLABELLED,
    NO_CLASS,
    SYNTHETIC,
    Header,
    Scored,
    read_table,
    write_table,
)
from factory.evaluate.calibrate.study import ScoredSets, list_short
from factory.evaluate.calibrate.thresholds import Decider
from factory.recipe.file import LoadedRecipe
from factory.recipe.recipe import compute_recipe_digest

Say = Callable[[str], None]
OWN = r"(calibration|preview)\.(json|png)|scores\.parquet"
"""Names of the files that a calibration is made of."""
HALF = 0.5
FEW = 50
"""Real images of a class below which a proposal is called uncertain."""


def calibrate_recipe(
    loaded: LoadedRecipe,
    out: Path,
    say: Say,
    real: Path | None,
    count: int,
    keep: float,
    reuse: bool,
    image_column: str | None,
) -> dict[str, Any]:
    """Scores first tries and real images by a recipe's filters and proposes thresholds.

    Writes `calibration.json` (what is returned), `calibration.png`, `preview.png` and
    `scores.parquet`.

    Args:
        loaded: the checked recipe.
        out: folder, made if need be.
        say: called with one line at the start of each step.
        real: real images; None: those of the recipe's reference conditions, if any.
        count: first tries to sample, and the most real images of a class.
        keep: share in (0, 1] of the real images of every class that each threshold is to keep.
        reuse: take the scores of an earlier calibration in `out` instead of sampling.
        image_column: of the images in `real`.

    Returns:
        The sets, and what `ScoredSets.describe` says; `early`, what stopping hopeless tries would
        bring (`propose_early`); `set` and `yaml` to copy, and `short`, the series that would end
        under their count.

    Raises:
        InputError: `out` holds something else, no filter has a threshold, the real images do not
            fit, nothing to reuse, or half or fewer kept by both sides of one score.
        FactoryError: the model or a filter failed.
    """
    from factory.engine.run import plan_recipe

    refuse_foreign(out, OWN)
    recipe = loaded.recipe
    decider = Decider(recipe.filters, loaded.session, recipe.accept)
    _check_bounds(loaded, decider, keep)
    plan = plan_recipe(loaded)
    if reuse:
        header, rows = read_table(out, _digest_content(loaded))
        _check_series(out, rows, plan)
    else:
        header, rows = _score_sets(loaded, plan, out, (real, image_column), count, say)
    asks = tuple(
        Ask(part.key, part.label, count_kept(part.count, recipe.pick), part.count)
        for part in plan.series
    )
    study = ScoredSets(decider, tuple(rows), asks, recipe.budget.attempts, header.seconds, keep)
    say("choosing thresholds")
    report = _write_report(loaded, header, study)
    text = write_json(report)
    write_file(out / "calibration.json", text.encode())
    write_file(out / "calibration.png", draw_calibration(report))
    return report


def _check_bounds(loaded: LoadedRecipe, decider: Decider, keep: float) -> None:
    if not decider.bounds:
        raise InputError(f"{loaded.path}: no filter has a threshold: there is nothing to calibrate")
    sided = decider.find_two_sided()
    if sided is not None and keep <= HALF:
        raise InputError(
            f"--keep {keep:g}: {sided.kind} bounds {sided.score} from both sides, and two "
            f"thresholds that keep half of the images or fewer leave none between them: keep more"
        )


def _score_sets(
    loaded: LoadedRecipe,
    plan: Plan,
    out: Path,
    given: tuple[Path | None, str | None],
    count: int,
    say: Say,
) -> tuple[Header, list[Scored]]:
    """Reads, samples and scores; the real images first, so that what is wrong shows early."""
    from factory.engine.preview import draw_sheet
    from factory.engine.shard import Worker
    from factory.engine.task import Order
    from factory.evaluate.calibrate.real import asks_captions, has_classes, read_real, score_real
    from factory.evaluate.calibrate.trust import leave_out_known, note_fitted

    recipe = loaded.recipe
    real = read_real(loaded, given[0], plan.class_names, count, given[1])
    whole = recipe.model_copy(update={"early": None})  # thresholds are of whole images
    worker = Worker(Order(whole, loaded.session, "memory://calibration"))
    rows: list[Scored] = []
    notes: list[str] = []
    if real is not None:
        say(f"scoring {len(real.images)} real images of {real.about['path']}")
        size = worker.generator.capabilities
        shape = (size.height, size.width)
        captions = asks_captions(loaded)
        for mislabelled in (False, True) if has_classes(real) else (False,):
            rows += score_real(worker.filters, real, shape, captions, mislabelled)
        rows, known = leave_out_known(worker.filters, real, rows)
        notes = [*real.notes, *known, *note_fitted(worker.filters, real.about["sha256"])]
    say(f"sampling {min(count, plan.count_requests())} first tries")
    candidates, looks, seconds = _sample(worker, plan, count, can_watch(loaded))
    for candidate, seen in zip(candidates, looks, strict=True):
        job, scores = candidate.job, candidate.scores
        name = job.condition.class_name or NO_CLASS
        rows.append(Scored(SYNTHETIC, str(job.seed), name, job.request.series, scores, seen))
    write_file(out / "preview.png", draw_sheet(candidates, largest=128))
    header = Header(
        _digest_content(loaded), seconds, None if real is None else real.about, tuple(notes)
    )
    verdicts = [worker.decide(row.scores, row.class_name) for row in rows]
    write_table(
        out,
        header,
        rows,
        [
            {"accepted": each.accepted, "rejected_by": each.filter, "reason": each.reason}
            for each in verdicts
        ],
    )
    return header, rows


def _sample(
    worker: Any, plan: Plan, count: int, watches: bool
) -> tuple[list[Any], list[Any], float]:
    """Returns candidates, what was foreseen of each, and seconds for each, without the looks.

    The first batch warms up, if there is another.
    """
    from factory.engine.preview import judge_first_tries

    candidates: list[Any] = []
    looks: list[Any] = []
    batches: list[tuple[float, int]] = []
    began = time.perf_counter()
    if watches:
        for batch, seen, seconds in watch_tries(worker, plan, count):
            candidates, looks = candidates + batch, looks + seen
            batches.append((seconds, len(batch)))
    else:
        for batch in judge_first_tries(worker, plan, count):
            candidates, looks = candidates + batch, looks + [{} for _ in batch]
            batches.append((time.perf_counter() - began, len(batch)))
            began = time.perf_counter()
    timed = batches[1:] or batches
    seconds = sum(each for each, _ in timed) / sum(size for _, size in timed)
    return candidates, looks, round(seconds, 4)


def _write_report(loaded: LoadedRecipe, header: Header, study: ScoredSets) -> dict[str, Any]:
    described = study.describe()
    proposed = described["proposed"]["thresholds"]
    counts: dict[str, int] = {}
    for row in study.synthetic:
        counts[row.group] = counts.get(row.group, 0) + 1
    return {
        "recipe": loaded.recipe.name,
        "recipe_sha256": compute_recipe_digest(loaded.recipe),
        "keep": study.keep,
        "attempts": study.attempts,
        "seconds_per_candidate": header.seconds,
        "real": header.real,
        "synthetic": {"images": len(study.synthetic), "per_class": counts},
        "notes": [
            *header.notes,
            *_note_numbers(study, loaded.recipe.dedup is not None),
            *_note_mislabelled(described),
            *_note_unset(described, study),
        ],
        **described,
        "early": propose_early(study.decider, study.synthetic, list_shares(loaded)),
        "set": [f"{path}={_show_value(value)}" for path, value in proposed.items()],
        "yaml": _write_yaml(loaded, proposed),
        "short": [part["series"] for part in list_short(described["proposed"])],
        "short_now": [part["series"] for part in list_short(described["now"])],
    }


def _note_numbers(study: ScoredSets, has_dedup: bool) -> list[str]:
    """Returns what small or missing sets mean."""
    notes = []
    if not study.real:
        notes.append(
            "NO REAL IMAGES: the proposals keep that share of the synthetic images themselves, "
            "which says nothing of their quality: give real images with --real"
        )
    basis = study.real or study.synthetic
    counts = {group: sum(row.group == group for row in basis) for group in study.groups}
    few = [f"{group} ({number})" for group, number in counts.items() if 0 < number < FEW]
    if few:
        least = math.ceil(1 / (1 - study.keep)) if study.keep < 1 else None
        tell = "" if least is None else f"; under {least} images every one of them is kept"
        notes.append(f"few images of {', '.join(few)}: read the intervals{tell}")
    unseen = [
        ask.label for ask in study.asks if all(row.series != ask.key for row in study.synthetic)
    ]
    if unseen:
        notes.append(f"no first try of {', '.join(unseen)}: raise -n to expect anything of them")
    if has_dedup:
        notes.append("dedup acts at the end of a run and is not part of these numbers")
    return notes


def _note_mislabelled(described: dict[str, Any]) -> list[str]:
    """Returns a warning where the proposals hardly tell the classes apart, though filters try."""
    if not any(part["shown"] and part["sets"].get(MISLABELLED) for part in described["fields"]):
        return []
    found = described["proposed"][MISLABELLED].items()
    passed = [f"{each['share']:.0%} as {group}" for group, each in found if each["share"] > 0.5]
    if not passed:
        return []
    return [
        f"the proposed thresholds let most real images of another class through ("
        f"{', '.join(passed)}): lower --keep, or take a better classifier"
    ]


def _note_unset(described: dict[str, Any], study: ScoredSets) -> list[str]:
    what = "real" if study.real else "synthetic"
    return [
        f"{part['path']}: no proposal: no {what} image has {part['score']}, or none that it allows"
        for part in described["fields"]
        if part["proposed"] is None and part["now"] is not None
    ]


def _digest_content(loaded: LoadedRecipe) -> str:
    """Returns the digest of what shapes first tries and scores, without thresholds."""
    content = describe_content(loaded.recipe)
    for name in ("accept", "pick", "output", "budget", "name", "early"):
        content.pop(name, None)
    content["filters"] = [
        {key: value for key, value in each.items() if not key.startswith(("min_", "max_"))}
        for each in content["filters"]
    ]
    return compute_digest("calibration", content)


def _check_series(out: Path, rows: list[Scored], plan: Plan) -> None:
    found = {row.series for row in rows if row.set == SYNTHETIC}
    unknown = found - {part.key for part in plan.series}
    if unknown:
        raise MismatchError(
            f"{out}: was sampled for other conditions: calibrate again without --reuse"
        )


def _show_value(value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {v}" for k, v in value.items()) + "}"
    return str(value)


def _write_yaml(loaded: LoadedRecipe, proposed: dict[str, Any]) -> str:
    """Returns the recipe's `filters` with the proposals, one line each, ready to paste."""
    import yaml

    lines = ["filters:"]
    for settings in loaded.recipe.filters:
        described = settings.model_dump(mode="json", exclude_unset=True)
        for path, value in proposed.items():
            _, kind, field = path.split(".")
            if kind == settings.name:
                described[field] = value
        entry = yaml.safe_dump(described, default_flow_style=True, sort_keys=False, width=10**6)
        lines.append(f"  - {entry.strip()}")
    return "\n".join(lines) + "\n"


__all__ = ["calibrate_recipe"]
