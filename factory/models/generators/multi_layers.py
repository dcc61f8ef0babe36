"""Layers of `MultiTransformer`: its blocks, and what they are made of."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

FREQUENCIES = 64
"""Numbers that embed one number."""
_BASE = 100.0  # of the rotary frequencies: a few to a few hundred tokens a side
Tokens = dict[str, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]
"""Stream -> its (N, T, dim) tokens, (N, T) mask of those that count (None: all), (N,) rows."""


class OuterBlock(nn.Module):
    """Two convolutions on all places, scaled and shifted by the modulation, around a skip."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in (*self.modulation.parameters(), *self.second.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) to the same; `vector` is (N, dim)."""
        move, scale = self.modulation(vector)[..., None, None].chunk(2, 1)
        near = self.first(nn.functional.silu(normalise(hidden, 1)))
        near = normalise(near, 1) * (1 + scale) + move
        return hidden + self.second(nn.functional.silu(near))  # type: ignore[no-any-return]


class NamedValues(nn.Module):
    """A token for each named value: what the name is, and how much of it (value times a vector)."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.names = nn.Parameter(torch.randn(count, dim) * 0.5)
        self.slopes = nn.Parameter(torch.randn(count, dim) * 0.5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Maps (N, V) to (N, V, dim)."""
        return self.names + values.unsqueeze(2) * self.slopes


class Block(nn.Module):
    """Self-attention, cross-attention to the streams, and a convolving feed-forward network."""

    def __init__(
        self, dim: int, heads: int, stream_dim: int, names: tuple[str, ...], shared: bool
    ) -> None:
        super().__init__()
        self.heads, self.shared = heads, shared
        self.shift = nn.Parameter(torch.zeros(6, dim))
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.cross_q = nn.Linear(dim, dim, bias=False)
        keys = ("shared",) if shared else names
        self.cross_kv = nn.ModuleDict(
            {name: nn.Linear(stream_dim, 2 * dim, bias=False) for name in keys if names}
        )
        # Without a bias: what no stream says anything to stays as it is.
        self.cross_out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.cross_out.weight)
        self.feed_in = nn.Linear(dim, 4 * dim)
        self.feed_near = nn.Conv2d(4 * dim, 4 * dim, 3, padding=1, groups=4 * dim)
        self.feed_out = nn.Linear(4 * dim, dim)
        nn.init.dirac_(self.feed_near.weight, groups=4 * dim)  # starts as no convolution at all

    def forward(
        self,
        hidden: torch.Tensor,
        shift: torch.Tensor,
        turns: torch.Tensor,
        tokens: Tokens,
        size: tuple[int, int],
    ) -> torch.Tensor:
        """Maps (N, h w, dim) to the same; `shift` is (N, 6, dim), `size` (h, w)."""
        parts = (self.shift + shift).unsqueeze(2).unbind(1)
        move, scale, gate, feed_move, feed_scale, feed_gate = parts
        hidden = hidden + gate * self._attend(normalise(hidden) * (1 + scale) + move, turns)
        if tokens:
            hidden = hidden + self.cross_out(self._attend_streams(normalise(hidden), tokens))
        fed = normalise(hidden) * (1 + feed_scale) + feed_move
        return hidden + feed_gate * self._feed(fed, size)

    def _attend(self, hidden: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split(each) for each in self.to_qkv(hidden).chunk(3, 2))
        query, key = rotate(normalise(query), turns), rotate(normalise(key), turns)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _attend_streams(self, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Returns the sum over the streams of what the queries take from each."""
        query = normalise(self._split(self.cross_q(hidden)))
        if self.shared:
            tokens = {"shared": join_tokens(tokens)}
        total: Any = 0.0
        for name, (own, mask, present) in tokens.items():
            key, value = (self._split(each) for each in self.cross_kv[name](own).chunk(2, 2))
            # Rows without the stream attend to anything: a softmax over nothing is NaN.
            seen = None if mask is None else (mask | ~present.unsqueeze(1))[:, None, None]
            taken = scaled_dot_product_attention(query, normalise(key), value, attn_mask=seen)
            total = total + blank(taken.transpose(1, 2).flatten(2), present)
        return total  # type: ignore[no-any-return]

    def _feed(self, hidden: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        wide = self.feed_in(hidden).transpose(1, 2).unflatten(2, size)
        near = self.feed_near(wide).flatten(2).transpose(1, 2)
        return self.feed_out(nn.functional.gelu(near, approximate="tanh"))  # type: ignore[no-any-return]

    def _split(self, hidden: torch.Tensor) -> torch.Tensor:
        count, length, dim = hidden.shape
        return hidden.reshape(count, length, self.heads, dim // self.heads).transpose(1, 2)


def normalise(values: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Divides by the root mean square along an axis (RMSNorm without weights)."""
    if axis == -1:
        return nn.functional.rms_norm(values, values.shape[-1:], eps=1e-6)
    return values * torch.rsqrt(values.square().mean(axis, keepdim=True) + 1e-6)


def blank(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Returns (N, ...) values with exact zeros in the rows where (N,) `present` is false."""
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


def average_tokens(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns (N, dim), the mean of the tokens that count."""
    if mask is None:
        return tokens.mean(1)
    weights = mask.to(tokens.dtype).unsqueeze(2)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def join_tokens(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the tokens of all streams as one, for the shared attention."""
    parts, masks = [], []
    for own, mask, present in tokens.values():
        whole = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
        parts.append(own)
        masks.append((whole if mask is None else mask) & present.unsqueeze(1))
    mask = torch.cat(masks, 1)
    return torch.cat(parts, 1), mask, mask.any(1)


def embed_number(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns (N, 64) sines and cosines of (N,) numbers from 0 to about 1000."""
    half = FREQUENCIES // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=values.device) / half)
    angles = values.float().unsqueeze(1) * rates
    return torch.cat([angles.cos(), angles.sin()], 1).to(dtype)


def place_rotations(height: int, width: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    """Returns (h w, dim / 2, 2) cosine and sine: a half of the pairs turns with each axis."""
    quarter = dim // 4
    rates = _BASE ** (-torch.arange(quarter, device=like.device) / quarter)
    rows = torch.arange(height, device=like.device).unsqueeze(1) * rates
    columns = torch.arange(width, device=like.device).unsqueeze(1) * rates
    angles = torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)
    return torch.stack([angles.cos(), angles.sin()], 2).to(like.dtype)


def rotate(values: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turns (N, heads, T, dim) by their places."""
    first, second = values.chunk(2, 3)
    cosine, sine = turns.unbind(2)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], 3)
