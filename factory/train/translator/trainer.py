"""`PairTrainer`: what trainings of pairs share, be they of embeddings or of images."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from factory.core.hashing import derive_seed
from factory.train.loop import Trainer, compute_warmup
from factory.train.running import take_options
from factory.train.translator.pairs import SplitPairs
from factory.train.translator.settings import FlowRecipe, PairedRecipe


class PairTrainer(Trainer):
    """Learns from the pairs that are not held out; a subclass builds the network.

    Args:
        recipe: how.
        pairs: all of them.
        out: folder of what is exported.
    """

    max_norm = 1.0

    def __init__(self, recipe: FlowRecipe | PairedRecipe, pairs: SplitPairs, out: Path) -> None:
        super().__init__()
        self._out, self._seed, self._training = out, recipe.seed, recipe.training
        self._counted = pairs.count()
        self._rows = np.flatnonzero(~pairs.held_out)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(recipe.seed, "weights"))
            network = self.build()
        take_options(self, network.to(self._device), recipe.training)

    @abstractmethod
    def build(self) -> nn.Module:
        """Returns the network, with fresh weights."""

    def compute_rate(self, step: int) -> float:
        """Warms up, then is constant."""
        return compute_warmup(step, self._training.warmup_steps)

    def draw_rows(self, step: int, turn: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
        """Returns the pairs of a batch, and what else of it is drawn with."""
        draw = np.random.default_rng(derive_seed(self._seed, "batch", step, turn))
        return draw, draw.choice(self._rows, self._training.batch_size)

    def summarise(self, step: int) -> dict[str, Any]:
        """Returns what a training of so many steps gave."""
        best = self.state.get("best", {})
        return {
            "step": step,
            "best_step": self.state.get("best_step", step),
            **self._counted,
            **best,
        }


def describe_shaping(
    recipe: FlowRecipe | PairedRecipe, pairs: SplitPairs, *later: str
) -> dict[str, Any]:
    """Returns the fields that shape the weights; what is `later`, too, may change on resume."""
    left_out: Any = {
        "data": {"source", "target"},
        "training": {"steps", "validate_every", "checkpoint_every"},
        **dict.fromkeys(("export", *later), True),
    }
    return recipe.model_dump(mode="json", exclude=left_out) | {"pairs": pairs.digest}
