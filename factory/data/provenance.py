"""`Provenance`: what made an image, as the column `provenance` of its row tells."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field

from factory.core.errors import DamageError, MismatchError
from factory.core.hashing import to_canonical_json
from factory.data.artefact import Artefact, Part

OriginT = TypeVar("OriginT", bound="Origin")

Number = int | float
"""Kept as it was written: 2 and 2.0 are other text, and text is what digests are made of."""


class AdapterRecord(Part):
    """An adapter of a generator, as it was loaded."""

    source: str = ""
    sha256: str | None = None
    scale: Number = 1.0


class ChannelRecord(Part):
    """A channel of images beside RGB, and how composites show it."""

    name: str
    unit: str = ""
    color: tuple[int, int, int] | None = None
    window: tuple[Number, Number] | None = None


class ChannelsRecord(Part):
    """The channels of images beside RGB, in their order, and the rule of the composite."""

    dtype: str
    named: tuple[ChannelRecord, ...]
    composite: str = ""


class GeneratorRecord(Part):
    """What made the pixels, as a generator describes itself; what else it tells is kept."""

    model: str
    model_revision: str | None = None
    weights_sha256: str | None = None
    family: str | None = None
    scheduler: str = "none"
    num_inference_steps: int | None = None
    guidance_scale: Number | dict[str, Any] | None = None
    negative_prompt: str | None = None
    prompt_template: str | None = None
    width: int | None = None
    height: int | None = None
    mpp: Number | None = None
    dtype: str = "none"
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, description="of a CPU; None: not recorded, or a GPU")
    adapters: tuple[AdapterRecord, ...] = ()
    classifier_guidance: dict[str, Any] | None = None
    cache: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None
    channels: ChannelsRecord | None = None
    libraries: dict[str, str] = Field({})

    @property
    def first_guidance(self) -> Number | None:
        """The guidance of the first step, as the column `guidance_scale` has it."""
        found = self.guidance_scale
        return found["scale"] if isinstance(found, dict) else found


class FilterRecord(Part):
    """What a filter said of itself when images were made: its settings, and what it judged with."""

    kind: str

    def get(self, name: str) -> Any:
        """Returns what is recorded under a name that filters share, or None."""
        return (self.model_extra or {}).get(name)


class ShotRecord(Part):
    """A labelled image that a row's class comes from: hashes of its file and of its pixels."""

    sha256: str
    pixels_sha256: str | None = None


class Origin(Artefact):
    """What a row tells of what it is made from: hashes of pixels, and of patients."""

    reference_pixels_sha256: str | None = None
    reference_group_sha256: str | None = None
    shots: tuple[ShotRecord, ...] = Field(
        (), description="that the class comes from, where it is not the reference alone"
    )

    @property
    def groups(self) -> tuple[str, ...]:
        """Hashes of the patients or slides that any stream of its condition comes from, sorted.

        Those of a stream of many, as of a domain, follow those of streams of one.
        """
        told = {**(self.model_extra or {}), "reference_group_sha256": self.reference_group_sha256}
        found = [value for name, value in told.items() if name.endswith("_group_sha256")]
        own = {value for value in found if isinstance(value, str)}
        many = {one for value in found if isinstance(value, list | tuple) for one in value}
        return (*sorted(own), *sorted(many - own))

    @property
    def sources(self) -> frozenset[str]:
        """Hashes of files and of pixels of all real images that it tells of.

        Those are what streams are known by, what is varied, what tells a stain, and what gives the
        class.
        """
        told = self.model_extra or {}
        streams = (told.get("condition") or {}).values()
        found = [each.get("sha256") for each in streams if isinstance(each, dict)]
        found += [self.reference_pixels_sha256, told.get("stain_pixels_sha256")]
        found += [value for each in self.shots for value in (each.sha256, each.pixels_sha256)]
        lists = [each if isinstance(each, list | tuple) else [each] for each in found]
        return frozenset(str(value) for each in lists for value in each if value is not None)


class Provenance(Origin):
    """What no column of a row holds: enough to make the image again.

    What the streams of its condition record stands beside these fields.
    """

    condition: dict[str, Any]
    tokens: dict[str, tuple[int, int]] = Field(
        {}, description="tokenizer -> tokens of the prompt that it kept, that it dropped"
    )
    batch_size: int
    pixels_sha256: str
    nonfinite_fraction: float = 0.0
    generator: GeneratorRecord
    filters: tuple[FilterRecord, ...] = ()
    attributes: dict[str, str] = Field(
        {}, description="attribute -> value, as a grid's caption says"
    )
    kept: dict[str, str] = Field(
        {}, description="column -> hash of what the row keeps there, to be restored from"
    )

    def write(self) -> str:
        """Returns what the column holds: canonical JSON."""
        return to_canonical_json(self.to_json())


def read_provenance(row: Mapping[str, Any]) -> Provenance:
    """Returns the provenance of a row.

    Raises:
        DamageError: it is no JSON, or lacks what an image is made again from.
        MismatchError: a newer version of factory wrote it.
    """
    return _read(Provenance, row, str(row.get("sample_id")))


def read_origin(row: Mapping[str, Any], where: str) -> Origin:
    """Returns what a row tells of the real image that it varies; rows of others tell nothing.

    Raises:
        DamageError: its provenance is no JSON object; names `where`.
        MismatchError: a newer version of factory wrote it.
    """
    return _read(Origin, row, where) if row.get("provenance") else Origin()


def _read(kind: type[OriginT], row: Mapping[str, Any], where: str) -> OriginT:
    try:
        return kind.parse(row.get("provenance") or "")
    except DamageError as error:
        raise DamageError(f"{where}: provenance: {error}") from error
    except MismatchError as error:
        raise MismatchError(f"{where}: provenance: {error}") from error
