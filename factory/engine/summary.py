"""What a run says of itself when it is finalized: counts, funnel, filters, judges and makers."""

import dataclasses
from typing import Any

from pydantic import ValidationError

from factory import __version__
from factory.core.errors import StoreError
from factory.core.hashing import compute_digest
from factory.data.artefact import describe_problem
from factory.data.summary import Cut, SeriesSummary, Summary
from factory.engine.committed import count_beyond
from factory.engine.finalise import SUMMARY, Survey
from factory.engine.forgotten import read_forgotten
from factory.engine.plan import Outline
from factory.engine.run_folder import RunFolder
from factory.recipe.conditions.series import find_details
from factory.recipe.earlier import join_duplicates
from factory.recipe.file import LoadedRecipe
from factory.recipe.judge_overlap import find_circles, list_encoders
from factory.recipe.licences import describe_source
from factory.recipe.recipe import Recipe, compute_recipe_digest, is_judging, restore_recipe

RECIPE = "recipe.json"
"""The recipe that the data set follows: that of the run, or as refiltered."""


def build_summary(folder: RunFolder, recipe: Recipe, plan: Outline, survey: Survey) -> Summary:
    """Returns counts, funnel and makers of a run: what `--json` prints and the card is made of."""
    series, stop = [], _list_stops(folder, recipe, plan)
    for part in plan.series:
        funnel = survey.funnel[part.key]
        wanted = plan.count_wanted(part.key, funnel.asked)
        series.append(
            SeriesSummary(
                key=part.key,
                label=part.label,
                class_names=part.class_names,
                short=0 if is_judging(recipe) else wanted - funnel.accepted,
                **funnel.to_json(),
                **({"stop": stop[part.key]} if part.key in stop else {}),
                **find_details(part),
            )
        )
    filters = [settings.summarise() for settings in recipe.filters]
    dedup = None if recipe.dedup is None else recipe.dedup.model_dump(mode="json")
    forgotten = read_forgotten(folder).describe()
    return Summary(
        version=Summary.newest,
        name=recipe.name,
        recipe_sha256=compute_recipe_digest(recipe),
        asked=sum(each.asked for each in survey.funnel.values()),
        accepted=survey.accepted,
        judged=is_judging(recipe),
        generated=sum(each.generated for each in survey.funnel.values()),
        class_names=plan.class_names,
        series=tuple(series),
        filters=tuple(filters),
        **({} if dedup is None else {"dedup": dedup}),
        **_list_rules(recipe),
        seconds={name: round(value, 2) for name, value in sorted(survey.seconds.items())},
        cut_prompts={
            name: Cut(candidates=count, tokens=dropped)
            for name, (count, dropped) in sorted(survey.cut.items())
        },
        missing_shards=len(survey.missing),
        approval=recipe.generator.approval,
        source_terms=describe_source(recipe.card),
        **({} if forgotten is None else {"forgotten": forgotten}),
        makers=tuple(folder.read_worker(digest) for digest in sorted(survey.workers)),
        digest=compute_digest(
            "dataset",
            [
                __version__,
                survey.shards,
                plan.class_names,
                join_duplicates({"filters": filters, "dedup": dedup})["filters"],
                recipe.output.model_dump(mode="json", exclude={"path"}),
                *_list_rules(recipe).values(),
                *([dict(sorted(plan.stops.items()))] if plan.stops else []),
            ],
        ),
    )


def _list_stops(folder: RunFolder, recipe: Recipe, plan: Outline) -> dict[str, dict[str, Any]]:
    """Returns how each series ended, and its tests, where `budget.stop` may end it."""
    if recipe.budget.stop is None:
        return {}
    record, beyond = folder.require_run().stop, count_beyond(folder, plan)
    tests = [each.to_json() for each in record.tests] if record else []
    found: dict[str, dict[str, Any]] = {}
    for part in plan.series:
        made, beside = beyond.get(part.key, (0, 0))
        mine = [each for each in tests if each["series"] == part.key]
        told = {"at": plan.stops.get(part.key), "beyond": made, "beside": beside, "tests": mine}
        found[part.key] = told
    return found


def _list_rules(recipe: Recipe) -> dict[str, Any]:
    """Returns how verdicts are combined, images picked, tries and series ended, where told."""
    rules = {
        "accept": recipe.accept,
        "pick": None if recipe.pick is None else recipe.pick.model_dump(mode="json"),
        "early": None if recipe.early is None else recipe.early.model_dump(mode="json"),
        "stop": None if recipe.budget.stop is None else recipe.budget.stop.summarise(),
    }
    return {name: rule for name, rule in rules.items() if rule is not None}


def read_summary(folder: RunFolder) -> Summary | None:
    """Returns the summary of the last finalizing, or None.

    Raises:
        StoreError: it is damaged; where the folder is opened to be mended it counts as absent.
    """
    return folder.read(SUMMARY, Summary)


def read_recipe(folder: RunFolder) -> Recipe | None:
    """Returns the recipe that the data set follows, or None where none was finalized.

    Raises:
        StoreError: it is damaged.
    """
    if not folder.files.exists(RECIPE):
        return None
    try:
        return restore_recipe(folder.files.read(RECIPE))
    except ValidationError as error:
        raise StoreError(
            f"{folder.url}/{RECIPE}: damaged ({describe_problem(error)}): run the recipe into this "
            "folder again, which writes it anew"
        ) from error


def describe_unfinished(summary: Summary | None, missing: int, candidates: int) -> str:
    """Returns why a data set is not what its run makes, or an empty text: the one answer to that.

    Args:
        summary: of the last finalizing, or None.
        missing: shards that are not committed.
        candidates: that all committed shards hold.
    """
    if summary is None or summary.files is None:
        return "there is no summary.json of a data set that was written"
    if missing:
        return f"{missing:,} shards are missing"
    if summary.candidates != candidates:
        return f"{candidates:,} candidates are there, it was made of {summary.candidates:,}"
    return ""


def describe_judges(loaded: LoadedRecipe) -> dict[str, Any]:
    """Returns which encoders decide what is kept, and a warning for each that is partial."""
    encoders = [dataclasses.asdict(each) for each in list_encoders(loaded.recipe, loaded.session)]
    return {
        "encoders": encoders,
        "warnings": [*find_circles(loaded.recipe, loaded.session)],
    }
