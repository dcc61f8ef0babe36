"""The state of a run that a report is on: recipe in force, decisions, counts, what is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.data.summary import Summary
from factory.engine.continuing import read_outline
from factory.engine.dataset import Dataset
from factory.engine.finalise import Policy, Survey, survey_run
from factory.engine.plan import Outline
from factory.engine.run import build_policy, read_score_names
from factory.engine.run_folder import RunFolder
from factory.engine.run_records import Quarantine
from factory.engine.summary import build_summary
from factory.evaluate.calibrate.thresholds import Decider
from factory.filters.base import round_limit
from factory.publish.report.margins import Limit
from factory.recipe.file import reopen_session
from factory.recipe.recipe import Recipe, restore_recipe


@dataclass(frozen=True, slots=True)
class RunState:
    """What is committed of a run, and how it is decided now.

    Attributes:
        folder: run folder.
        recipe: in force: as refiltered, where it was.
        outline: series and shards.
        policy: how candidates are selected.
        survey: what a walk over the committed shards found.
        summary: as `factory.engine.run.build_summary` gives it.
        decider: filters, and the thresholds that bound scores.
        score_names: all scores that workers stored.
        shards: planned; those not committed are in `survey.missing`.
        is_finished: the data set of just these counts is written.
        is_refiltered: thresholds differ from those that the run was made with.
        quarantined: shards that kept failing.
    """

    folder: RunFolder
    recipe: Recipe
    outline: Outline
    policy: Policy
    survey: Survey
    summary: Summary
    decider: Decider
    score_names: tuple[str, ...]
    shards: int
    is_finished: bool
    is_refiltered: bool
    quarantined: tuple[Quarantine, ...]

    @property
    def done(self) -> int:
        """Shards committed."""
        return self.shards - len(self.survey.missing)

    @property
    def labels(self) -> dict[str, str]:
        """Series key -> what it is called, no two alike."""
        found: dict[str, str] = {}
        for part in self.outline.series:
            same = sum(each.label == part.label for each in self.outline.series[: len(found)])
            found[part.key] = f"{part.label} ({same + 1})" if same else part.label
        return found

    def list_limits(self) -> list[Limit]:
        """Returns the thresholds that are set."""
        rule, found = self.decider.rule, []
        for bound in self.decider.bounds:
            value = self.decider.read_value(bound)
            if value is not None:
                limit = _round_limit(value)
                decides = rule is None or bound.kind in rule.kinds
                found.append(
                    Limit(bound.kind, bound.name, bound.score, limit, bound.is_lower, decides)
                )
        return found


def _round_limit(value: float | dict[str, float]) -> float | dict[str, float]:
    """Returns a threshold, for all or by class, as filters compare it."""
    if isinstance(value, dict):
        return {name: round_limit(each) for name, each in value.items()}
    return round_limit(value)


def read_state(url: str, base: Path, say: Callable[[str], None]) -> RunState:
    """Reads a run folder, finished or not.

    Args:
        url: run folder or fsspec URL.
        base: folder that the recipe's relative paths start from, if they are still needed.
        say: called with one line at the start of each step.

    Raises:
        MismatchError: not a run folder.
        StoreError: damaged data.
    """
    folder, dataset = RunFolder(url), Dataset(url)
    record = folder.require_run()
    recipe = dataset.in_force or restore_recipe(record.recipe)
    decider = Decider(recipe.filters, reopen_session(recipe, base), recipe.accept)
    policy = build_policy(folder, recipe, decider.decide_now if dataset.is_refiltered else None)
    outline = read_outline(record)
    say("reading decisions")
    survey = survey_run(folder, outline, policy)
    summary = build_summary(folder, recipe, outline, survey)
    return RunState(
        folder=folder,
        recipe=recipe,
        outline=outline,
        policy=policy,
        survey=survey,
        summary=summary,
        decider=decider,
        score_names=tuple(sorted({*read_score_names(folder, survey), *policy.later.missing})),
        shards=outline.count_shards(),
        is_finished=not survey.missing and _count(dataset.summary) == _count(summary),
        is_refiltered=dataset.is_refiltered,
        quarantined=folder.list_quarantined(),
    )


def _count(summary: Summary | None) -> Any:
    """Returns what must be equal for a stored summary to describe what is committed."""
    if summary is None:
        return None
    names = ("key", "asked", "accepted", "generated", "spare")
    return [[getattr(part, name) for name in names] for part in summary.series]
