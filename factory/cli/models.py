"""Commands on the catalogs of models and of image encoders: list, show, check."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.options import LocalPath
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.catalog.entries import ModelEntry

CATALOG_OPTION = click.option(
    "--catalog",
    "folders",
    multiple=True,
    type=LocalPath(path_type=Path),
    help="User catalog folder.",
)


@click.group()
def models() -> None:
    """Lists, shows and checks the models that recipes can name."""


@models.command("list")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """Lists the models of all catalogs, and whether they run here or what they lack."""
    from factory.catalog.catalog import load_catalogs

    entries = load_catalogs(folders).list_models()
    if as_json:
        click.echo(write_json([_describe_model(entry) for entry in entries]))
        return
    for entry in entries:
        lack = _explain_missing(entry)
        streams = "+".join((*entry.required, *(f"[{name}]" for name in entry.optional)))
        runs = "runs" if lack is None else f"no: {lack}"
        gate = ", gated" if entry.licence.gated else ""
        size = f"{entry.width}x{entry.height}"
        click.echo(f"{entry.id:28} {size:9}  {runs:27}  {streams}  {entry.licence.id}{gate}")


@models.command()
@click.argument("name", metavar="ID")
@CATALOG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def show(name: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Shows all that is known of a model: streams, size, licence terms, training data."""
    from factory.catalog.catalog import load_catalogs

    _print(_describe_model(load_catalogs(folders).find_model(name)), as_json)


@models.command()
@click.argument("name", metavar="ID")
@CATALOG_OPTION
def check(name: str, folders: tuple[Path, ...]) -> None:
    """Loads a model here and samples one image in two steps.

    ID: of a catalog, a Hub id or a folder. It is asked for a class that it knows, else a caption.
    """
    from factory.catalog.catalog import load_catalogs
    from factory.core.errors import GenerationError, InputError
    from factory.data.records import Job, Request
    from factory.models.generators import build_generator
    from factory.models.generators.runnable import choose_test_condition
    from factory.models.generators.settings import GeneratorSettings, find_entry

    began = time.perf_counter()
    catalogs = load_catalogs(folders)
    is_place = "/" in name or Path(name).is_dir()
    settings = GeneratorSettings(model=name, steps=2, batch_size=1)
    entry = find_entry(settings, catalogs) if is_place else catalogs.find_model(name)
    lack = None if entry is None else _explain_missing(entry)
    if lack is not None and "not downloaded" not in lack:
        raise InputError(f"model {name}: cannot run here: {lack}")
    generator = build_generator(settings, entry, Path(), catalogs)
    condition = choose_test_condition(name, generator.capabilities)
    sample = generator.generate([Job(Request("check", 0, condition, 0), 0, 0)])[0]
    if sample.nonfinite_fraction > 0:
        raise GenerationError(f"model {name}: its image is not finite (NaN): try dtype float32")
    height, width = sample.pixels.shape[:2]
    asked = condition.class_name or condition.caption
    click.echo(
        f"{name}: loads and samples here ({width}x{height} px, {asked!r}, "
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
    from factory.catalog.catalog import load_catalogs

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
    from factory.catalog.catalog import load_catalogs

    _print(load_catalogs(folders).find_encoder(name).model_dump(mode="json"), as_json)


@encoders.command("check")
@click.argument("name", metavar="ID")
@CATALOG_OPTION
def check_encoder(name: str, folders: tuple[Path, ...]) -> None:
    """Loads an encoder here and computes the features of one blank image."""
    import numpy as np

    from factory.catalog.catalog import load_catalogs
    from factory.models.encoders import load_encoder

    began = time.perf_counter()
    encoder = load_encoder(name, catalogs=load_catalogs(folders))
    encoder.encode(np.full((1, 64, 64, 3), 255, np.uint8))
    told = encoder.describe()
    click.echo(
        f"{name}: loads and encodes here ({encoder.dim} features, weights sha256 "
        f"{told['weights_sha256']}, {time.perf_counter() - began:.1f} s with loading)"
    )


def _explain_missing(entry: "ModelEntry") -> str | None:
    """Returns what a model lacks to run here, or None."""
    from factory.models.generators.runnable import explain_missing
    from factory.recipe.conditions import list_streams

    return explain_missing(entry, {stream.name for stream in list_streams()})


def _describe_model(entry: "ModelEntry") -> dict[str, Any]:
    """Returns an entry, and whether it runs here or what it lacks."""
    lack = _explain_missing(entry)
    return {**entry.model_dump(mode="json"), "runs": lack is None, "lacks": lack}


def _print(described: dict[str, Any], as_json: bool) -> None:
    import yaml

    click.echo(
        write_json(described)
        if as_json
        else yaml.safe_dump(described, sort_keys=False, allow_unicode=True).rstrip()
    )
