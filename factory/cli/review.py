"""The command `factory review`."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.options import NEW_FILE, LocalPath
from factory.cli.runs import DIR_ARGUMENT

if TYPE_CHECKING:
    from factory.publish.review.server import Server

_SETTINGS = ["factory.publish.review:ReviewOptions", "factory.publish.review:ServeOptions"]


@click.command(cls=SettingsCommand, settings=_SETTINGS)
@DIR_ARGUMENT
@click.option(
    "--offline", type=NEW_FILE, help="Write one HTML file to send instead, and serve nothing."
)
@click.option(
    "--read",
    "answer_file",
    type=LocalPath(exists=True, dir_okay=False, path_type=Path),
    help="Read the answer file of such a page, and serve nothing.",
)
def review(folder: str, offline: Path | None, answer_file: Path | None, **given: Any) -> None:
    """Opens a page where people look at the images of the finished run in DIR.

    They accept, reject with a reason, set the class and mark regions; or, with --study, answer a
    blinded study. Every answer is saved at once in DIR, several people may look at a time, and the
    same command goes on. Ctrl-C ends it. `factory refilter DIR --set filters.review.min_review=0.5`
    decides by the answers.
    """
    from factory import api
    from factory.publish.review import ReviewOptions, ServeOptions

    mine = {name: given.pop(name) for name in ServeOptions.model_fields}
    options, say = read_settings(ReviewOptions, given), make_say(False)
    if offline is not None and answer_file is not None:
        raise click.UsageError("give either --offline or --read")
    if offline is not None:
        size = api.write_review_page(folder, offline, options, say)
        click.echo(f"wrote {offline} ({size / 1e6:.1f} MB): send it; --read takes its answer file")
        return
    if answer_file is not None:
        told = api.read_review_answers(folder, answer_file, options, say)
        click.echo(f"{told['answers']} answers of {told['reader']}, {told['new']} of them new")
        return
    wait(api.review(folder, options, ServeOptions(**mine), say))


def wait(server: "Server") -> None:
    """Prints the link, and serves until Ctrl-C."""
    from factory.publish.review.server import LOOPBACK

    click.echo(server.url)
    if server.host not in LOOPBACK:
        click.echo(
            f"{server.host} is not this machine alone: whoever has the link sees the images, and "
            "nothing is encrypted",
            err=True,
        )
    click.echo("open this link; Ctrl-C ends it, and what was answered is saved", err=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo("ended", err=True)
    finally:
        server.close()
    desk = server.desk
    for name, count in (desk.count_answers() if desk is not None else {}).items():
        click.echo(f"{name}: {count} of {len(desk.cases) if desk else 0} answered", err=True)
