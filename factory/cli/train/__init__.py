"""The group `factory train`: classifier, encoder, generator, adapter."""

import click

from factory.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    table={
        "classifier": "factory.cli.train.classifier:classifier",
        "generator": "factory.cli.train.recipes:generator",
        "encoder": "factory.cli.train.recipes:encoder",
        "adapter": "factory.cli.train.adapter:adapter",
    },
)
def train() -> None:
    """Trains a classifier or encoder to filter with, a generator, or an adapter of one."""
