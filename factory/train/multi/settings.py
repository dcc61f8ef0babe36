"""The recipe of a generator of parallel streams: what `factory train generator` reads."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.catalog.entries import Strict
from factory.train.generator.settings import (
    GeneratorRecipe,
    MeasuredCaptions,
    OptimisationSettings,
    SourceSettings,
)


class Masks(Strict):
    """Label maps: PNG files of the same names and folders, or nuclei found in the images."""

    folder: Path | None = Field(
        None,
        description="holds for IMAGE.jpg the file IMAGE.png; None: 1 where stain alone tells a "
        "nucleus, so that masks stand beside all else that is known of such images",
    )
    labels: dict[int, str] = Field(description="pixel value -> label; others are nothing")

    @model_validator(mode="after")
    def _check_found(self) -> "Masks":
        if self.folder is None and set(self.labels) != {1}:
            told = ", ".join(map(str, sorted(self.labels))) or "none"
            raise ValueError(f"without folder, nuclei have the value 1: name it alone, got {told}")
        return self


class Values(Strict):
    """Named values of images, such as pathway scores."""

    table: Path = Field(description="CSV or TSV file; all columns but the key are values")
    key: str = Field(description="column with the image's file name without its ending")


class MultiSource(SourceSettings):
    """One set of real images, and what it tells of them."""

    mpp: float | None = Field(None, gt=0, description="µm per pixel of the files; None: not known")
    size: int | None = Field(
        None, ge=16, le=1024, multiple_of=8, description="px of its views; None: data.image_size"
    )
    masks: Masks | None = None
    values: Values | None = None
    group_pattern: str | None = Field(
        None, description="expression whose ( ) is the patient in file names"
    )
    held_out_classes: tuple[str, ...] = Field(
        (), description="folders that are never trained on, e.g. a section"
    )
    alone: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of its images shown without caption and embedding, which tell most: "
        "the network then learns what values, mask and scale tell by themselves",
    )


class MultiData(Strict):
    """Real patches to learn from."""

    sources: tuple[MultiSource, ...] = Field(min_length=1)
    image_size: int = Field(128, ge=16, le=1024, multiple_of=8, description="px of the model")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of images, patients whole")
    encoder: str | None = Field(
        None, description="encoder id whose features are the stream embedding, and the teacher"
    )


class QueryText(Strict):
    """Captions read by learned queries behind a frozen language model."""

    encoder: Path = Field(description="folder of a language model of transformers, never trained")
    queries: int = Field(
        16, ge=1, le=256, description="tokens that the generator gets of a caption"
    )


class MultiNetworkSettings(Strict):
    """`MultiTransformer`, and the encoder of captions."""

    kind: Literal["multi"]
    fold: int = Field(4, ge=1, le=16, description="pixels a side of a place")
    merge: int = Field(4, ge=1, le=16, description="places a side of a token; 1: no convolutions")
    outer_dim: int = Field(96, ge=8, description="width of the convolutions")
    outer_blocks: int = Field(1, ge=1, le=8)
    dim: int = Field(320, ge=16, description="width of the transformer")
    depth: int = Field(7, ge=1, le=64)
    heads: int = Field(5, ge=1)
    stream_dim: int = Field(64, ge=8)
    attention: Literal["parallel", "shared"] = Field(
        "parallel", description="to each stream by itself, or to all tokens at once (the control)"
    )
    prediction: Literal["image", "velocity"] = "image"
    data_std: float = Field(0.5, gt=0, description="of pixels in [-1, 1]")
    text_dim: int = Field(128, ge=16, multiple_of=16)
    text_layers: int = Field(2, ge=1, le=24)
    vocabulary: int = Field(1024, ge=300, le=50_000)
    text: QueryText | None = Field(
        None, description="reads captions instead of a text model of its own, trained from scratch"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> "MultiNetworkSettings":
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 heads, got {self.dim}, {self.heads}")
        return self


class MultiOptimisation(OptimisationSettings):
    """How it is fitted; `stream_dropout` leaves out each stream by itself, `dropout` all."""

    stream_dropout: float = Field(0.1, ge=0, lt=1, description="each stream by itself")
    embedding_rate: float = Field(
        0.5, ge=0, le=1, description="images shown with their own features"
    )
    vector_noise: float = Field(
        0.0,
        ge=0,
        le=5,
        description="standard deviation of the noise on named values, in units of theirs: few "
        "profiles are not learnt by heart",
    )
    foretell: bool = Field(
        False,
        description="named values without an embedding are sampled with the features that a ridge "
        "regression on the training images expects of them; without it they alone must teach all",
    )
    control_rate: float = Field(1.0, ge=0, le=1, description="images shown with their mask")
    time_shift: float = Field(
        0.0, ge=-5, le=5, description="mean of the logit of the share of noise"
    )
    alignment: float = Field(
        0.0, ge=0, description="weight of the alignment with the teacher; 0: none"
    )
    alignment_block: int = Field(3, ge=1, description="whose output is aligned")
    alignment_pooled: float = Field(
        0.0, ge=0, description="weight of the teacher's pooled features, beside those of places"
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # type: ignore[assignment]


class MultiValidation(Strict):
    """The loss of the averaged weights on held-out images, and without each stream."""

    every: int = Field(1000, gt=0, description="steps")
    images: int = Field(128, ge=4, description="held-out views, at most")


class MultiRecipe(GeneratorRecipe):
    """A generator of parallel streams, from scratch."""

    data: MultiData
    captions: MeasuredCaptions | None = None
    network: MultiNetworkSettings
    training: MultiOptimisation
    validation: MultiValidation = MultiValidation()

    @model_validator(mode="after")
    def _check_text(self) -> "MultiRecipe":
        if self.network.text is not None and self.captions is None:
            raise ValueError("network.text: reads captions: say captions, or leave it out")
        if self.network.text is not None and self.init is not None:
            raise ValueError("init: goes on with the model's own reader: leave network.text out")
        return self
