"""Teaches the caption encoder of a model of parallel streams to say what an image encoder sees.

As `factory.train.encoder.trunk` does for models of one conditioner: captions are read only where
their gradient is not drowned by streams that tell more. Here the mean of a caption's tokens learns
to stand for the mean of the tokens of the stream `embedding`; what the blocks and the modulation
make of embeddings is then taken over for captions, and the rest of the network stays as it was.
"""

from typing import Any

import numpy as np
import torch

from factory.catalog.captions.writing import write_caption
from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.models.generators.multi_layers import average_tokens
from factory.models.generators.multi_streams import Streams
from factory.models.generators.query_text import encode_tokens
from factory.train.batches import tokenize
from factory.train.encoder.trunk import BATCH, fit_reading
from factory.train.multi.batches import draw_rows
from factory.train.multi.network import MultiDenoiser
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial


def teach_streams(recipe: MultiRecipe, material: MultiMaterial, network: MultiDenoiser) -> float:
    """Fits reader and projection of captions for `training.reading_steps` steps.

    Args:
        recipe: with captions and `data.encoder`.
        material: what is learned from.
        network: whose captions learn, from its own embeddings.

    Returns:
        The share of the variance of the embeddings' tokens that captions explain.

    Raises:
        InputError: no captions, or no embeddings to learn from.
    """
    grid = material.grid
    if grid is None or not material.embedding_dim:
        raise InputError(
            "training.reading_steps: needs captions and data.encoder: set them, or remove it"
        )
    parts: Any = network.transformer.streams
    sets, device = material.collection.sets, parts.pools["caption"].weight.device

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        turns = range(max(1, BATCH // recipe.training.batch_size))
        rows = [
            row for turn in turns for row in draw_rows(recipe, material.collection, (step, turn))
        ]
        draw = np.random.default_rng(derive_seed(recipe.seed, "reading", step))
        captions = [
            write_caption(grid, sets[source].attributes[view], draw) for source, view in rows
        ]
        features: list[Any] = [sets[source].features for source, _ in rows]
        seen = np.stack([each[view] for each, (_, view) in zip(features, rows, strict=True)])
        ids, counts = tokenize(material.tokenizer, captions)
        hidden, mask = encode_tokens(network.text_encoder, ids.to(device), counts.to(device))
        streams = Streams(
            caption=hidden,
            caption_mask=mask,
            embedding=torch.from_numpy(seen)[:, None].to(device),
            embedding_mask=torch.ones(len(rows), 1, dtype=torch.bool, device=device),
        )
        found, _ = parts(streams)
        told, target = (average_tokens(*found[name][:2]) for name in ("caption", "embedding"))
        return told, target.detach()

    reader = network.text_encoder.named_parameters()
    learning = [
        *(each for name, each in reader if not name.startswith("language_model.")),
        *parts.kinds["caption"].parameters(), *parts.norms["caption"].parameters(),
    ]  # fmt: skip
    explained = fit_reading(learning, read, recipe.training.reading_steps)
    with torch.no_grad():
        blocks: Any = network.transformer.blocks
        for group in (parts.pools, *(block.cross_kv for block in blocks)):
            if "caption" in group:
                group["caption"].weight.copy_(group["embedding"].weight)
    return explained
