"""The command `factory train adapter`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory import api
from factory.cli.loading import make_say
from factory.cli.models import CATALOG_OPTION
from factory.cli.options import (
    COUNT,
    IMAGE_COLUMN,
    IMAGES,
    NEW_FOLDER,
    RATE,
    SEED,
    Number,
    add_options,
)
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.train.adapter.train import AdapterResult

_OPTIONS = (
    click.option(
        "--base", default="nano-he-base", show_default=True, help="Catalog id, Hub id or folder."
    ),
    click.option("--data", required=True, type=IMAGES, help="Real images with classes."),
    click.option(
        "--shots",
        required=True,
        type=click.IntRange(1, 10_000),
        help="Images of each class, by seed.",
    ),
    click.option("--id", help="Of the catalog entry; default: base, data and shots."),
    click.option("--classes", help="Catalog id of the classes, for the words in prompts."),
    click.option("--template", help="Prompt of a text model, with {class_name}."),
    click.option("--fit", type=click.Choice(["crop", "resize"]), help="Crop keeps mpp."),
    click.option(
        "--mpp", type=Number(0, 1000, min_open=True), help="µm per pixel of the images as fitted."
    ),
    click.option("--about", help="What the images are and on which terms, for the card."),
    IMAGE_COLUMN,
    click.option("--group-column", help="Column of the patient or slide."),
    click.option("--group-pattern", help="Regular expression with one (group) on file names."),
    click.option(
        "--steps",
        type=click.IntRange(1, 1_000_000),
        help="Training steps; may be raised on resume.",
    ),
    click.option("--batch-size", type=click.IntRange(1, 4096), help="Shots in one step."),
    click.option("--learning-rate", type=RATE, help="Of AdamW, constant after a warm-up."),
    click.option("--rank", type=click.IntRange(1, 512), help="Of the low-rank updates."),
    click.option("--layers", type=click.Choice(["attention", "all"]), help="What is updated."),
    click.option(
        "--dropout",
        type=Number(0, 1, max_open=True),
        help="Share of conditions dropped; default 0.1.",
    ),
    click.option("--stain-jitter", type=Number(0, 0.5), help="HED colour augmentation; default 0."),
    click.option(
        "--prior-weight", type=Number(0, 100), help="Of the base's own images in the loss."
    ),
    click.option(
        "--prior-images",
        type=click.IntRange(1, 100_000),
        help="Sampled once from the base; default 64.",
    ),
    click.option(
        "--guidance", type=Number(0, 100), help="Of checks, and default of the catalog entry."
    ),
    click.option("--check-every", type=COUNT, help="Steps between checks for copies."),
    click.option(
        "--check-images", type=click.IntRange(1, 1000), help="Samples of each class; default 8."
    ),
    click.option(
        "--max-copies", type=Number(0, 1), help="Share of samples that stops; default 0.1."
    ),
    click.option(
        "--max-similarity", type=Number(0, 1), help="Of no copy; default: read off the shots."
    ),
    click.option("--seed", type=SEED, help="Of shots, weights and every draw; default 0."),
    click.option("--device", help="Torch device; default: auto."),
)


@click.command()
@add_options(_OPTIONS)
@click.option("--out", required=True, type=NEW_FOLDER, help="Adapter folder, a catalog itself.")
@CATALOG_OPTION
@JSON_OPTION
def adapter(out: Path, folders: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Adapts a model to a few real images of each class; the same command again resumes it.

    DATA is an ImageFolder (one folder for each class) or parquet. What is left out takes the
    default of the base's family, which the card tells. Training stops when samples copy the images.
    """
    from factory.train.adapter.settings import make_settings

    given = {name: value for name, value in options.items() if value is not None}
    result = api.train_adapter(make_settings(**given), out, folders, make_say(as_json=False))
    click.echo(write_json(result.to_json()) if as_json else format_result(result, out))
    if result.exit_code:
        raise SystemExit(result.exit_code)


def format_result(result: "AdapterResult", out: Path) -> str:
    """Returns how an adaptation ended, copies first."""
    progress = result.progress
    if result.sha256 is None:
        check = progress.checks[-1]
        return (
            f"NO ADAPTER: at the first check (step {check.step:,}) {check.copies:.0%} of "
            f"{check.images} samples copy a shot already, so nothing is kept: give another --out "
            "and more shots, a lower --learning-rate or --rank, or a smaller --check-every"
        )
    lines = []
    if progress.is_stopped:
        lines.append(
            f"STOPPED BY COPIES at step {progress.step:,}; kept the weights of step "
            f"{progress.good_step:,}"
        )
    lines.append(
        f"wrote {out} in {result.seconds:.0f} s; in a recipe: catalogs: [{out.absolute()}], "
        f"generator: {{model: {result.id}}}"
    )
    return "\n".join(lines)
