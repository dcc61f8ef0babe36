"""Losses of self-supervised learning, the network that they train, and measures of collapse."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize, relu

from factory.models.encoders.small_resnet import SmallResNet
from factory.train.encoder.settings import EncoderRecipe, Simclr, Vicreg


class Learner(nn.Module):
    """An encoder and the heads that the losses are on, which are thrown away afterwards.

    Args:
        recipe: of the encoder.
        taught: number of the teacher's features; 0: there is none.
    """

    def __init__(self, recipe: EncoderRecipe, taught: int = 0) -> None:
        super().__init__()
        self.encoder = SmallResNet(recipe.network.channels, recipe.network.readout)
        self.head = build_head(self.encoder.dim, recipe.method)
        self.taught = nn.Linear(self.encoder.dim, taught) if taught else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Maps (N, 3, S, S) float in [0, 255] to float32 (N, features) and (N, embedding).

        The third is what it foretells of the teacher's features, (N, D); None without a teacher.
        """
        features = self.encoder(images).float()
        embedding: Tensor = self.head(features)
        foretold = None if self.taught is None else self.taught(features).float()
        return features, embedding.float(), foretold


def build_head(width: int, method: Vicreg | Simclr) -> nn.Module:
    """Returns an expander of three layers (VICReg, section 4.2) or a projector of two (SimCLR)."""
    hidden, dim = method.hidden, method.dim
    if isinstance(method, Simclr):
        return nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
        )
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, dim, bias=False),
    )


def compute_loss(first: Tensor, second: Tensor, method: Vicreg | Simclr) -> Tensor:
    """Returns the method's loss of the (N, D) embeddings of two views of the same images."""
    if isinstance(method, Simclr):
        return compute_simclr(first, second, method)
    return compute_vicreg(first, second, method)


def compute_vicreg(first: Tensor, second: Tensor, method: Vicreg) -> Tensor:
    """Variance, invariance and covariance (Bardes et al. 2022, arXiv 2105.04906, eq. 1 to 6).

    As in the authors' code, and unlike eq. 5, the squared distance of the views is averaged over
    dimensions, and the hinges of the two branches are averaged; weights of 25, 25 and 1 mean that.
    """
    invariance = mse_loss(first, second)
    variance = covariance = first.new_zeros(())
    for embedding in (first, second):
        spread = torch.sqrt(embedding.var(0) + 1e-4)
        variance = variance + relu(1 - spread).mean() / 2
        centred = embedding - embedding.mean(0)
        matrix = centred.T @ centred / (len(embedding) - 1)
        square = matrix.square()
        covariance = covariance + (square.sum() - square.diagonal().sum()) / embedding.shape[1]
    return (
        method.invariance * invariance + method.variance * variance + method.covariance * covariance
    )


def compute_simclr(first: Tensor, second: Tensor, method: Simclr) -> Tensor:
    """NT-Xent: a view is to find the other of its image among all others of the batch.

    Chen et al. 2020, arXiv 2002.05709, equation 1, averaged over all 2 N views.
    """
    views = normalize(torch.cat([first, second]))
    logits = views @ views.T / method.temperature
    own = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(logits.masked_fill(own, float("-inf")), partner)


def measure_spread(vectors: Tensor) -> float:
    """Returns how far vectors differ from each other, 0 (all alike, collapsed) to about 1.

    The mean deviation of the dimensions after scaling each vector to length 1, times the square
    root of their number (Chen & He 2021, arXiv 2011.10566, section 4.1).
    """
    unit = normalize(vectors.double())
    return float(unit.std(0, correction=0).mean() * vectors.shape[1] ** 0.5)


def measure_rank(vectors: Tensor) -> float:
    """Returns the effective rank of (N, D) vectors around their mean, 1 to min(N - 1, D).

    exp of the entropy of the normalised singular values (RankMe, Garrido et al. 2023, arXiv
    2210.02885, equation 2, here of centred vectors).
    """
    values = torch.linalg.svdvals(vectors.double() - vectors.double().mean(0))
    total = values.sum()
    if total <= 0:
        return 1.0
    share = values / total + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
