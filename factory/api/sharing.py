"""Reading, checking and sharing data sets: open, verify, merge, export, words, publish."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.words import AnyPath, ExportFormat, Say, keep_quiet
from factory.core.errors import InputError, SourceError

if TYPE_CHECKING:
    from factory.engine.dataset import Dataset
    from factory.engine.regenerate import Places, Rebuilt
    from factory.publish.hub import Publication, Published, PublishOptions
    from factory.publish.merge import MergeSettings
    from factory.publish.report import ReportOptions
    from factory.publish.verify import Report, VerifyOptions
    from factory.publish.words import Checked, WordsOptions, WordsRecord


def open_dataset(source: AnyPath) -> "Dataset":
    """Opens a run folder, a copy of a published data set, or `OWNER/NAME[@REVISION]` of the Hub.

    Raises:
        InputError: nothing there, or no such data set on the Hub.
        StoreError: the Hub cannot be reached.
    """
    from factory.engine.dataset import open_dataset as open_source

    return open_source(str(source))


def verify(
    source: "Dataset | AnyPath", options: "VerifyOptions | None" = None, say: Say = keep_quiet
) -> "Report":
    """Checks that a data set is what was made; every failure names file, row and field.

    Raises:
        InputError: no data set, or a recipe.json that cannot be read.
        StoreError: the Hub cannot be reached.
    """
    from factory.publish.verify import VerifyOptions, verify_set

    return verify_set(_open_dataset(source), options or VerifyOptions(), say)


def regenerate(
    source: "Dataset | AnyPath",
    sample_id: str,
    out: AnyPath | None = None,
    places: "Places | None" = None,
    min_psnr: float | None = None,
    say: Say = keep_quiet,
) -> "Rebuilt":
    """Makes one image again from what its row recorded, and says how equal it is.

    Args:
        source: data set.
        sample_id: of an accepted or rejected row.
        out: image file to write, `.webp` or `.png`; channels beside RGB stand in `.channels.npy`.
        places: where model and real images are now.
        min_psnr: dB from which an image that is not exact is within tolerance; None: 40.
        say: see above.

    Raises:
        InputError: another ending, no such row, or what it was made from is not here.
        StoreError: a damaged file, or the image cannot be written.
    """
    from factory.core.files.atomic import write_file
    from factory.core.images import ImageFormat, encode_image
    from factory.data.channels import encode_values
    from factory.engine.regenerate import MIN_PSNR, Places, regenerate_rows

    if out is not None and Path(out).suffix not in (".webp", ".png"):
        raise InputError(f"{out}: must end in .webp or .png: give --out another name")
    dataset = _open_dataset(source)
    if dataset.recipe is None:
        raise SourceError(f"{dataset.url}: has no recipe.json, which says where the model is")
    row, limit = dataset.find_row(sample_id).values, MIN_PSNR if min_psnr is None else min_psnr
    rebuilt = regenerate_rows([row], dataset.recipe, places or Places(), limit, say)[0]
    if rebuilt.pixels is None or rebuilt.data is None:
        raise SourceError(f"{sample_id}: {rebuilt.reason}")
    if out is not None:
        data, suffix = rebuilt.data, Path(out).suffix
        if not row["image"]["path"].endswith(suffix):
            kind: ImageFormat = "png" if suffix == ".png" else "webp"
            data = encode_image(rebuilt.pixels, kind, rebuilt.is_synthetic)
        write_file(Path(out), data)
        if rebuilt.channels is not None:
            write_file(Path(out).with_suffix(".channels.npy"), encode_values(rebuilt.channels))
    return rebuilt


def merge(
    real: AnyPath,
    synthetic: Sequence[AnyPath],
    out: AnyPath,
    settings: "MergeSettings | None" = None,
) -> dict[str, Any]:
    """Joins a real set and synthetic ones into a new data set with splits that do not leak.

    Returns:
        What `merge.json` holds: counts by split, class and kind, units, what was left out.

    Raises:
        InputError: settings that do not fit, or `out` is not empty.
        SourceError: images that cannot be read.
    """
    from factory.publish.merge import MergeSettings, merge_sets

    return merge_sets(
        Path(real), [Path(each) for each in synthetic], Path(out), settings or MergeSettings()
    )


def export(
    source: "Dataset | AnyPath",
    to: ExportFormat,
    out: AnyPath,
    unlabelled: str | None = None,
    rows_per_file: int = 10_000,
    encoder: str | None = None,
) -> dict[str, Any]:
    """Writes accepted images as ImageFolder files or WebDataset tars, byte for byte, or OME-TIFF.

    Or, byte for byte, with the objects of their masks: `coco`, `yolo`, `ome-labels`. Or the slides
    of a cohort, a file each: `bags`.

    Args:
        source: data set.
        to: which form.
        out: new folder.
        unlabelled: folder of images without a class; None refuses them.
        rows_per_file: samples of a tar.
        encoder: of bags, whose features they hold; None: the patches.

    Returns:
        Split -> class -> images of `imagefolder` and `ome-tiff`, split -> images of `webdataset`,
        split -> label -> slides of `bags`, split -> `images` and `objects` (name -> count) of those
        with objects.

    Raises:
        InputError: images without a class, all without a mask or of no slide, `out` is in use, or
            tifffile is not installed.
        SourceError: a mask with an id that its palette does not name.
        StoreError: a damaged file.
    """
    from factory.publish.annotations import FORMATS, export_annotations
    from factory.publish.export import export_images, export_tars
    from factory.publish.ome import export_ome

    if encoder is not None and to != "bags":
        raise InputError(f"encoder: {to} holds images, not features: remove it, or export bags")
    if to == "bags":
        from factory.models.session import Session
        from factory.publish.bags import export_bags

        return {**export_bags(_open_dataset(source), Path(out), encoder, Session.open())}
    if to in FORMATS:
        return {**export_annotations(_open_dataset(source), Path(out), to)}
    if to == "ome-tiff":
        return {**export_ome(_open_dataset(source), Path(out), unlabelled)}
    if to == "webdataset":
        return {**export_tars(_open_dataset(source), Path(out), rows_per_file)}
    return {**export_images(_open_dataset(source), Path(out), unlabelled)}


def write_words(
    source: "Dataset | AnyPath",
    out: AnyPath,
    options: "WordsOptions | None" = None,
    say: Say = keep_quiet,
) -> "WordsRecord":
    """Writes captions, questions with answers, and reports, each with the facts it follows from.

    Args:
        source: data set.
        out: new folder.
        options: what is said, and in which formats.
        say: see above.

    Returns:
        Counts by split, the blind guess by kind of question, and what is not said.

    Raises:
        InputError: no row tells what it shows, `out` is in use, or options that do not fit.
        SourceError: an image or a mask that cannot be read.
        StoreError: a damaged file.
    """
    from factory.publish.words import WordsOptions
    from factory.publish.words import write_words as write_all

    return write_all(_open_dataset(source), Path(out), options or WordsOptions(), say)


def check_words(folder: AnyPath, source: "Dataset | AnyPath", say: Say = keep_quiet) -> "Checked":
    """Computes every statement of a folder of words again from the rows of its data set.

    Raises:
        InputError: no folder of words, or no data set.
        StoreError: a damaged data set.
    """
    from factory.publish.words import check_words as check_all

    return check_all(Path(folder), _open_dataset(source), say)


def report(
    folder: AnyPath,
    out: AnyPath | None = None,
    options: "ReportOptions | None" = None,
    say: Say = keep_quiet,
) -> dict[str, Any]:
    """Writes one HTML file on a run, finished or not.

    Returns:
        The numbers that it shows; `out` is where it is and `bytes` its size.

    Raises:
        MismatchError: not a run folder.
        StoreError: damaged data, or the file cannot be written.
        InputError: an evaluation result that is no JSON object.
    """
    from factory.publish.report import build_report, write_report

    numbers, html = build_report(str(folder), options, say)
    place = write_report(str(folder), html, None if out is None else str(out))
    return {**numbers, "out": place, "bytes": len(html.encode())}


def card(folder: AnyPath, with_prov: bool = False) -> str:
    """Writes the card of a finished run again, with CITATION.cff and croissant.json.

    Args:
        folder: run folder or fsspec URL.
        with_prov: prov.json, too.

    Returns:
        Where the card is.

    Raises:
        InputError: not a finished run, or an evaluation result that is no JSON object.
        StoreError: damaged data.
    """
    from factory.engine.dataset import Dataset
    from factory.engine.run_folder import RunFolder
    from factory.publish.card import write_card

    dataset = Dataset(str(folder))
    dataset.require_finished()
    with RunFolder(dataset.url).hold("card"):
        write_card(dataset, with_prov=with_prov)
    return f"{folder}/README.md"


def publish_dataset(
    folder: AnyPath, options: "PublishOptions", say: Say = keep_quiet
) -> "tuple[Publication, Published | None]":
    """Publishes a finished run to the Hub or another folder: checked, licensed, resumed, compared.

    Args:
        folder: run folder or fsspec URL.
        options: where to, for whom, under which licence.
        say: see above.

    Returns:
        What is published, and what was done; None for the latter with `options.dry_run`.

    Raises:
        InputError: not finished, or the licence is refused (LicenceError).
        StoreError: damaged data.
        PublishError: it broke off; the same call goes on with it.
    """
    from factory.publish.hub import publish_run

    return publish_run(str(folder), options, say)


def _open_dataset(source: "Dataset | AnyPath") -> "Dataset":
    return open_dataset(source) if isinstance(source, str | PathLike) else source
