"""`build_generator`: from a recipe's generator section to what samples it."""

import importlib
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs, ModelEntry, load_catalogs
from factory.core.errors import InputError
from factory.models.generators.base import Generator
from factory.models.generators.settings import GeneratorSettings

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
    "given": "factory.models.generators.existing:GivenGenerator",
    "fake": "factory.models.generators.fake:FakeGenerator",
}
"""Family -> `module:Class`, imported on use."""


def build_generator(
    settings: GeneratorSettings,
    entry: ModelEntry | None,
    base: Path,
    catalogs: Catalogs | None = None,
) -> Generator:
    """Builds the generator of a recipe; its weights are loaded at the first need.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, or None for a bare Hub id or folder, whose family is
            `settings.family` or read off its model_index.json. The model `fake` needs no entry.
        base: the recipe's folder, against which relative paths resolve.
        catalogs: where a guiding classifier is looked up; None: the shipped ones.

    Raises:
        InputError: an unknown family or model, or settings that do not fit it.
        GenerationError: a Hub model that cannot be reached.
    """
    family = entry.family if entry is not None else settings.family
    if entry is None and settings.model == "fake":
        family = "fake"
    module, _, name = GENERATORS.get(family or "", _DIFFUSERS).partition(":")
    generator_class: Any = getattr(importlib.import_module(module), name)
    generator: Generator = generator_class(settings, entry, base)
    if settings.classifier_guidance is not None:
        lead = getattr(generator, "lead", None)
        if lead is None:
            raise InputError(f"generator.classifier_guidance: {settings.model} cannot be guided")
        lead(settings.classifier_guidance, catalogs or load_catalogs(()))
    return generator
