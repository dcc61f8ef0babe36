"""croissant.json: the data set in the vocabulary of MLCommons, with its responsible-AI fields.

Croissant 1.0 (mlcommons.org/croissant/1.0) and RAI 1.0 (mlcommons.org/croissant/RAI/1.0).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from factory import __version__
from factory.core.markdown import write_inert_json
from factory.core.places import shorten_places
from factory.data.columns import IMAGE_TYPE
from factory.publish.card.citation import build_bibtex
from factory.publish.card.facts import CONFIGS, Facts
from factory.publish.card.funnel import describe_ends, describe_shortfall
from factory.recipe.licences import collect_summary_terms, combine_terms, find_known

if TYPE_CHECKING:
    import mlcroissant as mlc

PARQUET = "application/x-parquet"
CONFORMS_TO = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0")


def build_croissant(facts: Facts) -> str:
    """Returns the JSON-LD text; records are read from the folder that it lies in."""
    import mlcroissant as mlc

    recipe, own = facts.recipe, facts.recipe.card
    about = own.description.strip() or recipe.description.strip()
    kind = "synthetic" if facts.is_synthetic else "given and judged"
    ctx = mlc.Context()  # of all nodes: each would have its own, and keep it for ever
    metadata = mlc.Metadata(
        ctx=ctx,
        name=facts.title,
        description=f"{facts.summary.accepted:,} {kind} histopathology images. {about}".strip(),
        conforms_to=list(CONFORMS_TO),
        license=[find_known(facts.license_id).url or own.license_link or facts.license_id],
        url=facts.url,
        version=None,
        cite_as=own.citation.strip() or build_bibtex(facts),
        creators=[mlc.Person(ctx=ctx, name=name) for name in own.authors]
        or [mlc.Organization(ctx=ctx, name=f"The makers of {facts.title}")],
        keywords=["pathology", "histology", *own.tags],
        distribution=[each for folder in CONFIGS for each in _list_files(ctx, facts, folder)],
        record_sets=[
            _build_records(ctx, facts, folder) for folder in CONFIGS if folder in facts.schemas
        ],
        **_describe_making(facts),
        **_describe_care(facts),
    )
    written: dict[str, Any] = metadata.to_json()
    written["rai:hasSyntheticData"] = facts.is_synthetic
    return write_inert_json(written) + "\n"


def _list_files(ctx: "mlc.Context", facts: Facts, folder: str) -> Iterator[Any]:
    """Yields a FileObject with its hash for each file, and the FileSet that records come from."""
    import mlcroissant as mlc

    files = facts.list_files(folder)
    for file in files:
        yield mlc.FileObject(
            ctx=ctx,
            id=file.name,
            name=file.name,
            content_url=file.name,
            content_size=f"{file.size} B",
            encoding_formats=[PARQUET],
            sha256=file.sha256,
        )
    if files:
        yield mlc.FileSet(
            ctx=ctx,
            id=f"{folder}-files",
            name=f"{folder}-files",
            description=f"All parquet files of {folder}; each is a FileObject with its sha256.",
            includes=[f"{folder}/*.parquet"],
            encoding_formats=[PARQUET],
        )


def _build_records(ctx: "mlc.Context", facts: Facts, folder: str) -> "mlc.RecordSet":
    import mlcroissant as mlc

    config, split = CONFIGS[folder]
    what = "Accepted rows" if folder == "data" else "Rejected and spare rows, with reasons"
    schema = facts.schemas[folder]
    return mlc.RecordSet(
        ctx=ctx,
        id=config,
        name=config,
        description=f"{what}: configuration `{config}`, split `{split}` of load_dataset.",
        fields=[
            _build_field(ctx, f"{config}/{column.name}", folder, column.name, column.type)
            for column in schema
        ],
    )


def _build_field(
    ctx: "mlc.Context", name: str, folder: str, column: str, kind: pa.DataType
) -> "mlc.Field":
    """Returns the field of a column; the scores, a struct, become one field each."""
    import mlcroissant as mlc

    def extract(path: str | None) -> "mlc.Source":
        steps = [] if path is None else [mlc.Transform(ctx=ctx, json_path=path)]
        source = mlc.Extract(ctx=ctx, column=column)
        return mlc.Source(ctx=ctx, file_set=f"{folder}-files", extract=source, transforms=steps)

    if kind == IMAGE_TYPE:
        return mlc.Field(
            ctx=ctx,
            id=name,
            name=name,
            data_types=[mlc.DataType.IMAGE_OBJECT],
            source=extract("bytes"),
        )
    if pa.types.is_struct(kind):
        parts = [
            mlc.Field(
                ctx=ctx,
                id=f"{name}/{part.name}",
                name=f"{name}/{part.name}",
                data_types=[_choose_type(part.type)],
                source=extract(part.name),
            )
            for part in kind
        ]
        return mlc.Field(ctx=ctx, id=name, name=name, sub_fields=parts)
    return mlc.Field(
        ctx=ctx, id=name, name=name, data_types=[_choose_type(kind)], source=extract(None)
    )


def _choose_type(kind: pa.DataType) -> Any:
    import mlcroissant as mlc

    if pa.types.is_boolean(kind):
        return mlc.DataType.BOOL
    if pa.types.is_integer(kind):
        return mlc.DataType.INTEGER
    if pa.types.is_floating(kind):
        return mlc.DataType.FLOAT
    return mlc.DataType.TEXT


def _describe_making(facts: Facts) -> dict[str, Any]:
    """Returns the RAI fields on how the images were made and chosen, as recorded."""
    summary = facts.summary
    models = sorted(map(shorten_places, summary.models))
    filters = [settings["kind"] for settings in summary.filters]
    filters += ["near_duplicate"] if summary.dedup else []
    short = [describe_shortfall(part) for part in summary.shortfalls]
    rejected = ", ".join(f"{name} {count:,}" for name, count in summary.rejected.items())
    made = f"Sampled from {', '.join(models)} by factory {__version__}"
    counts = (
        f"{summary.generated:,} candidates for {summary.wanted:,} requests, "
        f"{summary.accepted:,} accepted."
    )
    if not facts.is_synthetic:
        made = f"Given images, judged by factory {__version__}"
        counts = f"{summary.generated:,} images, {summary.accepted:,} accepted."
    ends = "".join(f" {text}." for text in describe_ends(summary))
    filled = (
        f"Every request was filled.{ends}"
        if facts.is_synthetic
        else "None: every image was judged."
    )
    raw = "Variations of real images." if facts.varies_real_images else "No image is a photograph."
    for name in facts.real_columns:
        raw += f" Where it is not empty, the column {name} holds the real image itself."
    return {
        "data_collection": f"{made}, recipe {summary.recipe_sha256}: {counts}",
        "data_collection_type": ["Synthetic" if facts.is_synthetic else "Others"],
        "data_collection_raw_data": raw if facts.is_synthetic else "The given images.",
        "data_collection_missing_data": "; ".join(short) or filled,
        "data_preprocessing_protocol": [
            f"Filters: {', '.join(filters) or 'none'}; rejected: {rejected or 'none'}."
        ],
        "data_annotation_protocol": [
            "Labels and captions are what was asked for; no pathologist has seen the images."
            if facts.is_synthetic
            else "Labels and captions came with the images."
        ],
        "machine_annotation_tools": [f"factory {__version__}"],
    }


def _describe_care(facts: Facts) -> dict[str, Any]:
    """Returns the RAI fields on what to mind when the images are used."""
    verdict = combine_terms(collect_summary_terms(facts.summary))
    biases = "Filters prefer what their own training data looked like."
    persons = "Real images may carry what identifies people; their own terms hold."
    if facts.is_synthetic:
        inherited = "Images inherit the biases of the data that the models were trained on"
        biases = f"{inherited}; {biases[0].lower()}{biases[1:]}"
        persons = (
            "Variations of real images may carry what identifies them."
            if facts.varies_real_images
            else "None is asked for; a model can repeat what it was trained on."
        )
    return {
        "data_biases": [
            biases,
            *facts.summary.warnings,
        ],
        "data_limitations": [
            "Research, not diagnosis. Not validated clinically.",
            *(str(limit) for limit in verdict.limits),
            *verdict.unstated,
        ],
        "data_use_cases": [
            "Research on methods of computational pathology, measured on real, patient-disjoint "
            "data."
        ],
        "personal_sensitive_information": [persons],
    }
