"""Command that runs every evaluation of a run and fills one table: evaluate all."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from factory.api.everything import AllSettings
from factory.cli.evaluate.fidelity import FIT_OPTION, align, say
from factory.cli.models import CATALOG_OPTION
from factory.cli.options import COUNT, DRAWS, IMAGE_COLUMN, IMAGES, NEW_FOLDER, PIXELS
from factory.cli.recipes import format_duration
from factory.evaluate import DEFAULT_ENCODER

RESNET_SECONDS = 100.0
"""Of one CPU core for 400 steps of 32 images of 64 px, as README says."""


@click.command("all")
@click.option("--real", required=True, type=IMAGES, help="Real training images.")
@click.option("--test", required=True, type=IMAGES, help="Real images that no training used.")
@click.option("--synthetic", required=True, type=IMAGES, help="Finished run, or any image set.")
@click.option(
    "--out", type=NEW_FOLDER, help="Folder for results; default: evaluation/ in --synthetic."
)
@click.option(
    "--encoder", metavar="SPEC", default=DEFAULT_ENCODER, show_default=True, help="Image encoder."
)
@click.option(
    "--shots",
    default=10,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Of each class, in the few-shot study.",
)
@click.option("--seeds", default=5, show_default=True, type=DRAWS, help="Draws of shots.")
@click.option("--steps", type=COUNT, help="Of every arm of the few-shot study.")
@click.option("--fewshot-encoder", help="Frozen encoder and linear head, instead of ResNet-18.")
@click.option("--pairs", type=IMAGES, help="Held-out image-caption pairs: measures retrieval too.")
@click.option("--clip", default="tiny", show_default=True, help="Image-text model of retrieval.")
@click.option("--pretrained", help="Tag of its weights.")
@click.option("--grid", default="he-attributes", show_default=True, help="Caption grid of control.")
@IMAGE_COLUMN
@click.option("--group-pattern", help="Regex on real file names, whose (group) is the patient.")
@FIT_OPTION
@click.option("--size", default=64, show_default=True, type=PIXELS, help="px of all images.")
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice(["fidelity", "copies", "fewshot", "retrieval", "control"]),
    help="Leave a part out.",
)
@click.option("--force", is_flag=True, help="Go on with leaks and small sets, and mark them.")
@CATALOG_OPTION
def every(**options: Any) -> None:
    """Runs every evaluation that the data allow, and fills one table of four tiers.

    Each part's result lies in OUT as JSON, where `factory card` finds it. A part that cannot be
    measured is named with its reason. Labels that models or filters saw beyond the shots, and shots
    of other draws, are marked in the few-shot study; test images that leak are refused. The same
    command resumes the long parts.
    """
    from factory import api
    from factory.evaluate.results import list_rows

    settings = AllSettings(catalogs=options.pop("folders"), **options)
    click.echo("to be measured:")
    for part in settings.list_parts():
        click.echo(f"  {part}: {_describe_part(part, settings)}")
    table = api.evaluate_all(settings, _tell, say)
    click.echo("\n== all")
    rows = [["tier", "measure", "value", "beside it", "marks"], *map(list, list_rows(table))]
    for line in align(rows):
        click.echo(line)
    missing = table["not_measured"]
    for part, reason in missing.items():
        click.echo(f"not measured: {part}: {reason.splitlines()[0]}")
    click.echo(f"results: {settings.folder}")
    if settings.has_card:
        click.echo(f"wrote {settings.synthetic}/README.md")
    else:
        say("no run folder with these results in it: no card was written")
    if missing.keys() - set(settings.skip) - {"retrieval", "control"}:
        click.get_current_context().exit(1)


def _tell(part: str, found: Mapping[str, Any] | Exception | None) -> None:
    """Prints that a part begins, its tables, or why it has none."""
    if found is None:
        click.echo(f"\n== {part}")
    elif isinstance(found, Exception):
        click.echo(f"NOT MEASURED: {found}", err=True)
    else:
        import_module(f"factory.cli.evaluate.{part}").show(found)


def _describe_part(part: str, settings: AllSettings) -> str:
    """Says what a part takes: what is trained, how often, and roughly how long that is."""
    if part == "fewshot":
        return _describe_fewshot(settings)
    if part == "retrieval":
        from factory.evaluate.retrieval.settings import RetrievalSettings

        usual = RetrievalSettings()
        arms = usual.choose_arms(has_real=False)
        return (
            f"{len(arms)} arms x {usual.seeds} seeds: {settings.clip} tuned for "
            f"{usual.epochs} passes over the pairs in each, but for {arms[0]}"
        )
    if part == "control":
        return "what captions ask for, measured in every image"
    return f"all images encoded by {settings.encoder}, once"


def _describe_fewshot(settings: AllSettings) -> str:
    from factory.evaluate.fewshot.settings import ARMS, MIN_STEPS

    seeds, steps, size = settings.seeds, settings.steps, settings.size
    trainings = len(ARMS) * seeds
    often = f"{len(ARMS)} arms x {seeds} draws = {trainings} trainings"
    if settings.fewshot_encoder is not None:
        return f"{often} of a linear head on {settings.fewshot_encoder}, a matter of seconds each"
    seconds = RESNET_SECONDS * (steps or MIN_STEPS) / MIN_STEPS * (size / 64) ** 2
    least = f"{steps:,}" if steps else f"{MIN_STEPS} or more"
    return (
        f"{often} of ResNet-18 at {size} px, {least} steps each: roughly "
        f"{format_duration(trainings * seconds)} of one CPU core (--fewshot-encoder "
        f"{DEFAULT_ENCODER} trains linear heads in seconds; the same command goes on where it "
        "was stopped)"
    )
