"""Generator families: which one a model is of, one file a kind, those of plug-ins too."""

from pathlib import Path

from factory.catalog.catalog import ModelEntry
from factory.core.errors import CatalogError, InputError, PluginError
from factory.core.registry import Registry
from factory.models.generators import weights
from factory.models.generators.families.base import Family, read_index
from factory.models.generators.families.fake import FakeFamily
from factory.models.generators.settings import GeneratorSettings
from factory.models.session import Session

__all__ = ["Family", "read_index"]

FAMILIES = Registry("factory.generators", Family, __name__)  # type: ignore[type-abstract]
"""All families: those of this package, and those of plug-ins."""


def open_family(
    settings: GeneratorSettings,
    entry: ModelEntry | None,
    base: Path,
    session: Session | None = None,
) -> Family:
    """Returns the family of a recipe's model: as catalog or recipe say, else by its index.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, if it has one. The model `fake` needs none.
        base: the recipe's folder, against which relative paths resolve.
        session: which has a guiding classifier; None: one of its own.

    Raises:
        InputError: recipe and catalog disagree, or an index that no family reads.
        CatalogError: no such family.
        PluginError: the family's plug-in is broken.
        GenerationError: a Hub model without catalog entry that cannot be reached.
    """
    name = settings.family
    if entry is not None:
        if name not in (None, entry.family):
            raise InputError(
                f"generator.family: {name!r}, but the catalog says {entry.family!r} "
                f"for {entry.id}: leave it out"
            )
        name = entry.family
    elif name is None and settings.model == FakeFamily.kind:
        name = FakeFamily.kind
    if name is None:
        folder = weights.find_folder(settings.model, base)
        family = find_family(folder or weights.fetch_index(settings.model, settings.revision))
    else:
        family = FAMILIES.get(name)
    return family(settings, entry, base, session)


def find_family(folder: Path) -> type[Family]:
    """Returns the family that reads a pipeline folder, by its model_index.json.

    Raises:
        InputError: no readable index, or one that no family reads.
    """
    index, (working, broken) = read_index(folder), FAMILIES.list_all()
    for family in sorted(working.values(), key=lambda each: each.is_general):
        if family.reads(index):
            return family
    raise InputError(
        f"{folder / 'model_index.json'}: _class_name {index.get('_class_name')!r} is no pipeline "
        f"of the installed diffusers, and of no family ({', '.join(working)}): update diffusers, "
        "or set generator.family" + "".join(f"; {error}" for error in broken.values())
    )


def does_generate(name: str | None) -> bool:
    """Tells whether a family makes images; false where it hands existing ones on.

    A family that is not installed here, or broken, is taken for one that makes them.
    """
    if name is None:  # looked for among the modules of all families otherwise
        return True
    try:
        return FAMILIES.get(name).generates
    except (CatalogError, PluginError):
        return True
