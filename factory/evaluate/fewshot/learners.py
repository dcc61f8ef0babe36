"""Classifiers of a study: a network trained whole, or a linear head on a frozen encoder."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from factory.catalog.catalog import Catalogs
from factory.core.errors import EvaluationError, InputError
from factory.core.hashing import derive_seed
from factory.evaluate.fewshot.augment import Strength, augment_images
from factory.evaluate.fewshot.bank import FeatureBank
from factory.evaluate.fewshot.batches import draw_batches
from factory.evaluate.fewshot.settings import DECAYS, MOMENTUM, StudySettings
from factory.models.encoders import Encoder

Say = Callable[[str], None]
VIEWS = 8
"""Augmented views of an image that a frozen encoder sees."""
SAY_EVERY = 30.0
"""Seconds between lines within one training."""


@dataclass(frozen=True)
class TrainingSet:
    """What one arm trains on.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB.
        labels: (N,) classes.
        is_synthetic: (N,).
        sha256s: of the images' bytes.
        is_augmented: whether classical augmentation is applied.
        strength: and how.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    is_synthetic: NDArray[np.bool_]
    sha256s: tuple[str, ...]
    is_augmented: bool
    strength: Strength = "classical"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64], strength: Strength) -> "TrainingSet":
        """Returns some of the images, augmented as told."""
        return TrainingSet(
            self.pixels[rows],
            self.labels[rows],
            self.is_synthetic[rows],
            tuple(self.sha256s[row] for row in rows),
            strength != "none",
            strength,
        )


class Learner(Protocol):
    """Trains on one arm's images and predicts the test images."""

    def describe(self) -> dict[str, Any]:
        """Returns what of it shapes the results."""
        ...

    def fit_predict(
        self, train: TrainingSet, test: NDArray[np.uint8], classes: int, steps: int, seed: int
    ) -> NDArray[np.float64]:
        """Returns (M, classes) probabilities of (M, S, S, 3) uint8 test images."""
        ...


