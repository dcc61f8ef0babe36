"""Training what recipes name: classifiers and encoders to filter with, generators and adapters."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from factory.api.shown import Figures
from factory.api.words import AnyPath, Overrides, Say, keep_quiet, write_overrides

if TYPE_CHECKING:
    from factory.train.adapter.settings import AdapterSettings
    from factory.train.adapter.train import AdapterResult
    from factory.train.classifier.settings import ClassifierSettings
    from factory.train.layout.settings import LayoutSettings

Report = Callable[[int, int, dict[str, float]], None]
"""Called with the step, the number of steps, and what was measured: `loss`, or a validation's."""


def _pass_over(step: int, steps: int, measured: dict[str, float]) -> None:
    """Takes no notice of a step."""


def train_classifier(
    data: AnyPath,
    out: AnyPath,
    settings: "ClassifierSettings | None" = None,
    say: Say = keep_quiet,
) -> Figures:
    """Fits a calibrated classifier on real images with classes, for the filter `classifier`.

    Nothing is written, unless forced, where the classes cannot be told apart: `refused` says so.

    Args:
        data: ImageFolder (one folder for each class), parquet, tars, `datasets` folder or run.
        out: classifier folder, which a recipe names.
        settings: encoder, head, size, columns, held-out images and the like.
        say: see above.

    Returns:
        The report, which `classifier.json` holds too: head, accuracy with intervals, warnings.

    Raises:
        SourceError: images that cannot be read, or too few of a class.
        InputError: `out` is in use, or the encoder cannot be loaded.
    """
    from factory.train.classifier.train import train_classifier as train

    return Figures(train(Path(data), Path(out), settings, say))


def train_layout(
    data: AnyPath, out: AnyPath, settings: "LayoutSettings | None" = None, say: Say = keep_quiet
) -> Figures:
    """Fits how the objects of real masks lie, so that conditions of kind `layout` draw such masks.

    Args:
        data: folder of label maps, a folder for each class; or parquet, tars.
        out: its file, `NAME.json`.
        settings: what the ids mark, which classes, the masks' terms and the like.
        say: see above.

    Returns:
        Class -> measure -> `distance` to the real masks, and `floor`, theirs among themselves.

    Raises:
        SourceError: masks that cannot be read, differ in size, or are too few.
        InputError: `out` is there, a class that is not, or terms without the date.
    """
    from factory.train.layout.settings import LayoutSettings
    from factory.train.layout.train import train_layout as train

    return Figures(train(Path(data), Path(out), settings or LayoutSettings(), say))


def train_encoder(
    recipe: AnyPath, out: AnyPath, overrides: Overrides = (), report: Report = _pass_over
) -> Figures:
    """Trains an image encoder without labels from a recipe; the same call goes on with it.

    Args:
        recipe: its file; `recipes/training/` has some.
        out: encoder folder.
        overrides: as for `load_recipe`.
        report: called after steps and validations.

    Returns:
        `step`, `best_step`, and what was measured at the latter.

    Raises:
        RecipeError: every problem of the recipe.
        SourceError: images that cannot be read.
        MismatchError: `out` holds a training of another recipe.
        TrainingError: the features of different images have become alike.
    """
    from factory.train.encoder.loop import train_self_supervised
    from factory.train.generator.recipe import load_encoder_recipe

    settings = load_encoder_recipe(Path(recipe), write_overrides(overrides))
    return Figures(train_self_supervised(settings, Path(out), report))


def train_translator(
    recipe: AnyPath, out: AnyPath, overrides: Overrides = (), report: Report = _pass_over
) -> Figures:
    """Trains a translator from a recipe; the same call goes on with it.

    Args:
        recipe: its file; `recipes/training/` has one.
        out: its folder, a catalog that recipes name.
        overrides: as for `load_recipe`.
        report: called after steps and validations.

    Returns:
        `step`, `best_step`, and what was measured on held-out pairs or images.

    Raises:
        RecipeError: every problem of the recipe.
        SourceError: pairs or images that cannot be read, or too few.
        MismatchError: `out` holds a training of another recipe.
    """
    from factory.train.generator.recipe import load_translator_recipe
    from factory.train.translator import train_translator as train

    settings, catalogs = load_translator_recipe(Path(recipe), write_overrides(overrides))
    return Figures(train(settings, catalogs, Path(out), report))


def train_generator(
    recipe: AnyPath, out: AnyPath, overrides: Overrides = (), report: Report = _pass_over
) -> Figures | None:
    """Trains a generator from a recipe; the same call goes on with it.

    Args:
        recipe: its file; `recipes/training/` has some.
        out: pipeline folder, which a recipe names as its model.
        overrides: as for `load_recipe`.
        report: called after steps and validations.

    Returns:
        `step`, `best_step`, and of the latter `kid`, `fd` and `validated`; of a network of parallel
        streams `validation_loss`, and what it rises by without each stream. None in all processes
        but the first.

    Raises:
        RecipeError: every problem of the recipe.
        SourceError: images that cannot be read or carry no class.
        MismatchError: `out` holds a training of another recipe.
    """
    from factory.train.generator.recipe import load_training_recipe
    from factory.train.generator.train import GeneratorTrainer
    from factory.train.multi.settings import MultiRecipe
    from factory.train.multi.train import MultiTrainer

    loaded, catalogs = load_training_recipe(Path(recipe), write_overrides(overrides))
    if isinstance(loaded, MultiRecipe):
        found = MultiTrainer.open(loaded, catalogs, Path(out)).train(report)
    else:
        found = GeneratorTrainer.open(loaded, catalogs, Path(out)).train(report)
    return None if found is None else Figures(found)


def train_adapter(
    settings: "AdapterSettings",
    out: AnyPath,
    catalogs: Sequence[AnyPath] = (),
    say: Say = keep_quiet,
) -> "AdapterResult":
    """Adapts a model to a few real images of each class; the same call goes on with it.

    Args:
        settings: what to adapt to what, and how.
        out: adapter folder, which is a catalog folder, too.
        catalogs: folders that are searched before the catalogs that ship.
        say: see above.

    Raises:
        InputError: settings, base or images that do not fit; nothing was touched.
        MismatchError: `out` was begun with other settings.
        GenerationError: the base cannot be loaded, or sampling failed.
    """
    from factory.catalog.catalog import load_catalogs
    from factory.train.adapter.train import train_adapter as train

    found = load_catalogs([Path(each) for each in catalogs])
    return train(settings, found, Path(out), say)
