"""The command `factory publish`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.options import FOLDER_PLACE
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.publish.hub import Publication, Published


@click.command(cls=SettingsCommand, settings=["factory.publish.hub:PublishOptions"])
@click.argument("folder", metavar="DIR", type=FOLDER_PLACE)
@JSON_OPTION
def publish(folder: str, as_json: bool, **given: Any) -> None:
    """Publishes the finished run in DIR to the Hugging Face Hub, or to another folder.

    DIR may be a URL (s3://...): the run is fetched to a temporary folder first.

    Checks the run, asks the licence gate, sends what is not there yet and the card last, compares
    every file and row count, tags. The same command again goes on where it broke off. The token is
    that of HF_TOKEN or of `hf auth login`; HF_ENDPOINT names another Hub.
    """
    from factory.publish.hub import PublishOptions

    chosen = read_settings(PublishOptions, given)
    if (chosen.repo is None) == (chosen.to is None):
        raise click.UsageError("give either --repo OWNER/NAME or --to URL")
    if as_json or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()
    publication, result = api.publish_dataset(folder, chosen, make_say(as_json))
    if result is None:
        _show(publication, chosen.repo or str(chosen.to), as_json)
        return
    _report(publication, result, as_json)
    click.get_current_context().exit(1 if result.problems else 0)


def _show(publication: "Publication", where: str, as_json: bool) -> None:
    from factory.publish.hub import read_head

    files = [item.describe() for item in publication.items]
    head = read_head(publication.card)
    if as_json:
        values = {"to": where, "rows": publication.rows, "bytes": publication.size}
        click.echo(write_json({**values, "files": files, "card_head": head}))
        return
    for entry in files:
        click.echo(f"{entry['sha256']}  {entry['size']:>13,}  {entry['path']}")
    click.echo(
        f"{len(files):,} files, {publication.size / 1e6:,.1f} MB, {publication.rows:,} accepted "
        f"rows for {where}; nothing was touched\n\n{head}"
    )


def _report(publication: "Publication", result: "Published", as_json: bool) -> None:
    if as_json:
        files = [item.describe() for item in publication.items]
        values = {"rows": publication.rows, "bytes": publication.size, "files": files}
        click.echo(write_json({**result.describe(), **values}))
        return
    for problem in result.problems:
        click.echo(f"DIFFERS {problem}", err=True)
    if result.problems:
        click.echo("run the same command again to send what differs", err=True)
        return
    click.echo(
        f"{len(publication.items):,} files and {publication.rows:,} accepted rows are there with "
        f"the same hashes; sent now: {len(result.sent):,} files, {result.sent_bytes / 1e6:,.1f} MB"
    )
    if result.tag is not None:
        click.echo(f"tag {result.tag}, commit {result.commit}")
    click.echo(result.url)
