"""Trains the small residual network of a classifier from scratch on labelled patches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from factory.core.hashing import derive_seed
from factory.models.encoders.small_resnet import SmallResNet
from factory.train.loop import Loop, Report, Trainer

BATCH_SIZE = 64
LEARNING_RATE = 0.05
WEIGHT_DECAY = 5e-4
MAX_SHIFT = 4
STAIN_JITTER = 0.2


def train_encoder(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: int,
    *,
    epochs: int,
    seed: int,
    report: Report = lambda step, steps, measured: None,
) -> tuple[SmallResNet, nn.Linear]:
    """Fits the network and its linear head by SGD with one warm-up and decay (Smith 2018).

    Every draw is keyed by (seed, epoch, batch). Classes weigh alike, however many images they have.

    Args:
        images: (N, S, S, 3) uint8 RGB.
        labels: (N,) class indices.
        classes: number of classes.
        epochs: passes over the images.
        seed: root of all randomness.
        report: called with (epoch, epochs, mean `loss` of the epoch).

    Returns:
        The network in evaluation mode, and its head.

    Raises:
        TrainingError: the loss is no number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        network = SmallResNet()
        head = nn.Linear(network.dim, classes)
    model = nn.Sequential(network, head).to(memory_format=torch.channels_last)
    trainer = _ClassifierTrainer(model, head, images, labels, epochs, seed)
    batches = trainer.log_every
    Loop(trainer).run(lambda step, _, measured: report(step // batches, epochs, measured))
    model.eval()
    return network, head


class _ClassifierTrainer(Trainer):
    """Labelled images, varied anew in every epoch."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Linear,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        epochs: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.log_every = max(1, len(images) // BATCH_SIZE)  # an epoch
        self.steps = self.validate_every = self.checkpoint_every = epochs * self.log_every
        self.network, self.learning_rate = model, LEARNING_RATE
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            LEARNING_RATE,
            momentum=0.9,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,
        )
        classes = head.out_features
        count = np.bincount(labels, minlength=classes)
        weight = len(labels) / (classes * np.maximum(count, 1))
        self._weight = torch.tensor(weight, dtype=torch.float32)
        self._pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        self._targets, self._seed = torch.from_numpy(labels), seed

        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, LEARNING_RATE, total_steps=self.steps, pct_start=0.2
        )

    def set_rate(self, step: int) -> None:
        if step:
            self._schedule.step()

    def compute_loss(self, network: Any, step: int, turn: int) -> Tensor:
        epoch, batch = divmod(step, self.log_every)
        draw = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
        order = draw.permutation(len(self._pixels))
        rows = torch.from_numpy(np.array_split(order, self.log_every)[batch])
        varied = vary_images(self._pixels[rows], derive_seed(self._seed, "batch", epoch, batch))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(varied.contiguous(memory_format=torch.channels_last))
        targets = self._targets[rows]
        return cross_entropy(logits.float(), targets, self._weight, label_smoothing=0.05)


def vary_images(images: Tensor, seed: int) -> Tensor:
    """Flips, turns, shifts and stains each image anew.

    Flips and quarter turns because a section has no up; a shift of up to 4 px; and a factor on the
    optical density of each channel, drawn from exp(N(0, 0.2^2)), as staining and scanners differ
    (after Tellez et al. 2019, arXiv 1902.06543).

    Args:
        images: (N, 3, S, S) uint8.
        seed: shapes every draw.

    Returns:
        (N, 3, S, S) float32 in [0, 255].
    """
    generator = torch.Generator().manual_seed(seed)
    count, _, size, _ = images.shape
    turns = torch.randint(0, 8, (count,), generator=generator).tolist()
    shifts = torch.randint(0, 2 * MAX_SHIFT + 1, (count, 2), generator=generator).tolist()
    factors = torch.exp(STAIN_JITTER * torch.randn(count, 3, 1, 1, generator=generator))
    wide = pad(images.float(), (MAX_SHIFT,) * 4, mode="reflect")
    rows = []
    for image, turn, (top, left) in zip(wide, turns, shifts, strict=True):
        cut = torch.rot90(image[:, top : top + size, left : left + size], turn % 4, (1, 2))
        rows.append(cut.flip(2) if turn >= 4 else cut)
    return 256.0 * ((torch.stack(rows) + 1.0) / 256.0) ** factors - 1.0
