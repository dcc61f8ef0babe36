"""The commands `factory expression …`: pathway scores of gene expression."""

from pathlib import Path
from typing import Any

import click

from factory import api
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.options import NEW_FILE, LocalPath
from factory.cli.recipes import JSON_OPTION
from factory.core.plain import write_json

MOST_NAMED = 3


@click.group()
def expression() -> None:
    """Scores gene expression, for conditions of kind `vector`."""


@expression.command(
    cls=SettingsCommand, settings=["factory.data.expression.settings:ExpressionSettings"]
)
@click.argument("table", type=LocalPath(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=NEW_FILE, help="Scores, as .parquet.")
@JSON_OPTION
def score(table: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Scores every sample of a table by gene sets, and says what of each set is there.

    TABLE: .csv, .tsv, .parquet or .h5ad of counts, TPM or their logarithms, with genes in columns
    or rows. A recipe takes the scores as {kind: vector, vectors: OUT, ignore: [sample]}.
    """
    from factory.data.expression.settings import ExpressionSettings

    found = api.score_expression(table, out, read_settings(ExpressionSettings, given))
    if as_json:
        click.echo(write_json({k: v for k, v in found.items() if k != "scaling"}))
        return
    for line in found["steps"]:
        click.echo(line)
    for name, each in found["coverage"].items():
        lacks = [*each["missing"], *each["dropped"]]
        more = f" and {len(lacks) - MOST_NAMED} more" if len(lacks) > MOST_NAMED else ""
        without = f", without {', '.join(lacks[:MOST_NAMED])}{more}" if lacks else ""
        word = "NaN: " if each["is_low"] else ""
        click.echo(f"{name}: {word}{each['covered']} of {each['genes']} genes{without}")
    for text in (found["licence"] or {}).get("attribution", ()):
        click.echo(f"attribution: {text}")
    click.echo(f"wrote {out}: {found['samples']:,} samples, {len(found['coverage'])} sets")
