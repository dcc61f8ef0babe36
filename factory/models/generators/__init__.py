"""`build_generator`: from a recipe's generator section to what samples it."""

from pathlib import Path

from factory.catalog.catalog import ModelEntry
from factory.core.errors import InputError
from factory.models.generators.base import Generator
from factory.models.generators.environment import check_environment
from factory.models.generators.families import open_family
from factory.models.generators.settings import GeneratorSettings
from factory.models.session import Session


def build_generator(
    settings: GeneratorSettings,
    entry: ModelEntry | None,
    base: Path,
    session: Session | None = None,
) -> Generator:
    """Builds the generator of a recipe, by its family; its weights are loaded at the first need.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, or None for a bare Hub id or folder, whose family is
            `settings.family` or read off its model_index.json. The model `fake` needs no entry.
        base: the recipe's folder, against which relative paths resolve.
        session: which has a guiding classifier; None: one of its own.

    Raises:
        InputError: an unknown model, or settings that do not fit it.
        CatalogError: an unknown family.
        PluginError: the family's plug-in is broken.
        GenerationError: a Hub model that cannot be reached.
    """
    family = open_family(settings, entry, base, session)
    for field, message in family.list_faults():
        raise InputError(f"generator.{field}: {message}")
    if not family.is_on_record:
        check_environment(settings, entry)
    return family.load()
