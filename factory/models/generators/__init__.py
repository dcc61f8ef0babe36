"""`build_generator`: from a recipe's generator section to what samples it."""

import importlib
from pathlib import Path
from typing import Any

from factory.catalog.catalog import ModelEntry
from factory.core.errors import InputError
from factory.models.generators.base import Generator
from factory.models.generators.families import FAMILIES
from factory.models.generators.settings import GeneratorSettings
from factory.models.session import Session

_DIFFUSERS = "factory.models.generators.diffusers:DiffusersGenerator"

GENERATORS: dict[str, str] = {
    "stable-diffusion": _DIFFUSERS,
    "stable-diffusion-xl": _DIFFUSERS,
    "stable-diffusion-3": _DIFFUSERS,
    "pixart-alpha": _DIFFUSERS,
    "pixart-sigma": _DIFFUSERS,
    "flux": _DIFFUSERS,
    "dit": _DIFFUSERS,
    "pixcell": _DIFFUSERS,
    "flow": _DIFFUSERS,
    "given": "factory.models.generators.existing:ExistingGenerator",
    "fake": "factory.models.generators.fake:FakeGenerator",
}
"""Family -> `module:Class`, imported on use."""


def find_streams(family: str) -> tuple[frozenset[str], frozenset[str] | None]:
    """Returns the streams that a family needs, and those that it takes besides; None: any."""
    found = FAMILIES[family] if family in FAMILIES else _find_class(family)
    return found.required, found.optional


def _find_class(family: str) -> Any:
    module, _, name = GENERATORS.get(family, _DIFFUSERS).partition(":")
    return getattr(importlib.import_module(module), name)


def build_generator(
    settings: GeneratorSettings,
    entry: ModelEntry | None,
    base: Path,
    session: Session | None = None,
) -> Generator:
    """Builds the generator of a recipe; its weights are loaded at the first need.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, or None for a bare Hub id or folder, whose family is
            `settings.family` or read off its model_index.json. The model `fake` needs no entry.
        base: the recipe's folder, against which relative paths resolve.
        session: which has a guiding classifier; None: one of its own.

    Raises:
        InputError: an unknown family or model, or settings that do not fit it.
        GenerationError: a Hub model that cannot be reached.
    """
    family = entry.family if entry is not None else settings.family
    if entry is None and settings.model == "fake":
        family = "fake"
    generator_class = _find_class(family or "")
    generator: Generator = generator_class(settings, entry, base)
    if settings.classifier_guidance is not None:
        lead = getattr(generator, "lead", None)
        if lead is None:
            raise InputError(f"generator.classifier_guidance: {settings.model} cannot be guided")
        lead(settings.classifier_guidance, session or Session.open(base))
    return generator
