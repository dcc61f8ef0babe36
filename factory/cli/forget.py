"""The command that removes what a patient's images touched."""

from typing import Any

import click

from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json


@click.command(cls=SettingsCommand, settings=["factory.engine.forget.look:ForgetOptions"])
@click.argument("folder", metavar="DIR")
@JSON_OPTION
def forget(folder: str, as_json: bool, **given: Any) -> None:
    """Removes every row of DIR that a patient's images touched, and makes others instead.

    As reference, source, mask, embedding, shot, prototype or donor of stain and domain, or through
    what was trained on them. The same command again ends one that was stopped. Publish DIR again
    to replace what is published. Exit code 1 where fewer images are there than asked for, or a file
    of DIR still names the patient.
    """
    from factory import api
    from factory.engine.forget.look import ForgetOptions

    options = read_settings(ForgetOptions, given)
    result = api.forget(folder, options, make_say(as_json))
    if as_json:
        click.echo(write_json(result.to_json()))
    else:
        _print(result)
    click.get_current_context().exit(result.exit_code)


def _print(result: Any) -> None:
    told = result.told
    by = ", ".join(f"{name} {count:,}" for name, count in told["touched_as"].items())
    verb = "would be removed" if result.is_dry else "were the patient's"
    click.echo(f"{told['rows']:,} rows {verb} ({by or 'none by its own record'})")
    click.echo(f"{told['kept']:,} rows of others stay as they are")
    for name in told["learned"]:
        click.echo(f"LEARNED FROM THE PATIENT {name}: train it again without", err=True)
    for name in told["learned_unknown"]:
        click.echo(f"NOT KNOWN WHOM IT LEARNED FROM {name}", err=True)
    for name, count in told["compared"].items():
        click.echo(
            f"COMPARED {name} compares with {count:,} of the patient's images: its scores name "
            "nobody and stay; another set of real images is another run",
            err=True,
        )
    if told["untold"]:
        click.echo(
            f"NOT TOLD {told['untold']:,} rows come from real images or values that tell no "
            "patient or slide: theirs may be among them",
            err=True,
        )
    for text in told["images_not_read"]:
        click.echo(f"NOT LOOKED THROUGH {text}", err=True)
    if result.is_dry:
        click.echo("nothing was touched (--dry-run)")
        return
    _print_removed(result)


def _print_removed(result: Any) -> None:
    click.echo(f"removed {result.removed:,} rows")
    if result.measured:
        click.echo(f"removed {', '.join(result.measured)}: measure and report again")
    cases, answers = result.answers
    if cases:
        click.echo(f"removed {cases:,} cases of reviews with {answers:,} answers")
    for name in result.traces:
        click.echo(f"STILL NAMED in {name}: look at it, and change or remove it", err=True)
    if not result.traces:
        click.echo("no file of the folder names the patient or an image of theirs")
    if result.summary is not None:
        summary = result.summary
        click.echo(f"topped up: {summary.accepted:,} of {summary.wanted:,} images")
        if summary.shortfalls:
            click.echo(
                "SHORTFALL what only the patient's images could fill stays open, and so does what "
                "spent budget.attempts: raise that with factory run --extend",
                err=True,
            )
    for text in filter(None, (result.open_end, result.failed)):
        click.echo(text, err=bool(result.failed))
