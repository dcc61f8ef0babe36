"""Reads training recipes, their paths resolved against the recipe's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.core.files.paths import resolve_path
from factory.core.yaml.model import apply_overrides, parse_model, read_document
from factory.recipe.file import find_base
from factory.train.encoder.settings import EncoderRecipe
from factory.train.generator.settings import DataSettings, TrainingRecipe
from factory.train.multi.settings import MultiRecipe
from factory.train.translator.settings import TRANSLATORS, CutRecipe, FlowRecipe

AnyRecipe = (
    type[TrainingRecipe]
    | type[MultiRecipe]
    | type[EncoderRecipe]
    | type[FlowRecipe]
    | type[CutRecipe]
)


def choose_model(data: Mapping[str, Any]) -> AnyRecipe:
    """Returns what a training recipe describes.

    With `kind` it is a translator, with `method` an encoder, else a generator, whose `network.kind`
    says which.
    """
    if "kind" in data:
        return TRANSLATORS.get(str(data["kind"]), FlowRecipe)
    if "method" in data:
        return EncoderRecipe
    network = data.get("network")
    is_multi = isinstance(network, Mapping) and network.get("kind") == "multi"
    return MultiRecipe if is_multi else TrainingRecipe


def load_encoder_recipe(path: Path, overrides: Sequence[str] = ()) -> EncoderRecipe:
    """Returns the recipe of an encoder.

    Raises:
        RecipeError: a field that is wrong, with file, line and field.
    """
    recipe = parse_model(apply_overrides(read_document(path), overrides), EncoderRecipe)
    return recipe.model_copy(update={"data": _resolve_images(recipe.data, find_base(path))})


def load_translator_recipe(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[FlowRecipe | CutRecipe, Catalogs]:
    """Returns the recipe of a translator, and the catalogs that it reads from.

    Raises:
        RecipeError: a field that is wrong, with file, line and field.
    """
    document, base = apply_overrides(read_document(path), overrides), find_base(path)
    kind = TRANSLATORS.get(str(document.data.get("kind")), FlowRecipe)
    recipe, update = parse_model(document, kind), dict[str, Any]()
    for name in ("source", "target"):
        side = getattr(recipe.data, name)
        places = {
            field: resolve_path(base, place)
            for field in ("images", "embeddings")
            if (place := getattr(side, field, None)) is not None
        }
        update[name] = side.model_copy(update=places)
    found = recipe.model_copy(update={"data": recipe.data.model_copy(update=update)})
    folders = tuple(resolve_path(base, folder) for folder in getattr(recipe, "catalogs", ()))
    return found, load_catalogs(folders)


def load_training_recipe(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[TrainingRecipe | MultiRecipe, Catalogs]:
    """Returns the recipe and the catalogs that it reads from.

    Raises:
        RecipeError: a field that is wrong, with file, line and field.
    """
    document, base = apply_overrides(read_document(path), overrides), find_base(path)
    if choose_model(document.data) is MultiRecipe:
        return _resolve_multi(parse_model(document, MultiRecipe), base)
    recipe = parse_model(document, TrainingRecipe)
    data = _resolve_images(recipe.data, base)
    folders = tuple(resolve_path(base, folder) for folder in recipe.catalogs)
    network = recipe.network
    if network.vae is not None and resolve_path(base, network.vae).is_dir():
        network = network.model_copy(update={"vae": str(resolve_path(base, network.vae))})
    init = _resolve_init(recipe.init, base)
    update = {"data": data, "network": network, "init": init, "catalogs": folders}
    return recipe.model_copy(update=update), load_catalogs(folders)


def _resolve_images(data: DataSettings, base: Path) -> DataSettings:
    sources = tuple(
        source.model_copy(update={"images": resolve_path(base, source.images)})
        for source in data.sources
    )
    return data.model_copy(update={"sources": sources})


def _resolve_multi(recipe: MultiRecipe, base: Path) -> tuple[MultiRecipe, Catalogs]:
    sources = []
    for source in recipe.data.sources:
        update: dict[str, Any] = {"images": resolve_path(base, source.images)}
        if source.masks is not None and source.masks.folder is not None:
            place = resolve_path(base, source.masks.folder)
            update["masks"] = source.masks.model_copy(update={"folder": place})
        if source.values is not None:
            place = resolve_path(base, source.values.table)
            update["values"] = source.values.model_copy(update={"table": place})
        sources.append(source.model_copy(update=update))
    folders = tuple(resolve_path(base, folder) for folder in recipe.catalogs)
    data = recipe.data.model_copy(update={"sources": tuple(sources)})
    update = {"data": data, "init": _resolve_init(recipe.init, base), "catalogs": folders}
    text = recipe.network.text
    if text is not None:
        text = text.model_copy(update={"encoder": resolve_path(base, text.encoder)})
        update["network"] = recipe.network.model_copy(update={"text": text})
    return recipe.model_copy(update=update), load_catalogs(folders)


def _resolve_init(init: str | None, base: Path) -> str | None:
    is_folder = init is not None and resolve_path(base, init).is_dir()
    return str(resolve_path(base, init)) if init is not None and is_folder else init
