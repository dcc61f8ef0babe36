"""Prints what `factory plan --speed` measured."""

from collections.abc import Mapping
from typing import Any

import click

from factory.cli.recipes import write_set
from factory.evaluate.figures import align


def print_speeds(report: Mapping[str, Any]) -> None:
    """Prints a line for each way that a network ran, what was not tried, and what to set."""
    ways = report["ways"]
    click.echo(
        f"\nhow the network can run on {report['device']} ({report['dtype']}, medians of "
        f"{report['batches']} batches; pixels beside the first line's, of 255):"
    )
    heads = ["way", "images/s", "times", "memory", "first batch", "most", "mean"]
    for line in align([heads, *(_tell(way, ways[0]) for way in ways)]):
        click.echo(line)
    if ways[0]["memory_of"]:
        click.echo(f"(memory: {ways[0]['memory_of']})")
    for each in report["skipped"]:
        click.echo(f"not tried, or failed: {each['setting']}: {each['reason']}")
    if report["proposed"] is None:
        click.echo("nothing here is 5 % faster than as it is: leave generator.speed out")
        return
    click.echo("\nto use the fastest, in a recipe of its own (the images are other ones):")
    click.echo("  " + " ".join(map(write_set, report["proposed"]["set"])))
    click.echo("\n" + report["proposed"]["yaml"].rstrip())


def _tell(way: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    memory = "-" if way["memory_gb"] is None else f"{way['memory_gb']:.2f} GiB"
    halved = way["batch_size"] < plain["batch_size"]
    return [
        way["name"] + (f" (in batches of {way['batch_size']})" if halved else ""),
        f"{way['images_per_second']:.3g}",
        f"{way['images_per_second'] / plain['images_per_second']:.2f}",
        memory,
        f"{way['first_seconds']:.1f} s",
        str(way["max_difference"]),
        f"{way['mean_difference']:.3g}",
    ]
