"""Teaches the caption encoder of a model of parallel streams to say what an image encoder sees.

As `factory.train.encoder.trunk` does for models of one conditioner: captions are read only where
their gradient is not drowned by streams that tell more. Here the mean of a caption's tokens learns
to stand for the mean of the tokens of the stream `embedding`; what the blocks and the modulation
make of embeddings is then taken over for captions, and the rest of the network stays as it was.
"""

import numpy as np
import torch

from factory.catalog.captions.writing import write_caption
from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.models.generators.multi_layers import average_tokens
from factory.models.generators.query_text import encode_tokens
from factory.train.encoder.trunk import BATCH, fit_reading
from factory.train.multi.batches import draw_rows
from factory.train.multi.network import MultiDenoiser
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial
from factory.train.multi.validation import encode


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
    if material.tokenizer is None or not material.embedding_dim:
        raise InputError(
            "training.reading_steps: needs captions and data.encoder: set them, or remove it"
        )
    parts = network.transformer.streams
    sets, grid = material.collection.sets, material.grid
    device = parts.pools["caption"].weight.device

    def embed(name: str, values: torch.Tensor) -> torch.Tensor:
        return parts.norms[name](parts.kinds[name](values).unflatten(-1, (-1, parts.stream_dim)))

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        turns = range(max(1, BATCH // recipe.training.batch_size))
        rows = [
            row for turn in turns for row in draw_rows(recipe, material.collection, (step, turn))
        ]
        draw = np.random.default_rng(derive_seed(recipe.seed, "reading", step))
        seen = torch.from_numpy(np.stack([sets[source].features[view] for source, view in rows]))
        with torch.no_grad():
            target = embed("embedding", parts.standardise("embedding", seen.to(device))).mean(1)
        captions = [
            write_caption(grid, sets[source].attributes[view], draw) for source, view in rows
        ]
        tokens, mask = encode(material, tuple(captions), device)
        hidden, mask = encode_tokens(network.text_encoder, tokens, mask)
        return average_tokens(embed("caption", hidden).squeeze(2), mask), target

    reader = network.text_encoder.named_parameters()
    learning = [
        *(each for name, each in reader if not name.startswith("language_model.")),
        *parts.kinds["caption"].parameters(), *parts.norms["caption"].parameters(),
    ]  # fmt: skip
    explained = fit_reading(learning, read, recipe.training.reading_steps)
    with torch.no_grad():
        for group in (parts.pools, *(block.cross_kv for block in network.transformer.blocks)):
            if "caption" in group:
                group["caption"].weight.copy_(group["embedding"].weight)
    return explained
