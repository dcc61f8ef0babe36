"""Commands that make other data sets of data sets: merge and export."""

from pathlib import Path
from typing import Any, get_args

import click

from factory import api
from factory.api.words import ExportFormat, ObjectFormat
from factory.cli.fields import SettingsCommand, read_settings
from factory.cli.notes import list_notes
from factory.cli.options import COUNT, IMAGE_COLUMN, NEW_FOLDER, LocalPath, defaulted
from factory.cli.recipes import JSON_OPTION
from factory.cli.verify import SET_ARGUMENT
from factory.core.plain import write_json

COLUMNS = ("image_column", "label_column", "caption_column", "group_column", "group_pattern")


@click.command(cls=SettingsCommand, settings=["factory.publish.merge:MergeSettings"])
@click.argument("real", type=LocalPath(exists=True, path_type=Path))
@click.argument("synthetic", nargs=-1, required=True, type=LocalPath(exists=True, path_type=Path))
@click.option("--out", required=True, type=NEW_FOLDER, help="New folder.")
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="Another name for a class, in all sets; may be given again.",
)
@IMAGE_COLUMN
@click.option("--label-column", help="Column with the class of the real images.")
@click.option("--caption-column", help="Column with their caption.")
@click.option("--group-column", help="Column with their patient or slide.")
@click.option("--group-pattern", help="Regex on file names, whose (group) is the patient or slide.")
@JSON_OPTION
def merge(
    real: Path,
    synthetic: tuple[Path, ...],
    out: Path,
    rename: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Joins REAL and SYNTHETIC sets into one data set with is_synthetic and leak-free splits.

    Patients or slides stay whole. A synthetic image that varies a real one goes where its patient
    goes; none goes into test. Sets are folders of images, parquet, tars, or finished runs.
    """
    from factory.publish.merge import MergeSettings, describe_splits

    renamed = {}
    for each in rename:
        old, equals, new = each.partition("=")
        if not (old and equals and new):
            raise click.BadParameter(f"{each!r}: want OLD=NEW", param_hint="--rename")
        renamed[old] = new
    columns = {name: given.pop(name) for name in COLUMNS}
    made = {"rename": renamed, "columns": columns}
    settings = read_settings(MergeSettings, {**given, **made})
    summary = api.merge(real, synthetic, out, settings)
    if as_json:
        click.echo(write_json({**summary, "out": str(out), "notes": list_notes()}))
        return
    for split, counts in summary["splits"].items():
        for kind, by_class in counts.items():
            listed = ", ".join(f"{name} {count:,}" for name, count in sorted(by_class.items()))
            click.echo(f"{split}: {sum(by_class.values()):,} {kind} ({listed or 'none'})")
    for line in describe_splits(summary):
        click.echo(line.replace("**", ""))
    click.echo(f'data set: {out}\n  datasets.load_dataset("{out}")')


@click.command()
@SET_ARGUMENT
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(get_args(ExportFormat)),
    help="Files in folders by class, tars, OME-TIFF with named channels, objects of masks, bags.",
)
@click.option("--out", required=True, type=NEW_FOLDER, help="New folder.")
@click.option("--unlabelled", metavar="NAME", help="Folder of images without a class.")
@defaulted("--rows-per-file", 10_000, COUNT, "Samples of a tar.")
@click.option("--encoder", metavar="ID", help="Of bags: its features instead of the patches.")
@JSON_OPTION
def export(
    source: str,
    target: ExportFormat,
    out: Path,
    unlabelled: str | None,
    rows_per_file: int,
    encoder: str | None,
    as_json: bool,
) -> None:
    """Writes the images of DIR as torchvision's ImageFolder or as WebDataset tars, byte for byte.

    Or as OME-TIFF, with the names, units and µm per pixel of channels beside RGB. Or with the
    objects of their masks: coco, yolo (boxes), ome-labels (OME-TIFF label images). Or the slides of
    a cohort, one file each with their patches or features, and slides.csv: bags. DIR is a run
    folder, a merged set, a copy of a published data set, or OWNER/NAME on the Hub.
    """
    totals = images = api.export(source, target, out, unlabelled, rows_per_file, encoder)
    if target in get_args(ObjectFormat):
        totals = {split: found["images"] for split, found in images.items()}
    elif target != "webdataset":
        totals = {split: sum(by_class.values()) for split, by_class in images.items()}
    if target == "imagefolder" and len({frozenset(by_class) for by_class in images.values()}) > 1:
        click.echo(
            "warning: not every split has every class, and ImageFolder numbers the classes that it "
            "finds: map labels by name",
            err=True,
        )
    if as_json:
        click.echo(write_json({"out": str(out), "images": images}))
        return
    kind = "slides" if target == "bags" else "images"
    for split, count in totals.items():
        click.echo(f"{split}: {count:,} {kind}{_list_objects(images[split])}")
    click.echo(f"wrote {out}")


def _list_objects(found: Any) -> str:
    """Returns the counts of objects, where an export has them."""
    if not isinstance(found, dict) or not isinstance(found.get("objects"), dict):
        return ""
    counts = sorted(found["objects"].items())
    return f", objects: {', '.join(f'{name} {count:,}' for name, count in counts) or 'none'}"
