"""croissant.json: the data set in the vocabulary of MLCommons, with its responsible-AI fields.

Croissant 1.0 (mlcommons.org/croissant/1.0) and RAI 1.0 (mlcommons.org/croissant/RAI/1.0), as
mlcroissant reads and writes them: keys in its order, a list of one as the one.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from factory import __version__
from factory.core.markdown import write_inert_json
from factory.core.places import shorten_places
from factory.data.columns import IMAGE_TYPE
from factory.publish.card.citation import build_bibtex
from factory.publish.card.facts import CONFIGS, Facts
from factory.publish.card.funnel import describe_ends, describe_shortfall
from factory.recipe.licences import collect_summary_terms, combine_terms, find_known

PARQUET = "application/x-parquet"
CONFORMS_TO = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0")
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""What short names stand for: the context of Croissant 1.0, whole, as its readers ask for."""


def build_croissant(facts: Facts) -> str:
    """Returns the JSON-LD text; records are read from the folder that it lies in."""
    recipe, own = facts.recipe, facts.recipe.card
    about = own.description.strip() or recipe.description.strip()
    kind = "synthetic" if facts.is_synthetic else "given and judged"
    made = _describe_making(facts) | _describe_care(facts)
    written: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "description": f"{facts.summary.accepted:,} {kind} histopathology images. {about}".strip(),
        "conformsTo": list(CONFORMS_TO),
        "citeAs": own.citation.strip() or build_bibtex(facts),
        "creator": _unbox(
            [{"@type": "sc:Person", "name": name} for name in own.authors]
            or [{"@type": "sc:Organization", "name": f"The makers of {facts.title}"}]
        ),
        "keywords": ["pathology", "histology", *own.tags],
        "license": find_known(facts.license_id).url or own.license_link or facts.license_id,
        **{f"rai:{name}": value for name, value in sorted(made.items())},
        "url": facts.url,
        "distribution": [each for folder in CONFIGS for each in _list_files(facts, folder)],
        "recordSet": [
            _build_records(facts, folder) for folder in CONFIGS if folder in facts.schemas
        ],
        "rai:hasSyntheticData": facts.is_synthetic,
    }
    kept = {key: each for key, each in written.items() if each or each is False}
    return write_inert_json(kept) + "\n"


def _unbox(values: list[Any]) -> Any:
    """Returns the one value of a list of one."""
    return values[0] if len(values) == 1 else values


def _list_files(facts: Facts, folder: str) -> Iterator[dict[str, Any]]:
    """Yields a FileObject with its hash for each file, and the FileSet that records come from."""
    files = facts.list_files(folder)
    for file in files:
        yield {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "contentSize": f"{file.size} B",
            "contentUrl": file.name,
            "encodingFormat": PARQUET,
            "sha256": file.sha256,
        }
    if files:
        yield {
            "@type": "cr:FileSet",
            "@id": f"{folder}-files",
            "name": f"{folder}-files",
            "description": f"All parquet files of {folder}; each is a FileObject with its sha256.",
            "encodingFormat": PARQUET,
            "includes": f"{folder}/*.parquet",
        }


def _build_records(facts: Facts, folder: str) -> dict[str, Any]:
    config, split = CONFIGS[folder]
    what = "Accepted rows" if folder == "data" else "Rejected and spare rows, with reasons"
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": f"{what}: configuration `{config}`, split `{split}` of load_dataset.",
        "field": [
            _build_field(f"{config}/{column.name}", folder, column.name, column.type)
            for column in facts.schemas[folder]
        ],
    }


def _build_field(name: str, folder: str, column: str, kind: pa.DataType) -> dict[str, Any]:
    """Returns the field of a column; the scores, a struct, become one field each."""

    def describe(name: str, data_type: str, path: str | None) -> dict[str, Any]:
        source = {"fileSet": {"@id": f"{folder}-files"}, "extract": {"column": column}}
        source |= {} if path is None else {"transform": {"jsonPath": path}}
        field = {"@type": "cr:Field", "@id": name, "name": name, "dataType": data_type}
        return {**field, "source": source}

    if kind == IMAGE_TYPE:
        return describe(name, "sc:ImageObject", "bytes")
    if pa.types.is_struct(kind):
        parts = [
            describe(f"{name}/{part.name}", _choose_type(part.type), part.name) for part in kind
        ]
        whole = {"@type": "cr:Field", "@id": name, "name": name}
        return {**whole, **({"subField": _unbox(parts)} if parts else {})}
    return describe(name, _choose_type(kind), None)


def _choose_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Text"


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
        "dataCollection": f"{made}, recipe {summary.recipe_sha256}: {counts}",
        "dataCollectionType": "Synthetic" if facts.is_synthetic else "Others",
        "dataCollectionRawData": raw if facts.is_synthetic else "The given images.",
        "dataCollectionMissingData": "; ".join(short) or filled,
        "dataPreprocessingProtocol": (
            f"Filters: {', '.join(filters) or 'none'}; rejected: {rejected or 'none'}."
        ),
        "dataAnnotationProtocol": (
            "Labels and captions are what was asked for; no pathologist has seen the images."
            if facts.is_synthetic
            else "Labels and captions came with the images."
        ),
        "machineAnnotationTools": f"factory {__version__}",
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
        "dataBiases": _unbox([biases, *facts.summary.warnings]),
        "dataLimitations": _unbox(
            [
                "Research, not diagnosis. Not validated clinically.",
                *(str(limit) for limit in verdict.limits),
                *verdict.unstated,
            ]
        ),
        "dataUseCases": (
            "Research on methods of computational pathology, measured on real, patient-disjoint "
            "data."
        ),
        "personalSensitiveInformation": persons,
    }
