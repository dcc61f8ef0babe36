"""The training recipe: what `factory train generator` reads."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """Real patches to learn from."""

    images: Path = Field(description="ImageFolder or parquet with one class per image")
    image_size: int = Field(64, ge=8, le=1024, multiple_of=8, description="px, height and width")
    fit: Literal["crop", "resize"] = Field(
        "crop", description="centre crop keeps mpp; resize does not"
    )
    mpp: float | None = Field(None, gt=0, description="µm per pixel of the training patches")


class NetworkSettings(_Strict):
    """`UNet2DModel` on folded pixels."""

    channels: tuple[int, ...] = Field((64, 96, 160), min_length=1, description="per level")
    attention: tuple[bool, ...] = Field(
        (False, False, True), description="self-attention per level"
    )
    layers_per_block: int = Field(2, ge=1, le=8)
    fold: int = Field(2, ge=1, le=8, description="pixel-unshuffle factor")

    @model_validator(mode="after")
    def _check_levels(self) -> "NetworkSettings":
        if len(self.attention) != len(self.channels):
            raise ValueError("attention must have as many entries as channels")
        return self


class OptimisationSettings(_Strict):
    """How the velocity network is fitted."""

    steps: int = Field(gt=0)
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(200, ge=0)
    decay_steps: int = Field(0, ge=0, description="last steps, with the rate falling to 0 linearly")
    weight_decay: float = Field(0.01, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    label_dropout: float = Field(0.1, ge=0, lt=1, description="for classifier-free guidance")
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = Field(False, description="torch.compile: 45 s at start, then 1.2 times as fast")
    checkpoint_every: int = Field(500, gt=0, description="steps")


class TrainingRecipe(_Strict):
    """A generator trained from scratch on an image folder."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    data: DataSettings
    network: NetworkSettings = NetworkSettings()
    training: OptimisationSettings
