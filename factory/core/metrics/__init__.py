"""Metrics of sets of features, given as arrays: distances, manifolds, copying."""

from factory.core.metrics.copying import (
    CopyTest,
    compute_authenticity,
    compute_copy_test,
    find_nearest,
)
from factory.core.metrics.frechet import compute_fd
from factory.core.metrics.kernels import Mmd, compute_cmmd, compute_kid, measure_cmmd, measure_kid
from factory.core.metrics.manifolds import Manifolds, compare_manifolds
from factory.core.metrics.similarity import measure_psnr, measure_ssim

__all__ = [
    "CopyTest",
    "Manifolds",
    "Mmd",
    "compare_manifolds",
    "compute_authenticity",
    "compute_cmmd",
    "compute_copy_test",
    "compute_fd",
    "compute_kid",
    "find_nearest",
    "measure_cmmd",
    "measure_kid",
    "measure_psnr",
    "measure_ssim",
]
