"""Command that looks for copies of training images: evaluate copies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from factory.cli.evaluate.fidelity import (
    CACHE_OPTION,
    FILE_OPTION,
    FIT_OPTION,
    SEED_OPTION,
    SIZE_OPTION,
    align,
    describe_encoder,
    print_warnings,
    say,
)
from factory.cli.options import IMAGE_COLUMN, IMAGES, NEW_FILE, Number
from factory.evaluate import DEFAULT_ENCODER


@click.command()
@click.option(
    "--real",
    required=True,
    type=IMAGES,
    help="Training images: ImageFolder, parquet, WebDataset tars, datasets folder.",
)
@click.option(
    "--held-out",
    type=IMAGES,
    help="Real images that no training used; C_T needs them.",
)
@click.option(
    "--synthetic",
    required=True,
    type=IMAGES,
    help="Synthetic images: the same kinds, or a finished run.",
)
@click.option(
    "--encoder",
    metavar="SPEC",
    default=DEFAULT_ENCODER,
    show_default=True,
    help="Catalog id, LIBRARY:NAME or folder.",
)
@SIZE_OPTION
@FIT_OPTION
@click.option(
    "--max-similarity",
    type=Number(0, 1),
    help="Above it an image counts as a copy; default: that of the filter training_copy.",
)
@click.option("--cells", type=click.IntRange(1, 1000), help="k-means cells of C_T; default: 3.")
@IMAGE_COLUMN
@click.option("--group-column", help="Column of the real images with the patient or slide.")
@click.option("--group-pattern", help="Regex on real file names, whose (group) is the patient.")
@click.option(
    "--gallery",
    type=NEW_FILE,
    help="Picture (PNG) of the closest pairs side by side.",
)
@FILE_OPTION
@CACHE_OPTION
@SEED_OPTION
def copies(
    real: Path,
    held_out: Path | None,
    synthetic: Path,
    gallery: Path | None,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Looks for synthetic images that copy training images, by several measures.

    AuthPct, C_T, distances to the nearest training image beside those of held-out images, the
    similarity of the filter training_copy, and leaks of patients or slides between the sets.
    """
    from factory import api
    from factory.evaluate.copies.study import CopySettings

    given = {name: value for name, value in options.items() if value is not None}
    settings = CopySettings(**given)
    result = api.evaluate_copies(real, synthetic, held_out, settings, json_file, gallery, say)
    show(result)
    if gallery is not None:
        click.echo(f"look at {gallery}")


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of a result, and what makes its figures weak."""
    for line in describe_copies(result):
        click.echo(line)
    print_warnings(result["warnings"])


def describe_copies(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    settings = result["settings"]
    usual = result.get("held_out") or result["train"]
    distance, similarity = result["distance"], result["similarity"]
    share = similarity["max_similarity"]
    rows = [
        ["", result["synthetic"]["name"], f"usual ({result['usual']})"],
        ["images", f"{result['synthetic']['images']:,}", f"{usual['images']:,}"],
        ["AuthPct", *(_format(result["authpct"][side]) for side in ("synthetic", "usual"))],
        ["C_T (below 0: copies)", _describe_test(result["c_t"]), "0"],
        [
            "distance to training: median",
            f"{distance['median']:.4g}",
            _show(distance["usual_median"]),
        ],
        ["  ratio of the medians", _format(distance["ratio"]), "1"],
        *_describe_near(distance),
        [f"similarity above {share:g}", *_compare(similarity, _describe_above)],
        ["  largest (not blank)", *_compare(similarity, lambda side: _show(side["largest"]))],
        ["  median", *_compare(similarity, lambda side: _show(side["median"]))],
        *_describe_own(result["own_reference"], share),
    ]
    return [
        result["scope"],
        describe_encoder(result["encoder"], settings["size"], settings["fit"]),
        f"preprocessing: {result['encoder']['preprocessing']}",
        *(f"CIRCULAR, NOT INDEPENDENT: {part}" for part in result["circular"]),
        "",
        *align(rows),
        "",
        f"[95 % interval] training images: {result['train']['images']:,}",
    ]


def _describe_near(distance: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, metric in distance.items():
        if name.startswith("nearer_than_"):
            usual = float(name.removeprefix("nearer_than_"))
            text = _format({key: metric[key] * 100 for key in ("value", "low", "high")})
            rows.append([f"  nearer than {1 - usual:.0%} of usual, %", text, f"{100 * usual:g}"])
    return rows


def _describe_own(own: Mapping[str, Any] | None, share: float) -> list[list[str]]:
    if own is None:
        return []
    rows = [["variations", f"{own['rows']:,}, of {own['found']:,} the reference is there", ""]]
    if own["found"]:
        above = {key: own["share_above"][key] * 100 for key in ("value", "low", "high")}
        nearest = own["share_nearest"]["value"]
        rows += [
            [
                f"  like their reference above {share:g}",
                f"{own['above']:,}; {_format(above)} %",
                "",
            ],
            ["  similarity to it: median", _show(own["median"]), ""],
            ["  nearest to it of all", f"{nearest:.1%}", ""],
        ]
    return rows


def _describe_test(test: Mapping[str, Any]) -> str:
    if test["value"] is None:
        whole = f"; all as one cell: {test['z']:.2f}" if "z" in test else ""
        return f"REFUSED ({test['refused']}){whole}"
    cells = ", ".join("-" if cell["z"] is None else f"{cell['z']:.2f}" for cell in test["cells"])
    return f"{test['value']:.2f} (cells: {cells})"


def _describe_above(side: Mapping[str, Any]) -> str:
    blank = f", {side['blank_above']} of them blank" if side["blank_above"] else ""
    share = {key: side["share_above"][key] * 100 for key in ("value", "low", "high")}
    return f"{side['above']:,} of {side['images']:,}{blank}; {_format(share)} %"


def _compare(similarity: Mapping[str, Any], write: Any) -> list[str]:
    return [
        write(similarity[side]) if side in similarity else "-" for side in ("synthetic", "held_out")
    ]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _format(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}]"
