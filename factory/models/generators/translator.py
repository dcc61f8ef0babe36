"""`TranslatorGenerator`: a network from source images to translated ones, once or on a path."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from factory.catalog.entries import ImageChannels
from factory.core.errors import CallError, InputError
from factory.data.channels import compose_rgb, describe_channels
from factory.data.records import Job, Sample
from factory.data.streams import Source
from factory.models.generators import weights
from factory.models.generators.base import Capabilities, name_model
from factory.models.generators.batches import BatchedGenerator, tell_failure
from factory.models.generators.families.translator import TranslatorFamily
from factory.models.generators.loading import choose_device, choose_dtype, describe_making
from factory.models.generators.outputs import quantise
from factory.models.translators import WEIGHTS, TranslatorConfig, build_network
from factory.models.translators.path import follow

LIBRARIES = ("torch", "numpy", "pillow", "safetensors")
"""Whose versions shape the pixels."""


@dataclass(frozen=True, slots=True)
class Translator:
    """A network in memory, in evaluation mode.

    Attributes:
        network: (N, 3, H, W) normalised pixels -> what its last layer gives.
        config: how pixels enter and leave it.
        device: torch device, e.g. `cuda:0`.
        dtype: of the weights, e.g. `float32`.
        folder: of its files.
        sha256: digest of the weights.
        steps: from noise to the image; None: one pass.
    """

    network: nn.Module
    config: TranslatorConfig
    device: str
    dtype: str
    folder: Path
    sha256: str
    steps: int | None = None

    @torch.inference_mode()
    def translate(
        self, sources: NDArray[np.uint8], noise: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Returns (N, H, W, C) float32 in [0, 1], NaN where not finite, of (N, H, W, 3) uint8.

        Args:
            sources: images that are translated.
            noise: (N, C, H, W) where the path begins, of a network that follows one.
        """
        config, dtype = self.config, getattr(torch, self.dtype)
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        pixels = torch.from_numpy(np.ascontiguousarray(sources.transpose(0, 3, 1, 2)))
        entered = ((pixels.float() / 255.0 - mean) / std).to(self.device, dtype)
        made: Tensor = self._pass(entered, noise).float().cpu()
        made = torch.where(made.isfinite(), made, torch.nan)
        if config.output == "signed":
            made = (made + 1.0) / 2.0
        elif config.output == "logits":
            made = made.sigmoid()
        found: NDArray[np.float32] = made.clamp(0.0, 1.0).permute(0, 2, 3, 1).numpy()
        return found

    def draw_noise(self, seeds: Sequence[int], rows: int, height: int, width: int) -> Tensor | None:
        """Returns (rows, C, height, width), a row for each seed and zeros below; None: no path."""
        if self.steps is None:
            return None
        shape = self.config.network.out_channels, height, width
        noise = torch.zeros(rows, *shape)
        for row, seed in enumerate(seeds):
            noise[row] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise

    def _pass(self, entered: Tensor, noise: Tensor | None) -> Tensor:
        if self.steps is None or noise is None:
            made: Tensor = self.network(entered)
            return made
        return follow(self.network, entered, noise.to(entered), self.steps)


