"""Two views of each image of a batch, keyed by (seed, step): what an encoder learns from."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from factory.core.hashing import derive_seed
from factory.train.augment import jitter_stains
from factory.train.batches import draw_rows
from factory.train.encoder.settings import EncoderRecipe, ViewSettings
from factory.train.images import TrainingImages

BLUR_SIGMA = (0.4, 1.2)
"""Range of the blur's standard deviation in px: out of focus, nuclei still to be seen."""

_BLUR_RADIUS = 3
_CPU = torch.device("cpu")
_TURNS = torch.tensor(
    [
        [[sign_x * (1 - swap), sign_x * swap], [sign_y * swap, sign_y * (1 - swap)]]
        for swap in (0, 1)
        for sign_x in (1, -1)
        for sign_y in (1, -1)
    ],
    dtype=torch.float32,
)
"""(8, 2, 2): the symmetries of the square."""


def draw_pair(
    recipe: EncoderRecipe, images: TrainingImages, step: int, device: torch.device = _CPU
) -> tuple[NDArray[np.int64], tuple[Tensor, Tensor]]:
    """Draws the batch of a step: (B,) rows, and two views of each, (B, 3, S, S) in [0, 255].

    Sources are drawn by weight, images of a source evenly; held-out images never. Views are cut on
    `device`.
    """
    draw = np.random.default_rng(derive_seed(recipe.seed, "rows", step))
    rows = np.sort(draw_rows(recipe.data, images, recipe.training.batch_size, draw))
    return rows, view_rows(recipe, images, rows, derive_seed(recipe.seed, "views", step), device)


def view_rows(
    recipe: EncoderRecipe,
    images: TrainingImages,
    rows: NDArray[np.int64],
    seed: int,
    device: torch.device = _CPU,
) -> tuple[Tensor, Tensor]:
    """Returns two views of each of the given images, cut on `device`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(images.pixels[rows]).to(device).permute(0, 3, 1, 2)
    views = vary_views(torch.cat([pixels, pixels]), recipe.views, generator)
    return views[: len(rows)], views[len(rows) :]


def vary_views(pixels: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Cuts, turns, stains, blurs and roughens each image anew.

    Args:
        pixels: (N, 3, H, H) uint8.
        settings: how much of each.
        generator: of all draws, on the CPU; noise is the device's own, seeded by it.

    Returns:
        (N, 3, S, S) float32 in [0, 255].
    """
    views = cut_views(pixels.float() / 127.5 - 1, settings, generator)
    views = jitter_stains(views, settings.stain_jitter, generator)
    count = len(views)
    if settings.contrast:
        draws = (torch.rand(2, count, 1, 1, 1, generator=generator) * 2 - 1).to(views)
        middle = views.mean((1, 2, 3), keepdim=True)
        factor = 1 + settings.contrast * draws[0]
        views = (views - middle) * factor + middle + settings.contrast * draws[1]
    if settings.blur:
        chosen = torch.rand(count, generator=generator) < settings.blur
        rows = torch.nonzero(chosen).flatten().to(views.device)
        views[rows] = blur_images(views[rows], generator)
    if settings.noise:
        level = (2 * settings.noise * torch.rand(count, 1, 1, 1, generator=generator)).to(views)
        if views.device.type != "cpu":
            generator = torch.Generator(views.device).manual_seed(generator.initial_seed())
        views = views + level * torch.randn(views.shape, generator=generator, device=views.device)
    return (views.clamp(-1, 1) + 1) * 127.5


def cut_views(images: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Returns a turned square of each image, (N, 3, S, S), S = `settings.size`.

    Some are cut pixel by pixel, so that the network sees images as sharp as those it will encode;
    the others are resampled from a square of another size.
    """
    count, _, side, _ = images.shape
    size = settings.size
    low, high = settings.scale
    share = low + (high - low) * torch.rand(count, 1, generator=generator)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - share)
    exact = torch.rand(count, 1, generator=generator) < settings.unscaled
    corner = torch.randint(0, side - size + 1, (count, 2), generator=generator)
    share = torch.where(exact, size / side, share)
    shift = torch.where(exact, (2 * corner + size) / side - 1, shift)
    turns = _TURNS[torch.randint(0, 8, (count,), generator=generator)]
    affine = torch.cat([turns * share.unsqueeze(2), shift.unsqueeze(2)], 2).to(images)
    grid = affine_grid(affine, [count, 3, size, size], align_corners=False)
    return grid_sample(images, grid, align_corners=False, padding_mode="border")


def blur_images(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurs each of (N, 3, S, S) images by a Gaussian of its own width."""
    count = len(images)
    if count == 0:
        return images
    low, high = BLUR_SIGMA
    sigma = low + (high - low) * torch.rand(count, 1, generator=generator)
    offset = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(images)
    flat = pad(images, (_BLUR_RADIUS,) * 4, mode="reflect").flatten(0, 1).unsqueeze(0)
    flat = conv2d(flat, kernel.view(3 * count, 1, -1, 1), groups=3 * count)
    flat = conv2d(flat, kernel.view(3 * count, 1, 1, -1), groups=3 * count)
    return flat.view(images.shape)
