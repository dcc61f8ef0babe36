"""Trains translators: a flow between embeddings, or networks between images, paired or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.train.translator.settings import AnyTranslator

Report = Callable[[int, int, dict[str, float]], None]


def train_translator(
    recipe: AnyTranslator, catalogs: Catalogs, out: Path, report: Report
) -> dict[str, Any]:
    """Trains what a recipe describes; see `train_flow`, `train_cut` and `train_paired`."""
    if recipe.kind == "flow":
        from factory.train.translator.flow import train_flow

        return train_flow(recipe, catalogs, out, report)
    if recipe.kind == "paired":
        from factory.train.translator.paired import train_paired

        return train_paired(recipe, out, report)
    from factory.train.translator.cut import train_cut

    return train_cut(recipe, out, report)
