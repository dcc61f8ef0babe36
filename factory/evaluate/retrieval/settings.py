"""What a retrieval study is asked to do, checked as far as it can be without a model."""

from typing import Annotated, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.core.yaml.messages import advise

ARMS = ("untuned", "synthetic", "shuffled", "real")
"""Tuned on nothing, synthetic pairs, the same images with permuted captions, real pairs."""

KS = (1, 10, 50)
"""R@k as in Xiang et al. (MUPAD), with 1 added."""

DIRECTIONS = ("i2t", "t2i")
METRICS = tuple(f"{direction}_r@{k}" for direction in DIRECTIONS for k in KS)


class RetrievalSettings(fields.Options):
    """How the arms are tuned; equal for all of them."""

    model: str = Field(
        "tiny",
        description="Tiny, an architecture of open_clip, hf-hub:OWNER/NAME, or local-dir:FOLDER.",
    )
    pretrained: str | None = Field(
        None, description="Tag or file of an architecture's weights; none: random ones."
    )
    arms: Annotated[tuple[str, ...], fields.Option(takes="list")] = Field(
        (), description="Comma-separated; default: untuned,synthetic,shuffled and, if given, real."
    )
    epochs: fields.Count = Field(5, description="Passes.")
    batch_size: int = Field(64, ge=2, le=100_000, description="Pairs per step.")
    learning_rate: Annotated[fields.Rate | None, fields.Option("--lr")] = Field(
        None, description="Peak; default: 1e-3 from random weights, 1e-5 from pretrained ones."
    )
    weight_decay: Annotated[float, fields.Option(is_hidden=True)] = Field(
        0.2, description="Of matrices; open_clip's default."
    )
    warmup: Annotated[float, fields.Option(is_hidden=True)] = Field(
        0.1, description="Share of the steps in which the learning rate rises."
    )
    pairs: Annotated[int, Field(ge=2, le=fields.MANY)] | None = Field(
        None, description="Train on this many, picked by hash."
    )
    seeds: fields.Draws = Field(3, description="Repetitions of each arm.")
    loaders: int = Field(0, ge=0, le=1000, description="Processes that load pairs.")
    device: str = Field("auto", description="Auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Auto: bf16 on CUDA, else fp32."
    )

    def choose_arms(self, has_real: bool) -> tuple[str, ...]:
        """Returns the arms to run, in the order of ARMS.

        Raises:
            InputError: an unknown arm, or `real` without real pairs.
        """
        for name in self.arms:
            if name not in ARMS:
                raise InputError(f"--arms: no arm {name!r}: {advise(name, ARMS)}")
        if "real" in self.arms and not has_real:
            raise InputError("--arms: real needs real pairs to train on: give --real")
        if has_real and self.arms and "real" not in self.arms:
            raise InputError("--real is given but --arms leaves real out: add it, or drop --real")
        chosen = self.arms or (ARMS if has_real else ARMS[:-1])
        return tuple(name for name in ARMS if name in chosen)