def _iterate_batches(
    train: TrainingSet, settings: StudySettings, steps: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    yield from draw_batches(
        train.labels, train.is_synthetic, steps, settings.batch_size, seed, settings.mix
    )


def _make_optimizer(
    module: nn.Module, settings: StudySettings, steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(
        module.parameters(),
        settings.rate,
        MOMENTUM,
        weight_decay=DECAYS[settings.head],
        nesterov=True,
        fused=True,
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


class NetworkLearner:
    """A torchvision network, trained whole by SGD with momentum and a cosine schedule."""

    def __init__(self, settings: StudySettings, say: Say) -> None:
        from factory.models.generators.loading import choose_device

        self.settings, self.say = settings, say
        self.device = choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.weights_sha256: str | None = None
        self._state = None if settings.weights is None else self._load(settings.weights)

    def describe(self) -> dict[str, Any]:
        """Returns device type, dtype and the weights that it starts from."""
        start = "scratch" if self._state is None else "weights"
        return {
            "start": start,
            "weights_sha256": self.weights_sha256,
            "device": self.device.split(":")[0],
            "dtype": self.dtype,
        }

    def fit_predict(
        self, train: TrainingSet, test: NDArray[np.uint8], classes: int, steps: int, seed: int
    ) -> NDArray[np.float64]:
        """Trains from the initialisation of `seed`, then predicts.

        Raises:
            EvaluationError: the training diverged.
        """
        network = self._build(classes, seed)
        optimizer, schedule = _make_optimizer(network, self.settings, steps)
        images = torch.from_numpy(train.pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(train.labels)
        network.train()
        last = time.monotonic()
        for step, rows in enumerate(_iterate_batches(train, self.settings, steps, seed)):
            batch = images[rows]
            if train.is_augmented:
                key = derive_seed(seed, "fewshot", "augment", step)
                batch = augment_images(batch, key, train.strength)
            logits = self._forward(network, batch)
            loss = cross_entropy(logits, labels[rows].to(self.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if time.monotonic() - last > SAY_EVERY:
                last = time.monotonic()
                self.say(f"  step {step + 1}/{steps}, loss {loss.item():.3f}")
        if not torch.isfinite(loss):
            raise EvaluationError(
                f"the training diverged (loss {loss.item()}): lower --learning-rate, got "
                f"{self.settings.rate}"
            )
        return self._predict(network, test)

    def _build(self, classes: int, seed: int) -> nn.Module:
        """Builds the network of a seed: the same weights for every arm."""
        from torchvision import models

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "fewshot", "initialisation"))
            try:
                network: nn.Module = models.get_model(
                    self.settings.model, weights=None, num_classes=classes
                )
            except ValueError as error:
                raise InputError(f"--model {self.settings.model}: {error}") from error
        if self._state is not None:
            self._start_from(network, self._state)
        moved: nn.Module = network.to(self.device)
        fast: nn.Module = moved.to(memory_format=torch.channels_last)
        return fast

    def _start_from(self, network: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Loads all but the head, whose name and shape depend on the classes."""
        own = network.state_dict()
        fitting = {
            name: value.to(own[name].dtype)
            for name, value in state.items()
            if name in own and own[name].shape == value.shape
        }
        head = [name for name in own if name.startswith(("fc.", "classifier.", "head", "heads."))]
        missing = [name for name in own if name not in fitting and name not in head]
        if missing:
            raise InputError(
                f"--weights {self.settings.weights}: no {missing[0]} of the right shape for "
                f"{self.settings.model}: give weights of that model"
            )
        network.load_state_dict({**own, **{k: v for k, v in fitting.items() if k not in head}})

    def _load(self, path: Path) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from factory.core.hashing import hash_bytes

        is_file = path.is_file()
        found = [path] if is_file else sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"--weights {path}: want one .safetensors file, found {len(found)}")
        try:
            self.weights_sha256 = hash_bytes(found[0].read_bytes())
            state: dict[str, torch.Tensor] = load_file(found[0])
        except (OSError, SafetensorError) as error:
            raise InputError(f"--weights {path}: not readable ({error})") from error
        return state

    def _forward(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, classes) float32 logits of (B, 3, S, S) uint8."""
        moved = batch.to(self.device).float().div_(127.5).sub_(1.0)
        moved = moved.contiguous(memory_format=torch.channels_last)
        half = self.dtype == "bfloat16"
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=half):
            logits: torch.Tensor = network(moved)
        return logits.float()

    @torch.no_grad()
    def _predict(self, network: nn.Module, test: NDArray[np.uint8]) -> NDArray[np.float64]:
        network.eval()
        rows = []
        for start in range(0, len(test), 128):
            block = torch.from_numpy(test[start : start + 128]).permute(0, 3, 1, 2)
            rows.append(self._forward(network, block).double().softmax(1).cpu().numpy())
        return np.concatenate(rows)


def choose_dtype(asked: str, device: str) -> str:
    """Returns `bfloat16` where the device computes in it and none was asked for, else `float32`."""
    if asked != "auto":
        return asked
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    has = device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if has else "float32"


class LinearLearner:
    """A linear head on standardised features of a frozen encoder, trained by the same SGD.

    Each image is encoded once, an augmented one VIEWS times.
    """

    def __init__(
        self,
        settings: StudySettings,
        encoder: Encoder,
        say: Say,
        bank: FeatureBank | None = None,
    ) -> None:
        self.settings, self.encoder = settings, encoder
        self.bank = bank or FeatureBank(encoder, say)

    def describe(self) -> dict[str, Any]:
        """Returns the encoder's description."""
        return {"encoder": self.encoder.describe(), "views": VIEWS, "device": "cpu"}

    def fit_predict(
        self, train: TrainingSet, test: NDArray[np.uint8], classes: int, steps: int, seed: int
    ) -> NDArray[np.float64]:
        """Trains a head from the initialisation of `seed`, then predicts."""
        plain = self.bank.encode(train.pixels, train.sha256s)
        mean, scale = plain.mean(0), plain.std(0) + 1e-6
        views = [plain]
        if train.is_augmented:
            given = (train.pixels, train.sha256s)
            views = [self.bank.encode(*given, view, train.strength) for view in range(1, VIEWS + 1)]
        features = torch.from_numpy((np.stack(views) - mean) / scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "fewshot", "initialisation"))
            head = nn.Linear(features.shape[2], classes)
        optimizer, schedule = _make_optimizer(head, self.settings, steps)
        labels = torch.from_numpy(train.labels)
        draw = np.random.default_rng(derive_seed(seed, "fewshot", "views"))
        for rows in _iterate_batches(train, self.settings, steps, seed):
            batch = features[draw.integers(len(views), size=len(rows)), rows]
            loss = cross_entropy(head(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if not torch.isfinite(loss):
            raise EvaluationError(f"the head diverged: lower --learning-rate {self.settings.rate}")
        with torch.no_grad():
            seen = torch.from_numpy((self.bank.encode_test(test) - mean) / scale)
            chances: NDArray[np.float64] = head(seen).double().softmax(1).numpy()
        return chances


def build_learner(settings: StudySettings, say: Say, catalogs: Catalogs) -> Learner:
    """Builds what every arm is trained with.

    Args:
        settings: of the study.
        say: called with lines of progress.
        catalogs: where the encoder is looked up.

    Raises:
        InputError: no such encoder, device or weights.
    """
    if settings.encoder is None:
        return NetworkLearner(settings, say)
    from factory.models.encoders import load_encoder

    encoder = load_encoder(settings.encoder, device=settings.device, catalogs=catalogs)
    return LinearLearner(settings, encoder, say)
