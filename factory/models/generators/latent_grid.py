"""`GridConditioner`: embeddings of a field's parts and its scale, as ZoomLDM reads them."""

import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torchvision.models.vision_transformer import Encoder

PLACES = 64
"""Of tokens: a grid of 8 x 8; a smaller one fills the middle of the row."""
GRIDS = (1, 4, 16, PLACES)
"""Tokens that an image can have: a crop of its own, or a grid of 2 x 2, 4 x 4 or 8 x 8."""


def find_scale(tokens: int) -> int:
    """Returns the scale of a grid of the finest crops: 2 x 2 of them are twice as coarse as one."""
    return round(math.log2(tokens) / 2)


class GridConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A transformer over a scale and 1, 4, 16 or 64 embeddings, row by row (arXiv 2411.16969).

    Its weights have the names of the published code.

    Args:
        dim: width of the tokens that the UNet attends to.
        embedding_dim: width of the embeddings, which are standardised first.
        hidden: width of the transformer.
        mlp: width inside its blocks.
        layers: blocks.
        heads: of their attention.
        scales: number of scales, each half as fine as the one before.
        has_norm: brings the tokens to one length at the end.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        dim: int,
        embedding_dim: int,
        hidden: int,
        mlp: int,
        layers: int,
        heads: int,
        scales: int,
        has_norm: bool,
    ) -> None:
        super().__init__()
        self.mag_embedding = nn.Embedding(scales, hidden)
        self.dim_reduce = nn.Linear(embedding_dim, hidden)
        self.pad_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.encoder = Encoder(PLACES + 1, layers, heads, hidden, mlp, 0.0, 0.0)
        self.final_proj = nn.Linear(hidden, dim)
        self.layer_norm = nn.LayerNorm(dim) if has_norm else None

    def forward(self, given: torch.Tensor, scales: Sequence[int] | None = None) -> torch.Tensor:
        """Returns (N, 65, dim) tokens of (N, 1 | 4 | 16 | 64, embedding_dim) and N scales.

        Without scales a grid is that of the finest ones (`find_scale`).

        Raises:
            ValueError: another number of embeddings.
        """
        count, tokens = given.shape[:2]
        if tokens not in GRIDS:
            raise ValueError(f"takes {', '.join(map(str, GRIDS))} embeddings, got {tokens}")
        found = [find_scale(tokens)] * count if scales is None else list(scales)
        spread = given.std(-1, keepdim=True) + 1e-8
        inner = self.dim_reduce((given - given.mean(-1, keepdim=True)) / spread)
        row = self.pad_token.repeat(count, PLACES, 1)
        first = PLACES // 2 - tokens // 2
        row[:, first : first + tokens] = inner
        scale = self.mag_embedding(torch.tensor(found, device=given.device))[:, None]
        made: torch.Tensor = self.final_proj(self.encoder(torch.cat([scale, row], 1)))
        return made if self.layer_norm is None else self.layer_norm(made)

    def encode_null(self, count: int) -> torch.Tensor:
        """Returns the tokens of no condition: zeros, behind the transformer."""
        zeros = torch.zeros(count, PLACES + 1, self.config.dim, dtype=self.dtype)
        return zeros.to(self.device)
