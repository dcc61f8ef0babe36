"""Commands on runs: preview, run, status, refilter, card."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.notes import list_notes
from factory.cli.options import FOLDER_PLACE, IMAGE_COLUMN, NEW_FOLDER, LocalPath
from factory.cli.recipes import JSON_OPTION, RECIPE_ARGUMENT, SET_OPTION
from factory.cli.shipped import RECIPE
from factory.core.plain import write_json

if TYPE_CHECKING:
    from factory.data.summary import Summary
    from factory.engine.run_records import Quarantine
    from factory.recipe.file import LoadedRecipe

DIR_ARGUMENT = click.argument("folder", metavar="DIR")


@click.command()
@RECIPE_ARGUMENT
@click.option(
    "--out", type=FOLDER_PLACE, help="Run folder or fsspec URL; default: the recipe's output.path."
)
@click.option("--executor", type=click.Choice(["auto", "local", "ray"]), help="Where to work.")
@click.option("--workers", help="Number of workers, or auto.")
@click.option("--extend", is_flag=True, help="Let an existing run grow.")
@SET_OPTION
@JSON_OPTION
def run(
    recipe: Path,
    out: str | None,
    executor: str | None,
    workers: str | None,
    extend: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Makes the data set of RECIPE; the same command again resumes it."""
    from factory.cli.loading import load_checked

    loaded = load_checked(recipe, (*overrides, *_set_workers(executor, workers)))
    _run(loaded, out, extend, as_json)


@click.command()
@click.option(
    "--data",
    required=True,
    type=LocalPath(exists=True, path_type=Path),
    help="ImageFolder, parquet, WebDataset tars, datasets folder or finished run.",
)
@click.option(
    "--recipe",
    required=True,
    type=RECIPE,
    help="Recipe whose filters judge; its generator and conditions are not used.",
)
@click.option("--out", required=True, type=FOLDER_PLACE, help="Run folder or fsspec URL.")
@IMAGE_COLUMN
@click.option("--label-column", help="Column with the class; default: the folders, or label.")
@click.option("--caption-column", help="Column with the caption.")
@click.option("--group-column", help="Column with the patient or slide.")
@click.option("--group-pattern", help="Regex on file names, whose (group) is the patient or slide.")
@click.option("--executor", type=click.Choice(["auto", "local", "ray"]), help="Where to work.")
@click.option("--workers", help="Number of workers, or auto.")
@SET_OPTION
@JSON_OPTION
def judge(
    data: Path,
    recipe: Path,
    out: str,
    executor: str | None,
    workers: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **columns: str | None,
) -> None:
    """Scores and filters images that something else made, or real ones, as a run would.

    What lands in OUT is what `run` writes: accepted rows, rejected ones with reasons, card. The
    same command again resumes it; refilter changes its thresholds.
    """
    from factory.api import prepare_scoring

    extra = _set_workers(executor, workers)
    loaded = prepare_scoring(recipe, data, (*overrides, *extra), columns)
    _run(loaded, out, False, as_json)


def _set_workers(executor: str | None, workers: str | None) -> list[str]:
    extra = [f"workers.executor={executor}"] if executor else []
    return extra + ([f"workers.count={workers}"] if workers else [])


def _run(loaded: "LoadedRecipe", out: str | None, extend: bool, as_json: bool) -> None:
    from factory import api
    from factory.api.making import find_run_folder
    from factory.cli.progress import RunProgress
    from factory.core.files.edge import check_bucket
    from factory.recipe.recipe import is_judging

    url = find_run_folder(loaded, out)
    check_bucket(url)
    planned = api.plan(loaded)
    attempts, foretells = loaded.recipe.budget.attempts, not is_judging(loaded.recipe)
    with RunProgress(planned, attempts, as_json, foretells) as progress:
        result = api.run(
            loaded,
            url,
            extend=extend,
            planned=planned,
            notify=progress.notify,
            watch=progress,
            say=progress.say,
        )
    print_result(result.url, result.summary, result.quarantined, as_json)
    click.get_current_context().exit(result.exit_code)


def print_result(
    url: str, summary: "Summary", quarantined: "tuple[Quarantine, ...]", as_json: bool
) -> None:
    """Prints how a run ended: counts, shortfalls with reasons, failures, what to do next."""
    from factory.publish.card import funnel

    if as_json:
        failed = [each.to_json() for each in quarantined]
        more = {"url": url, "quarantined": failed, "notes": list_notes()}
        click.echo(write_json({**summary.to_json(), **more}))
        return
    _print_counts(summary)
    for line in filter(None, [funnel.describe_early(summary), *funnel.describe_ends(summary)]):
        click.echo(line)
    for part in summary.shortfalls:
        click.echo(f"SHORTFALL {funnel.describe_shortfall(part)}", err=True)
    if summary.shortfalls:
        click.echo(
            "raise budget.attempts (with --extend), lower a threshold (factory refilter), or ask "
            "for less",
            err=True,
        )
    for text in funnel.describe_cut(summary):
        click.echo(f"CUT {text}; write shorter captions or take a model with more tokens", err=True)
    for part in summary.series:
        if funnel.is_one_sided(part) and part.references and part.references.used > 1:
            click.echo(
                f"ONE-SIDED {funnel.describe_references(part)}: the filters refuse the others; fit "
                "the classifier on more images, or change strength or thresholds",
                err=True,
            )
    for text in funnel.describe_unjudged(summary):
        click.echo(f"NOT JUDGED {text}", err=True)
    for record in quarantined:
        click.echo(f"QUARANTINED {record.shard}: {record.error}", err=True)
    if quarantined:
        click.echo("mend the cause, then run the same command again", err=True)
    if summary.files is not None:
        rows = f'"parquet", data_files="{url}/data/*.parquet"' if "://" in url else f'"{url}"'
        click.echo(f'data set: {url}\n  datasets.load_dataset({rows}, split="train")')
        click.echo(f"  look it through: factory report {url}")
    else:
        click.echo("no data set was written (budget.on_shortfall: error)", err=True)


