"""Measuring what synthetic images are worth; each result is plain data, and a file if asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.api.making import load_recipe, run
from factory.api.words import AnyPath, Say, keep_quiet

if TYPE_CHECKING:
    from factory.core.fields import Fit, Options
    from factory.engine.run import RunResult
    from factory.evaluate.base import Context
    from factory.evaluate.base import Evaluation as Kind
    from factory.evaluate.copies import CopySettings
    from factory.evaluate.fewshot.settings import FewshotSources, StudySettings
    from factory.evaluate.fidelity import FidelitySettings
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
    sets = {"real": real, "synthetic": tuple(synthetic)}
    return run_evaluation("fidelity", {**_list(settings), **sets}, out, say)


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
    sets = {"real": real, "synthetic": synthetic, "held_out": held_out, "gallery": gallery}
    return run_evaluation("copies", {**_list(settings), **sets}, out, say)


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
    making = _list(sources.making)
    found = {**_list(sources), **making, **_list(settings), "out": folder}
    found["catalogs"] = (*sources.catalogs, *making.get("catalogs", ()))
    found.pop("making")
    return run_evaluation("fewshot", found, out, say)


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
    found = {**_list(settings), "synthetic": synthetic, "held_out": held_out, "workers": 1}
    if options is not None:
        found |= {"real": options.real, "on_leak": options.on_leak, "out": options.out}
        columns = options.columns
        found |= {"caption_column": columns.caption, "image_column": columns.image}
        found |= {"group_column": columns.group, "group_pattern": columns.pattern}
        found["workers"] = options.workers
    return run_evaluation("retrieval", found, out, say)


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
    found = {"synthetic": synthetic, "grid": grid, "size": size, "fit": fit, "seed": seed}
    return run_evaluation("control", {**found, "catalogs": tuple(catalogs)}, out, say)


def evaluate_translation(
    predicted: AnyPath,
    target: AnyPath,
    settings: "Mapping[str, Any] | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Compares predicted channels or stains with the real ones of the same places.

    Args:
        predicted: folder of .npy (C, H, W), OME-TIFF or RGB images, or a finished run.
        target: folder of the real ones; files of one relative name are a pair.
        settings: other options by name: `sources`, `table`, `group_pattern`, `masks`, `channels`,
            `seed`.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: sides, tables or masks that do not fit.
        SourceError: a file that cannot be read.
        EvaluationError: too few pairs.
    """
    found = {**(settings or {}), "predicted": Path(predicted), "target": Path(target)}
    return run_evaluation("translation", found, out, say)


def evaluate_composition(
    synthetic: AnyPath,
    spots: AnyPath,
    settings: "Mapping[str, Any] | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Compares cell-type proportions, predicted from the images, of synthetic and real ones.

    Args:
        synthetic: a finished run, or any images.
        spots: CSV of real spots: image, patient, split and proportions.
        settings: other options by name: `prefix`, `group_column`, `held_out`, `encoder`, `size`,
            `fit`, `cache`, `seed`, `catalogs`.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: spots or an encoder that do not fit.
        SourceError: images that cannot be read.
        EvaluationError: too few images.
    """
    found = {**(settings or {}), "synthetic": Path(synthetic), "spots": Path(spots)}
    return run_evaluation("composition", found, out, say)


def evaluate_segmentation(
    real: AnyPath,
    test: AnyPath,
    synthetic: AnyPath,
    settings: "Mapping[str, Any] | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Trains a segmenter on real masks, on synthetic images and their masks, and on both.

    Args:
        real: real training images.
        test: real images of other patients.
        synthetic: a finished run of conditions with masks.
        settings: other options by name: `masks` and `test_masks` (folders of label maps), `values`,
            `ids`, `steps`, `seeds`, `size`, `fit`, `group_pattern`, `out` and the like.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: sets that do not fit, or share images, patients or masks with the test.
        SourceError: an image or mask that cannot be read.
        EvaluationError: too few images, or a training that diverged.
    """
    sides = {"real": Path(real), "test": Path(test), "synthetic": Path(synthetic)}
    return run_evaluation("segmentation", {**(settings or {}), **sides}, out, say)


def evaluate_readers(
    folder: AnyPath,
    study: "Literal['review', 'turing', 'label', 'pair'] | None" = None,
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Sums up what people answered on `review`: accuracy, d', ROC, agreement and time.

    Args:
        folder: run folder that holds the answers.
        study: which reading; None: the last one that has answers.
        out: JSON file to write.
        say: see above.

    Raises:
        InputError: nobody has answered.
        EvaluationError: no case that all readers answered.
    """
    return run_evaluation("readers", {"synthetic": Path(folder), "study": study}, out, say)


def run_evaluation(
    kind: "str | type[Kind]",
    settings: Mapping[str, Any],
    out: AnyPath | None = None,
    say: Say = keep_quiet,
) -> "Evaluation":
    """Measures by any evaluation, that of a plug-in or a class of one's own too.

    Args:
        kind: e.g. `fidelity`, as in `factory evaluate fidelity`; or the class.
        settings: its options by their names in Python, e.g. `group_pattern`.
        out: JSON file to write.
        say: see above.

    Raises:
        CatalogError: no such evaluation.
        PluginError: its plug-in is broken.
        InputError: settings or images that do not fit.
        EvaluationError: a measurement that cannot be taken.
    """
    from factory.core.files.atomic import write_file
    from factory.evaluate import EVALUATIONS
    from factory.publish.evaluation import Evaluation

    name, evaluation = (kind, EVALUATIONS.get(kind)) if isinstance(kind, str) else ("", kind)
    asked = evaluation.Settings(**settings)
    with EVALUATIONS.guard(name):
        found = evaluation(asked).take(make_context(say))
    if out is not None:
        write_file(Path(out), found.dump())
    return Evaluation(found.to_json())


def make_context(say: Say) -> "Context":
    """Returns what evaluations are given: who is told, and how a recipe is run."""
    from factory.evaluate.base import Context

    def make(recipe: Path, overrides: Sequence[str], to: Path) -> "RunResult":
        return run(load_recipe(recipe, overrides), to, extend=True, say=say)

    return Context(say, make)


def _list(settings: "Options | None") -> dict[str, Any]:
    return {} if settings is None else dict(settings)
