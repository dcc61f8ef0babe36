"""What an objective is: the part of a pipeline that is trained, its loss, and how it samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.outputs import quantise
from factory.train.adapter.settings import AdapterSettings, Choices

WEIGHTS = "pytorch_lora_weights.safetensors"
"""File of an adapter, as diffusers names it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an objective is made for.

    Attributes:
        generator: of the base model; sampling with it samples with the present weights.
        settings: with nothing left open.
        words: class name -> words for it, in the order of the classes.
        shots: class name -> (K, 3, H, W) in [-1, 1].
    """

    generator: DiffusersGenerator
    settings: AdapterSettings
    words: Mapping[str, str]
    shots: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A model whose adapter is trained, and by what loss.

    A condition is a class name, CLASSLESS (what prior images show), or None (the null condition of
    classifier-free guidance, Ho & Salimans 2022, arXiv 2207.12598).
    """

    choices: ClassVar[Choices]

    def __init__(self, subject: Subject) -> None:
        """Adds fresh trainable weights, drawn by the settings' seed, that change nothing yet.

        Raises:
            InputError: a base model or class names that this cannot train.
        """
        ...

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """All that is trained, by name; float32."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates relative to the settings', where they are not 1."""
        ...

    def compute_losses(
        self, pixels: torch.Tensor, conditions: Sequence[str | None], draw: torch.Generator
    ) -> torch.Tensor:
        """Returns the (B,) loss of (B, 3, H, W) images in [-1, 1]; `draw` gives times and noise."""
        ...

    def sample(self, conditions: Sequence[str | None], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Samples (N, H, W, 3) uint8 RGB with the present weights, one image for each seed."""
        ...

    def save(self, folder: Path) -> None:
        """Writes WEIGHTS into the folder."""
        ...

    def describe_entry(self) -> dict[str, Any]:
        """Returns the fields of the catalog entry that tell how classes are asked for."""
        ...


CLASSLESS = ""
"""The condition of prior images: the prompt without a class; no class has an empty name."""


def sample_images(
    generator: DiffusersGenerator, arguments: Mapping[str, Sequence[Any]], seeds: Sequence[int]
) -> NDArray[np.uint8]:
    """Samples (N, H, W, 3) uint8 RGB, in batches, by pipeline arguments with one entry per image.

    Raises:
        GenerationError: the pipeline failed.
    """
    size, made = generator.batch_size, []
    for start in range(0, len(seeds), size):
        part = slice(start, start + size)
        cut = {name: list(values[part]) for name, values in arguments.items()}
        images = generator.call_pipeline(generator.model.pipeline, cut, list(seeds[part]))
        made.append(quantise(images)[0])
    return np.concatenate(made)


def add_lora(
    network: torch.nn.Module, targets: Sequence[str], rank: int, seed: int
) -> dict[str, torch.nn.Parameter]:
    """Adds low-rank updates to a network's layers (Hu et al. 2022, arXiv 2106.09685, section 4.1).

    W + B A with A drawn by `seed` and B zero, so that nothing changes yet. The scale alpha / rank
    is 1, so that files without an alpha mean the same.

    Args:
        network: a diffusers model.
        targets: ends of the names of the layers, linear or convolution.
        rank: of B A.
        seed: of A.

    Returns:
        The new parameters by name, float32, requiring gradients.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    found = {name: parameter for name, parameter in network.named_parameters() if "lora_" in name}
    for parameter in found.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return found


def draw_normal(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Returns standard normal noise of a tensor's shape, drawn on the CPU, on its device."""
    return torch.randn(like.shape, generator=draw).to(like.device)


def draw_logit_normal(count: int, draw: torch.Generator) -> torch.Tensor:
    """Returns (count,) times in (0, 1) of the logit-normal density with mean 0 and scale 1.

    Esser et al. 2024, arXiv 2403.03206, section 3.1.
    """
    return torch.sigmoid(torch.randn(count, generator=draw))
