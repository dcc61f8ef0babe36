"""Commands that train: classifier, generator."""

from pathlib import Path

import click

from factory.cli.recipes import SET_OPTION


@click.group()
def train() -> None:
    """Trains a classifier to filter with, or a generator from scratch."""


@train.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Pipeline folder.")
@SET_OPTION
def generator(recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Trains a generator from RECIPE; the same command again resumes it."""
    from factory.train.generator import train_generator
    from factory.train.settings import TrainingRecipe
    from factory.yamlfile import apply_overrides, parse_model
    from factory.yamlreader import read_document

    settings = parse_model(apply_overrides(read_document(recipe), overrides), TrainingRecipe)
    if not settings.data.images.is_absolute():
        images = recipe.parent / settings.data.images
        data = settings.data.model_copy(update={"images": images})
        settings = settings.model_copy(update={"data": data})
    train_generator(
        settings,
        out,
        lambda step, steps, loss: click.echo(f"step {step:,}/{steps:,}, loss {loss:.4f}", err=True),
    )
    click.echo(f"wrote {out}")
