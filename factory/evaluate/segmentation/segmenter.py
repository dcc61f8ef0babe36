"""The segmenter of a study: a U-Net, trained a fixed number of steps on images and masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy

from factory.core.errors import EvaluationError
from factory.core.hashing import derive_seed
from factory.evaluate.fewshot.batches import draw_batches
from factory.evaluate.segmentation import Segmentation
from factory.models.generators.loading import choose_device
from factory.models.translators import build_network
from factory.models.translators.config import UnetSettings
from factory.train.augment import jitter_stains, turn_images

STAIN_SIGMA = 0.05
DOWNS = 5
PREDICTED = 64
"""Images that are segmented at a time."""
DESCRIPTION = (
    f"pix2pix's U-Net, {DOWNS} levels of halving, batch norm, from scratch; Adam, cosine schedule; "
    "binary cross-entropy and soft Dice; flips and quarter turns, HED jitter "
    f"{STAIN_SIGMA}; threshold 0.5"
)


class Segmenter:
    """Trains from the initialisation of a seed, the same for every arm, and segments."""

    def __init__(self, settings: Segmentation.Settings) -> None:
        self.settings = settings
        self.device = choose_device(settings.device)

    def fit_predict(
        self,
        pixels: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        is_synthetic: NDArray[np.bool_],
        test: NDArray[np.uint8],
        seed: int,
    ) -> NDArray[np.bool_]:
        """Returns (M, S, S): which pixels of (M, S, S, 3) test images are of objects.

        Args:
            pixels: (N, S, S, 3) uint8 RGB to learn from.
            masks: (N, S, S) bool.
            is_synthetic: (N,).
            test: images to segment.
            seed: of the training.

        Raises:
            EvaluationError: the training diverged.
        """
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "segmentation", "initialisation"))
            network = build_network(
                UnetSettings(kind="unet", out_channels=1, channels=settings.width, downs=DOWNS)
            ).to(self.device)
        optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        targets = torch.from_numpy(masks)[:, None]
        nothing = np.zeros(len(pixels), np.int64)  # one class
        batches = draw_batches(
            nothing, is_synthetic, settings.steps, settings.batch_size, seed, settings.mix
        )
        network.train()
        for step, rows in enumerate(batches):
            batch, target = _augment(images[rows], targets[rows], seed, step)
            loss = _measure_loss(network(batch.to(self.device)), target.to(self.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if not torch.isfinite(loss):
            raise EvaluationError(
                f"a training diverged: lower --learning-rate, got {settings.learning_rate}"
            )
        return self._segment(network, test)

    @torch.no_grad()
    def _segment(self, network: torch.nn.Module, test: NDArray[np.uint8]) -> NDArray[np.bool_]:
        network.eval()
        found = []
        for start in range(0, len(test), PREDICTED):
            block = torch.from_numpy(test[start : start + PREDICTED]).permute(0, 3, 1, 2)
            found.append((network(_scale(block).to(self.device))[:, 0] > 0).cpu().numpy())
        return np.concatenate(found)


def _scale(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _augment(
    images: torch.Tensor, targets: torch.Tensor, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images in [-1, 1] and targets of 0 and 1, turned alike; stains vary."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "segmentation", "augment", step))
    turns = torch.randint(8, (len(images),), generator=draw)
    jittered = jitter_stains(_scale(turn_images(images, turns)), STAIN_SIGMA, draw)
    return jittered, turn_images(targets, turns).float()


def _measure_loss(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns binary cross-entropy plus 1 - soft Dice (Milletari et al. 2016) of the batch."""
    chance = (made + 1) / 2
    shared = (chance * target).sum()
    dice = (2 * shared + 1) / (chance.sum() + target.sum() + 1)
    return binary_cross_entropy(chance, target) + 1 - dice
