"""Everything that a generator's training needs before its first step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pixel_unshuffle

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.catalog import Catalogs, ClassEntry
from factory.core.errors import InputError
from factory.core.hashing import derive_seed
from factory.data.patients import Patients, read_patients
from factory.models.generators.families.base import read_index
from factory.models.generators.flow import FlowPipeline
from factory.models.generators.weights import compute_weights_digest
from factory.train.batches import CaptionWriter
from factory.train.generator.network import train_tokenizer
from factory.train.generator.settings import GivenCaptions, MeasuredCaptions, TrainingRecipe
from factory.train.images import TrainingImages, load_training_images

_TOKENIZER_CAPTIONS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowMaterial:
    """What every training by flow matching is given.

    Attributes:
        class_names: of the images, in the order of the labels.
        tokenizer: of the captions, or None.
        start: pipeline to go on from, or None.
        start_sha256: digest of its weights, or None.
        patients: whose images it learns from, those of `start` among them.
    """

    class_names: tuple[str, ...]
    tokenizer: Any
    start: Any
    start_sha256: str | None
    patients: Patients


@dataclass(frozen=True, slots=True, kw_only=True)
class Material(FlowMaterial):
    """What is learned from, and the parts that are not trained.

    Attributes:
        images: the views.
        write: (row, draw) -> caption, or None for a model without captions.
        vae: frozen autoencoder of a latent model, or None.
        latent: its (channels, factor), or None.
        fold: pixel-unshuffle factor of a pixel model.
    """

    images: TrainingImages
    write: Callable[[int, np.random.Generator], str] | None
    vae: Any
    latent: tuple[int, int] | None
    fold: int

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns (B, 3, S, S) in [-1, 1] into what the network learns, (B, C, s, s) float32."""
        if self.vae is None:
            return pixel_unshuffle(pixels, self.fold)
        self.vae.to(pixels.device)
        shift = self.vae.config.shift_factor or 0.0
        latents = self.vae.encode(pixels).latent_dist.mode()
        return (latents - shift) * self.vae.config.scaling_factor  # type: ignore[no-any-return]


def prepare_material(recipe: TrainingRecipe, catalogs: Catalogs, folder: Path) -> Material:
    """Reads images, captions and what is given of the model.

    Raises:
        SourceError: images that cannot be read.
        InputError: a grid, class list or model that there is not, or that does not fit.
    """
    grid: CaptionGrid | None = None
    titles: dict[str, ClassEntry] = {}
    if isinstance(recipe.captions, MeasuredCaptions):
        grid = catalogs.find_captions(recipe.captions.grid)
        if not grid.measures:
            raise InputError(f"captions.grid: {grid.id} has no measures: take he-attributes")
        for name in recipe.captions.classes:
            titles |= {entry.name: entry for entry in catalogs.find_classes(name).classes}
    images = load_training_images(recipe.data, grid, recipe.seed, folder / "images")
    _check_facts(recipe, grid)
    writer = None
    if recipe.captions is not None:
        writer = CaptionWriter(images, grid, titles)
        if isinstance(recipe.captions, GivenCaptions) and not any(images.captions):
            raise InputError("captions: given, but no image has one: leave captions out")
    start, digest = load_start(recipe.init, catalogs, FlowPipeline)
    tokenizer = None
    if writer is not None:
        own = start.tokenizer if start is not None else None
        tokenizer = own or fit_tokenizer(
            partial(_write_any, writer), recipe.seed, recipe.network.vocabulary, catalogs
        )
    vae = _load_vae(recipe)
    latent = None
    if vae is not None:
        latent = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
    return Material(
        class_names=images.class_names,
        images=images,
        write=writer.write if writer else None,
        tokenizer=tokenizer,
        vae=vae,
        latent=latent,
        fold=recipe.network.fold,
        start=start,
        start_sha256=digest,
        patients=join_start(images.patients, recipe.init, catalogs),
    )


def _check_facts(recipe: TrainingRecipe, grid: CaptionGrid | None) -> None:
    from factory.core.yaml.messages import advise

    for position, source in enumerate(recipe.data.sources):
        for name, value in source.facts.items():
            known = grid.attributes if grid is not None else {}
            where = f"data.sources.{position}.facts"
            if name not in known:
                raise InputError(
                    f"{where}: no caption attribute {name!r}: {advise(name, tuple(known))}"
                )
            if value not in known[name]:
                raise InputError(
                    f"{where}.{name}: no value {value!r}: {advise(value, tuple(known[name]))}"
                )


def _write_any(writer: CaptionWriter, draw: np.random.Generator) -> str:
    return writer.write(int(draw.integers(len(writer.images.labels))), draw)


def fit_tokenizer(
    write: Callable[[np.random.Generator], str], seed: int, vocabulary: int, catalogs: Catalogs
) -> Any:
    """Fits the tokenizer on captions of the training images and the words of all class lists."""
    draw = np.random.default_rng(derive_seed(seed, "tokenizer"))
    texts = [write(draw) for _ in range(_TOKENIZER_CAPTIONS)]
    for name in catalogs.list_ids("classes"):
        for entry in catalogs.find_classes(name).classes:
            texts += [entry.title, *entry.synonyms]
    return train_tokenizer(texts, vocabulary)


def load_start(init: str | None, catalogs: Catalogs, kind: type[Any]) -> tuple[Any, str | None]:
    """Returns the pipeline that a training goes on from, and a digest of its weights.

    Args:
        init: catalog id or folder; None: none.
        catalogs: where ids are looked up.
        kind: class of the pipeline.

    Raises:
        InputError: there is none, or one of another class.
    """
    if init is None:
        return None, None
    entry = catalogs.get_model(init)
    folder = Path(entry.source if entry is not None else init)
    has_pipeline = (folder / "model_index.json").is_file()
    if not has_pipeline or read_index(folder).get("_class_name") != kind.__name__:
        raise InputError(
            f"init: {init!r} is neither a catalog id nor a folder of a {kind.__name__}"
        )
    return kind.from_pretrained(folder, dtype=torch.float32), compute_weights_digest(folder)


def join_start(patients: Patients, init: str | None, catalogs: Catalogs) -> Patients:
    """Returns whose images a training learns from, and the model that it goes on from learned from.

    Raises:
        InputError: the record of that model is damaged.
    """
    if init is None:
        return patients
    entry = catalogs.get_model(init)
    return patients.join(read_patients(Path(entry.source if entry is not None else init)), init)


def _load_vae(recipe: TrainingRecipe) -> Any:
    if recipe.network.vae is None:
        return None
    from diffusers import AutoencoderKL

    try:
        vae = AutoencoderKL.from_pretrained(recipe.network.vae, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"network.vae: {recipe.network.vae}: cannot be loaded ({error}): give the folder or "
            "Hub id of an AutoencoderKL"
        ) from error
    return vae.eval().requires_grad_(False)
