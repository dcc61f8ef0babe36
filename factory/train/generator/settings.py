"""The training recipe: what `factory train generator` reads."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from factory.catalog.entries import Strict
from factory.data.images.fields import ImageColumn


def _check_scale(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"scale must be two numbers, 0 < low <= high <= 1, got {low}, {high}")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_check_scale)]
"""Least and largest side of a view, as shares of a side of the image."""


class SourceSettings(Strict):
    """One set of real images to learn from."""

    images: Path = Field(description="ImageFolder, parquet, datasets folder or WebDataset")
    image_column: ImageColumn = None
    fit: Literal["crop", "resize"] = Field(
        "crop", description="centre crop keeps mpp; resize does not"
    )
    views: int = Field(
        1, ge=1, le=1000, description="views of each image; all but the first random"
    )
    scale: Scale = Field(
        (0.5, 1.0), description="side of a random view as a share of the image's shorter side"
    )
    labels: bool = Field(True, description="learn the classes; false: look at the images only")
    facts: dict[str, str] = Field(
        {}, description="what holds for all its images: caption attribute -> value"
    )
    weight: float = Field(1.0, gt=0, description="share of the batches, relative to other sources")


class DataSettings(Strict):
    """Real patches to learn from."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    image_size: int = Field(64, ge=16, le=1024, multiple_of=8, description="px, height and width")
    mpp: float | None = Field(None, gt=0, description="µm per pixel, where all sources share it")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the images kept to validate on")


class MeasuredCaptions(Strict):
    """Captions written from what is measured in each image's pixels."""

    kind: Literal["measured"]
    grid: str = Field(description="catalog id of a caption grid with `measures`")
    classes: tuple[str, ...] = Field(
        (), description="catalog ids of classes whose titles and synonyms may open a caption"
    )


class GivenCaptions(Strict):
    """Captions that come with the images."""

    kind: Literal["given"]


CaptionSettings = Annotated[MeasuredCaptions | GivenCaptions, Field(discriminator="kind")]


class NetworkSettings(Strict):
    """`UNet2DModel` on folded pixels or latents, and the encoders of its conditions."""

    channels: tuple[int, ...] = Field((64, 96, 160), min_length=1, description="per level")
    attention: tuple[bool, ...] = Field(
        (False, False, True), description="self-attention per level"
    )
    layers_per_block: int = Field(1, ge=1, le=8)
    norm_groups: int = Field(
        8, ge=1, description="of the group norms; each width has several channels in each"
    )
    fold: int = Field(2, ge=1, le=8, description="pixel-unshuffle factor of a pixel model")
    vae: str | None = Field(None, description="folder or Hub id of an AutoencoderKL: latent model")
    data_std: float = Field(
        0.5, gt=0, description="of pixels in [-1, 1] or latents, for the preconditioning"
    )
    text_dim: int = Field(128, ge=16, multiple_of=16, description="width of the caption encoder")
    text_layers: int = Field(2, ge=1, le=24)
    vocabulary: int = Field(1024, ge=300, le=50_000, description="tokens of the caption encoder")
    reference_dim: int = Field(64, ge=0, description="features of a reference image; 0: none")
    average_streams: bool = Field(
        True, description="class, caption and reference are averaged; false: added"
    )

    @model_validator(mode="after")
    def _check_levels(self) -> "NetworkSettings":
        if len(self.attention) != len(self.channels):
            raise ValueError("attention must have as many entries as channels")
        for width in self.channels:
            # A group of one channel normalises away what its condition adds to it.
            if width % self.norm_groups or width < 2 * self.norm_groups:
                raise ValueError(
                    f"channels: {width} is not a multiple of norm_groups, {self.norm_groups}, of "
                    "at least twice its size"
                )
        return self


class Optimisation(Strict):
    """What every network is fitted by."""

    steps: int = Field(gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    checkpoint_every: int = Field(500, gt=0, description="steps")


class OptimisationSettings(Optimisation):
    """How the velocity network is fitted."""

    batch_size: int = Field(32, gt=0, description="images in one pass of one process")
    accumulate: int = Field(1, ge=1, description="passes whose gradients make one step")
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(200, ge=0)
    decay_steps: int = Field(0, ge=0, description="last steps, with the rate falling to 0 linearly")
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="whole condition, for guidance")
    stream_dropout: float = Field(0.3, ge=0, lt=1, description="each stream by itself")
    reference_rate: float = Field(0.4, ge=0, le=1, description="images shown with a reference")
    stain_jitter: float = Field(0.02, ge=0, le=0.5, description="HED colour augmentation")
    reading_steps: int = Field(
        0, ge=0, description="after the last step: captions learn to say what references show"
    )
    times: Literal["logit-normal", "uniform"] = Field(
        "logit-normal", description="density of the path's times in training"
    )
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = Field(False, description="torch.compile: 45 s at start, then 1.2 times as fast")


class ValidationSettings(Strict):
    """Samples against held-out real images; the best weights so far are the ones exported."""

    every: int = Field(1000, gt=0, description="steps")
    images: int = Field(256, ge=16, description="samples, and held-out images at most")
    encoder: str = Field("color-texture", description="encoder id")


class SamplingSettings(Strict):
    """How the exported model samples by default."""

    scheduler: str = "UniPCMultistep"
    steps: int = Field(12, ge=1, le=1000)
    guidance: float = Field(1.5, ge=0)


class ExportSettings(Strict):
    """What the model card and the catalog entry say that cannot be measured."""

    title: str = ""
    license: str = Field("other", description="Hub licence id of the weights")
    training_data: tuple[str, ...] = Field((), description="one line for each set")
    attribution: tuple[str, ...] = ()


class NamedRecipe(Strict):
    """What every training recipe says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    export: ExportSettings = ExportSettings()


class GeneratorRecipe(NamedRecipe):
    """What every recipe of a generator says."""

    catalogs: tuple[Path, ...] = Field((), description="user catalog folders, searched first")
    init: str | None = Field(None, description="catalog id or folder of a model to go on from")
    sampling: SamplingSettings = SamplingSettings()


class TrainingRecipe(GeneratorRecipe):
    """A generator trained from scratch, or on from a checkpoint."""

    data: DataSettings
    captions: CaptionSettings | None = None
    network: NetworkSettings = NetworkSettings()
    training: OptimisationSettings
    validation: ValidationSettings = ValidationSettings()
