"""Tunes an image-text model on pairs: symmetric InfoNCE and AdamW, as open_clip trains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from factory.core.errors import TrainingError
from factory.core.hashing import derive_seed
from factory.evaluate.retrieval.loader import Loading, count_steps, iterate_epoch
from factory.evaluate.retrieval.model import Clip
from factory.evaluate.retrieval.settings import RetrievalSettings

MAX_LOGIT_SCALE = math.log(100.0)
"""Radford et al. 2021 (arXiv 2103.00020), section 2.5: the inverse temperature stays below 100."""

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Of AdamW: open_clip's defaults, those of Radford et al. 2021, table 18, for ViT."""

FROM_RANDOM, FROM_PRETRAINED = 1e-3, 1e-5
"""Peak learning rates where none is given."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """How a tuning went: steps taken, and the mean loss of its last epoch."""

    steps: int
    loss: float


def choose_rate(settings: RetrievalSettings, is_random: bool) -> float:
    """Returns the peak learning rate."""
    return settings.learning_rate or (FROM_RANDOM if is_random else FROM_PRETRAINED)


def tune_clip(
    clip: Clip,
    tars: Sequence[Path],
    pairs: int,
    settings: RetrievalSettings,
    rate: float,
    seed: int,
    say: Callable[[str], None],
) -> Tuned:
    """Tunes the model in place.

    Args:
        clip: the model.
        tars: of `pack_pairs`.
        pairs: how many they hold.
        settings: epochs, batch, decay.
        rate: peak learning rate.
        seed: of order and augmentation.
        say: takes a line per epoch.

    Raises:
        TrainingError: the loss is not finite, or the loader stopped early.
    """
    from open_clip import ClipLoss

    loading = Loading(clip.augment, clip.tokenize, settings.batch_size, settings.loaders)
    steps = settings.epochs * count_steps(pairs, settings.batch_size, settings.loaders)
    optimizer = build_optimizer(clip.module, rate, settings.weight_decay)
    measure = ClipLoss()
    step, mean = 0, math.nan
    for epoch in range(settings.epochs):
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "retrieval-views", epoch))
            for images, tokens in iterate_epoch(tars, pairs, loading, seed, epoch):
                for group in optimizer.param_groups:
                    group["lr"] = rate * compute_share(step, steps, settings.warmup)
                losses.append(_take_step(clip, images, tokens, measure, optimizer))
                step += 1
        if step * settings.epochs != steps * (epoch + 1):
            raise TrainingError(f"epoch {epoch + 1}: the loader gave {len(losses)} batches only")
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            raise TrainingError(f"epoch {epoch + 1}: the loss is {mean}: lower --lr")
        say(f"epoch {epoch + 1}/{settings.epochs}, loss {mean:.3f}")
    return Tuned(step, mean)


def build_optimizer(module: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """Returns AdamW that decays matrices, but no gain, bias or temperature, as open_clip does."""
    known = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    free = [each for name, each in known if each.ndim < 2 or "bn" in name or "ln" in name]
    kept = {id(each) for each in free}
    groups = [
        {"params": free, "weight_decay": 0.0},
        {"params": [each for _, each in known if id(each) not in kept], "weight_decay": decay},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, eps=EPSILON)


def compute_share(step: int, steps: int, warmup: float) -> float:
    """Returns the share of the peak learning rate: a linear rise, then a cosine to 0."""
    rise = math.ceil(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _take_step(
    clip: Clip,
    images: torch.Tensor,
    tokens: torch.Tensor,
    measure: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> float:
    """One step; returns the loss."""
    module = clip.module.train()
    with torch.autocast(clip.device.type, torch.bfloat16, enabled=clip.autocast):
        seen = module.encode_image(images.to(clip.device), normalize=True)
        read = module.encode_text(tokens.to(clip.device), normalize=True)
    loss = measure(seen.float(), read.float(), module.logit_scale.exp())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        module.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
    return float(loss.item())