class TranslatorGenerator(BatchedGenerator):
    """Translates source images; the weights are loaded at the first need.

    Args:
        family: what is asked, of a recipe.
    """

    def __init__(self, family: TranslatorFamily) -> None:
        self._family, self._settings = family, family.settings
        self.batch_size = self._settings.batch_size

    @cached_property
    def capabilities(self) -> Capabilities:
        """What may be asked of it; reads no weights."""
        found = self._family.capabilities
        if self._family.entry is None:
            found = replace(found, mpp=self._family.config.mpp)
        return found

    def generate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Translates the source of each job, in order; see `Generator.generate`.

        Every pass has the same shape, padded by its last source. Where the device is full the
        number of images is halved for good.

        Raises:
            InputError: a condition that the model does not take, or a size that it cannot make.
            SourceError: a source that cannot be read.
            OutOfMemoryError: the device cannot hold a single image.
            CallError: the network failed.
        """
        for job in jobs:
            self._family.check_condition(job.condition)
        return self.run_batches(jobs, self._translate)

    def describe(self) -> dict[str, Any]:
        """Returns what made the pixels, as plain data for provenance; loads the weights."""
        model = self.model
        return {
            "model": name_model(self._settings, self._family.entry),
            "model_revision": weights.name_revision(model.folder, model.sha256),
            "weights_sha256": model.sha256,
            "family": self._family.kind,
            "pipeline": type(model.network).__name__,
            "scheduler": "none" if model.steps is None else "Euler",
            "num_inference_steps": model.steps or 0,
            "guidance_scale": None,
            "arguments": model.config.model_dump(mode="json"),
            **describe_making(self.capabilities, model.dtype, model.device, LIBRARIES),
            "adapters": [],
            **describe_channels(self.capabilities.channels),
        }

    @cached_property
    def model(self) -> Translator:
        """The network, loaded at the first need.

        Raises:
            InputError: weights that do not fit, or channels that are not those of the entry.
        """
        family, settings = self._family, self._settings
        config, size = family.config, (self.capabilities.width, self.capabilities.height)
        unfit = config.find_unfit(*size)
        if unfit is not None:
            raise InputError(f"generator.width, height: {unfit}")
        declared = () if (found := self.capabilities.channels) is None else found.named
        names = tuple(channel.name for channel in declared)
        if names != config.channel_names:
            made = ", ".join(config.channel_names) or "RGB images"
            raise InputError(
                f"model {settings.model}: its network makes {made}, its catalog entry declares "
                f"{', '.join(names) or 'no channels'}: correct channels of the entry"
            )
        folder = family.find_folder()
        assert folder is not None  # as `config` was read from it
        device = choose_device(settings.device)
        dtype = choose_dtype(settings, family.entry, device)
        network = load_network(config, folder).to(device, getattr(torch, dtype))
        digest = weights.compute_weights_digest(folder)
        steps = family.num_inference_steps
        return Translator(network, config, device, dtype, folder, digest, steps)

    def _translate(self, jobs: Sequence[Job]) -> list[Sample]:
        """Translates the sources of one pass, padded to its fixed shape."""
        size, width, height = self.batch_size, self.capabilities.width, self.capabilities.height
        found = [job.condition.get(Source) for job in jobs]
        sources = [each.load(width, height) for each in found if each is not None]
        padded = np.stack(sources + [sources[-1]] * (size - len(jobs)))
        where = f"model {self._settings.model}"
        with tell_failure(where, size, width, height):
            noise = self.model.draw_noise([job.seed for job in jobs], size, height, width)
            made = self.model.translate(padded, noise)
        declared = self.capabilities.channels
        depth = 3 if declared is None else len(declared.named)
        if made.shape != (size, height, width, depth):
            raise CallError(f"{where} made {made.shape[1:]}, expected ({height}, {width}, {depth})")
        if declared is not None:
            return [_name_values(made[row], declared, size) for row in range(len(jobs))]
        pixels, nonfinite = quantise(made)
        return [
            Sample(pixels[row], nonfinite_fraction=float(nonfinite[row]), batch_size=size)
            for row in range(len(jobs))
        ]


def _name_values(made: NDArray[np.float32], declared: ImageChannels, size: int) -> Sample:
    """Returns channels of the declared type, and their composite, of (H, W, C) in [0, 1] or NaN."""
    values: NDArray[Any] = np.ascontiguousarray(made.transpose(2, 0, 1))
    share = 1.0 - float(np.isfinite(values).mean())
    if declared.dtype.startswith("uint"):
        values = np.rint(np.nan_to_num(values) * np.iinfo(declared.dtype).max)
    values = values.astype(declared.dtype)
    return Sample(
        compose_rgb(values, declared),
        nonfinite_fraction=share,
        channels=values,
        batch_size=size,
    )


def load_network(config: TranslatorConfig, folder: Path) -> nn.Module:
    """Returns the network of a folder, in evaluation mode, float32, on the CPU.

    Raises:
        InputError: weights that cannot be read, or are not those of the configuration.
    """
    path = folder / WEIGHTS
    try:
        state = load_file(path)
        with torch.device("meta"):
            network = build_network(config.network)
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: does not load: {said}: convert the checkpoint again") from error
    return network.float().eval().requires_grad_(False)