def _print_counts(summary: "Summary") -> None:
    for part in summary.series:
        click.echo(f"{part.label}: {part.accepted:,} of {part.asked:,}")
    what = "judged" if summary.judged else "candidates generated"
    click.echo(f"{summary.accepted:,} of {summary.asked:,} accepted, {summary.generated:,} {what}")
    if summary.judged:
        for kind, count in summary.rejected.items():
            click.echo(f"  rejected by {kind}: {count:,}")


@click.command()
@RECIPE_ARGUMENT
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder to write into.")
@click.option("-n", "count", default=16, type=click.IntRange(1, 10_000), help="Images to sample.")
@SET_OPTION
@JSON_OPTION
def preview(recipe: Path, out: Path, count: int, overrides: tuple[str, ...], as_json: bool) -> None:
    """Samples a few images of RECIPE, with scores and verdicts, into OUT."""
    from factory import api
    from factory.cli.loading import load_checked, make_say

    rows = api.preview(load_checked(recipe, overrides), out, count, make_say(as_json)).rows
    if as_json:
        click.echo(write_json(rows))
        return
    for row in rows:
        verdict = (
            "accepted" if row["accepted"] else f"rejected by {row['rejected_by']}: {row['reason']}"
        )
        click.echo(f"{row['file']}  {row['label']}  {verdict}")
    kept = sum(row["accepted"] for row in rows)
    click.echo(f"{kept} of {len(rows)} accepted; look at {out / 'preview.png'}")


@click.command(cls=SettingsCommand, settings=["factory.publish.review:ServeOptions"])
@DIR_ARGUMENT
@click.option("--watch", is_flag=True, help="Print again every 5 s until all shards are done.")
@click.option("--web", is_flag=True, help="Serve a page that shows it instead.")
@JSON_OPTION
def status(folder: str, watch: bool, web: bool, as_json: bool, **place: Any) -> None:
    """Shows how far the run in DIR is.

    With --web on a page of this machine: counts by class, acceptance, speed, time left, newest
    images, reasons and workers; it reads DIR alone.
    """
    from factory import api
    from factory.publish.review import ServeOptions

    served = read_settings(ServeOptions, place)
    if web:
        from factory.cli.review import wait

        wait(api.watch(folder, served))
        return
    if served != ServeOptions():
        raise click.UsageError("--port and --host: only with --web")
    while True:
        report = api.status(folder)
        if as_json:
            click.echo(write_json(report))
        else:
            verb = "accepted" if report["judged"] else "filled"
            click.echo(f"{report['name']}: {report['done']:,} of {report['shards']:,} shards")
            for part in report["series"]:
                done = f"{part['filled']:,} of {part['asked']:,} {verb}"
                ended = f", ended after {part['ended']:,} requests" if "ended" in part else ""
                click.echo(f"  {part['label']}: {done}{ended}")
                if "tests" in part:
                    click.echo(f"    {part['tests'][-1]}")
            for record in report["quarantined"]:
                click.echo(f"  quarantined {record['shard']}: {record['error']}")
            problem = report["unfinished"]
            click.echo(f"not finalized yet: {problem}" if problem else "finalized")
        if not watch or report["finalized"]:
            return
        time.sleep(5)


@click.command()
@DIR_ARGUMENT
@SET_OPTION
@JSON_OPTION
def refilter(folder: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Decides anew over the stored scores of DIR with other thresholds; makes no image.

    E.g. --set filters.classifier.min_probability=0.8, by the filter's kind or its position.
    """
    from factory import api

    result = api.refilter(folder, overrides)
    print_result(result.url, result.summary, result.quarantined, as_json)
    click.get_current_context().exit(result.exit_code)


@click.command()
@DIR_ARGUMENT
@click.option("--prov", is_flag=True, help="Also write prov.json (W3C PROV; needs package prov).")
def card(folder: str, prov: bool) -> None:
    """Writes the dataset card of DIR again, with CITATION.cff and croissant.json.

    Results of `factory evaluate ... --json DIR/evaluation/NAME.json` become its tables. What you
    wrote outside the marked block of README.md stays.
    """
    from factory import api

    click.echo(f"wrote {api.card(folder, with_prov=prov)}")
