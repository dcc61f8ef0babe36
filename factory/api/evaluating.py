"""Measuring what synthetic images are worth; each result is plain data, and a file if asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.making import load_recipe, run
from factory.api.words import AnyPath, Say, keep_quiet

if TYPE_CHECKING:
    from factory.engine.run import RunResult
    from factory.evaluate.copies.study import CopySettings
    from factory.evaluate.fewshot.run import FewshotSources
    from factory.evaluate.fewshot.settings import StudySettings
    from factory.evaluate.fidelity import FidelitySettings
    from factory.evaluate.image_sets import Fit
    from factory.evaluate.retrieval.settings import RetrievalSettings
    from factory.evaluate.retrieval.study import RetrievalOptions
    from factory.publish.evaluation import Evaluation


def evaluate_fidelity(
    real: AnyPath,
    synthetic: Sequence[AnyPath],
    settings: "FidelitySettings | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Measures how near synthetic images are to real ones, per class and overall.

    Args:
        real: real images.
        synthetic: finished runs, or any images.
        settings: encoders, size and the like.
        out: JSON file to write, e.g. `RUN/evaluation/fidelity.json`, where the card finds it.
        say: see above.

    Raises:
        InputError: sets or settings that do not fit.
        SourceError: images that cannot be read.
        EvaluationError: too few images.
    """
    from factory.evaluate.fidelity import FidelitySettings
    from factory.evaluate.fidelity import evaluate_fidelity as evaluate

    paths = tuple(Path(each) for each in synthetic)
    return _keep(evaluate(Path(real), paths, settings or FidelitySettings(), say), out)


def evaluate_copies(
    real: AnyPath,
    synthetic: AnyPath,
    held_out: AnyPath | None = None,
    settings: "CopySettings | None" = None,
    out: AnyPath | None = None,
    gallery: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Looks for synthetic images that copy training images, by several measures.

    Args:
        real: training images.
        synthetic: a finished run, or any images.
        held_out: real images that no training used; C_T needs them.
        settings: encoder, size and the like.
        out: JSON file to write.
        gallery: PNG of the closest pairs to write.
        say: see above.

    Raises:
        InputError: sets or settings that do not fit.
        SourceError: images that cannot be read.
        EvaluationError: too few images.
    """
    from factory.core.files.atomic import write_file
    from factory.evaluate.copies.gallery import draw_gallery
    from factory.evaluate.copies.study import CopySettings, study_copies

    held = None if held_out is None else Path(held_out)
    study = study_copies(Path(real), Path(synthetic), held, settings or CopySettings(), say)
    found = _keep(study.result, out)
    if gallery is not None:
        write_file(Path(gallery), draw_gallery(study.result, study.train, study.synthetic))
    return found


def evaluate_fewshot(
    sources: "FewshotSources",
    settings: "StudySettings | None" = None,
    folder: AnyPath | None = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Says whether synthetic images help a classifier of a few real ones, against control arms.

    Args:
        sources: real, test and synthetic images, or the recipe that makes them from shots.
        settings: shots, seeds, arms and how to train.
        folder: for cells and plots; the same call goes on from there.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: sources or settings that do not fit, or leaks.
        SourceError: images that cannot be read.
        EvaluationError: a study that measures nothing.
        RunBrokenError: shards of a run failed.
    """
    from factory.evaluate.fewshot.run import measure_fewshot
    from factory.evaluate.fewshot.settings import StudySettings

    def make(recipe: Path, overrides: Sequence[str], to: Path) -> "RunResult":
        return run(load_recipe(recipe, overrides), to, extend=True, say=say)

    place = None if folder is None else Path(folder)
    return _keep(measure_fewshot(sources, settings or StudySettings(), make, place, say), out)


def evaluate_retrieval(
    synthetic: AnyPath,
    held_out: AnyPath,
    settings: "RetrievalSettings | None" = None,
    options: "RetrievalOptions | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Tunes an image-text model on pairs and searches held-out pairs with it, both ways.

    Args:
        synthetic: a finished run with captions, or any pairs.
        held_out: pairs to search.
        settings: model and how to tune it.
        options: further pairs, columns, what to do with leaks, a folder to resume from.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: pairs or settings that do not fit, or leaks to refuse.
        SourceError: images that cannot be read.
    """
    from factory.evaluate.retrieval.settings import RetrievalSettings
    from factory.evaluate.retrieval.study import RetrievalOptions
    from factory.evaluate.retrieval.study import evaluate_retrieval as evaluate

    chosen = settings or RetrievalSettings(), options or RetrievalOptions()
    return _keep(evaluate(Path(synthetic), Path(held_out), *chosen, say), out)


def evaluate_control(
    synthetic: AnyPath,
    grid: str = "he-attributes",
    size: int | None = None,
    fit: "Fit" = "crop",
    seed: int = 0,
    catalogs: Sequence[AnyPath] = (),
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Measures attributes in the pixels and compares them with what the captions ask for.

    Args:
        synthetic: captioned images: finished run, parquet, tars.
        grid: catalog id of the caption grid whose wordings and measures are used.
        size: px of all images; None: the smallest side.
        fit: `crop` keeps the scale, `resize` the content.
        seed: of intervals.
        catalogs: further catalog folders.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: no such grid, or images without captions of it.
        SourceError: images that cannot be read.
        EvaluationError: too few images.
    """
    from factory.catalog.catalog import load_catalogs
    from factory.evaluate.control import evaluate_control as evaluate
    from factory.evaluate.image_sets import list_set

    images = list_set(Path(synthetic), size=size, fit=fit)
    found = load_catalogs([Path(each) for each in catalogs]).find_captions(grid)
    return _keep(evaluate(images, found, seed, say), out)


def _keep(result: Mapping[str, Any], out: AnyPath | None) -> "Evaluation":
    """Returns a result, and writes it where a file is named."""
    from factory.core.files.atomic import write_file
    from factory.core.plain import write_json
    from factory.publish.evaluation import Evaluation

    if out is not None:
        write_file(Path(out), write_json(result).encode())
    return Evaluation(result)
