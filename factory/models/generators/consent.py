"""Code that a model brings along: it runs where recipe and catalog entry both allow it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.models.generators import weights
from factory.models.generators.families.base import read_index
from factory.models.generators.families.pipeline import PipelineFamily

MOVED = {"diffusers.models.controlnet": "diffusers.models.controlnets.controlnet"}
"""Module that published code imports -> where diffusers has it now."""


def find_own_code(folder: Path) -> str | None:
    """Returns which file of a pipeline folder is code that runs when it is loaded; None: none."""
    index = read_index(folder)
    name = index.get("_class_name")
    if isinstance(name, list):
        return f"{name[0]}.py"
    parts = ((part, value) for part, value in index.items() if isinstance(value, list) and value)
    files = (f"{part}/{value[0]}.py" for part, value in parts)
    return next((file for file in files if (folder / file).is_file()), None)


def check_consent(family: PipelineFamily) -> None:
    """Refuses a model whose entry names code that the recipe did not allow; fetches nothing.

    Raises:
        InputError: it does.
    """
    settings, entry = family.settings, family.entry
    if entry is not None and entry.custom_pipeline and not settings.trust_remote_code:
        code = entry.custom_pipeline
        raise InputError(f"model {settings.model}: runs its own code ({code}): {weights.CONSENT}")


def allow_remote_code(family: PipelineFamily, folder: Path) -> dict[str, Any]:
    """Returns load arguments that let a model's own code run, if recipe and catalog both agree.

    Args:
        family: of the model.
        folder: with its index, at least.

    Raises:
        InputError: own code without both consents, or that is not pinned.
    """
    settings, entry, base = family.settings, family.entry, family.base
    custom = entry.custom_pipeline if entry is not None else None
    if entry is None or not (settings.trust_remote_code and entry.remote_code):
        code = custom or find_own_code(folder)
        if code is None:
            return {}
        raise InputError(f"model {settings.model}: runs its own code ({code}): {weights.CONSENT}")
    revision = settings.revision or entry.revision
    if weights.find_folder(entry.source, base) is None and not weights.is_pinned(revision):
        raise InputError(
            f"model {settings.model}: runs its own code at revision {revision!r}: "
            "pin a full commit hash (40 characters)"
        )
    if custom is None:
        return {"trust_remote_code": True}
    place = weights.find_folder(custom, base)
    if place is None:
        raise InputError(
            f"model {settings.model}: custom_pipeline {custom!r} is code on the Hub without a "
            "pinned revision: download it and give its folder"
        )
    return {"trust_remote_code": True, "custom_pipeline": str(place)}


@contextmanager
def find_imports(own_code: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Lets allowed code import the loose files beside it, and what diffusers has moved.

    Parts whose classes are in such files are imported at once: diffusers asks for that.

    Args:
        own_code: of `allow_remote_code`.
        folder: of the model, with its index.

    Raises:
        InputError: a file that cannot be imported.
    """
    place = own_code.get("custom_pipeline")
    for old, new in MOVED.items() if own_code else ():
        if old not in sys.modules and find_spec(old) is None:
            sys.modules[old] = import_module(new)
    if place is None:
        yield
        return
    loose = {path.stem for path in Path(place).glob("*.py")}
    parts = (value for name, value in read_index(folder).items() if not name.startswith("_"))
    named = {str(each[0]) for each in parts if isinstance(each, list) and each}
    sys.path.append(place)
    try:
        for name in sorted(loose & named):
            _import_loose(name, place)
        yield
    finally:
        sys.path.remove(place)
        for name in loose & set(sys.modules):
            own = getattr(sys.modules[name], "__file__", None)
            if own and Path(own).parent == Path(place):  # the next model's may have this name
                del sys.modules[name]


def _import_loose(name: str, place: str) -> None:
    try:
        import_module(name)
    except ImportError as error:
        raise InputError(
            f"{place}/{name}.py: cannot be imported: {error}: it is of other library versions: run "
            "it with these in runtime_env"
        ) from error
