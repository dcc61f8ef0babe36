"""Commands that take a data set at its word: regenerate and verify."""

from pathlib import Path
from typing import Any

import click

from factory.cli.options import (
    BASE_OPTION,
    IMAGE_COLUMN,
    MANY,
    NEW_FILE,
    SEED,
    LocalPath,
    Number,
    add_options,
    defaulted,
)
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

SET_ARGUMENT = click.argument("source", metavar="DIR")


PLACE_OPTIONS = add_options(
    (
        defaulted(
            "--min-psnr",
            40.0,
            Number(0, 1000),
            "dB from which an image that is not exact is within tolerance.",
        ),
        click.option("--model", help="The model, where it lies elsewhere now: id or folder."),
        click.option("--guide", help="Likewise the classifier that guides it: id or folder."),
        click.option(
            "--catalog",
            "catalogs",
            multiple=True,
            type=LocalPath(exists=True, file_okay=False, path_type=Path),
            help="Catalog folder with the model; may be given again.",
        ),
        click.option(
            "--references",
            multiple=True,
            type=LocalPath(exists=True, path_type=Path),
            help="Real images that rows vary, found by hash; may be given again.",
        ),
        IMAGE_COLUMN,
        BASE_OPTION,
    )
)
"""Where model and real images are on this machine."""


@click.command()
@SET_ARGUMENT
@click.argument("sample_id")
@click.option(
    "--out",
    required=True,
    type=NEW_FILE,
    help="Image file to write, .webp or .png.",
)
@PLACE_OPTIONS
@JSON_OPTION
def regenerate(
    source: str,
    sample_id: str,
    out: Path,
    min_psnr: float,
    as_json: bool,
    **places: Any,
) -> None:
    """Makes one image of DIR again from what its row recorded, and says how equal it is.

    DIR is a run folder, a copy of a published data set, or OWNER/NAME[@REVISION] on the Hub; the
    row may be an accepted or a rejected one. Exit code 1 where the image is different.
    """
    from factory import api
    from factory.cli.loading import make_say
    from factory.engine.regenerate import Places

    rebuilt = api.regenerate(source, sample_id, out, Places(**places), min_psnr, make_say(as_json))
    click.echo(write_json(rebuilt.to_json()) if as_json else str(rebuilt))
    click.get_current_context().exit(1 if rebuilt.status == "different" else 0)


@click.command()
@SET_ARGUMENT
@click.option(
    "--regenerate",
    "count",
    default=0,
    metavar="N",
    type=click.IntRange(0, MANY),
    help="Make N accepted rows again, chosen by --seed.",
)
@defaulted("--seed", 0, SEED, "Of the choice of rows.")
@click.option("--near-duplicates", is_flag=True, help="Compare all accepted images again, too.")
@PLACE_OPTIONS
@JSON_OPTION
def verify(
    source: str,
    count: int,
    seed: int,
    near_duplicates: bool,
    min_psnr: float,
    as_json: bool,
    **places: Any,
) -> None:
    """Checks that the data set in DIR is what was made: files, counts, rows, images, verdicts.

    DIR is a run folder, a copy of a published data set, or OWNER/NAME[@REVISION] on the Hub. Exit
    code 1 where a check fails; each failure names file, row and field. What cannot be checked from
    what is there, such as variations without their real images (--references), is counted and
    said, and is no failure.
    """
    from factory import api
    from factory.cli.loading import make_say
    from factory.engine.regenerate import Places
    from factory.publish.verify import VerifyOptions

    options = VerifyOptions(count, seed, near_duplicates, Places(**places), min_psnr)
    report = api.verify(source, options, make_say(as_json))
    if as_json:
        click.echo(write_json(report.to_json()))
    else:
        _print_report(report)
    click.get_current_context().exit(0 if report.is_sound else 1)


def _print_report(report: Any) -> None:
    for check in dict.fromkeys((*report.checked, *report.unchecked, *report.failed)):
        count, left, bad = (of[check] for of in (report.checked, report.unchecked, report.failed))
        parts = [f"{left:,} NOT CHECKED"] if left else []
        if count or bad:
            found = f"{bad:,} FAILED" if bad else "all sound"
            parts.insert(0, f"{count:,} checked, {found}")
        click.echo(f"{check}: {', '.join(parts)}")
    for rebuilt in report.rebuilt:
        if rebuilt.status != "not checked":
            click.echo(f"  {rebuilt}")
    for failure in report.failures:
        click.echo(f"FAILED {failure.check}: {failure}", err=True)
    hidden = sum(report.failed.values()) - len(report.failures)
    if hidden:
        click.echo(f"and {hidden:,} more failures of the same kinds", err=True)
    for note in report.notes:
        click.echo(f"not checked: {note}")
    left = sum(report.unchecked.values())
    open_end = f"; {left:,} asked for and not checked: neither sound nor not" if left else ""
    click.echo(f"sound{open_end}" if report.is_sound else f"NOT SOUND{open_end}")
