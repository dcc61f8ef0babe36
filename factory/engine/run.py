"""Runs a recipe into a run folder: plan, fill, top up, finalize, write the card."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from factory.core.errors import InputError, RunBrokenError
from factory.core.plain import write_json
from factory.data.features import build_final_schema
from factory.data.summary import StopTest, Summary
from factory.engine.committed import read_markers
from factory.engine.continuing import build_record, continue_run, has_commits, read_outline
from factory.engine.dataset import Dataset
from factory.engine.drain import Drain
from factory.engine.executors import Notify, NoWatch, Watch
from factory.engine.executors.machines import Machines, open_machines
from factory.engine.finalise import SUMMARY, Policy, Selected, Survey, survey_run
from factory.engine.forgotten import read_forgotten
from factory.engine.later import read_later
from factory.engine.notebook import show_dataset, show_summary
from factory.engine.placing import compare_files
from factory.engine.plan import Plan, build_plan
from factory.engine.repack import write_dataset
from factory.engine.rounds import Rounds, Told
from factory.engine.run_folder import Marker, RunFolder
from factory.engine.run_records import Quarantine
from factory.engine.stopping import Stopping, describe_test, open_record
from factory.engine.summary import (
    RECIPE,
    build_summary,
    describe_judges,
    describe_unfinished,
    read_summary,
)
from factory.engine.task import Order
from factory.filters import Decide
from factory.recipe.file import LoadedRecipe
from factory.recipe.licences import check_generation
from factory.recipe.recipe import Recipe, is_judging, restore_recipe
from factory.recipe.stop import Stop

WriteCard = Callable[[Dataset], object]
"""Writes the card of a finalized run."""


def leave_card(dataset: Dataset) -> None:
    """Writes no card: for runs that nobody is shown."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    url: str
    summary: Summary
    quarantined: tuple[Quarantine, ...]

    def _repr_html_(self) -> str:
        """What a notebook shows: counts and funnel, and images where a data set was written."""
        if self.summary.files is None or not self.summary.accepted:
            return show_summary(self.summary, self.url)
        return show_dataset(Dataset(self.url))

    @property
    def exit_code(self) -> int:
        """0 as asked, 1 with a shortfall, 3 where shards are quarantined."""
        if self.quarantined:
            return RunBrokenError.exit_code
        return 1 if self.summary.shortfalls else 0


def plan_recipe(loaded: LoadedRecipe) -> Plan:
    """Plans a recipe as a fresh run; its images have absolute paths, for workers elsewhere."""
    return build_plan(loaded.recipe, loaded.session)


def run_recipe(
    loaded: LoadedRecipe,
    url: str,
    notify: Notify,
    say: Callable[[str], None],
    extend: bool = False,
    planned: Plan | None = None,
    watch: Watch | None = None,
    write_card: WriteCard = leave_card,
) -> RunResult:
    """Makes, or goes on making, the data set of a recipe.

    Args:
        loaded: the checked recipe.
        url: run folder, local or any fsspec URL.
        notify: called for every shard that ended, and for those that were there already.
        say: called with one line at the start of each step.
        extend: allow the run to grow.
        planned: what `plan_recipe` gave, where the caller has it already.
        watch: told of progress inside the shards.
        write_card: writes the card of the data set beside its summary.

    Raises:
        InputError: the recipe, its inputs or the folder do not fit; nothing was touched.
        RunBrokenError: the run stopped and can be resumed.
    """
    recipe, folder = loaded.recipe, RunFolder(url, mend=say)
    check_generation(loaded)
    fresh = planned or plan_recipe(loaded)
    continue_run(folder, recipe, fresh, extend)  # refused before anything is touched
    command = "judge" if is_judging(recipe) else "run"
    with folder.hold(command) as lease, open_machines(recipe.workers) as machines:
        record, plan = continue_run(folder, recipe, fresh, extend)
        if record is None and folder.clear():
            say(f"{url}: another recipe began here and committed nothing: begun anew")
        rule, names = recipe.budget.stop, plan.class_names
        tested, real = open_record(rule, loaded.session, url, record, names)
        now = build_record(recipe, plan, tested)
        folder.write_run(now)
        order, policy = Order(recipe, loaded.session, url), build_policy(folder, recipe)
        try:
            first = None if record is None else find_first_marker(folder, plan)
            drain = Drain(say, lambda: lease.lost)
            told = Told(notify, say, watch or NoWatch(), drain)
            stopping = None
            if rule is not None and real is not None:
                stopping = Stopping(rule, loaded.session, folder, plan, now, real, say)
            rounds = Rounds(order, folder, plan, policy, told, machines, stopping)
            survey = rounds.fill(first)
        except InputError:
            if record is None and not has_commits(folder, build_record(recipe, plan)):
                folder.clear()
            raise
        judges = describe_judges(loaded)
        selected = Selected(folder, rounds.plan, policy, survey)
        return finalize(selected, recipe, machines, judges, say, write_card)


