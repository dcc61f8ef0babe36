"""The command `factory publish`."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click

from factory.cli.options import FOLDER_PLACE
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.publish.hub import Publication, Published
    from factory.publish.hub.target import Target


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER_PLACE)
@click.option("--repo", metavar="OWNER/NAME", help="Data set repository on the Hub.")
@click.option(
    "--to",
    type=FOLDER_PLACE,
    metavar="URL",
    help="Folder or fsspec URL (s3://...) instead of the Hub.",
)
@click.option("--dry-run", is_flag=True, help="Show files and card; touch nothing, ask nobody.")
@click.option("--public", is_flag=True, help="For everybody; default: a private repository.")
@click.option("--gated", type=click.Choice(["auto", "manual"]), help="Readers must ask first.")
@click.option("--license", "license_id", metavar="ID", help="Licence; default: the card's.")
@click.option(
    "--override-terms",
    "override",
    metavar="TEXT",
    help="Who approved what a model's terms forbid, and when; the card shows it.",
)
@click.option("--revision", "branch", default="main", show_default=True, help="Branch to write to.")
@click.option("--tag", help="Name of the version; default: made of the content's hash.")
@click.option("--with-tars", is_flag=True, help="Publish WebDataset tars too.")
@click.option("--replace", is_flag=True, help="Take the place of other data that is there.")
@click.option(
    "--files-per-step",
    default=20,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Files of one commit, at most.",
)
@JSON_OPTION
def publish(
    folder: str,
    repo: str | None,
    to: str | None,
    dry_run: bool,
    public: bool,
    gated: Literal["auto", "manual"] | None,
    license_id: str | None,
    override: str | None,
    branch: str,
    tag: str | None,
    with_tars: bool,
    replace: bool,
    files_per_step: int,
    as_json: bool,
) -> None:
    """Publishes the finished run in DIR to the Hugging Face Hub, or to another folder.

    DIR may be a URL (s3://...): the run is fetched to a temporary folder first.

    Checks the run, asks the licence gate, sends what is not there yet and the card last, compares
    every file and row count, tags. The same command again goes on where it broke off. The token is
    that of HF_TOKEN or of `hf auth login`; HF_ENDPOINT names another Hub.
    """
    from factory.publish.hub import fetch_run, prepare_publication, publish_items

    if (repo is None) == (to is None):
        raise click.UsageError("give either --repo OWNER/NAME or --to URL")

    def say(line: str) -> None:
        if not as_json:
            click.echo(line, err=True)

    url = None if repo is None else _name_url(repo)
    place = click.get_current_context().with_resource(fetch_run(folder, say))
    say(f"checking {folder}")
    publication = prepare_publication(place, license_id, override, with_tars, url)
    if dry_run:
        _show(publication, repo or str(to), as_json)
        return
    target: Target
    if to is not None:
        from factory.publish.hub import FolderTarget

        target = FolderTarget(to, say)
    else:
        if as_json or not sys.stderr.isatty():
            from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

            disable_progress_bars()
        target = _open_hub(publication, str(repo), public, gated, branch, tag, say)
    result = publish_items(
        publication.items, target, publication.recipe_sha256, say, files_per_step, replace
    )
    _report(publication, result, as_json)
    click.get_current_context().exit(1 if result.problems else 0)


def _name_url(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{repo}"


def _open_hub(
    publication: "Publication",
    repo: str,
    public: bool,
    gated: Literal["auto", "manual"] | None,
    branch: str,
    tag: str | None,
    say: Callable[[str], None],
) -> "Target":
    from factory.publish.hub.hub import HubOptions, HubTarget

    options = HubOptions(
        repo=repo,
        public=public,
        gated=gated,
        branch=branch,
        tag=tag or f"factory-{publication.digest[:12]}",
        description=f"recipe sha256 {publication.recipe_sha256}\n{publication.rows} accepted rows",
    )
    return HubTarget(options, say)


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
