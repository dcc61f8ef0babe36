"""Command that measures how near synthetic images are to real ones: evaluate fidelity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from factory.cli.options import COUNT, IMAGE_COLUMN, IMAGES, NEW_FILE, NEW_FOLDER, PIXELS, SEED
from factory.evaluate import DEFAULT_ENCODER

REAL_OPTION = click.option(
    "--real",
    required=True,
    type=IMAGES,
    help="Real images: ImageFolder, parquet, WebDataset tars, datasets folder.",
)
SIZE_OPTION = click.option(
    "--size",
    type=PIXELS,
    help="px of all images; default: the smallest side of the synthetic ones.",
)
FIT_OPTION = click.option(
    "--fit",
    type=click.Choice(["crop", "resize"]),
    default="crop",
    show_default=True,
    help="crop keeps the scale (mpp), resize the content.",
)
FILE_OPTION = click.option("--json", "json_file", type=NEW_FILE, help="Result file.")
CACHE_OPTION = click.option("--cache", type=NEW_FOLDER, help="Folder to keep features in.")
SEED_OPTION = click.option(
    "--seed", default=0, show_default=True, type=SEED, help="Of choices and intervals."
)
COLUMNS_SHOWN = 4


@click.command()
@REAL_OPTION
@click.option(
    "--synthetic",
    required=True,
    multiple=True,
    type=IMAGES,
    help="Synthetic images: the same kinds, or a finished run. Repeatable.",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="SPEC",
    help=f"Catalog id, LIBRARY:NAME or folder. Repeatable; default: {DEFAULT_ENCODER}.",
)
@SIZE_OPTION
@FIT_OPTION
@click.option("--max-images", type=COUNT, help="Most images of each set.")
@click.option("--force", is_flag=True, help="Give FD with fewer images than features too, marked.")
@IMAGE_COLUMN
@click.option("--label-column", help="Column of the real images with the class.")
@click.option("--group-column", help="Column of the real images with the patient or slide.")
@click.option("--group-pattern", help="Regex on real file names, whose (group) is the patient.")
@FILE_OPTION
@CACHE_OPTION
@SEED_OPTION
def fidelity(
    real: Path,
    synthetic: tuple[Path, ...],
    encoders: tuple[str, ...],
    json_file: Path | None,
    **options: Any,
) -> None:
    """Measures how near synthetic images are to real ones, per class and overall.

    FD, KID, CMMD, precision, recall, density and coverage, each beside the floor: what real images
    held back get against the other real ones.
    """
    from factory import api
    from factory.evaluate.fidelity import FidelitySettings

    settings = FidelitySettings(encoders=encoders or (DEFAULT_ENCODER,), **options)
    result = api.evaluate_fidelity(real, synthetic, settings, json_file, say)
    show(result)


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of a result, and what makes its figures weak."""
    for line in describe_result(result):
        click.echo(line)
    print_warnings(result["warnings"])


def say(line: str) -> None:
    """Prints what is being done."""
    click.echo(line, err=True)


def print_warnings(warnings: Sequence[str]) -> None:
    """Prints what makes the figures weak."""
    for text in warnings:
        click.echo(f"warning: {text}", err=True)


def describe_result(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table: a block for each encoder and synthetic set."""
    blocks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for figure in result["figures"]:
        blocks.setdefault((figure["encoder"]["spec"], figure["path"]), []).append(figure)
    lines: list[str] = []
    for figures in blocks.values():
        lines += ["", *_describe_encoder(figures[0])]
        for start in range(0, len(figures), COLUMNS_SHOWN):
            lines += ["", *align(_tabulate(figures[start : start + COLUMNS_SHOWN]))]
    return [*lines[1:], "", "[95 % interval; of the floor: smallest and largest of its parts]"]


def describe_encoder(encoder: Mapping[str, Any], size: int, fit: str) -> str:
    """Returns which encoder it is, and what it was shown."""
    sha256 = encoder["weights_sha256"]
    weights = "no weights" if sha256 is None else f"weights {sha256[:12]}"
    revision = f" revision {encoder['revision']}" if encoder["revision"] else ""
    return (
        f"encoder {encoder['spec']}{revision} ({weights}, {encoder['dim']} features, scaled: "
        f"{encoder['scaling']}); images {size} px, {fit}"
    )


def _describe_encoder(figure: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{figure['synthetic']}",
        describe_encoder(figure["encoder"], figure["size"], figure["fit"]),
        f"preprocessing: {figure['encoder']['preprocessing']}",
    ]
    return lines + [f"CIRCULAR, NOT INDEPENDENT: {part}" for part in figure["circular"]]


_NAMES = {
    "fd": "FD",
    "kid": "KID x 1000",
    "cmmd": "CMMD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}


def _tabulate(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["", *(figure["class"] or "overall" for figure in figures)]]
    rows.append(["N real", *(f"{figure['n_real']:,}" for figure in figures)])
    rows.append(["N synthetic", *(f"{figure['n_synthetic']:,}" for figure in figures)])
    for name, title in _NAMES.items():
        rows.append([title, *(_format(name, figure["metrics"][name]) for figure in figures)])
    floors = [figure["floor"] for figure in figures]
    rows.append(["floor: real against real", *(_describe_floor(floor) for floor in floors)])
    for name, title in _NAMES.items():
        metrics = [None if floor is None else floor["metrics"][name] for floor in floors]
        rows.append([f"  {title}", *(_format(name, each) if each else "-" for each in metrics)])
    return rows


def _describe_floor(floor: Mapping[str, Any] | None) -> str:
    if floor is None:
        return "one group only"
    apart = ", other groups" if floor["groups_disjoint"] else ""
    held, whole = floor["n_held_back"], floor["n_held_back"][0] + floor["n_real"][0]
    size = f"{min(held):,}" if min(held) == max(held) else f"{min(held):,} to {max(held):,}"
    return f"{len(held)} x {size} of {whole:,}{apart}"


def _format(name: str, metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        why = "N < features" if name == "fd" else "too few"
        return f"REFUSED ({why})"
    factor, digits = {"kid": (1000, 2), "fd": (1, 2)}.get(name, (1, 3))
    text = f"{metric['value'] * factor:.{digits}f}"
    if "low" in metric:
        low, high = (metric[end] * factor for end in ("low", "high"))
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} MEANINGLESS (N < features)" if "flag" in metric else text


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
