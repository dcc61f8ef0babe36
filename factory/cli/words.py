"""The commands `factory words …`: what can be said of a data set's images, and whether it holds."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.loading import make_say
from factory.cli.notes import list_notes
from factory.cli.options import NEW_FOLDER, LocalPath
from factory.cli.recipes import JSON_OPTION
from factory.cli.verify import SET_ARGUMENT
from factory.core.plain import write_json


@click.group()
def words() -> None:
    """Writes captions, questions and reports from what rows are known to show, and checks them."""


@words.command(cls=SettingsCommand, settings=["factory.publish.words:WordsOptions"])
@SET_ARGUMENT
@click.option("--out", required=True, type=NEW_FOLDER, help="New folder.")
@JSON_OPTION
def write(source: str, out: Path, as_json: bool, **given: Any) -> None:
    """Writes captions, questions with answers, and short reports on the accepted images of DIR.

    All of it follows from what a row was asked to show and what its pixels measure, by templates
    of a catalog; each statement carries its fact. DIR is a run folder, a merged set, a copy of a
    published data set, or OWNER/NAME on the Hub.
    """
    from factory.publish.words import WordsOptions

    options = read_settings(WordsOptions, given)
    record = api.write_words(source, out, options, make_say(as_json))
    if as_json:
        told = record.to_json()
        kept = ("splits", "blind", "balance", "passed", "left_out", "unfinished", "writer")
        shown = {name: told.get(name) for name in kept}
        shown |= {"overall": record.overall, "out": str(out), "notes": list_notes()}
        click.echo(write_json(shown))
        return
    for split, counts in record.splits.items():
        listed = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        click.echo(f"{split}: {listed}")
    for kind, told in record.overall.items():
        parts = [f"{int(told['questions']):,} questions"]
        parts += [f"yes {told['yes']:.2f}"] if "yes" in told else []
        parts += [f"blind guess {told['blind']:.2f}"] if "blind" in told else []
        click.echo(f"{kind}: {', '.join(parts)}")
    if record.writer is not None:
        for name, count in sorted(record.writer["sentences"].items()):
            click.echo(f"reworded sentences, {name}: {count:,}")
    for each in record.passed:
        click.echo(f"not said: {each.about}: {each.count:,} times, {each.reason}")
    click.echo(f"wrote {out}")


@words.command()
@click.argument("folder", metavar="WORDS", type=LocalPath(path_type=Path))
@SET_ARGUMENT
@JSON_OPTION
def check(folder: Path, source: str, as_json: bool) -> None:
    """Computes every statement in WORDS again from the rows of DIR, and says which differ.

    Exit code 1 where one does. WORDS is what `factory words write` wrote; DIR the data set that it
    was made of.
    """
    found = api.check_words(folder, source, make_say(as_json))
    if as_json:
        click.echo(write_json(found.to_json()))
    else:
        for name, count in sorted(found.counts.items()):
            click.echo(f"{name}: {count:,} computed again")
        for each in found.differences:
            click.echo(f"DIFFERS {each}", err=True)
        hidden = found.differing - len(found.differences)
        if hidden:
            click.echo(f"and {hidden:,} more", err=True)
        click.echo("all hold" if found.is_sound else f"{found.differing:,} DIFFER")
    click.get_current_context().exit(0 if found.is_sound else 1)
