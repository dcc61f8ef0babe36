"""A few-shot study from its sources: sets read, images of draws made, all arms measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, RunBrokenError
from factory.core.plain import write_json
from factory.data.shots import list_real, split_held_out
from factory.engine.run import RunResult
from factory.evaluate.cells import CellStore
from factory.evaluate.fewshot.generate import Making, RecipeProvider
from factory.evaluate.fewshot.learners import build_learner
from factory.evaluate.fewshot.plots import draw_arms, draw_curve
from factory.evaluate.fewshot.providers import FolderProvider, Provider
from factory.evaluate.fewshot.results import build_results
from factory.evaluate.fewshot.settings import StudySettings, check_settings
from factory.evaluate.fewshot.study import Study
from factory.evaluate.workers import count_workers

Make = Callable[[Path, Sequence[str], Path], RunResult]
"""Runs a recipe with overrides into a folder."""


@dataclass(frozen=True, slots=True)
class FewshotSources:
    """The images of a study.

    Attributes:
        real: real training images with classes.
        test: real test images; None: a part of `real`.
        synthetic: finished runs, or images with classes.
        unfiltered: images of no filter; none: the runs' first attempts.
        making: how each draw's shots are made more, instead of `synthetic`.
        draws: folder of what is made of shots, for studies to share; None: in the study's.
        image_column: of all real images.
        group_column: likewise, with the patient or slide.
        group_pattern: regular expression with one (group) on file names.
        catalogs: user catalog folders.
        workers: trainings side by side, on Ray; None: one for each of several GPUs.
    """

    real: Path
    test: Path | None = None
    synthetic: tuple[Path, ...] = ()
    unfiltered: tuple[Path, ...] = ()
    making: Making | None = None
    draws: Path | None = None
    image_column: str | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    catalogs: tuple[Path, ...] = ()
    workers: int | None = None


def measure_fewshot(
    sources: FewshotSources,
    settings: StudySettings,
    make: Make,
    out: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
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
    results = build_results(study)
    store.write_file("results.json", f"{write_json(results)}\n".encode())
    store.write_file("arms.svg", draw_arms(results))
    curve = draw_curve(results)
    if curve is not None:
        store.write_file("curve.svg", curve)
    return results


def _choose_provider(
    sources: FewshotSources,
    settings: StudySettings,
    make: Make,
    out: Path | None,
    say: Callable[[str], None],
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
