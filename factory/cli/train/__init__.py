"""The group `factory train`: classifier, encoder, generator, adapter, layout."""

import click

from factory.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    table={
        "classifier": "factory.cli.train.classifier:classifier",
        "generator": "factory.cli.train.recipes:generator",
        "encoder": "factory.cli.train.recipes:encoder",
        "adapter": "factory.cli.train.adapter:adapter",
        "layout": "factory.cli.train.layout:layout",
    },
)
def train() -> None:
    """Trains classifiers and encoders to filter with, generators and adapters, layouts of masks."""
