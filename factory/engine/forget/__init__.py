"""Forgetting a patient: all rows that their images touched go, and the run goes on without them.

First it is recorded whom to forget, as keyed digests, so that from then on nothing of theirs is
made; then rows are removed shard by shard, then the data set is written anew, then what else shows
them is removed; last it is recorded that this is done. Killed at any point, the same call ends it,
and every other command that writes refuses the folder until then. What is left is then made up for,
as a run is resumed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import InputError, StoreError
from factory.core.yaml.reader import parse_document
from factory.data.summary import Summary
from factory.engine.dataset import Dataset
from factory.engine.executors import Outcome
from factory.engine.finalise import SUMMARY
from factory.engine.forget.look import (
    ForgetOptions,
    Look,
    check_asked,
    choose_matches,
    look,
    refuse_undecided,
)
from factory.engine.forget.remove import strip_part, strip_round, sweep
from factory.engine.forget.touched import find_touched, iterate_rounds
from factory.engine.forget.traces import (
    DESCRIBED,
    clean_later,
    clean_records,
    clean_reviews,
    find_traces,
    names_them,
    remove_measured,
    remove_set,
)
from factory.engine.parts import PARTS
from factory.engine.placing import BUILD, FOLDERS
from factory.engine.run import RunResult, WriteCard, leave_card, refilter_run, run_recipe
from factory.engine.run_folder import RunFolder
from factory.engine.summary import RECIPE, read_recipe, read_summary
from factory.filters import build_decide, build_filters
from factory.recipe.file import LoadedRecipe, reopen_session

__all__ = ["ForgetOptions", "ForgetResult", "forget_groups"]

Say = Callable[[str], None]


@dataclass(slots=True)
class ForgetResult:
    """How forgetting ended.

    Attributes:
        url: run folder.
        told: what was found: counts, and what learned from the patient.
        removed: rows that were removed by this call.
        measured: files of evaluations and reports that were removed.
        answers: cases and answers of reviews that were removed.
        traces: files that still name the patient or their images.
        open_end: why nothing was made instead, as it was not to be; empty otherwise.
        failed: why nothing was made instead although it was to be; empty otherwise.
        run: how the run ended that made up for it.
        is_dry: whether nothing was touched.
    """

    url: str
    told: dict[str, Any]
    removed: int = 0
    measured: list[str] = field(default_factory=list)
    answers: tuple[int, int] = (0, 0)
    traces: list[str] = field(default_factory=list)
    open_end: str = ""
    failed: str = ""
    run: RunResult | None = None
    is_dry: bool = False

    @property
    def summary(self) -> Summary | None:
        """Of the data set that is there now, where it was topped up."""
        return None if self.run is None else self.run.summary

    @property
    def exit_code(self) -> int:
        """0 as asked, 1 where something still names them or fewer images are there than asked."""
        if self.is_dry:
            return 0
        if self.traces or self.failed:
            return 1
        return 0 if self.run is None else self.run.exit_code

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        summary = self.summary
        return {
            "url": self.url,
            "dry_run": self.is_dry,
            **self.told,
            "removed": self.removed,
            "measured_removed": self.measured,
            "review_cases_removed": self.answers[0],
            "review_answers_removed": self.answers[1],
            "traces": self.traces,
            "not_topped_up": self.failed or self.open_end,
            "accepted_now": None if summary is None else summary.accepted,
            "asked_now": None if summary is None else summary.asked,
        }


def forget_groups(
    url: str,
    options: ForgetOptions,
    say: Say = lambda line: None,
    write_card: WriteCard = leave_card,
) -> ForgetResult:
    """Removes what patients' images touched from a run folder, and makes up for it.

    Args:
        url: run folder, local or any fsspec URL.
        options: who, and what is decided of what learned from them.
        say: called with one line at the start of each step.
        write_card: writes the card of the data set beside its summary.

    Raises:
        InputError: not a run, nobody of that hash, or something must be decided first; nothing was
            touched.
        HeldError: another command works on the folder; nothing was touched.
        StoreError: damaged data, or storage failed: the same call goes on.
        RunBrokenError: topping up stopped: the run is resumed as any other.
    """
    folder = RunFolder(url)
    check_asked(folder, options)
    say("looking for the patient's images")
    if options.dry_run:
        return ForgetResult(url, look(folder, options).to_json(options), is_dry=True)
    with folder.hold("forget"):
        found = look(folder, options)
        refuse_undecided(found, options)
        result = ForgetResult(url, found.to_json(options))
        found = _begin(found, options)
        _clean(found, result, options, say)
        _remove(found, result, say)
        has_set = _write_set(found, write_card, say)
        _end(found)
    _top_up(found, result, options, has_set, say, write_card)
    say("looking for what still names them")
    result.traces = find_traces(folder, found.forgotten.matches, _list_marks(found, options))
    return result


def _begin(found: Look, options: ForgetOptions) -> Look:
    """Records whom to forget, before anything is removed."""
    if found.is_half:
        return found
    learned = found.list_learned(options)
    rows = found.found.rows + (found.found.kept if learned else 0)
    update: dict[str, Any] = {"rows": found.record.rows + rows, "removing": rows}
    if learned:
        update["ended"] = ", ".join(learned)
    return found.record_as(found.record.model_copy(update=update))


def _clean(found: Look, result: ForgetResult, options: ForgetOptions, say: Say) -> None:
    """Removes what shows their rows and images besides, while rows still tell which these are."""
    marks = _list_marks(found, options)
    if found.record.removing or names_them(found.folder, marks):
        say("removing what was measured with them")
        result.measured = remove_measured(found.folder)
    result.answers = clean_reviews(found.folder, found.found.sample_ids | found.own.keys)
    clean_later(found.folder, found.found.sample_ids if found.record.ended is None else None)
    clean_records(found.folder, found.found.hashes | found.own.hashes, found.own.names)


def _remove(found: Look, result: ForgetResult, say: Say) -> None:
    folder, matches = found.folder, choose_matches(found)
    if found.record.removing:
        say(f"removing {found.record.removing:,} rows")
    ended = found.record.ended is not None
    rounds = [*iterate_rounds(folder, found.plan)] if ended else found.found.rounds
    result.removed = sum(strip_round(folder, one, matches) for one in rounds)
    if ended:
        folder.files.remove(PARTS)
    for name in [] if ended else found.found.parts:
        strip_part(folder, name, matches)
    folder.files.remove(BUILD)
    sweep(folder, found.plan)


def _write_set(found: Look, write_card: WriteCard, say: Say) -> bool:
    """Writes the data set without them, before anything is made instead; returns whether it did.

    Where none can be written, as nothing is left or the recipe wants it whole, it is removed.
    """
    folder = found.folder
    if not any(folder.files.exists(name) for name in (SUMMARY, *FOLDERS, *DESCRIBED)):
        return False
    if found.record.ended is None:
        if found.record.removing:
            say("writing the data set without them")
        now = read_recipe(folder) or found.recipe
        decide = None
        if Dataset(folder.url).is_refiltered:
            decide = build_decide(build_filters(now.filters, found.session), now.accept)
        if refilter_run(folder, now, decide, write_card).summary.files is not None:
            return True
    remove_set(folder)
    return False


def _end(found: Look) -> None:
    """Looks again that no row is left, and records that all is done."""
    left = find_touched(found.folder, found.plan, choose_matches(found))
    if left.rows or left.parts or (left.kept and found.record.ended is not None):
        raise StoreError(
            f"{found.folder.url}: {left.rows:,} rows of theirs were written meanwhile: stop what "
            "else works here, and give the same command again"
        )
    found.record_as(found.record.model_copy(update={"removing": None}))


def _top_up(
    found: Look,
    result: ForgetResult,
    options: ForgetOptions,
    has_set: bool,
    say: Say,
    write_card: WriteCard,
) -> None:
    """Makes what is missing now from what is left, as the run is resumed."""
    folder, recipe = found.folder, found.recipe
    if found.record.ended is not None:
        result.open_end = f"nothing can be made here: {found.record.ended} learned from the patient"
    elif options.no_top_up:
        result.open_end = "not topped up, as --no-top-up asks: run the same recipe into it again"
    elif not folder.files.exists(RECIPE):
        result.open_end = "the run was not finished: run the same recipe into it again"
    if result.open_end:
        return
    document = parse_document(json.dumps(recipe.model_dump(mode="json")), f"{result.url}/run.json")
    session = reopen_session(recipe, options.base)
    loaded = LoadedRecipe(recipe, options.base, Path(document.file), document, session)
    try:
        result.run = run_recipe(loaded, result.url, _pass_over, say, write_card=write_card)
    except InputError as error:
        now = read_summary(folder)
        if has_set and now is not None and not now.shortfalls:
            result.open_end = "nothing is missing: all that was asked for is there"
            return
        kept = "the data set is written without them" if has_set else "there is no data set"
        result.failed = f"not topped up ({kept}): {error}"
        if Dataset(result.url).is_refiltered:  # which says what to do
            return
        result.failed += (
            "\nWhere the patient's images were taken away before, "
            "the recipe plans others: bring them back until this is done, or run it into another "
            "folder"
        )


def _list_marks(found: Look, options: ForgetOptions) -> set[str]:
    return found.found.hashes | found.own.hashes | found.own.names | {*options.groups}


def _pass_over(outcome: Outcome) -> None:
    """Takes no notice of a shard that ended."""
