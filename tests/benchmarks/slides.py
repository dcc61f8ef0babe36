"""What a small model of slides learns of bags: `python -m tests.benchmarks.slides BAGS`.

Attention-based deep MIL (Ilse, Tomczak and Welling 2018, eq. 8) on `factory export --to bags
--encoder ID`: fitted on the slides of `train`, told of those of `test`, whose patients are others.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

from factory.data.streams.bag import BACKGROUND

ROUNDS, RATE, DECAY = 60, 3e-3, 1e-2
BOOTSTRAPS = 2000


class AttentionMil(torch.nn.Module):
    """One score of a slide, by the patches that it attends to."""

    def __init__(self, dim):
        super().__init__()
        self.see = torch.nn.Sequential(torch.nn.Linear(dim, 32), torch.nn.ReLU())
        self.attend = torch.nn.Sequential(
            torch.nn.Linear(32, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        )
        self.tell = torch.nn.Linear(32, 1)

    def forward(self, bags):
        """Returns (B,) scores and (B, N) weights of (B, N, dim) bags."""
        seen = self.see(bags)
        weights = self.attend(seen).softmax(1)
        return self.tell((weights * seen).sum(1))[:, 0], weights[..., 0]


def read_table(folder):
    """Returns the rows of `slides.csv`."""
    with (Path(folder) / "slides.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_bags(folder):
    """Returns rows, (S, N, dim) features and (S, N) bool: which patches show the label."""
    rows = read_table(folder)
    found = [np.load(Path(folder) / "bags" / f"{row['slide_id']}.npz") for row in rows]
    positive = np.stack([each["patch_labels"] != BACKGROUND for each in found])
    return rows, np.stack([each["features"] for each in found]), positive


def fit(features, labels, seed=0):
    """Returns a model fitted on (S, N, dim) features of slides and their (S,) bool labels."""
    torch.manual_seed(seed)
    model, wanted = AttentionMil(features.shape[2]), torch.from_numpy(labels).float()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    inputs = torch.from_numpy(features).float()
    for _ in range(ROUNDS):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[0], wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def tell(model, features):
    """Returns (S,) scores and (S, N) weights."""
    with torch.no_grad():
        return tuple(each.numpy() for each in model(torch.from_numpy(features).float()))


def compute_auc(scores, labels):
    """Returns the share of (positive, negative) pairs in order (Mann and Whitney 1947)."""
    above = scores[labels][:, None] - scores[~labels]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def measure(folder, seed=0):
    """Returns scores, labels and splits of all slides, weights, and which patches are positive."""
    rows, features, positive = read_bags(folder)
    splits = np.array([row["split"] for row in rows])
    labels = np.array([int(row["positive"]) > 0 for row in rows])
    seen = features[splits == "train"].reshape(-1, features.shape[2])
    inputs = (features - seen.mean(0)) / (seen.std(0) + 1e-6)
    model = fit(inputs[splits == "train"], labels[splits == "train"], seed)
    return *tell(model, inputs), labels, splits, positive


def compare_attention(weights, positive):
    """Returns (S,) mean weights of positive patches over those of the others of each slide."""
    pairs = zip(weights, positive, strict=True)
    return np.array([each[own].mean() / each[~own].mean() for each, own in pairs])


def main(folder):
    """Prints the AUC on held-out patients, its interval over slides, and what is attended to."""
    found = [measure(folder, seed) for seed in range(5)]
    scores = np.mean([each[0] for each in found], axis=0)
    _, weights, labels, splits, positive = found[0]
    test = np.flatnonzero(splits == "test")
    draw, values = np.random.default_rng(0), []
    while len(values) < BOOTSTRAPS:
        rows = draw.choice(test, len(test))
        if 0 < labels[rows].sum() < len(rows):
            values.append(compute_auc(scores[rows], labels[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    auc = compute_auc(scores[test], labels[test])
    print(f"{len(test)} test slides, AUC {auc:.3f} [{low:.3f}, {high:.3f}], mean of 5 fits")
    mine = test[labels[test]]
    ratio = [
        weights[each][positive[each]].mean() / weights[each][~positive[each]].mean()
        for each in mine
    ]
    print(f"attention to positive patches over others: median {np.median(ratio):.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
