"""What a retrieval study is asked to do, checked as far as it can be without a model."""

from dataclasses import dataclass

from factory.core.errors import InputError
from factory.core.yaml.messages import advise

ARMS = ("untuned", "synthetic", "shuffled", "real")
"""Tuned on nothing, synthetic pairs, the same images with permuted captions, real pairs."""

KS = (1, 10, 50)
"""R@k as in Xiang et al. (MUPAD), with 1 added."""

DIRECTIONS = ("i2t", "t2i")
METRICS = tuple(f"{direction}_r@{k}" for direction in DIRECTIONS for k in KS)
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class RetrievalSettings:
    """How the arms are tuned; equal for all of them.

    Attributes:
        model: `tiny`, an architecture of open_clip, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        pretrained: tag or file of an architecture's weights; `none` for random ones.
        arms: of ARMS; empty for all that the data allow.
        epochs: passes over the pairs.
        batch_size: pairs per step.
        learning_rate: peak; None for 1e-3 from random weights, 1e-5 from pretrained ones.
        weight_decay: of matrices; open_clip's default.
        warmup: share of the steps in which the learning rate rises.
        seeds: repetitions, each with its own order, augmentation and, where random, weights.
        pairs: train on this many at most, picked by hash; None for as many as every arm has.
        loaders: processes that load pairs; 0 loads in this one.
        device: `auto`, `cpu`, `cuda`, …
        precision: of PRECISIONS; auto is bf16 (autocast) on CUDA, else fp32.
    """

    model: str = "tiny"
    pretrained: str | None = None
    arms: tuple[str, ...] = ()
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float = 0.2
    warmup: float = 0.1
    seeds: int = 3
    pairs: int | None = None
    loaders: int = 0
    device: str = "auto"
    precision: str = "auto"

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
