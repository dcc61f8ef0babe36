"""Command that measures whether images show what captions ask for: evaluate control."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from factory.cli.evaluate.fidelity import (
    FILE_OPTION,
    FIT_OPTION,
    SEED_OPTION,
    SIZE_OPTION,
    align,
    say,
)
from factory.cli.options import IMAGES, LocalPath


@click.command()
@click.option(
    "--synthetic",
    required=True,
    type=IMAGES,
    help="Captioned images: finished run, parquet, WebDataset tars.",
)
@click.option(
    "--grid",
    default="he-attributes",
    show_default=True,
    help="Catalog id of the caption grid whose wordings and measures are used.",
)
@click.option(
    "--catalog", "folders", multiple=True, type=LocalPath(path_type=Path), help="Catalog folder."
)
@SIZE_OPTION
@FIT_OPTION
@SEED_OPTION
@FILE_OPTION
def control(
    synthetic: Path,
    grid: str,
    folders: tuple[Path, ...],
    size: int | None,
    fit: Any,
    seed: int,
    json_file: Path | None,
) -> None:
    """Measures attributes in the pixels and compares them with what the captions ask for."""
    from factory import api

    result = api.evaluate_control(synthetic, grid, size, fit, seed, folders, json_file, say)
    show(result)


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of a result."""
    for line in describe_control(result):
        click.echo(line)


def describe_control(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    head = ["attribute", "images", "Spearman rho", "within one bin", "if ignored", "same bin"]
    rows = [[*head, "if ignored"]]
    for name, found in result["attributes"].items():
        chance = found["if_ignored"]
        rows.append(
            [
                name,
                f"{found['images']:,}",
                _show(found["rho"]) + ("" if found["exceeds_chance"] else " (not above chance)"),
                _show(found["within_one_bin"]),
                f"{chance['within_one_bin']:.2f}",
                _show(found["same_bin"]),
                f"{chance['same_bin']:.2f}",
            ]
        )
    settings, images = result["settings"], result["synthetic"]
    lines = [
        f"{images['images']:,} images of {images['path']}, {images['size']} px; what the captions "
        f"ask for by {settings['grid']}, measured in the pixels; 95 % over images",
        *align(rows),
    ]
    if result["not_asked"]:
        lines.append("not asked for, or too seldom: " + ", ".join(result["not_asked"]))
    return lines


def _show(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
