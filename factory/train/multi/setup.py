"""Everything that the training of a generator of parallel streams needs before its first step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import write_caption
from factory.catalog.catalog import Catalogs
from factory.core.errors import InputError
from factory.models.encoders import load_encoder
from factory.models.encoders.learned import LearnedEncoder
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.query_text import load_language_model
from factory.models.generators.straight import TEXT_TOKENS
from factory.train.generator.setup import FlowMaterial, fit_tokenizer, join_start, load_start
from factory.train.multi.batches import measure_features
from factory.train.multi.network import Foretelling, Scales
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.views import Collection, load_collection


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiMaterial(FlowMaterial):
    """What is learned from, and the parts that are not trained.

    Attributes:
        collection: the views.
        grid: caption grid that captions are written by, or None.
        teacher: the encoder whose features are aligned with, or None.
        embedding_dim: width of the encoder's features; 0: none.
        scales: of `embedding` and `vector`, where they are.
        foretelling: of embeddings by named values, or None.
        language_model: frozen, of captions that queries read, or None.
    """

    collection: Collection
    grid: CaptionGrid | None
    teacher: LearnedEncoder | None
    embedding_dim: int
    scales: Scales
    foretelling: Foretelling | None
    language_model: Any

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> torch.Tensor | None:
        """Returns the teacher's (B, dim, h, w) features of (B, 3, S, S) images in [-1, 1]."""
        if self.teacher is None:
            return None
        return self.teacher.map_features((images + 1) * 127.5)


def prepare_material(recipe: MultiRecipe, catalogs: Catalogs, folder: Path) -> MultiMaterial:
    """Reads images, what goes with them, and the encoder.

    Raises:
        SourceError: an image, mask or table that cannot be read or does not fit.
        InputError: a grid, encoder, language model or model to go on from that there is not, or
            that cannot teach.
    """
    grid = None if recipe.captions is None else catalogs.find_captions(recipe.captions.grid)
    if grid is not None and not grid.measures:
        raise InputError(f"captions.grid: {grid.id} has no measures: take he-attributes")
    encoder = None
    if recipe.data.encoder is not None:
        encoder = load_encoder(recipe.data.encoder, device="auto", catalogs=catalogs)
    collection = load_collection(recipe.data, grid, recipe.seed, folder / "views", encoder)
    if not any((~each.held_out).any() for each in collection.sets):
        raise InputError("data.held_out: nothing is left to learn from: lower it")
    start, digest = load_start(recipe.init, catalogs, MultiPipeline)
    if start is not None:
        _check_meaning(recipe, start)
    tokenizer = None if start is None or grid is None else start.tokenizer
    text, language_model = recipe.network.text, None
    if text is not None:
        tokenizer, language_model = load_language_model(text.encoder, TEXT_TOKENS + text.queries)
        tokenizer.model_max_length = TEXT_TOKENS
    if grid is not None and tokenizer is None:
        told, known = [], grid
        for each in collection.sets:
            told += list(each.attributes)

        def write(draw: np.random.Generator) -> str:
            return write_caption(known, told[int(draw.integers(len(told)))], draw)

        tokenizer = fit_tokenizer(write, recipe.seed, recipe.network.vocabulary, catalogs)
    scales: Scales = {}
    if encoder is not None:
        scales["embedding"] = measure_features(collection)
    if collection.vector_names:
        scales["vector"] = measure_features(collection, "vector")
    return MultiMaterial(
        class_names=collection.class_names,
        collection=collection,
        grid=grid,
        tokenizer=tokenizer,
        teacher=_find_teacher(recipe, encoder),
        embedding_dim=0 if encoder is None else encoder.dim,
        scales=scales,
        foretelling=_fit_foretelling(recipe, collection),
        language_model=language_model,
        start=start,
        start_sha256=digest,
        patients=join_start(collection.patients, recipe.init, catalogs),
    )


def _fit_foretelling(recipe: MultiRecipe, collection: Collection) -> Foretelling | None:
    """Fits features of the views learned from to their named values (ridge, its penalty chosen)."""
    if not recipe.training.foretell:
        return None
    if recipe.data.encoder is None or not collection.vector_names:
        raise InputError("training.foretell: needs data.encoder and values: set them, or remove it")
    from sklearn.linear_model import RidgeCV

    sets = [(each, ~each.held_out & ~np.isnan(each.vector).all(1)) for each in collection.sets]
    values = np.nan_to_num(np.concatenate([each.vector[rows] for each, rows in sets]))
    features: list[Any] = [each.features[rows] for each, rows in sets]  # type: ignore[index]
    seen = np.concatenate(features)
    spread = np.maximum(seen.std(0), 1e-3)
    ridge = RidgeCV(np.logspace(0, 4, 9)).fit(values, (seen - seen.mean(0)) / spread)
    slopes = ridge.coef_ * spread[:, None]
    return slopes.astype(np.float32), (ridge.intercept_ * spread + seen.mean(0)).astype(np.float32)


def _check_meaning(recipe: MultiRecipe, start: MultiPipeline) -> None:
    """Refuses weights of the same shape whose numbers stand for something else."""
    network, data = recipe.network, recipe.data
    asked = {
        "network.prediction": (network.prediction, start.config.prediction),
        "network.data_std": (network.data_std, start.config.data_std),
        "data.encoder": (data.encoder or "", start.config.encoder),
    }
    for field, (mine, theirs) in asked.items():
        if mine != theirs and "" not in (mine, theirs):
            raise InputError(f"{field}: {mine}, but {recipe.init}, which init names, has {theirs}")


def _find_teacher(recipe: MultiRecipe, encoder: Any) -> LearnedEncoder | None:
    if not (recipe.training.alignment or recipe.training.alignment_pooled):
        return None
    if not isinstance(encoder, LearnedEncoder):
        raise InputError(
            "training.alignment: needs data.encoder, one of `factory train encoder`, e.g. he-ssl"
        )
    return encoder
