"""What forgetting somebody would remove, and what must be decided before; touches nothing."""

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.core.errors import InputError, MismatchError
from factory.core.fields import Folder, Option, Options
from factory.data.folders import FolderKind, tell_kind_of
from factory.engine.continuing import read_outline
from factory.engine.forget.images import OwnImages, find_own_images
from factory.engine.forget.touched import Found, Matches, find_touched
from factory.engine.forget.trained import Traced, trace_trained
from factory.engine.forgotten import FORGOTTEN, Forgotten, ForgottenRecord, read_forgotten
from factory.engine.plan import Outline
from factory.engine.run_folder import RunFolder
from factory.models.session import Session
from factory.recipe.file import reopen_session
from factory.recipe.recipe import Recipe, restore_recipe

HASH = r"[0-9a-f]{64}"


class ForgetOptions(Options):
    """Who is forgotten, and what is decided about what learned from them."""

    groups: Annotated[tuple[str, ...], Option("--group", metavar="HASH")] = Field(
        min_length=1,
        description="Hash of a patient or slide, as rows have it; may be given again.",
    )
    dry_run: bool = Field(False, description="List what would be removed; touch nothing.")
    trained_unknown: Literal["keep", "touched"] | None = Field(
        None,
        description="What made or judged rows and does not tell whom it learned from: keep its "
        "rows, or count all of them as touched.",
    )
    yes: bool = Field(False, description="Remove even where no row is left.")
    no_top_up: bool = Field(False, description="Remove only; make no image instead.")
    base: Folder = Field(
        Path(),
        description="Folder of the recipe, where its relative paths start.",
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What is there of somebody, and what must be known to remove it.

    Attributes:
        folder: run folder.
        recipe: as the run recorded it.
        session: of the recipe.
        plan: its series and shards.
        forgotten: with whom is asked for now, as it is to be recorded.
        is_half: whether a removal of the same was begun before.
        found: rows.
        traced: what was trained.
        own: their images, where the recipe finds them.
    """

    folder: RunFolder
    recipe: Recipe
    session: Session
    plan: Outline
    forgotten: Forgotten
    is_half: bool
    found: Found
    traced: Traced
    own: OwnImages

    @property
    def record(self) -> ForgottenRecord:
        """What is to be recorded, so far."""
        assert self.forgotten.record is not None
        return self.forgotten.record

    def record_as(self, record: ForgottenRecord) -> "Look":
        """Writes the record, and returns what is known with it."""
        self.folder.confirm()
        self.folder.files.write(FORGOTTEN, record.dump())
        return replace(self, forgotten=Forgotten(record))

    def list_learned(self, options: ForgetOptions) -> list[str]:
        """Returns what counts as having learned from them, so that all rows are touched.

        Of a removal that was begun, this was decided then, whatever is said now.
        """
        if self.is_half:
            return [] if self.record.ended is None else [self.record.ended]
        unknown = self.traced.unknown if options.trained_unknown == "touched" else []
        return [str(each) for each in (*self.traced.touched, *(each for each, _ in unknown))]

    def to_json(self, options: ForgetOptions) -> dict[str, Any]:
        """Returns counts and names as plain data."""
        found, learned = self.found, self.list_learned(options)
        return {
            "patients": len(options.groups),
            "rows": found.rows + (found.kept if learned else 0),
            "accepted": found.accepted,
            "touched_as": dict(found.by.most_common()),
            "kept": 0 if learned else found.kept,
            "untold": found.untold,
            "parts": len(found.parts),
            "learned": [str(each) for each in self.traced.touched],
            "learned_unknown": [f"{each}: {why}" for each, why in self.traced.unknown],
            "compared": dict(self.own.compared),
            "images_not_read": self.own.unread,
        }


def look(folder: RunFolder, options: ForgetOptions) -> Look:
    """Looks for somebody in a run folder; reads only.

    Raises:
        InputError: not a run, somebody else is half forgotten, or nothing of them is there.
        StoreError: damaged data.
    """
    record = folder.require_run()
    recipe, plan = restore_recipe(record.recipe), read_outline(record)
    session = reopen_session(recipe, options.base)
    before = read_forgotten(folder)
    forgotten = _add(before, options.groups)
    is_half = before.record is not None and before.record.removing is not None
    if is_half and forgotten.record != before.record:
        raise MismatchError(
            f"{folder.url}: a `factory forget` of others was stopped in the middle: give it "
            "again, with the same --group, before this one"
        )
    matches = Forgotten(forgotten.record).matches
    found = Look(
        folder, recipe, session, plan, forgotten, is_half,
        find_touched(folder, plan, matches),
        trace_trained(recipe, session, matches),
        find_own_images(recipe, session, matches),
    )  # fmt: skip
    _refuse_strangers(found, before, options)
    return found


def check_asked(folder: RunFolder, options: ForgetOptions) -> None:
    """Refuses what is no hash, and what is no run folder.

    Raises:
        InputError: says what to give, and what to do with a merged set or a copy.
        MismatchError: none of factory's.
    """
    for group in options.groups:
        if re.fullmatch(HASH, group) is None:
            raise InputError(
                f"--group {group}: want the sha256 of the name of the patient or slide, 64 "
                f"characters of 0-9 and a-f: where that is the name, printf %s "
                f"{shlex.quote(group)} | sha256sum tells it"
            )
    kind = tell_kind_of(folder.files.exists)
    if kind is FolderKind.MERGED:
        raise InputError(
            f"{folder.url}: a merged set: forget in the runs that it was merged from, take the "
            "images out of the real set, and merge again into a new folder"
        )
    if kind is FolderKind.COPY:
        raise InputError(
            f"{folder.url}: a copy of a data set without its shards: forget in the run folder, and "
            "publish that again"
        )
    folder.require_run()


def _add(before: Forgotten, groups: Sequence[str]) -> Forgotten:
    record = before.record
    if record is None:
        record = ForgottenRecord(version=1, key=secrets.token_hex(16), patients=(), rows=0)
    asked = {Forgotten(record).digest(group) for group in groups}
    if asked <= {*record.patients}:
        return Forgotten(record)
    patients = tuple(sorted({*record.patients, *asked}))
    return Forgotten(record.model_copy(update={"patients": patients}))


def _refuse_strangers(found: Look, before: Forgotten, options: ForgetOptions) -> None:
    """Refuses hashes of nobody whose images the run is known to have used.

    Raises:
        InputError: names them.
    """
    known = found.found.groups | found.traced.groups | found.own.groups
    strange = [each for each in options.groups if each not in known and not before.matches([each])]
    if not strange or (options.trained_unknown == "touched" and found.traced.unknown):
        return
    untold = ""
    if found.found.untold:
        untold = (
            f" ({found.found.untold:,} rows come from real images or values that tell no patient: "
            "whose they are cannot be known here)"
        )
    unknown = "".join(
        f"\n  not known whom it learned from: {e}: {w}" for e, w in found.traced.unknown
    )
    raise InputError(
        f"{found.folder.url}: no row, no trained artefact and no real image that is found here is "
        f"of {', '.join(strange)}{untold}: nothing was touched. Give the sha256 of the name of the "
        "patient or slide, as `provenance` of rows has it, without a line end: printf %s NAME | "
        f"sha256sum{unknown}"
    )


def refuse_undecided(found: Look, options: ForgetOptions) -> None:
    """Refuses to remove what nobody asked for, and to keep what nobody knows.

    Raises:
        InputError: says with counts what must be decided.
    """
    if found.is_half:  # decided when it was begun
        return
    url, rows = found.folder.url, found.found.rows + found.found.kept
    if found.traced.unknown and options.trained_unknown is None and rows:
        lines = [f"  all {rows:,} rows were {e.work} {e}: {why}" for e, why in found.traced.unknown]
        raise InputError(
            f"{url}: it is not known whether the patient is in what made or judged rows; nothing "
            "was touched:\n" + "\n".join(lines) + "\n--trained-unknown keep leaves these rows, "
            "--trained-unknown touched counts all of them as the patient's"
        )
    learned = found.list_learned(options)
    if options.yes or not rows:
        return
    if learned:
        raise InputError(
            f"{url}: {', '.join(learned)} learned from the patient, so that all {rows:,} rows are "
            "touched; nothing was removed. Train again without the patient's images, and run the "
            "recipe with that into a new folder; --yes removes all rows here"
        )
    if not found.found.kept:
        raise InputError(
            f"{url}: all {rows:,} rows are the patient's; nothing was removed: --yes removes them"
        )


def match_all(groups: object) -> bool:
    """Tells that every row is touched, whoever it comes from."""
    return True


def choose_matches(found: Look) -> Matches:
    """Returns whose rows go: theirs, or all where what learned from them had a part in all."""
    return match_all if found.record.ended is not None else found.forgotten.matches
