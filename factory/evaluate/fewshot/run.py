"""A few-shot study from its sources: sets read, images of draws made, all arms measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, RunBrokenError
from factory.core.plain import write_json
from factory.data.shots import list_real, split_held_out
from factory.evaluate.base import RunRecipe, Say
from factory.evaluate.cells import CellStore
from factory.evaluate.fewshot import Fewshot
from factory.evaluate.fewshot.generate import RecipeProvider
from factory.evaluate.fewshot.learners import build_learner
from factory.evaluate.fewshot.plots import draw_arms, draw_curve
from factory.evaluate.fewshot.providers import FolderProvider, Provider
from factory.evaluate.fewshot.results import build_results
from factory.evaluate.fewshot.settings import FewshotSources, StudySettings, check_settings
from factory.evaluate.fewshot.study import Study
from factory.evaluate.workers import count_workers


def measure_fewshot(
    sources: FewshotSources,
    settings: StudySettings,
    make: RunRecipe,
    out: Path | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measures all arms; with `out`, results and plots land there, and the same call resumes.

    Raises:
        InputError: sources or settings that do not fit, or leaks.
        SourceError: images that cannot be read.
        RunBrokenError: shards of a run failed.
    """
    check_settings(settings)
    columns = (sources.group_column, sources.group_pattern, sources.image_column)
    train = list_real(sources.real, *columns)
    if sources.test is None:
        train, test = split_held_out(train)
    else:
        test = list_real(sources.test, *columns)
    store = CellStore(out)
    study = Study(
        settings,
        train,
        test,
        _choose_provider(sources, settings, make, out, say),
        store,
        say,
        load_catalogs(sources.catalogs),
        build_learner,
        sources.test is None,
        count_workers(sources.workers, settings.device),
        sources.catalogs,
    )
    study.run()
    results = {"version": Fewshot.Result.newest, "kind": Fewshot.kind, **build_results(study)}
    store.write_file("results.json", f"{write_json(results)}\n".encode())
    store.write_file("arms.svg", draw_arms(results))
    curve = draw_curve(results)
    if curve is not None:
        store.write_file("curve.svg", curve)
    return results


def _choose_provider(
    sources: FewshotSources,
    settings: StudySettings,
    make: RunRecipe,
    out: Path | None,
    say: Say,
) -> Provider:
    if sources.making is None:
        folders = sources.synthetic, sources.unfiltered, sources.catalogs
        return FolderProvider(*folders, settings.set_name)
    if sources.synthetic or sources.unfiltered:
        raise InputError("--generator with --synthetic or --unfiltered: give one of them")
    folder = sources.draws or (out and out / "draws")
    if folder is None:
        raise InputError("--generator: needs --draws or --out, where its images land")

    def fill(recipe: Path, overrides: Sequence[str], to: Path) -> str:
        """Runs a recipe; returns what is short, or nothing."""
        result = make(recipe, overrides, to)
        if result.quarantined:
            raise RunBrokenError(f"{to}: shards failed: run the same command again to make them")
        short = [f"{part.label} {part.accepted}/{part.asked}" for part in result.shortfalls]
        return f"fewer accepted than asked for ({', '.join(short)})" if short else ""

    return RecipeProvider(sources.making, settings, folder, fill, say)
