"""Making data sets: load a recipe, plan, preview, calibrate, run, score images, refilter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.shown import Calibration
from factory.api.words import AnyPath, AnyRecipe, Overrides, Say, keep_quiet, write_overrides
from factory.core.errors import FactoryError, InputError, RecipeError
from factory.recipe.file import LoadedRecipe, find_recipe

if TYPE_CHECKING:
    from factory.engine.cost import CostOptions
    from factory.engine.executors import Notify, Outcome, Watch
    from factory.engine.plan import Plan
    from factory.engine.run import RunResult


def _pass_over(outcome: "Outcome") -> None:
    """Takes no notice of a shard that ended."""


@dataclass(frozen=True, slots=True)
class Preview:
    """First tries of a recipe.

    Attributes:
        folder: with an image file of each, `preview.json` and the sheet `preview.png`.
        rows: file, label, seed, scores, accepted, rejected_by and reason of each.
    """

    folder: Path
    rows: tuple[Mapping[str, Any], ...]

    def _repr_html_(self) -> str:
        """What a notebook shows: each image with its verdict."""
        from factory.engine.notebook import show_images

        told = (
            (self.folder / row["file"], "accepted" if row["accepted"] else str(row["reason"]))
            for row in self.rows
        )
        return show_images((path.read_bytes(), text) for path, text in told)


def load_recipe(path: AnyPath, overrides: Overrides = (), check_files: bool = True) -> LoadedRecipe:
    """Loads a recipe and checks all that it names.

    Catalog entries are read once: load it again after a change of one. Real images and models are
    looked at anew by each run.

    Args:
        path: its file, or the name of a recipe that ships, e.g. `quickstart`.
        overrides: fields that are other than in the file, as `--set` takes them.
        check_files: look at the files that it names, too.

    Raises:
        InputError: no recipe of this name.
        RecipeError: every problem found, with file, line and field.
    """
    from factory.recipe.checks.recipe import check_recipe
    from factory.recipe.file import load_recipe as load

    loaded = load(find_recipe(Path(path)), write_overrides(overrides))
    check_recipe(loaded, check_files=check_files)
    return loaded


def validate(path: AnyPath, overrides: Overrides = (), check_files: bool = True) -> tuple[str, ...]:
    """Returns every problem of a recipe of any kind, with file, line and field; none: it is valid.

    Args:
        path: a data set's recipe, by file or name, or (key `training`) a generator's or encoder's.
        overrides: as for `load_recipe`.
        check_files: look at the files that it names, too.
    """
    from factory.core.yaml.model import apply_overrides, parse_model, read_document

    try:
        found = find_recipe(Path(path))
        document = read_document(found)
        if "training" not in document.data:
            load_recipe(found, overrides, check_files)
            return ()
        from factory.train.generator.recipe import choose_model

        named = apply_overrides(document, write_overrides(overrides))
        parse_model(named, choose_model(document.data))
    except RecipeError as error:
        return tuple(str(problem) for problem in error.problems)
    except FactoryError as error:
        return (str(error),)
    return ()


def prepare_scoring(
    recipe: AnyPath,
    data: AnyPath,
    overrides: Overrides = (),
    columns: Mapping[str, str | None] | None = None,
) -> LoadedRecipe:
    """Returns a recipe whose filters judge images that are there; `run` judges them.

    Args:
        recipe: whose filters, `accept`, `pick`, output and card are used.
        data: folder of images, parquet, tars, `datasets` folder or finished run.
        overrides: as for `load_recipe`.
        columns: `image_column`, `label_column`, `caption_column`, `group_column`, `group_pattern`.

    Raises:
        RecipeError: every problem of the recipe.
        SourceError: images that cannot be read, by name.
    """
    from factory.engine.score_images import load_judging

    found = find_recipe(Path(recipe))
    return load_judging(found, Path(data), write_overrides(overrides), columns or {})


def plan(recipe: AnyRecipe) -> "Plan":
    """Plans a run: which images are asked for, in which shards; makes none.

    Raises:
        RecipeError: problems of the recipe.
        SourceError: real images that cannot be read.
    """
    from factory.engine.run import plan_recipe

    return plan_recipe(_open(recipe))


def estimate(
    recipe: AnyRecipe,
    planned: "Plan | None" = None,
    calibrate: bool = True,
    say: Say = keep_quiet,
    costs: "CostOptions | None" = None,
) -> dict[str, Any]:
    """Returns what a run will take: candidates, seconds, disk, costs; and the terms of its makers.

    Args:
        recipe: what to estimate.
        planned: what `plan` gave, where it is there already.
        calibrate: make and judge two batches, which loads the model.
        say: see above.
        costs: what a worker costs.

    Raises:
        RecipeError: problems of the recipe.
        InputError: costs that nothing can be reckoned of.
        FactoryError: the model or a filter cannot be loaded.
    """
    from factory.engine.estimate import estimate_cost
    from factory.recipe.licences import combine_recipe_terms

    loaded = _open(recipe)
    found = estimate_cost(loaded, planned or plan(loaded), calibrate, say, costs)
    return found | {"terms": combine_recipe_terms(loaded).to_json()}


def measure_speeds(
    recipe: AnyRecipe, planned: "Plan | None" = None, say: Say = keep_quiet
) -> dict[str, Any]:
    """Times a recipe's model in each way that its network can run on this device.

    Returns images per second, memory and differing pixels of its `ways`, what was `skipped` and
    why, and what is `proposed` to `set`, if any is 5 % faster.

    Args:
        recipe: whose model is timed.
        planned: what `plan` gave, where it is there already.
        say: see above.

    Raises:
        RecipeError: problems of the recipe.
        InputError: a model of a family whose network runs in one way alone.
        FactoryError: the model cannot be loaded, or makes nothing.
    """
    from factory.engine.speeds import measure_speeds

    loaded = _open(recipe)
    return measure_speeds(loaded, planned or plan(loaded), say=say)


def preview(recipe: AnyRecipe, out: AnyPath, count: int = 16, say: Say = keep_quiet) -> Preview:
    """Makes a few first tries, with scores and verdicts: the images that a run would try first.

    Raises:
        InputError: `out` holds something else than a preview.
        FactoryError: the model or a filter cannot be loaded.
        StoreError: disk full, permission.
    """
    from factory.engine.preview import preview_recipe

    folder = Path(out)
    return Preview(folder, tuple(preview_recipe(_open(recipe), folder, count, say)))


def calibrate(
    recipe: AnyRecipe,
    out: AnyPath,
    real: AnyPath | None = None,
    count: int = 200,
    keep: float = 0.95,
    *,
    reuse: bool = False,
    image_column: str | None = None,
    say: Say = keep_quiet,
) -> Calibration:
    """Proposes thresholds for a recipe's filters from real images and first tries, with a picture.

    Args:
        recipe: whose filters are calibrated.
        out: folder for `calibration.json`, `calibration.png`, the scores and a sheet of the tries.
        real: real images, held out from all training; None: those of the reference conditions.
        count: first tries to sample, and most real images of a class.
        keep: share of the real images of every class that each threshold keeps.
        reuse: take the scores that `out` holds; sample nothing.
        image_column: of `real`.
        say: see above.

    Returns:
        Thresholds now and as proposed with what each keeps, `set` and `yaml` to use them, `short`:
        series that are expected to end under their count.

    Raises:
        InputError: the recipe, its inputs or the folder do not fit.
        FactoryError: the model or a filter cannot be loaded.
    """
    from factory.evaluate.calibrate import calibrate_recipe

    if reuse and real is not None:
        raise InputError("--real with --reuse: the scores in OUT are of the real images of then")
    given = None if real is None else Path(real)
    loaded, folder = _open(recipe), Path(out)
    found = calibrate_recipe(loaded, folder, say, given, count, keep, reuse, image_column)
    report = Calibration(found)
    report.folder = folder
    return report


def run(
    recipe: AnyRecipe,
    out: AnyPath | None = None,
    *,
    extend: bool = False,
    planned: "Plan | None" = None,
    notify: "Notify" = _pass_over,
    watch: "Watch | None" = None,
    say: Say = keep_quiet,
) -> "RunResult":
    """Makes, or goes on making, the data set of a recipe, and writes its card.

    Args:
        recipe: what to make.
        out: run folder or fsspec URL; None: the recipe's `output.path`.
        extend: let a run that is there grow.
        planned: what `plan` gave, where it is there already.
        notify: called for every shard that ended, and for those that were there already.
        watch: told of progress inside the shards.
        say: see above.

    Raises:
        InputError: the recipe, its inputs or the folder do not fit; nothing was touched.
        RunBrokenError: the run stopped, and the same call goes on with it.
    """
    from factory.engine.run import run_recipe
    from factory.publish.card import write_card

    loaded = _open(recipe)
    url = find_run_folder(loaded, out)
    return run_recipe(loaded, url, notify, say, extend, planned, watch, write_card)


def find_run_folder(recipe: LoadedRecipe, out: AnyPath | None = None) -> str:
    """Returns where a run lands: `out`, else the recipe's `output.path` from its own folder.

    Raises:
        InputError: neither says, or two commands could write there at a time.
    """
    from factory.core.files.edge import check_run_place

    path = recipe.recipe.output.path or ""
    url = str(out) if out else path if "://" in path or not path else str(recipe.base / path)
    if not url:
        raise InputError("no run folder: give --out, or output.path in the recipe")
    check_run_place(url)
    return url if "://" in url else str(Path(url).absolute())


def score_images(
    recipe: AnyPath,
    data: AnyPath,
    out: AnyPath,
    overrides: Overrides = (),
    columns: Mapping[str, str | None] | None = None,
    say: Say = keep_quiet,
) -> "RunResult":
    """Scores and filters images that are there, as a run would: the same tables and card.

    Args:
        recipe: whose filters are used.
        data: folder of images, parquet, tars, `datasets` folder or finished run.
        out: run folder or fsspec URL.
        overrides: as for `load_recipe`.
        columns: as for `prepare_scoring`.
        say: see above.

    Raises:
        InputError: recipe, images or folder do not fit; nothing was touched.
        RunBrokenError: the run stopped, and the same call goes on with it.
    """
    return run(prepare_scoring(recipe, data, overrides, columns), out, say=say)


def refilter(folder: AnyPath, overrides: Overrides = ()) -> "RunResult":
    """Decides anew over the stored scores of a run, and writes data set and card; makes no image.

    Args:
        folder: run folder or fsspec URL.
        overrides: e.g. `{"filters.tissue.min_fraction": 0.4}`; none: as the recipe says.

    Raises:
        MismatchError: not a run folder.
        InputError: a field that is no threshold, or a filter that has no scores.
        StoreError: damaged data.
    """
    from factory.engine.refilter import refilter_folder
    from factory.publish.card import write_card

    return refilter_folder(str(folder), write_overrides(overrides), write_card)


def status(folder: AnyPath) -> dict[str, Any]:
    """Returns how far a run is: shards done, filled of asked per series, quarantined shards.

    Raises:
        MismatchError: not a run folder.
        StoreError: damaged records.
    """
    from factory.engine.run import read_status

    return read_status(str(folder))


def _open(recipe: AnyRecipe) -> LoadedRecipe:
    return recipe if isinstance(recipe, LoadedRecipe) else load_recipe(recipe)
