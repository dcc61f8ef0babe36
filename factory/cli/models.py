"""Commands on the model catalog: list, show, check."""

import json
import time
from pathlib import Path
from typing import Any

import click

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
        click.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))
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
    import yaml

    from factory.catalog import load_catalogs

    entry: dict[str, Any] = load_catalogs(folders).find_model(name).model_dump(mode="json")
    click.echo(
        json.dumps(entry, indent=1)
        if as_json
        else yaml.safe_dump(entry, sort_keys=False, allow_unicode=True).rstrip()
    )


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
