"""Commands on the catalogs of models and of image encoders: list, show, check."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from factory.plain import write_json

if TYPE_CHECKING:
    from pydantic import BaseModel

CATALOG_OPTION = click.option(
    "--catalog",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="User catalog folder.",
)


@click.group()
def models() -> None:
    """Lists, shows and checks the models that recipes can name."""


@models.command("list")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """Lists the models of all catalogs."""
    from factory.catalog import load_catalogs

    entries = load_catalogs(folders).list_models()
    if as_json:
        click.echo(write_json([entry.model_dump(mode="json") for entry in entries]))
        return
    for entry in entries:
        streams = "+".join((*entry.required, *(f"[{name}]" for name in entry.optional)))
        gate = ", gated" if entry.licence.gated else ""
        click.echo(
            f"{entry.id:24} {entry.width}x{entry.height}  {streams}  {entry.licence.id}{gate}"
        )


@models.command()
@click.argument("name", metavar="ID")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def show(name: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Shows all that is known of a model: streams, size, licence terms, training data."""
    from factory.catalog import load_catalogs

    _show(load_catalogs(folders).find_model(name), as_json)


@models.command()
@click.argument("name", metavar="ID")
@CATALOG_OPTION
def check(name: str, folders: tuple[Path, ...]) -> None:
    """Loads a model here and samples one image in two steps."""
    from factory.catalog import load_catalogs
    from factory.generators import build_generator
    from factory.recipe import GeneratorSettings
    from factory.records import Condition, Job, Request

    entry = load_catalogs(folders).find_model(name)
    began = time.perf_counter()
    settings = GeneratorSettings(model=name, steps=2, batch_size=1)
    generator = build_generator(settings, entry, Path())
    class_name = entry.class_names[0] if entry.class_names else None
    caption = "H&E stained histology" if "caption" in entry.required else None
    request = Request("check", 0, Condition(class_name, caption), 0)
    sample = generator.generate([Job(request, 0, 0)])[0]
    height, width = sample.pixels.shape[:2]
    click.echo(
        f"{name}: loads and samples here ({width}x{height} px, "
        f"{time.perf_counter() - began:.1f} s with loading)"
    )


@click.group()
def encoders() -> None:
    """Lists, shows and checks the image encoders that filters and evaluations can name."""


@encoders.command("list")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_encoders(folders: tuple[Path, ...], as_json: bool) -> None:
    """Lists the image encoders of all catalogs."""
    from factory.catalog import load_catalogs

    catalogs = load_catalogs(folders)
    entries = [catalogs.find_encoder(name) for name in catalogs.list_ids("encoders")]
    if as_json:
        click.echo(write_json([entry.model_dump(mode="json") for entry in entries]))
        return
    for entry in entries:
        gate = ", gated" if entry.licence.gated else ""
        text = ", reads text" if entry.reads_text else ""
        click.echo(f"{entry.id:16} {entry.dim:5}  {entry.licence.id}{gate}{text}  {entry.title}")


@encoders.command("show")
@click.argument("name", metavar="ID")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def show_encoder(name: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Shows all that is known of an encoder: source, features, licence terms, training data."""
    from factory.catalog import load_catalogs

    _show(load_catalogs(folders).find_encoder(name), as_json)


@encoders.command("check")
@click.argument("name", metavar="ID")
@CATALOG_OPTION
def check_encoder(name: str, folders: tuple[Path, ...]) -> None:
    """Loads an encoder here and computes the features of one blank image."""
    import numpy as np

    from factory.catalog import load_catalogs
    from factory.encoders import load_encoder

    began = time.perf_counter()
    encoder = load_encoder(name, catalogs=load_catalogs(folders))
    encoder.encode(np.full((1, 64, 64, 3), 255, np.uint8))
    told = encoder.describe()
    click.echo(
        f"{name}: loads and encodes here ({encoder.dim} features, weights sha256 "
        f"{told['weights_sha256']}, {time.perf_counter() - began:.1f} s with loading)"
    )


def _show(entry: "BaseModel", as_json: bool) -> None:
    import yaml

    described = entry.model_dump(mode="json")
    click.echo(
        write_json(described)
        if as_json
        else yaml.safe_dump(described, sort_keys=False, allow_unicode=True).rstrip()
    )
