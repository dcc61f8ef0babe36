"""`find_objective`: what of each pipeline family is trained, and by what loss."""

from typing import Any

from factory.core.errors import InputError
from factory.core.registry import import_name
from factory.models.generators.families import FAMILIES


def find_objective(family: str, model: str) -> Any:
    """Returns the class that trains a family: the one that it names.

    Raises:
        InputError: none does; names those that can be adapted.
        PluginError: its plug-in is broken.
    """
    found = FAMILIES.get(family).objective
    if found is None:
        working, _ = FAMILIES.list_all()
        known = ", ".join(name for name, each in working.items() if each.objective is not None)
        raise InputError(
            f"model {model}: family {family!r} cannot be adapted: take a model of the families "
            f"{known}"
        )
    return import_name(found)
