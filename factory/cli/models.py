"""Commands on the catalogs of models and of image encoders: list, show, check."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.options import NEW_FILE, NEW_FOLDER, LocalPath, Number
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

_SIDE = click.IntRange(8, 4096)

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


@click.group()
def encoders() -> None:
    """Lists, shows and checks the image encoders that filters and evaluations can name."""


def _shown(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of commands that show what catalogs hold."""
    return CATALOG_OPTION(JSON_OPTION(function))


class _Embedding(click.types.StringParamType):
    """Tokens and width of an embedding."""

    name = "TOKENSxDIM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads `16x1536`."""
        found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not TOKENSxDIM: give two numbers, e.g. 16x1536.", param, ctx)
        return int(found[1]), int(found[2])


def _split(names: str) -> tuple[str, ...]:
    """Returns names that stand between commas, without blanks."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _named(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the arguments of commands on one entry."""
    return click.argument("name", metavar="ID")(CATALOG_OPTION(function))


@models.command("list")
@_shown
def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """Lists the models of all catalogs: whether they run here or what they lack, how far tried."""
    found, lines = api.list_models(folders), []
    for model in found:
        entry = model.entry
        runs = "runs" if model.lacks is None else f"no: {model.lacks}"
        gate = ", gated" if entry.licence.gated else ""
        size = f"{entry.width}x{entry.height}"
        known = f"{entry.id:30} {size:9}  {runs:27}  {model.state:34}"
        lines.append(f"{known}  {model.streams}  {entry.licence.id}{gate}")
    described = [model.to_json() for model in found]
    click.echo(write_json(described) if as_json else "\n".join(lines))


@models.command()
@_named
@JSON_OPTION
def show(name: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Shows all that is known of a model: streams, size, licence terms, training data."""
    _print(api.find_model(name, folders).to_json(), as_json)


@models.command()
@_named
def check(name: str, folders: tuple[Path, ...]) -> None:
    """Loads a model here and samples one image in two steps.

    ID: of a catalog, a Hub id or a folder. It is asked for a class that it knows, else a caption.
    """
    checked = api.check_model(name, folders)
    made = checked.found
    click.echo(
        f"{name}: loads and samples here ({made['width']}x{made['height']} px, {made['asked']!r}, "
        f"{checked.seconds:.1f} s with loading)"
    )


@models.command()
@click.argument("source", metavar="FOLDER_OR_ID")
@click.option("--out", required=True, type=NEW_FILE, help="The entry, CATALOG/models/ID.yaml.")
@click.option("--width", type=_SIDE, help="px; the model's own, where not given.")
@click.option("--height", type=_SIDE, help="px; likewise.")
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Steps of the entry; the pipeline's own, where not given.",
)
@click.option(
    "--largest-batch",
    type=click.IntRange(1, 4096),
    default=8,
    help="Images in the largest batch tried.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    help="Of the weights; the entry's, too.",
)
@click.option("--classes", help="Class names in the order of the embeddings, by commas.")
@click.option(
    "--embedding",
    type=_Embedding(),
    help="TOKENSxDIM of a model that takes embeddings, e.g. 16x1536.",
)
@click.option("--trust-remote-code", is_flag=True, help="Let the model's own code run.")
@JSON_OPTION
def adopt(source: str, out: Path, as_json: bool, **given: Any) -> None:
    """Proves what a diffusers model takes, and writes its catalog entry.

    Every stream is exchanged and left out: do the pixels change? A row of a batch is compared with
    the row alone. Guidance, the words that reach the image, seconds and batch sizes are measured.
    What could not be proved is named here and in the entry; then the exit code is 1.
    """
    given["class_names"] = _split(given.pop("classes") or "") or None
    adopted = api.adopt_model(source, out, **given)
    if as_json:
        click.echo(write_json(adopted.to_json()))
    else:
        for line in adopted.proven:
            click.echo(f"proven      {line}")
        for line in adopted.unproven:
            click.echo(f"NOT PROVEN  {line}")
        click.echo(
            f"wrote {out}; in a recipe: catalogs: [{out.parent.parent}], "
            f"generator: {{model: {adopted.entry.id}}}"
        )
    if adopted.unproven:
        click.get_current_context().exit(1)


@models.command()
@click.argument("checkpoint", type=LocalPath(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(
        ["compvis", "cut", "cyclegan", "unet", "unetpp", "gigatime-flash", "histoplexer"]
    ),
    default="compvis",
    help="Code that wrote it; all but compvis are one-pass translators.",
)
@click.option("--config", type=LocalPath(exists=True, path_type=Path), help="YAML file of compvis.")
@click.option("--out", required=True, type=NEW_FOLDER, help="New folder; names a translator.")
@click.option(
    "--text-encoder",
    type=LocalPath(path_type=Path),
    help="Folder with tokenizer and config.json, for models of texts.",
)
@click.option(
    "--classes",
    default="",
    help="Classes in the order of their embeddings, or channels of a translator, with commas.",
)
@click.option(
    "--mpp", type=Number(0, 1000, min_open=True), help="µm per pixel of its training images."
)
@click.option(
    "--allow-pickle", is_flag=True, help="Read .ckpt and .pth: only tensors, weights_only."
)
def convert(checkpoint: Path, out: Path, classes: str, **given: Any) -> None:
    """Writes CHECKPOINT as a folder for recipes.

    Latent diffusion of the CompVis code (PathLDM, ZoomLDM), or a one-pass translator: cut (AI-FFPE
    too), cyclegan, unet (pix2pix), unetpp (GigaTIME), gigatime-flash, histoplexer.
    """
    made = api.convert_model(checkpoint, out, class_names=_split(classes), **given)
    click.echo(f"wrote {out}: takes {made['takes']}, {made['width']}x{made['height']} px")
    if made.get("dropped"):
        dropped = made["dropped"]
        click.echo(f"left out {len(dropped)} that the network does not read, e.g. {dropped[0]}")
    if "model" in made:
        click.echo(
            f"in a recipe: catalogs: [{out}], generator: {{model: {made['model']}}}; fill in its "
            f"terms in {out / 'models' / made['model']}.yaml"
        )


@encoders.command("list")
@_shown
def list_encoders(folders: tuple[Path, ...], as_json: bool) -> None:
    """Lists the image encoders of all catalogs."""
    entries = api.list_encoders(folders)
    if as_json:
        click.echo(write_json([entry.model_dump(mode="json") for entry in entries]))
        return
    for entry in entries:
        gate = ", gated" if entry.licence.gated else ""
        text = ", reads text" if entry.reads_text else ""
        click.echo(f"{entry.id:16} {entry.dim:5}  {entry.licence.id}{gate}{text}  {entry.title}")


@encoders.command("show")
@_named
@JSON_OPTION
def show_encoder(name: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Shows all that is known of an encoder: source, features, licence terms, training data."""
    _print(api.find_encoder(name, folders).model_dump(mode="json"), as_json)


@encoders.command("check")
@_named
def check_encoder(name: str, folders: tuple[Path, ...]) -> None:
    """Loads an encoder here and computes the features of one blank image."""
    checked = api.check_encoder(name, folders)
    click.echo(
        f"{name}: loads and encodes here ({checked.found['dim']} features, weights sha256 "
        f"{checked.found['weights_sha256']}, {checked.seconds:.1f} s with loading)"
    )


def _print(described: dict[str, Any], as_json: bool) -> None:
    import yaml

    click.echo(
        write_json(described)
        if as_json
        else yaml.safe_dump(described, sort_keys=False, allow_unicode=True).rstrip()
    )
