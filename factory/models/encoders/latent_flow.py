"""A flow between the embeddings of two domains, as H&E and IHC, behind the encoder of both.

After PixCell's virtual staining (arXiv 2506.05127): a residual MLP learns the velocity
target - source along x_t = t target + (1 - t) source (Liu et al. 2023, arXiv 2209.03003).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.core.yaml.model import parse_model, read_document
from factory.models.encoders.base import Encoder
from factory.models.encoders.kinds.flow import CONFIG, FlowConfig
from factory.models.encoders.learned import hash_weights, load_weights

WEIGHTS = "flow.safetensors"
_SCALE = 999.0  # of times in [0, 1], before their sines
_PERIOD = 10_000.0
_MARGIN = 1e-3  # of the times that steps begin at, as published
ROWS = 64
"""Embeddings of one pass, padded to it: values depend on its shape in their last bits."""


class ResidualBlock(nn.Module):
    """Two linear layers beside what they change; the time is added between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.out_layers = nn.Sequential(
            nn.LayerNorm(width), nn.SiLU(), nn.Dropout(0.0), _zero(nn.Linear(width, width))
        )

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        """Returns (N, width)."""
        inner = self.in_layers(values) + self.emb_layers(time)
        changed: Tensor = self.out_layers(inner)
        return values + changed


class LatentFlow(nn.Module):
    """Velocity of (N, dim) embeddings at times in [0, 1]; its weights have the published names."""

    def __init__(self, dim: int, width: int = 1024, blocks: int = 6) -> None:
        super().__init__()
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.input_proj = nn.Linear(dim, width)
        self.res_blocks = nn.ModuleList([ResidualBlock(width) for _ in range(blocks)])
        self.out = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.SiLU(), _zero(nn.Linear(width, dim))
        )

    def forward(self, values: Tensor, times: Tensor) -> Tensor:
        """Returns the (N, dim) velocity of (N, dim) embeddings at (N,) times."""
        half = self.width // 2
        exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
        angles = _SCALE * times[:, None] * torch.exp(-math.log(_PERIOD) * exponents)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))
        inner = self.input_proj(values)
        for block in self.res_blocks:
            inner = block(inner, time)
        velocity: Tensor = self.out(inner)
        return velocity


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@torch.inference_mode()
def transport(network: Any, values: Tensor, steps: int) -> Tensor:
    """Returns where (N, dim) source embeddings come to by so many Euler steps, (N, dim)."""
    for time in torch.linspace(_MARGIN, 1.0 - _MARGIN, steps).tolist():
        times = torch.full((len(values),), time, device=values.device)
        values = values + network(values, times) / steps
    return values


class FlowEncoder:
    """An encoder, and behind it the way of its embeddings to another domain.

    Args:
        name: what provenance calls it.
        config: of the flow.
        network: the flow, on a device.
        encoder: of both domains.
    """

    def __init__(
        self, name: str, config: FlowConfig, network: LatentFlow, encoder: Encoder
    ) -> None:
        self.dim, self._name, self._config = config.dim, name, config
        self._network, self._encoder = network.eval().requires_grad_(False), encoder
        self._device = next(network.parameters()).device

    def describe(self) -> dict[str, Any]:
        """Returns id, revision, one hash of both networks' weights, dim and preprocessing."""
        inner = self._encoder.describe()
        hashes = [hash_weights(self._network), inner["weights_sha256"], self._config.steps]
        return {
            **inner,
            "id": self._name,
            "revision": None,
            "weights_sha256": compute_digest("weights", hashes),
            "dim": self.dim,
        }

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 embeddings, in the other domain, of (N, H, W, 3) uint8 RGB."""
        return self.map(self._encoder.encode(images))

    def map(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 embeddings of the other domain."""
        found = np.empty_like(embeddings)
        for start in range(0, len(embeddings), ROWS):
            block = embeddings[start : start + ROWS]
            padded = np.zeros((ROWS, self.dim), np.float32)
            padded[: len(block)] = block
            moved = transport(
                self._network, torch.from_numpy(padded).to(self._device), self._config.steps
            )
            found[start : start + ROWS] = moved[: len(block)].cpu().numpy()
        return found


def load_flow(folder: Path, name: str, device: str, encoder: Encoder) -> FlowEncoder:
    """Loads `flow.json` and `flow.safetensors` behind an encoder.

    Raises:
        InputError: files that are missing or do not fit, or an encoder of other weights.
    """
    config = parse_model(read_document(folder / CONFIG), FlowConfig)
    told = encoder.describe()["weights_sha256"]
    if encoder.dim != config.dim or config.encoder_sha256 not in (None, told):
        raise InputError(
            f"{folder / CONFIG}: was trained on {config.dim} features of {config.encoder} with "
            f"weights {config.encoder_sha256}, got {encoder.dim} with {told}: get those weights"
        )
    network = LatentFlow(config.dim, config.width, config.blocks)
    try:
        load_weights(network, folder / WEIGHTS)
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{folder / WEIGHTS}: does not load: {said}: train it again") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return FlowEncoder(name, config, network.to(device), encoder)
