"""`MultiTransformer`: a diffusion transformer with a cross-attention for each stream."""

from typing import Any, Literal

import torch
from diffusers import CacheMixin, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import one_hot, pixel_unshuffle

from factory.models.generators.multi_layers import (
    FREQUENCIES,
    Block,
    NamedValues,
    OuterBlock,
    Tokens,
    average_tokens,
    blank,
    embed_number,
    normalise,
    place_rotations,
)
from factory.models.generators.multi_streams import Streams

Prediction = Literal["image", "velocity"]
LEAST_SIGMA = 0.05
"""Share of noise below which the velocity of a predicted image is not blown up further."""


class MultiTransformer(ModelMixin, ConfigMixin, CacheMixin):  # type: ignore[misc]
    """Predicts from a noisy image and any subset of the streams, row by row.

    A diffusion transformer (DiT, Peebles & Xie 2023, arXiv 2212.09748; SiT, Ma et al. 2024,
    arXiv 2401.08740) on folded pixels or latents, one token for `merge` x `merge` places, between
    which convolutions draw what is fine (an hourglass, Crowson et al. 2024, arXiv 2401.11605: a
    token for each place of pixels costs many times as much). It has normalised queries
    and keys (Dehghani et al. 2023, arXiv 2302.05442), rotary positions in two dimensions (Su et al.
    2021, arXiv 2104.09864), so that it runs at any size, and one adaLN-Zero modulation for all
    blocks (PixArt, Chen et al. 2023, arXiv 2310.00426). Depthwise convolutions let neighbours speak
    (Sana, Xie et al. 2024, arXiv 2410.10629).

    In each block, beside self-attention, the queries attend to each stream by keys and values of
    its own, and the outputs are added (MUPAD, equation 1; IP-Adapter, Ye et al. 2023,
    arXiv 2308.06721). A stream that a row does not have adds exactly nothing. The twin with
    `attention="shared"` has one attention over the tokens of all streams: the control.

    Class, scale and the means of embedding and vector also enter the modulation; a label map is
    concatenated to the image's channels (its convolution is added, which is the same).

    Args:
        in_channels: of the folded pixels or latents.
        sample_size: places a side that it was trained at; a default, not a bound.
        fold: pixels a side of one place, by which label maps are folded.
        merge: places a side of one token; 1 is a plain transformer without convolutions around it.
        outer_dim: width of the convolutions.
        outer_blocks: of them, before the transformer and as many behind it.
        dim: width.
        depth: blocks.
        heads: of the attentions; `dim / heads` is a multiple of 4.
        stream_dim: width of the streams' tokens.
        classes: class embeddings; 0: none.
        text_dim: width of caption features; 0: no captions.
        embedding_dim: width of an image encoder's features; 0: no embeddings.
        embedding_tokens: tokens that one of these features becomes.
        vector_names: named values, comma-separated; empty: none.
        control_labels: labels of masks, comma-separated; empty: none.
        scales: whether it takes µm per pixel.
        attention: `parallel` or `shared`.
        feature_classes: classes that are features of the stream `embedding`: what adapters add to
            a model, which so needs no part that it was not trained with.
        foretells: whether it holds a regression of embeddings on named values.
    """

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 48,
        sample_size: int = 32,
        fold: int = 4,
        merge: int = 4,
        outer_dim: int = 96,
        outer_blocks: int = 1,
        dim: int = 320,
        depth: int = 8,
        heads: int = 5,
        stream_dim: int = 96,
        classes: int = 0,
        text_dim: int = 0,
        embedding_dim: int = 0,
        embedding_tokens: int = 4,
        vector_names: str = "",
        control_labels: str = "",
        scales: bool = True,
        attention: Literal["parallel", "shared"] = "parallel",
        feature_classes: int = 0,
        foretells: bool = False,
    ) -> None:
        super().__init__()
        self.class_features = None
        if feature_classes:
            self.class_features = nn.Embedding(feature_classes, embedding_dim)
        outer = outer_dim if merge > 1 else dim
        self.enter = nn.Conv2d(in_channels, outer, 3, padding=1)
        self.control_enter = None
        if control_labels:
            depth_in = len(control_labels.split(",")) * fold**2
            self.control_enter = nn.Conv2d(depth_in, outer, 3, padding=1, bias=False)
        around = outer_blocks if merge > 1 else 0
        self.before = nn.ModuleList(OuterBlock(outer, dim) for _ in range(around))
        self.behind = nn.ModuleList(OuterBlock(outer, dim) for _ in range(around))
        self.join: nn.Module = nn.Identity()
        self.part: nn.Module = nn.Identity()
        if merge > 1:
            self.join = nn.Sequential(nn.PixelUnshuffle(merge), nn.Conv2d(outer * merge**2, dim, 1))
            self.part = nn.Sequential(nn.Conv2d(dim, outer * merge**2, 1), nn.PixelShuffle(merge))
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Linear(dim, 6 * dim)
        self.streams = StreamTokens(
            dim, stream_dim, classes, text_dim, embedding_dim, embedding_tokens,
            vector_names, scales,
        )  # fmt: skip
        if foretells:
            count = len(vector_names.split(","))
            self.register_buffer("foretelling", torch.zeros(embedding_dim, count))
            self.register_buffer("foretelling_at_0", torch.zeros(embedding_dim))
        names = tuple(self.streams.kinds)
        self.blocks = nn.ModuleList(
            Block(dim, heads, stream_dim, names, attention == "shared") for _ in range(depth)
        )
        self.leave_modulation = nn.Linear(dim, 2 * dim)
        self.leave = nn.Conv2d(outer, in_channels, 3, padding=1)
        for layer in (self.modulation, self.leave_modulation, self.leave):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams that it takes."""
        return (*self.streams.kinds, *(() if self.control_enter is None else ("control",)))

    def foretell(self, values: torch.Tensor) -> torch.Tensor:
        """Returns (N, embedding_dim) features to expect of images of (N, V) named values.

        A value that is not known, NaN, counts as 0.
        """
        own: Any = self
        known = values.nan_to_num(0.0).to(own.foretelling)
        found: torch.Tensor = known @ own.foretelling.T + own.foretelling_at_0
        return found.float()

    @property
    def compiled_parts(self) -> tuple[nn.Module, ...]:
        """What `torch.compile` takes: around them is asked which streams the rows have."""
        return (*self.before, *self.blocks, *self.behind)

    def forward(
        self, sample: torch.Tensor, sigma: torch.Tensor, streams: Streams, tap: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns (N, C, h, w), and the tokens behind block `tap` as (N, dim, h', w').

        Args:
            sample: (N, C, h, w), any multiples of `merge`.
            sigma: (N,) share of noise.
            streams: of the rows; those that the network has no part for must not be there.
            tap: number of a block, counted from 1, whose output is wanted, too.

        Raises:
            ValueError: a stream that the model was built without.
        """
        unknown = set(streams.names) - set(self.stream_names)
        if unknown:
            raise ValueError(
                f"this model was trained without {', '.join(sorted(unknown))}: leave it out"
            )
        tokens, pooled = self.streams(streams)
        vector = self.time(embed_number(sigma.float() * 1000, sample.dtype)) + pooled
        vector = nn.functional.silu(vector)
        fine = self._enter(sample, streams)
        for outer in self.before:
            fine = outer(fine, vector)
        hidden = self.join(fine)
        height, width = hidden.shape[2:]
        shift = self.modulation(vector).unflatten(1, (6, -1))
        turns = place_rotations(height, width, self.config.dim // self.config.heads, hidden)
        flat = hidden.flatten(2).transpose(1, 2)
        tapped = None
        for number, block in enumerate(self.blocks, 1):
            flat = block(flat, shift, turns, tokens, (height, width))
            if number == tap:
                tapped = flat.transpose(1, 2).unflatten(2, (height, width))
        move, scale = self.leave_modulation(vector).unsqueeze(1).chunk(2, 2)
        flat = normalise(flat) * (1 + scale) + move
        drawn = self.part(flat.transpose(1, 2).unflatten(2, (height, width)))
        if self.behind:
            drawn = drawn + fine
        for outer in self.behind:
            drawn = outer(drawn, vector)
        return self.leave(drawn), tapped

    def _enter(self, sample: torch.Tensor, streams: Streams) -> torch.Tensor:
        hidden: torch.Tensor = self.enter(sample)
        present = streams.present("control")
        if present is None or self.control_enter is None or streams.control is None:
            return hidden
        count = len(self.config.control_labels.split(","))
        maps = one_hot(streams.control.clamp(min=0), count + 1)[..., 1:].permute(0, 3, 1, 2)
        folded = pixel_unshuffle(maps.to(sample.dtype), self.config.fold)
        return hidden + blank(self.control_enter(folded), present)


class StreamTokens(nn.Module):
    """Turns each stream into tokens for cross-attention, and into a part of the modulation."""

    def __init__(
        self,
        dim: int,
        stream_dim: int,
        classes: int,
        text_dim: int,
        embedding_dim: int,
        embedding_tokens: int,
        vector_names: str,
        scales: bool,
    ) -> None:
        super().__init__()
        self.dim, self.stream_dim = dim, stream_dim
        kinds: dict[str, nn.Module] = {}
        if classes:
            kinds["class_name"] = nn.Embedding(classes, stream_dim)
        if text_dim:
            kinds["caption"] = nn.Linear(text_dim, stream_dim)
        if embedding_dim:
            kinds["embedding"] = nn.Linear(embedding_dim, embedding_tokens * stream_dim)
        if vector_names:
            kinds["vector"] = NamedValues(len(vector_names.split(",")), stream_dim)
        if scales:
            kinds["scale"] = nn.Sequential(
                nn.Linear(FREQUENCIES, stream_dim), nn.SiLU(), nn.Linear(stream_dim, stream_dim)
            )
        self.kinds = nn.ModuleDict(kinds)
        for name, width in (("embedding", embedding_dim), ("vector", len(vector_names.split(",")))):
            if name in kinds:  # what a training measures, so that inputs have unit scale
                self.register_buffer(f"{name}_mean", torch.zeros(width))
                self.register_buffer(f"{name}_std", torch.ones(width))
        self.norms = nn.ModuleDict({name: nn.LayerNorm(stream_dim) for name in kinds})
        self.pools = nn.ModuleDict({name: nn.Linear(stream_dim, dim, bias=False) for name in kinds})
        if text_dim:  # nothing at first: a model from before goes on as it was
            nn.init.zeros_(self.pools["caption"].weight)  # type: ignore[arg-type]

    def forward(self, streams: Streams) -> tuple[Tokens, Any]:
        """Returns the tokens, and what they add to the modulation: (N, dim), or 0 for none."""
        found: Tokens = {}
        pooled: Any = 0.0
        for name in self.kinds:
            present = streams.present(name)
            if present is None:
                continue
            tokens, mask = self._embed(name, streams)
            tokens = self.norms[name](tokens)
            found[name] = (tokens, mask, present)
            pooled = pooled + blank(self.pools[name](average_tokens(tokens, mask)), present)
        return found, pooled

    def _embed(self, name: str, streams: Streams) -> tuple[torch.Tensor, torch.Tensor | None]:
        kind: Any = self.kinds[name]
        value: Any = getattr(streams, name)
        like: Any = self.norms[name].weight
        if name == "class_name":
            return kind(value.clamp(min=0)).unsqueeze(1), None
        if name == "caption":
            return kind(value.to(like.dtype)), streams.caption_mask
        if name == "embedding":
            count = kind.out_features // self.stream_dim
            tokens = kind(self._standardise(name, value)).unflatten(2, (count, -1)).flatten(1, 2)
            mask: Any = streams.embedding_mask
            return tokens, mask.repeat_interleave(count, 1)
        if name == "vector":
            return kind(self._standardise(name, value).nan_to_num(0.0)), ~value.isnan()
        octaves = torch.log2(value.nan_to_num(1.0).float())
        return kind(embed_number(octaves * 100 + 500, like.dtype)).unsqueeze(1), None

    def _standardise(self, name: str, value: torch.Tensor) -> torch.Tensor:
        mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
        return ((value - mean) / std).to(self.norms[name].weight.dtype)  # type: ignore[no-any-return]


def apply_transformer(
    transformer: Any,
    sample: torch.Tensor,
    sigma: torch.Tensor,
    streams: Streams,
    std: float,
    prediction: Prediction,
    tap: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the velocity at `sample`, float32, and the tokens behind block `tap`.

    The input has unit variance. `velocity` is preconditioned as in `flow.apply_network`. `image`
    predicts x in units of its standard deviation, from which follows v = (x_t - x) / sigma.

    Args:
        transformer: `MultiTransformer`.
        sample: (N, C, h, w) float32 on the path.
        sigma: (N,) share of noise.
        streams: of the rows.
        std: standard deviation of the data.
        prediction: see above.
        tap: number of a block, or None.
    """
    noise = sigma.to(sample).view(-1, 1, 1, 1)
    spread = noise**2 + (1 - noise) ** 2 * std**2
    scaled = (sample / spread.sqrt()).to(transformer.dtype)
    output, tapped = transformer(scaled, sigma, streams, tap)
    if prediction == "image":
        image = std * output.float()
        return (sample - image) / noise.clamp(min=LEAST_SIGMA), tapped
    guess = (noise - (1 - noise) * std**2) / spread * sample
    return guess + std / spread.sqrt() * output.float(), tapped
