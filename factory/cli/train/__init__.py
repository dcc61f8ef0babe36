"""The group `factory train`: classifier, encoder, generator, translator, adapter, layout."""

import click

from factory.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    table={
        "classifier": "factory.cli.train.classifier:classifier",
        "generator": "factory.cli.train.recipes:generator",
        "encoder": "factory.cli.train.recipes:encoder",
        "translator": "factory.cli.train.recipes:translator",
        "adapter": "factory.cli.train.adapter:adapter",
        "layout": "factory.cli.train.layout:layout",
    },
)
def train() -> None:
    """Trains what recipes name: models that make, translate and judge images, and layouts."""
