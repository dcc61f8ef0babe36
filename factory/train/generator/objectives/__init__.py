"""`find_trainee`: what of each pipeline family is trained, by what objective."""

import importlib
from typing import Any

from factory.core.errors import InputError

TRAINEES: dict[str, str] = {
    "stable-diffusion": "factory.train.generator.objectives.text:NoiseTrainee",
    "stable-diffusion-xl": "factory.train.generator.objectives.text:NoiseTrainee",
    "stable-diffusion-3": "factory.train.generator.objectives.text:FlowTextTrainee",
    "flow": "factory.train.generator.objectives.flow:FlowTrainee",
}
"""Family -> `module:Class`, imported on use."""


def find_trainee(family: str, model: str) -> Any:
    """Returns the class that trains a family.

    Raises:
        InputError: none does; names those that can be adapted.
    """
    if family not in TRAINEES:
        raise InputError(
            f"model {model}: family {family!r} cannot be adapted: take a model of the families "
            f"{', '.join(TRAINEES)}"
        )
    module, _, name = TRAINEES[family].partition(":")
    return getattr(importlib.import_module(module), name)
