"""The recipe of a self-supervised encoder: what `factory train encoder` reads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factory.catalog.entries import Strict
from factory.models.encoders import EncoderSpec
from factory.models.encoders.small_resnet import Readout
from factory.train.generator.settings import (
    DataSettings,
    NamedRecipe,
    Optimisation,
    Scale,
    SourceSettings,
)


class UnlabelledSource(SourceSettings):
    """One set of real images to look at; classes and captions are not learned."""

    labels: Literal[False] = False

    @model_validator(mode="after")
    def _check_facts(self) -> "UnlabelledSource":
        if self.facts:
            raise ValueError("facts: an encoder learns no captions: take them out")
        return self


class UnlabelledData(DataSettings):
    """Real patches, larger than what the encoder sees, so that views can be cut out of them."""

    sources: tuple[UnlabelledSource, ...] = Field(min_length=1)
    image_size: int = Field(96, ge=32, le=1024, description="px that views are cut out of")


class EncoderNetwork(Strict):
    """`SmallResNet`; the last width is the number of features, unless all stages are read."""

    channels: tuple[int, ...] = Field((32, 64, 128, 256), min_length=2, description="per stage")
    readout: Readout = Field(
        "last",
        description="features: mean of the last stage, or mean and deviation of all stages",
    )


class TeacherSettings(Strict):
    """Another encoder, whose features of an image are foretold from either view of it.

    By one linear layer, so that what the teacher tells can be read off the features (Hinton et al.
    2015, arXiv 1503.02531, of features). Its terms are those of what it taught.
    """

    encoder: EncoderSpec
    weight: float = Field(1.0, gt=0, description="beside the method's loss")


class ViewSettings(Strict):
    """How two views of one image may differ: what the features are to overlook."""

    size: int = Field(64, ge=32, le=512, description="px that the encoder is trained on")
    scale: Scale = Field((0.5, 1.0), description="side of a view as a share of the image's side")
    unscaled: float = Field(
        0.5, ge=0, le=1, description="share of the views cut pixel by pixel, at the image's scale"
    )
    stain_jitter: float = Field(0.15, ge=0, le=0.5, description="HED colour augmentation")
    contrast: float = Field(0.0, ge=0, le=0.5, description="of contrast and brightness")
    blur: float = Field(0.1, ge=0, le=1, description="share of the views that are blurred")
    noise: float = Field(0.0, ge=0, le=0.2, description="largest standard deviation, of 0 to 1")


class Vicreg(Strict):
    """Variance, invariance and covariance (Bardes et al. 2022, arXiv 2105.04906)."""

    kind: Literal["vicreg"]
    hidden: int = Field(1024, ge=8, description="width of the expander's hidden layers")
    dim: int = Field(1024, ge=8, description="of the embedding that the loss is on")
    invariance: float = Field(25.0, ge=0)
    variance: float = Field(25.0, ge=0)
    covariance: float = Field(1.0, ge=0)

    def describe(self) -> str:
        """Says what it is, for a card."""
        return (
            f"VICReg (arXiv 2105.04906), expander {self.hidden}-{self.hidden}-{self.dim}, "
            f"weights {self.invariance:g}, {self.variance:g}, {self.covariance:g}"
        )


class Simclr(Strict):
    """Contrast with the other images of the batch (Chen et al. 2020, arXiv 2002.05709)."""

    kind: Literal["simclr"]
    hidden: int = Field(512, ge=8, description="width of the projector's hidden layer")
    dim: int = Field(128, ge=8, description="of the embedding that the loss is on")
    temperature: float = Field(0.2, gt=0)

    def describe(self) -> str:
        """Says what it is, for a card."""
        sizes = f"projector {self.hidden}-{self.dim}"
        return f"SimCLR (arXiv 2002.05709), {sizes}, temperature {self.temperature}"


MethodSettings = Annotated[Vicreg | Simclr, Field(discriminator="kind")]


class EncoderOptimisation(Optimisation):
    """How the network is fitted: AdamW, warm-up, cosine decay to 0."""

    batch_size: int = Field(256, ge=4, description="images in a step, two views of each")
    learning_rate: float = Field(1e-3, gt=0)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = Field(
        False, description="torch.compile: a minute at start, then 1.4 times as fast"
    )
    validate_every: int = Field(200, gt=0, description="steps")
    checkpoint_every: int = Field(100, gt=0, description="steps")
    min_spread: float = Field(
        0.05, ge=0, lt=1, description="spread below which the training has collapsed and stops"
    )


class EncoderRecipe(NamedRecipe):
    """An encoder trained on images alone."""

    data: UnlabelledData
    network: EncoderNetwork = EncoderNetwork()
    views: ViewSettings = ViewSettings()
    method: MethodSettings
    teacher: TeacherSettings | None = None
    training: EncoderOptimisation

    @model_validator(mode="after")
    def _check_sizes(self) -> "EncoderRecipe":
        if self.views.size > self.data.image_size:
            raise ValueError(
                f"views.size {self.views.size} is larger than data.image_size "
                f"{self.data.image_size}: views are cut out of the images"
            )
        return self
