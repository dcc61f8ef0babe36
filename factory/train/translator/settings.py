"""The recipes of translators: what `factory train translator` reads."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from factory.catalog.entries import Strict
from factory.train.encoder.settings import UnlabelledSource
from factory.train.generator.settings import (
    DataSettings,
    NamedRecipe,
    Optimisation,
    ValidationSettings,
)


class Side(Strict):
    """One domain: its images, encoded here and kept, or the embeddings that a table holds."""

    images: Path | None = Field(
        None, description="pairs have the same path below it, whatever the suffix"
    )
    embeddings: Path | None = Field(
        None, description="or parquet, npy, safetensors, jsonl or datasets folder with arrays"
    )
    column: str = Field("embedding", description="of the arrays")
    key: str | None = Field(None, description="column that names pairs; default: rows in order")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.images is None) == (self.embeddings is None):
            raise ValueError("takes either images or embeddings: set one of them")
        if self.images is not None and (self.key is not None or self.column != "embedding"):
            raise ValueError("column and key are of embeddings: leave them out")
        return self


class PairedData(Strict):
    """The same tissue in two domains, as a row of each."""

    source: Side = Field(description="domain that is translated, as H&E")
    target: Side = Field(description="domain that it is translated to, as IHC")
    encoder: str = Field(min_length=1, description="catalog id or KIND:NAME of what makes both")
    grid: int = Field(1, ge=1, le=16, description="of images: crops a side, each an embedding")
    group_column: str | None = Field(
        None, description="of the source's table: patient or slide, which is held out whole"
    )
    group_pattern: str | None = Field(None, description="or regex on image paths, one (group)")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the pairs kept to validate on")

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        if (self.source.images is None) != (self.target.images is None):
            raise ValueError("source and target: give images of both, or embeddings of both")
        if self.source.images is None and (self.grid > 1 or self.group_pattern is not None):
            raise ValueError("grid and group_pattern are of images: leave them out")
        if self.source.images is not None and self.group_column is not None:
            raise ValueError("group_column is of embeddings: give group_pattern")
        if (self.source.key is None) != (self.target.key is None):
            raise ValueError("key: name it of both tables, or of none")
        return self


class FlowNetwork(Strict):
    """The residual MLP; the defaults are PixCell's."""

    width: int = Field(1024, ge=8, le=16_384, multiple_of=2)
    blocks: int = Field(6, ge=1, le=64)


