"""Rows: the declared Arrow schemas, and how a judged candidate becomes a row."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from factory import __version__
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.images import ImageFormat, encode_image
from factory.core.plain import to_plain
from factory.data.channels import COLUMN, check_channels, encode_values, hash_image
from factory.data.columns import IMAGE_TYPE, hash_value
from factory.data.provenance import Provenance, read_provenance
from factory.data.records import Candidate, Condition
from factory.data.streams.base import HasFields

CONTENT_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("image", IMAGE_TYPE),
    ("class_name", pa.string()),
    ("caption", pa.string()),
    ("prompt", pa.string()),
    ("sample_id", pa.string()),
    ("condition_id", pa.string()),
    ("ordinal", pa.int64()),
    ("attempt", pa.int32()),
    ("seed", pa.int64()),
    ("model", pa.string()),
    ("model_revision", pa.string()),
    ("weights_sha256", pa.string()),
    ("scheduler", pa.string()),
    ("num_inference_steps", pa.int32()),
    ("guidance_scale", pa.float64()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("dtype", pa.string()),
    ("device", pa.string()),
    ("factory_version", pa.string()),
    ("recipe_sha256", pa.string()),
    ("reference_sha256", pa.string()),
    ("image_sha256", pa.string()),
)
"""The row contract, without `label` (set when the set is whole) and `scores` (per recipe)."""

WORK_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("series", pa.string()),
    ("index", pa.int64()),
    ("accepted", pa.bool_()),
    ("rejected_by", pa.string()),
    ("reason", pa.string()),
    ("descriptor", pa.list_(pa.float16())),
)
"""What the shard tables hold besides: the verdict, and the descriptor for near-duplicates."""

FEATURES_COLUMN = ("features", pa.list_(pa.float32()))

GENERATOR_COLUMNS = (
    "model",
    "model_revision",
    "weights_sha256",
    "scheduler",
    "num_inference_steps",
    "dtype",
    "device",
)
"""Columns that repeat what the provenance says of the generator, or notes of the row's own."""

SHAPES_PIXELS = (
    "weights_sha256",
    "pipeline",
    "adapters",
    "scheduler",
    "scheduler_config",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
    "classifier_guidance",
    "cache",
    "speed",
    "negative_prompt",
    "width",
    "height",
    "dtype",
    "arguments",
    "channels",
)
"""Keys of a generator's description that shape the pixels, hence the sample id."""


def list_columns(streams: Iterable[type[HasFields]]) -> list[tuple[str, pa.DataType]]:
    """Returns the columns of the row contract, and of streams that have others, with types."""
    own = [column for stream in streams for column in stream.fields().items()]
    return list(dict((*CONTENT_COLUMNS, *own)).items())


def build_scores_type(score_names: Sequence[str]) -> pa.DataType:
    """Returns the struct of the score columns, sorted by name."""
    return pa.struct([(name, pa.float64()) for name in sorted(score_names)])


def build_shard_schema(
    score_names: Sequence[str],
    with_features: bool = False,
    streams: Iterable[type[HasFields]] = (),
    with_channels: bool = False,
) -> pa.Schema:
    """Returns the schema of a shard's table.

    Args:
        score_names: of the filters.
        with_features: hold what a diverse pick compares.
        streams: that the recipe's conditions may hold.
        with_channels: hold channels beside RGB, as .npy bytes.
    """
    fields = [*list_columns(streams), ("scores", build_scores_type(score_names))]
    extra = [FEATURES_COLUMN] if with_features else []
    extra += [(COLUMN, pa.binary())] if with_channels else []
    return pa.schema([*fields, ("provenance", pa.string()), *WORK_COLUMNS, *extra])


