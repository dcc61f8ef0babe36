"""Batches of images and tokens from tars: by open_clip's own training loader, or by ours.

`open_clip_train.data.get_wds_dataset` comes with open_clip_torch. With webdataset 0.2.96 and later
it needs `eof_value=None` where it expands tars (mlfoundations/open_clip#935), which is passed here.
Its shuffle is seeded by process and time; here by the study's seed and epoch, so that a repetition
sees the same order.
"""

import functools
import importlib
import importlib.metadata
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from factory.core.hashing import derive_seed
from factory.data.images import list_images

Batch = tuple[torch.Tensor, torch.Tensor]
"""(B, 3, H, W) float images and (B, T) int tokens."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How pairs become batches.

    Attributes:
        preprocess: an image to (3, H, W), with augmentation.
        tokenize: texts to (N, T) tokens.
        batch_size: pairs per batch; the last of an epoch is filled up from the next pass.
        workers: processes; 0 loads in this one.
    """

    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenize: Callable[[Sequence[str]], torch.Tensor]
    batch_size: int
    workers: int


def count_steps(pairs: int, batch_size: int, workers: int) -> int:
    """Returns the steps of an epoch, as open_clip rounds them: up, the same for every worker."""
    processes = max(1, workers)
    return math.ceil(math.ceil(pairs / batch_size) / processes) * processes


def describe_loader() -> str:
    """Says which loader `iterate_epoch` takes."""
    data = _find_open_clip()
    if data is None:
        return "factory's own iteration (open_clip_train cannot be imported)"
    fixed = ", with the fix of its issue 935" if _needs_fix(data) else ""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"open_clip_train.data.get_wds_dataset ({', '.join(versions)}{fixed})"


def iterate_epoch(
    tars: Sequence[Path], pairs: int, loading: Loading, seed: int, epoch: int
) -> Iterator[Batch]:
    """Yields `count_steps` full batches, in an order of the seed and the epoch.

    Args:
        tars: as many as workers, at least.
        pairs: in all tars, at least one batch.
        loading: how.
        seed: of the repetition.
        epoch: from 0.
    """
    order = derive_seed(seed, "retrieval-order", epoch)
    data = _find_open_clip()
    if data is None:
        yield from iterate_plainly(tars, loading, order)
        return
    options = SimpleNamespace(
        train_data="::".join(map(str, tars)),
        train_data_upsampling_factors=None,
        train_num_samples=pairs,
        dataset_resampled=False,
        seed=order % 2**31,
        batch_size=loading.batch_size,
        workers=loading.workers,
        world_size=1,
    )
    with _fix_issue_935(data):
        loader = data.get_wds_dataset(
            options, loading.preprocess, True, tokenizer=loading.tokenize
        ).dataloader
        _seed_shuffles(loader, order)
        yield from loader


def iterate_plainly(tars: Sequence[Path], loading: Loading, order: int) -> Iterator[Batch]:
    """Yields the batches of one epoch without open_clip's loader: the same rows, another order."""
    images = [image for tar in tars for image in list_images(tar)]
    draw = np.random.default_rng(order)
    steps = count_steps(len(images), loading.batch_size, loading.workers)
    rows = draw.permutation(len(images))
    while len(rows) < steps * loading.batch_size:
        rows = np.concatenate([rows, draw.permutation(len(images))])
    for step in range(steps):
        chosen = [images[row] for row in rows[step * loading.batch_size :][: loading.batch_size]]
        pixels = [loading.preprocess(Image.fromarray(each.read_pixels())) for each in chosen]
        yield torch.stack(pixels), loading.tokenize([str(each.caption) for each in chosen])


_PACKAGES = ("open_clip_torch", "webdataset")


@functools.cache
def _find_open_clip() -> Any:
    try:
        return importlib.import_module("open_clip_train.data")
    except ImportError:
        return None


def _needs_fix(data: Any) -> bool:
    return "eof_value" in inspect.signature(data.wds.tariterators.tar_file_expander).parameters


@contextmanager
def _fix_issue_935(data: Any) -> Iterator[None]:
    """Passes `eof_value=None` to webdataset while a loader of open_clip is at work."""
    before = data.tar_file_expander
    if _needs_fix(data):
        data.tar_file_expander = functools.partial(before, eof_value=None)
    try:
        yield
    finally:
        data.tar_file_expander = before


def _seed_shuffles(loader: Any, seed: int) -> None:
    """Gives the shuffle of samples a seed; webdataset's default is the process and the time."""
    import webdataset.filters

    stages = loader.pipeline[0].dataset.pipeline
    for place, stage in enumerate(stages):
        if getattr(stage, "f", None) is webdataset.filters._shuffle:
            stages[place] = webdataset.filters.shuffle(*stage.args, **{**stage.kw, "seed": seed})
