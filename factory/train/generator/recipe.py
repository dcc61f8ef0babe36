"""Reads training recipes, their paths resolved against the recipe's folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.files.paths import resolve_path
from factory.core.yaml.model import apply_overrides, parse_model, read_document
from factory.recipe.file import find_base
from factory.train.encoder.settings import EncoderRecipe
from factory.train.generator.settings import NamedRecipe, TrainingRecipe
from factory.train.multi.settings import MultiRecipe
from factory.train.translator.settings import TRANSLATORS, AnyTranslator, FlowRecipe

RecipeT = TypeVar("RecipeT", bound=NamedRecipe)


def choose_model(data: Mapping[str, Any]) -> type[NamedRecipe]:
    """Returns what a training recipe describes.

    With `kind` it is a translator, with `method` an encoder, else a generator, whose `network.kind`
    says which.
    """
    if "kind" in data:
        return _choose_translator(data)
    return EncoderRecipe if "method" in data else _choose_generator(data)


def load_encoder_recipe(path: Path, overrides: Sequence[str] = ()) -> EncoderRecipe:
    """Returns the recipe of an encoder; raises as `load_training_recipe`."""
    return _load(path, overrides, lambda _: EncoderRecipe)[0]


def load_translator_recipe(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[AnyTranslator, Catalogs]:
    """Returns what `load_training_recipe` does, of a translator."""
    return _load(path, overrides, _choose_translator)


def load_training_recipe(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[TrainingRecipe | MultiRecipe, Catalogs]:
    """Returns the recipe of a generator, and the catalogs that it reads from.

    Raises:
        RecipeError: a field that is wrong, with file, line and field.
    """
    recipe, catalogs = _load(path, overrides, _choose_generator)
    base = find_base(path)
    update: dict[str, Any] = {"init": _prefer_folder(recipe.init, base)}
    if isinstance(recipe, TrainingRecipe):
        vae = _prefer_folder(recipe.network.vae, base)
        update["network"] = recipe.network.model_copy(update={"vae": vae})
    return recipe.model_copy(update=update), catalogs


def _choose_translator(data: Mapping[str, Any]) -> type[AnyTranslator]:
    return TRANSLATORS.get(str(data.get("kind")), FlowRecipe)


def _choose_generator(data: Mapping[str, Any]) -> type[TrainingRecipe] | type[MultiRecipe]:
    network = data.get("network")
    is_multi = isinstance(network, Mapping) and network.get("kind") == "multi"
    return MultiRecipe if is_multi else TrainingRecipe


def _load(
    path: Path, overrides: Sequence[str], choose: Callable[[Mapping[str, Any]], type[RecipeT]]
) -> tuple[RecipeT, Catalogs]:
    document = apply_overrides(read_document(path), overrides)
    recipe = _resolve(parse_model(document, choose(document.data)), find_base(path))
    return recipe, load_catalogs(getattr(recipe, "catalogs", ()))


def _resolve(part: Any, base: Path) -> Any:
    """Returns a part of a recipe with every path in it resolved."""
    if isinstance(part, Path):
        return resolve_path(base, part)
    if isinstance(part, tuple):
        return tuple(_resolve(each, base) for each in part)
    if isinstance(part, BaseModel):
        return part.model_copy(update={name: _resolve(each, base) for name, each in part})
    return part


def _prefer_folder(name: str | None, base: Path) -> str | None:
    """Returns the folder of that name where there is one, else the name: an id."""
    is_folder = name is not None and resolve_path(base, name).is_dir()
    return str(resolve_path(base, name)) if name is not None and is_folder else name
