"""The schema of a data set: its columns, and the Hugging Face features that describe them."""

import json
from collections.abc import Iterable

import pyarrow as pa

from factory.data.channel_tables import METADATA, build_metadata, list_channel_fields
from factory.data.channels import COLUMN
from factory.data.columns import IMAGE_TYPE
from factory.data.provenance import GeneratorRecord
from factory.data.schema import build_scores_type, list_columns
from factory.data.streams.base import HasFields


def build_final_schema(
    class_names: tuple[str, ...],
    score_names: list[str],
    streams: Iterable[type[HasFields]] = (),
    maker: GeneratorRecord | None = None,
) -> pa.Schema:
    """Returns the schema of the data set, with the Hugging Face features in its metadata."""
    image, *columns = list_columns(streams)
    if maker is not None:
        columns += list_channel_fields(maker.channels)
    fields = [image, ("label", pa.int64()), *columns]
    if score_names:
        fields.append(("scores", build_scores_type(score_names)))
    told = {} if maker is None else build_metadata(maker)
    schema = pa.schema([*fields, ("provenance", pa.string())], told)
    return with_features(schema, class_names)


def with_features(schema: pa.Schema, class_names: tuple[str, ...]) -> pa.Schema:
    """Adds the Hugging Face features: `Image` for images and masks, `ClassLabel` for the label.

    Channels, as the metadata describe them, are an `Array3D`.
    """
    from datasets import Array3D, ClassLabel, Features, Image

    features = Features.from_arrow_schema(schema.remove_metadata())
    features.update({field.name: Image() for field in schema if field.type == IMAGE_TYPE})
    if class_names:
        features["label"] = ClassLabel(names=list(class_names))
    told = schema.metadata or {}
    if METADATA in told:
        channels = json.loads(told[METADATA])
        features[COLUMN] = Array3D(tuple(channels["shape"]), channels["dtype"])
        typed = features.arrow_schema.field(COLUMN)
        schema = schema.set(schema.get_field_index(COLUMN), typed)
    described = json.dumps({"info": {"features": features.to_dict()}})
    return schema.with_metadata({**told, b"huggingface": described})
