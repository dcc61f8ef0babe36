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

    Takes and raises what `open_family` does.

    Raises:
        InputError: settings that do not fit the model, too.
    """
    family = open_family(settings, entry, base, session)
    for field, message in family.list_faults():
        raise InputError(f"generator.{field}: {message}")
    if not family.is_on_record:
        check_environment(settings, entry)
    return family.load()
