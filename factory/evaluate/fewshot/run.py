"""A few-shot study from its sources: sets read, images of draws made, all arms measured."""

from typing import Any

from factory.core.errors import InputError
from factory.core.plain import write_json
from factory.data.shots import list_real, split_held_out
from factory.evaluate.base import Context
from factory.evaluate.cells import CellStore
from factory.evaluate.fewshot import Fewshot
from factory.evaluate.fewshot.generate import RecipeProvider
from factory.evaluate.fewshot.learners import build_learner
from factory.evaluate.fewshot.making import run_fully
from factory.evaluate.fewshot.plots import draw_arms, draw_curve
from factory.evaluate.fewshot.providers import FolderProvider, Provider
from factory.evaluate.fewshot.results import build_results
from factory.evaluate.fewshot.settings import Making, MakingOptions, check_settings
from factory.evaluate.fewshot.study import Study
from factory.evaluate.workers import count_workers


def measure(settings: Fewshot.Settings, context: Context) -> dict[str, Any]:
    """Measures all arms; with `out`, results and plots land there, and the same call resumes.

    Raises:
        InputError: sources or settings that do not fit, or leaks.
        SourceError: images that cannot be read.
        RunBrokenError: shards of a run failed.
    """
    check_settings(settings)
    if settings.tune and (settings.workers or 1) > 1:
        raise InputError(
            f"--workers {settings.workers} with --tune: what is tuned is trained in one process: "
            "leave --workers out, or --tune"
        )
    columns = (settings.group_column, settings.group_pattern, settings.image_column)
    train = list_real(settings.real, *columns)
    if settings.test is None:
        train, test = split_held_out(train)
    else:
        test = list_real(settings.test, *columns)
    store = CellStore(settings.out)
    study = Study(
        settings,
        train,
        test,
        _choose_provider(settings, context),
        store,
        context.say,
        context.open_catalogs(settings.catalogs),
        build_learner,
        settings.test is None,
        count_workers(settings.workers, settings.device),
    )
    study.run()
    results = {"version": Fewshot.Result.newest, "kind": Fewshot.kind, **build_results(study)}
    store.write_file("results.json", f"{write_json(results)}\n".encode())
    store.write_file("arms.svg", draw_arms(results))
    curve = draw_curve(results)
    if curve is not None:
        store.write_file("curve.svg", curve)
    return results


def _choose_provider(settings: Fewshot.Settings, context: Context) -> Provider:
    making = {name: getattr(settings, name) for name in MakingOptions.model_fields}
    if settings.recipe is None:
        if any((settings.draws, settings.fit_filter, settings.adapt, settings.adapt_set)) or (
            settings.overrides
        ):
            raise InputError(
                "--draws, --fit-filter, --adapt, --adapt-set, --set: belong to --generator: give it"
            )
        given = settings.catalogs
        return FolderProvider(
            settings.synthetic,
            settings.unfiltered,
            lambda named: context.open_catalogs((*given, *named)),
            settings.set_name,
        )
    if settings.synthetic or settings.unfiltered:
        raise InputError("--generator with --synthetic or --unfiltered: give one of them")
    folder = settings.draws or (settings.out and settings.out / "draws")
    if folder is None:
        raise InputError("--generator: needs --draws or --out, where its images land")

    run = run_fully(context)
    return RecipeProvider(Making(recipe=settings.recipe, **making), settings, folder, run, context)