def select_shaping(generator: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a generator's description shapes the pixels: no name and no place."""
    return drop_places({key: generator[key] for key in SHAPES_PIXELS if key in generator})


def drop_places(described: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a generator's description without where adapters and guiding classifier were found.

    Their hashes, which stay, say what they are.
    """
    kept = dict(described)
    kept["adapters"] = [
        {key: value for key, value in adapter.items() if key != "source"}
        for adapter in described.get("adapters") or ()
    ]
    if "classifier_guidance" in described:
        guide = described["classifier_guidance"]
        kept["classifier_guidance"] = {k: v for k, v in guide.items() if k != "model"}
    return kept


def compute_sample_id(
    condition: Condition, prompt: str | None, seed: int, generator: Mapping[str, Any]
) -> str:
    """Returns H(everything that shapes the pixels), 32 hex characters."""
    return compute_described_id(condition.describe(), prompt, seed, generator)


def compute_described_id(
    condition: Mapping[str, Any], prompt: str | None, seed: int, generator: Mapping[str, Any]
) -> str:
    """Returns the sample id of a condition as the provenance describes it."""
    identity = [condition, prompt, seed, select_shaping(generator)]
    return compute_digest("sample", identity)[:32]


def build_row(
    candidate: Candidate,
    generator: Mapping[str, Any],
    filters: Sequence[Mapping[str, Any]],
    recipe_sha256: str,
    score_names: Sequence[str],
    image_format: ImageFormat,
    keep_image: bool,
) -> dict[str, Any]:
    """Turns a judged candidate into a row of the shard table; descriptions are plain data."""
    job, sample, condition = candidate.job, candidate.sample, candidate.job.condition
    family = job.request.family
    data = encode_image(sample.pixels, image_format, not condition.is_existing)
    sample_id = compute_sample_id(condition, sample.prompt, job.seed, generator)
    height, width = sample.pixels.shape[:2]
    kept = condition.keep(width, height)
    provenance = build_provenance(candidate, generator, filters, kept)
    channels = check_channels(sample, provenance.generator.channels)
    image = {"bytes": data if keep_image else None, "path": f"{sample_id}.{image_format}"}
    return {
        "image": image,
        "class_name": None,
        "caption": None,
        "reference_sha256": None,
        "prompt": sample.prompt,
        "sample_id": sample_id,
        "condition_id": condition.key,
        "ordinal": job.request.ordinal,
        "attempt": job.attempt,
        "seed": job.seed,
        **show_generator(provenance),
        "guidance_scale": provenance.generator.first_guidance,
        "width": width,
        "height": height,
        "factory_version": __version__,
        "recipe_sha256": recipe_sha256,
        "image_sha256": hash_bytes(data),
        "scores": {name: candidate.scores.get(name) for name in score_names},
        "provenance": provenance.write(),
        "series": job.request.series,
        "index": job.request.index,
        "accepted": candidate.verdict.accepted,
        "rejected_by": candidate.verdict.filter,
        "reason": candidate.verdict.reason,
        "descriptor": candidate.descriptor,
        "features": candidate.features,
        **condition.columns(),
        **kept,
        **({} if family is None else family.columns(job.request.ordinal)),
        **({} if channels is None else {COLUMN: encode_values(channels) if keep_image else None}),
    }


def show_generator(record: Provenance) -> dict[str, Any]:
    """Returns GENERATOR_COLUMNS of a row: what was noted of its own sampling goes first."""
    notes = (record.model_extra or {}).get("notes") or {}
    return {name: notes.get(name, getattr(record.generator, name)) for name in GENERATOR_COLUMNS}


def build_provenance(
    candidate: Candidate,
    generator: Mapping[str, Any],
    filters: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any],
) -> Provenance:
    """Returns what no column holds: enough to make the image again from what its row keeps."""
    job, sample = candidate.job, candidate.sample
    told: dict[str, Any] = {
        "condition": job.condition.describe(),
        "tokens": {name: list(counts) for name, counts in sample.tokens.items()},
        "batch_size": sample.batch_size,
        "pixels_sha256": hash_image(sample.pixels, sample.channels),
        "nonfinite_fraction": sample.nonfinite,
    }
    for stream in job.condition.streams:
        told |= stream.record()
    if attributes := job.condition.attributes:
        told["attributes"] = attributes
    if job.request.family is not None:
        told |= job.request.family.record()
    if kept:
        told["kept"] = {name: hash_value(value) for name, value in kept.items()}
    if sample.notes:
        told["notes"] = dict(sample.notes)
    return Provenance.model_validate({**to_plain(told), "generator": generator, "filters": filters})


def count_cut(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Returns tokenizer -> (rows whose prompt it cut, tokens that it dropped of them)."""
    found: dict[str, tuple[int, int]] = {}
    for row in (each for each in rows if each["prompt"] is not None):
        for name, (_, dropped) in read_provenance(row).tokens.items():
            if dropped:
                count, total = found.get(name, (0, 0))
                found[name] = count + 1, total + dropped
    return dict(sorted(found.items()))
