"""Trains translators: a flow between embeddings of two domains, or a network between images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.train.translator.settings import CutRecipe, FlowRecipe

Report = Callable[[int, int, dict[str, float]], None]


def train_translator(
    recipe: FlowRecipe | CutRecipe, catalogs: Catalogs, out: Path, report: Report
) -> dict[str, Any]:
    """Trains what a recipe describes; see `train_flow` and `train_cut`."""
    if recipe.kind == "flow":
        from factory.train.translator.flow import train_flow

        return train_flow(recipe, catalogs, out, report)
    from factory.train.translator.cut import train_cut

    return train_cut(recipe, out, report)