class FlowOptimisation(Optimisation):
    """How it is fitted: AdamW, warm-up, constant rate, a running average of the weights."""

    batch_size: int = Field(256, gt=0, description="embeddings in a step")
    learning_rate: float = Field(1e-4, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    validate_every: int = Field(500, gt=0, description="steps")


class FlowRecipe(NamedRecipe):
    """A flow from the embeddings of one domain to those of another, of pairs."""

    kind: Literal["flow"]
    catalogs: tuple[Path, ...] = Field((), description="user catalog folders, searched first")
    data: PairedData
    network: FlowNetwork = FlowNetwork()
    training: FlowOptimisation
    sampling_steps: int = Field(100, ge=1, le=1000, description="Euler steps, as published")


class UnpairedData(Strict):
    """Images of two domains that share no tissue; no label is learned."""

    source: UnlabelledSource = Field(description="images that are translated, as frozen sections")
    target: UnlabelledSource = Field(description="images as they should look, as FFPE sections")
    image_size: int = Field(256, ge=32, le=1024, multiple_of=8, description="px")
    mpp: float | None = Field(None, gt=0, description="µm per pixel, where both share it")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of each that validates")

    @property
    def views(self) -> DataSettings:
        """Both as the sources of one training set: 0 is the source, 1 the target."""
        return DataSettings(
            sources=(self.source, self.target),
            image_size=self.image_size,
            mpp=self.mpp,
            held_out=self.held_out,
        )


class CutNetwork(Strict):
    """The ResNet generator; the defaults are the published ones."""

    channels: int = Field(64, ge=4, le=256)
    blocks: int = Field(9, ge=1, le=24)
    antialias: bool = Field(True, description="blurred resampling; false: CycleGAN's")


class CutOptimisation(Strict):
    """How it is fitted: Adam (0.5, 0.999), least-squares GAN, contrast of patches."""

    steps: int = Field(gt=0)
    batch_size: int = Field(1, gt=0, le=64, description="images of each domain in a step")
    learning_rate: float = Field(2e-4, gt=0)
    decay_steps: int = Field(0, ge=0, description="last steps, with the rate falling to 0 linearly")
    contrast: float = Field(1.0, ge=0, description="weight of the patches' loss: holds structure")
    identity: bool = Field(True, description="patches of target images are contrasted too")
    patches: int = Field(256, ge=2, le=4096, description="of an image and layer")
    temperature: float = Field(0.07, gt=0)
    discriminator_channels: int = Field(64, ge=4, le=256)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_every: int = Field(500, gt=0, description="steps")


class CutRecipe(NamedRecipe):
    """A network from images of one domain to another, of unpaired images: CUT."""

    kind: Literal["cut"]
    data: UnpairedData
    network: CutNetwork = CutNetwork()
    training: CutOptimisation
    validation: ValidationSettings = ValidationSettings()


class ImageFolder(Strict):
    """One side of pairs of images."""

    images: Path = Field(description="files of one relative name, whatever the suffix, are a pair")


class PairedImages(Strict):
    """The same places twice: RGB sources, and targets of any channels (.npy, OME-TIFF, RGB)."""

    source: ImageFolder = Field(description="RGB images that are translated, as H&E")
    target: ImageFolder = Field(description="(C, H, W) of the same pixels, as mIF")
    channels: tuple[str, ...] = Field((), description="names of targets that are no RGB images")
    windows: dict[str, tuple[float, float]] = Field(
        {}, description="channel -> values that become 0 and 1; default: [0, 1], or the type's own"
    )
    image_size: int = Field(256, ge=32, le=1024, multiple_of=32, description="px that are cut")
    mpp: float | None = Field(None, gt=0, description="µm per pixel, where both share it")
    group_pattern: str | None = Field(
        None, description="regex on relative names, one (group): the patient, held out whole"
    )
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the pairs kept to validate on")

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        strange = [name for name in self.windows if name not in self.channels]
        if strange:
            raise ValueError(f"windows: {strange[0]!r} is none of channels: name it there")
        if any(low >= high for low, high in self.windows.values()):
            raise ValueError("windows: the first value must be below the second")
        return self


class PairedNetwork(Strict):
    """The U-Net of pix2pix, with instance norm."""

    channels: int = Field(64, ge=4, le=256)
    downs: int = Field(5, ge=5, le=8, description="halvings; images are multiples of 2 ** downs")


class PairedOptimisation(FlowOptimisation):
    """How it is fitted: AdamW, warm-up, constant rate, a running average of the weights."""

    batch_size: int = Field(8, gt=0, le=256, description="pairs in a step")
    learning_rate: float = Field(3e-4, gt=0)
    validate_every: int = Field(1000, gt=0, description="steps")


class PairedRecipe(NamedRecipe):
    """A network from images to channels of the same place: source and noise side by side."""

    kind: Literal["paired"]
    data: PairedImages
    network: PairedNetwork = PairedNetwork()
    training: PairedOptimisation
    path_steps: int = Field(
        8, ge=0, le=1000, description="from noise to the image; 0: one pass without noise"
    )
    validated: int = Field(64, ge=8, description="held-out pairs at most that are translated")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        multiple = 2**self.network.downs
        if self.data.image_size % multiple:
            raise ValueError(f"data.image_size: must be a multiple of {multiple} (network.downs)")
        return self


AnyTranslator = FlowRecipe | CutRecipe | PairedRecipe
TRANSLATORS: dict[str, type[AnyTranslator]] = {
    "flow": FlowRecipe,
    "cut": CutRecipe,
    "paired": PairedRecipe,
}
"""`kind` of a recipe -> what it holds."""
