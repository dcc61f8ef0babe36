"""Command that runs every evaluation of a run and fills one table: evaluate all."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from factory.cli.evaluate.fidelity import FIT_OPTION, align, say, write_result
from factory.cli.models import CATALOG_OPTION
from factory.cli.options import COUNT, DRAWS, IMAGE_COLUMN, IMAGES, NEW_FOLDER, PIXELS
from factory.cli.recipes import format_duration
from factory.core.errors import EvaluationError, InputError
from factory.evaluate import DEFAULT_ENCODER
from factory.evaluate.measured import EVALUATION

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
def every(synthetic: Path, out: Path | None, **options: Any) -> None:
    """Runs every evaluation that the data allow, and fills one table of four tiers.

    Each part's result lies in OUT as JSON, where `factory card` finds it. A part that cannot be
    measured is named with its reason. Labels that models or filters saw beyond the shots, and shots
    of other draws, are marked in the few-shot study; test images that leak are refused. The same
    command resumes the long parts.
    """
    from factory.evaluate.results import PARTS, build_tiers, list_rows

    ctx = click.get_current_context()
    out = out or synthetic / EVALUATION
    asked = _list_parts(synthetic, out, options)
    wanted = [part for part in PARTS if part in asked and part not in options["skip"]]
    click.echo("to be measured:")
    for part in wanted:
        click.echo(f"  {part}: {_describe_part(part, asked[part])}")
    results, missing = {}, {}
    for part in PARTS:
        if part in options["skip"]:
            missing[part] = "left out by --skip"
            continue
        if part not in asked:
            missing[part] = "needs --pairs"
            continue
        click.echo(f"\n== {part}")
        try:
            ctx.invoke(_find(part), **asked[part])
        except (EvaluationError, InputError) as error:
            missing[part] = _shorten(str(error), (synthetic, options["real"], options["test"]))
            click.echo(f"NOT MEASURED: {error}", err=True)
            continue
        results[part] = json.loads((out / f"{part}.json").read_text(encoding="utf-8"))
    table = build_tiers(results, missing, {key: str(options[key]) for key in ("real", "test")})
    write_result(out / "tiers.json", table)
    click.echo("\n== all")
    rows = [["tier", "measure", "value", "beside it", "marks"], *map(list, list_rows(table))]
    for line in align(rows):
        click.echo(line)
    for part, reason in missing.items():
        click.echo(f"not measured: {part}: {reason.splitlines()[0]}")
    click.echo(f"results: {out}")
    _write_card(synthetic, out)
    if missing.keys() - set(options["skip"]) - {"retrieval", "control"}:
        ctx.exit(1)


def _describe_part(part: str, arguments: Mapping[str, Any]) -> str:
    """Says what a part takes: what is trained, how often, and roughly how long that is."""
    if part == "fewshot":
        return _describe_fewshot(arguments)
    if part == "retrieval":
        from factory.evaluate.retrieval.settings import RetrievalSettings

        usual = RetrievalSettings()
        arms = usual.choose_arms(has_real=False)
        return (
            f"{len(arms)} arms x {usual.seeds} seeds: {arguments['model']} tuned for "
            f"{usual.epochs} passes over the pairs in each, but for {arms[0]}"
        )
    if part == "control":
        return "what captions ask for, measured in every image"
    encoders = arguments.get("encoders") or (arguments["encoder"],)
    return f"all images encoded by {', '.join(encoders)}, once"


def _describe_fewshot(arguments: Mapping[str, Any]) -> str:
    from factory.evaluate.fewshot.settings import ARMS, MIN_STEPS

    seeds, steps, size = (arguments[name] for name in ("seeds", "steps", "size"))
    trainings = len(ARMS) * seeds
    often = f"{len(ARMS)} arms x {seeds} draws = {trainings} trainings"
    if arguments["encoder"] is not None:
        return f"{often} of a linear head on {arguments['encoder']}, a matter of seconds each"
    seconds = RESNET_SECONDS * (steps or MIN_STEPS) / MIN_STEPS * (size / 64) ** 2
    least = f"{steps:,}" if steps else f"{MIN_STEPS} or more"
    return (
        f"{often} of ResNet-18 at {size} px, {least} steps each: roughly "
        f"{format_duration(trainings * seconds)} of one CPU core (--fewshot-encoder "
        f"{DEFAULT_ENCODER} trains linear heads in seconds; the same command goes on where it "
        "was stopped)"
    )


def _shorten(text: str, paths: Sequence[Path]) -> str:
    """Returns a text without the folders above the sets: results are published."""
    for path in paths:
        for form in (str(path.absolute()), str(path)):
            text = text.replace(form, path.name)
    return text


def _find(part: str) -> click.Command:
    command: click.Command = getattr(import_module(f"factory.cli.evaluate.{part}"), part)
    return command


def _list_parts(
    synthetic: Path, out: Path, options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns part -> arguments of its command; a part without its inputs is left out."""
    sized = {"size": options["size"], "fit": options["fit"]}
    columns = {name: options[name] for name in ("image_column", "group_pattern")}
    grouped = {**sized, **columns}
    found: dict[str, dict[str, Any]] = {
        "fidelity": {
            "real": options["test"],
            "synthetic": (synthetic,),
            "encoders": (options["encoder"],),
            "force": options["force"],
            "cache": out / "features",
            "json_file": out / "fidelity.json",
            **grouped,
        },
        "copies": {
            "real": options["real"],
            "held_out": options["test"],
            "synthetic": synthetic,
            "encoder": options["encoder"],
            "cache": out / "features",
            "gallery": out / "copies.png",
            "json_file": out / "copies.json",
            **grouped,
        },
        "fewshot": {
            "real": options["real"],
            "test": options["test"],
            "synthetic": (synthetic,),
            "shots": (options["shots"],),
            "seeds": options["seeds"],
            "steps": options["steps"],
            "encoder": options["fewshot_encoder"],
            "force": options["force"],
            "mark_leaks": True,
            "folders": options["folders"],
            "out": out / "fewshot",
            "json_path": out / "fewshot.json",
            **grouped,
        },
        "control": {
            "synthetic": synthetic,
            "grid": options["grid"],
            "folders": options["folders"],
            "json_file": out / "control.json",
            **sized,
        },
    }
    if options["pairs"] is not None:
        found["retrieval"] = {
            "synthetic": synthetic,
            "held_out": options["pairs"],
            "model": options["clip"],
            "pretrained": options["pretrained"],
            "image_column": options["image_column"],
            "out": out / "retrieval",
            "file": out / "retrieval.json",
        }
    return found


def _write_card(synthetic: Path, out: Path) -> None:
    """Writes the card of a run folder again, with the results."""
    from factory.cli.runs import card

    if (synthetic / "summary.json").is_file() and out == synthetic / EVALUATION:
        click.get_current_context().invoke(card, folder=str(synthetic))
    else:
        say("no run folder with these results in it: no card was written")
