"""What of a generator of parallel streams is trained: transformer, caption encoder, projector."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from factory.core.errors import InputError
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.multi_network import MultiTransformer, apply_transformer
from factory.models.generators.multi_streams import Streams
from factory.models.generators.query_text import QueryTextEncoder, encode_tokens
from factory.train.generator.network import build_text_encoder, copy_weights
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.views import Collection

Foretelling = tuple[NDArray[np.float32], NDArray[np.float32]]
"""(D, V) slopes of features on named values, and (D,) features where all values are 0."""
Scales = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Stream -> mean and standard deviation of its numbers."""
_SHAPE = {
    *("fold", "merge", "outer_dim", "outer_blocks", "dim", "depth", "heads", "stream_dim"),
    "attention",
}
"""Settings that the transformer is built with as they are."""


class Projector(nn.Module):
    """From tokens of a block to a teacher's features of places, and to its pooled features.

    Representation alignment (REPA, Yu et al. 2024, arXiv 2410.06940), with convolutions in place of
    its layers (MUPAD, methods).
    """

    def __init__(self, dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.places = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU(), nn.Conv2d(dim, teacher_dim, 3, padding=1)
        )
        self.pooled = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, teacher_dim))

    def forward(
        self, tokens: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the losses of places and of pooled features, 1 - cosine each.

        Args:
            tokens: (N, dim, h, w).
            teacher: (N, teacher_dim, h', w').
        """
        height, width = teacher.shape[2:]
        mine = self.places(adaptive_avg_pool2d(tokens, (height, width)))
        places = 1 - cosine_similarity(mine.float(), teacher, dim=1).mean()
        whole = self.pooled(tokens.mean((2, 3))).float()
        return places, 1 - cosine_similarity(whole, teacher.mean((2, 3)), dim=1).mean()


class MultiDenoiser(nn.Module):
    """All that is trained, under one roof."""

    def __init__(
        self, transformer: MultiTransformer, text_encoder: Any, projector: Projector | None,
        recipe: MultiRecipe,
    ) -> None:  # fmt: skip
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.projector = projector
        self._std, self._prediction = recipe.network.data_std, recipe.network.prediction
        self._tap = recipe.training.alignment_block

    def forward(
        self,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        streams: Streams,
        tokens: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        teacher: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the velocity, and the losses of alignment (0 without a teacher).

        Args:
            noisy: (B, C, h, w).
            sigma: (B,) in (0, 1).
            streams: of the rows, all but the captions.
            tokens: (B, T) caption tokens, or None.
            mask: (B, T) of the tokens that count; a row of zeros is no caption.
            teacher: (B, dim, h', w') features of the images, or None.
        """
        if tokens is not None and mask is not None:
            hidden, mask = encode_tokens(self.text_encoder, tokens, mask)
            streams = replace(streams, caption=hidden, caption_mask=mask)
        velocity, tapped = apply_transformer(
            self.transformer, noisy, sigma, streams, self._std, self._prediction,
            None if teacher is None else self._tap,
        )  # fmt: skip
        nothing = velocity.new_zeros(())
        if teacher is None or tapped is None or self.projector is None:
            return velocity, nothing, nothing
        return (velocity, *self.projector(tapped, teacher))


def build_denoiser(
    recipe: MultiRecipe,
    collection: Collection,
    tokenizer: Any,
    embedding_dim: int,
    scales: Scales,
    foretelling: Foretelling | None = None,
    language_model: Any = None,
    start: MultiPipeline | None = None,
) -> MultiDenoiser:
    """Builds untrained networks with a part for each stream that the data have.

    Args:
        recipe: widths and depths.
        collection: what the data tell.
        tokenizer: of the captions, or None for a model without.
        embedding_dim: width of the encoder's features; 0 for a model without.
        scales: of `embedding` and `vector`, where they are.
        foretelling: of embeddings by named values, or None.
        language_model: whose last hidden states queries read, or None: a text model of its own.
        start: pipeline to go on from, whose reader of captions is built again, or None.
    """
    network = recipe.network
    transformer = MultiTransformer(
        in_channels=3 * network.fold**2,
        sample_size=recipe.data.image_size // network.fold,
        classes=len(collection.class_names),
        text_dim=network.text_dim if tokenizer is not None else 0,
        embedding_dim=embedding_dim,
        vector_names=",".join(collection.vector_names),
        control_labels=",".join(collection.control_labels),
        foretells=foretelling is not None,
        scales=any(not np.isnan(each.mpp).all() for each in collection.sets),
        **network.model_dump(include=_SHAPE),
    )
    for name, (mean, spread) in scales.items():
        getattr(transformer.streams, f"{name}_mean").copy_(torch.from_numpy(mean))
        getattr(transformer.streams, f"{name}_std").copy_(torch.from_numpy(spread))
    if foretelling is not None:
        slopes, at_0 = (torch.from_numpy(each) for each in foretelling)
        transformer.foretelling.copy_(slopes)
        transformer.foretelling_at_0.copy_(at_0)
    projector = None
    if recipe.training.alignment or recipe.training.alignment_pooled:
        projector = Projector(network.dim, embedding_dim)
    reader = None if start is None or tokenizer is None else start.text_encoder
    if isinstance(reader, QueryTextEncoder):
        text_encoder: Any = QueryTextEncoder.from_config(reader.config)
    elif network.text is not None and language_model is not None:
        queries = network.text.queries
        text_encoder = QueryTextEncoder.of(language_model, queries, network.text_dim)
    else:
        text_encoder = build_text_encoder(network.text_dim, network.text_layers, tokenizer)
    return MultiDenoiser(transformer, text_encoder, projector, recipe)


def start_from(denoiser: MultiDenoiser, collection: Collection, start: MultiPipeline) -> None:
    """Copies a trained pipeline's weights; parts of streams that it has not stay new.

    Classes and named values follow their names. A scale of features or values is the trained
    model's: what its weights were fitted to.

    Raises:
        InputError: networks of other shapes, masks of other labels, or a stream of the model that
            the data have not.
    """
    theirs, mine = start.transformer, denoiser.transformer
    if start.control_labels and start.control_labels != collection.control_labels:
        raise InputError(
            f"init: the model knows masks of {', '.join(start.control_labels)}, the data have "
            f"{', '.join(collection.control_labels) or 'none'}: give the same labels"
        )
    values = (collection.vector_names, tuple(theirs.config.vector_names.split(",")))
    kind = "streams.kinds.vector"
    rows = {
        "streams.kinds.class_name.weight": (collection.class_names, start.class_names),
        **{f"{kind}.{name}": values for name in ("names", "slopes")},
        **{f"streams.vector_{name}": values for name in ("mean", "std")},
        **dict.fromkeys(("foretelling", "foretelling_at_0"), ((), ())),  # of one's own data
    }
    copy_weights("transformer", mine, theirs, rows)
    if denoiser.text_encoder is not None and start.text_encoder is not None:
        copy_weights("text_encoder", denoiser.text_encoder, start.text_encoder, {})