def finalize(
    selected: Selected,
    recipe: Recipe,
    machines: Machines,
    judges: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
    write_card: WriteCard = leave_card,
) -> RunResult:
    """Writes data set, summary and card of what is committed.

    `judges` is what `describe_judges` gave; None: as in the last summary.
    """
    folder, plan, survey = selected.folder, selected.plan, selected.survey
    summary = build_summary(folder, recipe, plan, survey)
    last = read_summary(folder)
    kept = {name: getattr(last, name, ()) for name in ("encoders", "warnings", "overrides")}
    summary = summary.change(**{**kept, **(judges or {})})
    if summary.shortfalls and recipe.budget.on_shortfall == "error":
        return RunResult(folder.url, summary, folder.list_quarantined())
    if last is not None and _is_written(folder, last, summary.digest, say):
        files: Any = last.files
    else:
        say("finalizing")
        names = sorted({*read_score_names(folder, survey), *selected.policy.later.missing})
        schema = build_final_schema(plan.class_names, names, recipe.columns, summary.maker)
        files = write_dataset(selected, recipe.output, schema, machines)
        last = None
    summary = summary.change(files=files)
    folder.files.write(RECIPE, write_json(recipe.model_dump(mode="json")).encode())
    if last is None or summary.model_dump() != last.model_dump():
        folder.files.write(SUMMARY, summary.dump())
    write_card(Dataset(folder.url, recipe, summary))
    return RunResult(folder.url, summary, folder.list_quarantined())


def _is_written(folder: RunFolder, last: Summary, digest: str, say: Callable[[str], None]) -> bool:
    """Tells whether the data set of this digest is there, as the last summary recorded it."""
    if last.files is None or last.digest != digest or not last.hashes:
        return False
    problem, compared = compare_files(folder.files, last.hashes, last.files.bytes or {})
    say(f"{problem}: the data set is written again" if problem else compared)
    return not problem


def refilter_run(
    folder: RunFolder, recipe: Recipe, decide: Decide | None, write_card: WriteCard = leave_card
) -> RunResult:
    """Decides anew over the stored scores, and writes the data set that follows; makes no image.

    Raises:
        MismatchError: not a run folder.
    """
    record = folder.require_run()
    outline = read_outline(record)
    policy = build_policy(folder, recipe, decide)
    with open_machines(recipe.workers) as machines:
        survey = survey_run(folder, outline, policy, machines)
        selected = Selected(folder, outline, policy, survey)
        return finalize(selected, recipe, machines, write_card=write_card)


def build_policy(folder: RunFolder, recipe: Recipe, decide: Decide | None = None) -> Policy:
    """Returns how the candidates of a recipe are selected.

    Raises:
        DamageError: scores that came after the run, by which it decides, are gone.
    """
    similarity = None if recipe.dedup is None else recipe.dedup.max_similarity
    later = read_later(folder, recipe)
    return Policy(
        recipe.budget.attempts, similarity, decide, recipe.pick, recipe.seed, later, recipe.early
    )


def read_score_names(folder: RunFolder, survey: Survey) -> list[str]:
    """Returns the names of all scores that the workers stored."""
    names: set[str] = set()
    for digest in survey.workers:
        names.update(folder.read_worker(digest).score_names)
    return sorted(names)


def find_first_marker(folder: RunFolder, plan: Plan) -> Marker | None:
    """Returns the marker of the first committed shard, or None for a fresh run."""
    markers = (folder.read_marker(shard) for shard in plan.iterate_shards())
    return next((marker for marker in markers if marker is not None), None)


def read_status(url: str) -> dict[str, Any]:
    """Returns how far a run is: shards done, filled of asked per series, quarantined shards.

    Raises:
        MismatchError: not a run folder.
    """
    folder = RunFolder(url)
    record = folder.require_run()
    outline = read_outline(record)
    filled: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    done = generated = candidates = 0
    for shard in outline.iterate_shards():
        markers = read_markers(folder, shard)
        candidates += sum(marker.rows for marker in markers)
        for marker in markers[:1]:
            done += 1
            filled[shard.series] += marker.filled
            generated += marker.generated
            rejected.update(marker.rejected)
    shards = outline.count_shards()
    summary = read_summary(folder)
    half = read_forgotten(folder).half
    problem = half or describe_unfinished(summary, shards - done, candidates)
    if summary is not None and not problem:  # near-duplicates, a pick or a refilter decided since
        filled = Counter({part.key: part.accepted for part in summary.series})
    tests, recipe = record.stop.tests if record.stop else (), restore_recipe(record.recipe)
    rule = recipe.budget.stop
    return {
        "name": record.name,
        "judged": is_judging(recipe),
        "shards": shards,
        "done": done,
        "generated": generated,
        "rejected": dict(rejected),
        "series": [
            {
                "label": part.label,
                "asked": part.count,
                "filled": filled[part.key],
                **({"ended": outline.stops[part.key]} if part.key in outline.stops else {}),
                **({"tests": mine} if (mine := _list_tests(tests, rule, part.key)) else {}),
            }
            for part in record.series
        ],
        "quarantined": [each.to_json() for each in folder.list_quarantined()],
        "finalized": not problem,
        "unfinished": problem,
    }


def _list_tests(tests: Iterable[StopTest], rule: Stop | None, key: str) -> list[str]:
    """Says what each test of a series found."""
    mine = [each for each in tests if each.series == key]
    return [] if rule is None else [describe_test(each, rule.when) for each in mine]
