"""What a run folder recorded and what a recipe asks for: whether the one goes on with the other."""

import json
import re
import shlex
from typing import Any

from factory.core.errors import MismatchError
from factory.core.hashing import diff_values
from factory.data.artefact import Artefact
from factory.engine.finalise import SUMMARY
from factory.engine.forgotten import read_forgotten
from factory.engine.parts import PARTS
from factory.engine.plan import Generation, Outline, Plan, describe_content, extend_plan
from factory.engine.run_folder import GenerationRecord, RunFolder, RunRecord, SeriesRecord
from factory.engine.run_records import StopRecord, compute_run_id
from factory.engine.summary import RECIPE
from factory.recipe.conditions.series import (
    find_bag_size,
    find_details,
    find_quotas,
    find_shares,
    find_sizes,
)
from factory.recipe.earlier import split_duplicates
from factory.recipe.recipe import Recipe, compute_recipe_digest, select_deciding


class _Decisions(Artefact):
    """What of `recipe.json` decides, as an older version may have written it."""

    filters: list[dict[str, Any]]
    dedup: dict[str, Any] | None = None
    accept: str | None = None
    pick: dict[str, Any] | None = None


def continue_run(
    folder: RunFolder, recipe: Recipe, fresh: Plan, extend: bool
) -> tuple[RunRecord | None, Plan]:
    """Returns what a run folder recorded, and the plan of a recipe that goes on with it.

    A folder into which another recipe committed nothing is as good as a new one: no record. What a
    patient whom it forgot would make is passed over.

    Raises:
        MismatchError: the folder belongs to another recipe, or must grow and was not asked to.
        StoreError: the record is damaged.
    """
    record, forgotten = folder.read_run(), read_forgotten(folder)
    forgotten.refuse_ended(folder.url)
    fresh = forgotten.spare(fresh, recipe.budget.attempts)
    if record is None:
        return None, fresh
    try:
        plan = continue_plan(folder, record, recipe, fresh, extend)
    except MismatchError:
        if has_commits(folder, record):
            raise
        return None, fresh
    check_not_refiltered(folder, record)
    return record, plan


def continue_plan(
    folder: RunFolder, record: RunRecord, recipe: Recipe, plan: Plan, extend: bool
) -> Plan:
    """Returns the plan of a recipe that goes on with a record.

    Raises:
        MismatchError: it is of another recipe, or must grow and was not asked to.
    """
    _check_content(folder, record, recipe)
    grown = extend_plan(plan, read_outline(record).generations, extend, folder.url)
    attempts = record.recipe["budget"]["attempts"]
    check_attempts(attempts, recipe.budget.attempts, extend, folder.url)
    return grown


def _check_content(folder: RunFolder, record: RunRecord, recipe: Recipe) -> None:
    """Refuses to continue with other content.

    Raises:
        MismatchError: with a diff of what changed, and `factory refilter` where that is enough.
    """
    content = describe_content(recipe)
    differences = diff_values(split_duplicates(record.content), content)
    if not differences and compute_run_id(content) != compute_run_id(record.content):
        raise MismatchError(
            f"{folder.url}: was begun by an earlier version, with near_duplicate before other "
            "filters: it can be read, and not be gone on with; use another --out"
        )
    if not differences:
        return
    changed = "\n".join(f"  {name}: {old!r} -> {new!r}" for name, old, new in differences)
    if not all(only_decides(name) for name, _, _ in differences):
        raise MismatchError(
            f"{folder.url}: belongs to another recipe; nothing was touched. Changed:\n{changed}\n"
            "Restore these, or use another --out"
        )
    kinds = [each.name for each in recipe.filters]
    words = ["factory", "refilter", folder.url]
    for name, _, new in differences:
        named = re.sub(r"^filters\.(\d+)", lambda found: f"filters.{kinds[int(found[1])]}", name)
        words += ["--set", f"{named}={json.dumps(new)}"]
    raise MismatchError(
        f"{folder.url}: was run with other thresholds; nothing was touched. Changed:\n{changed}\n"
        f"This decides anew over the stored scores, once the run is finished:\n"
        f"  {shlex.join(words)}\nOr restore these, or use another --out"
    )


def only_decides(field: str) -> bool:
    """Whether a field of a recipe shapes no image and no score, e.g. `filters.1.min_fraction`.

    Thresholds are those whose name begins with their direction, also those of one channel.
    """
    ranks = r"dedup\.max_similarity|accept|pick\.(by|method)"
    return re.fullmatch(rf"filters\.\d+\.(.+\.)?(min|max)_.*|{ranks}", field) is not None


def check_attempts(old: int, new: int, extend: bool, where: str) -> None:
    """Lets the attempts per request only grow: those that were made cannot be unmade.

    Raises:
        MismatchError: fewer attempts, or more without being asked to grow.
    """
    if new < old:
        raise MismatchError(
            f"{where}: was run with budget.attempts {old}, got {new}: a run can only grow; use "
            "another --out"
        )
    if new > old and not extend:
        raise MismatchError(
            f"{where}: budget.attempts: {old} -> {new}: add --extend to go on with what is short"
        )


def check_not_refiltered(folder: RunFolder, record: RunRecord) -> None:
    """Refuses to undo a refilter unasked.

    Raises:
        MismatchError: the data set was made with other thresholds than the run's.
    """
    stored = folder.read(RECIPE, _Decisions) if folder.files.exists(SUMMARY) else None
    if stored is None:
        return
    now = select_deciding(stored.model_dump(mode="json"))
    differences = diff_values(select_deciding(record.recipe), now)
    if differences:
        changed = "; ".join(f"{name}: {old!r} -> {new!r}" for name, old, new in differences)
        raise MismatchError(
            f"{folder.url}: was refiltered ({changed}), which running again would undo: `factory "
            f"refilter {folder.url}` without --set goes back to the recipe's thresholds first"
        )


def has_commits(folder: RunFolder, record: RunRecord) -> bool:
    """Tells whether a run folder holds anything that another recipe must not replace."""
    if folder.files.exists(SUMMARY) or folder.files.list(PARTS):
        return True
    shards = read_outline(record).iterate_shards()
    return any(folder.has_marker(shard) for shard in shards)


def build_record(recipe: Recipe, plan: Plan, stop: StopRecord | None = None) -> RunRecord:
    """Returns the run record of a plan; `stop` is what was tested of its series."""
    return RunRecord(
        version=RunRecord.newest,
        name=recipe.name,
        recipe_sha256=compute_recipe_digest(recipe),
        content=describe_content(recipe),
        recipe=recipe.model_dump(mode="json"),
        series=tuple(
            SeriesRecord(
                key=part.key,
                label=part.label,
                class_names=part.class_names,
                count=part.count,
                **({"shares": shares} if (shares := find_shares(part)) else {}),
                **find_details(part),
                **({"sizes": sizes} if (sizes := find_sizes(part)) else {}),
                **({"bag_size": size} if (size := find_bag_size(part)) else {}),
                **find_quotas(part),
            )
            for part in plan.series
        ),
        generations=tuple(
            GenerationRecord(counts=dict(each.counts), shard_size=each.shard_size)
            for each in plan.generations
        ),
        **({} if stop is None else {"stop": stop}),
    )


def read_outline(record: RunRecord) -> Outline:
    """Returns the series and shards that a run folder recorded."""
    generations = [Generation(each.counts, each.shard_size) for each in record.generations]
    return Outline(
        record.series, tuple(generations), {} if record.stop is None else record.stop.stops
    )
