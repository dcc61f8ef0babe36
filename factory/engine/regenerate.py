"""Regenerating: makes images again from what their rows recorded, and says how equal they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory import __version__
from factory.core.errors import DamageError, GenerationError, InputError, SourceError
from factory.core.hashing import diff_values, hash_bytes, to_canonical_json
from factory.core.images import ImageFormat, decode_image, encode_image
from factory.core.metrics.similarity import measure_psnr
from factory.core.plain import to_plain
from factory.data.channels import COLUMN, Values, hash_image
from factory.data.provenance import Provenance, read_provenance
from factory.data.records import Condition, Job, Sample
from factory.data.schema import drop_places
from factory.engine.restore import (
    Places,
    find_sources,
    list_sources,
    restore_generator,
    restore_job,
    use_threads,
)
from factory.models.generators.base import Generator
from factory.recipe.file import reopen_session
from factory.recipe.recipe import Recipe

__all__ = ["MIN_PSNR", "Places", "Psnr", "Rebuilt", "compute_psnr", "regenerate_rows"]

Try = tuple[Mapping[str, Any], Provenance, Job]
"""A row, what it recorded, and the try that made it."""
Status = Literal["exact", "within tolerance", "different", "not checked"]
MIN_PSNR = 40.0
"""dB from which two images count as equal within tolerance: an error of 2.5 of 255 levels (RMS)."""


Psnr = Annotated[
    float,
    Field(
        ge=0.0,
        le=1000.0,
        description="dB from which an image that is not exact is within tolerance.",
    ),
]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """One image, made again.

    Attributes:
        sample_id: of the row.
        status: `exact` (the same pixels), `within tolerance`, `different`, or `not checked`, where
            what it was made from is not here.
        psnr: dB against the stored image, of its worst channel where it has some; None where it is
            exact or not stored.
        is_same_file: the encoded file has the recorded hash too.
        differences: (what, as recorded, here) of all that is known to differ.
        reason: why it was not checked, or why it may differ.
        pixels: (H, W, 3) uint8 RGB; None where not checked.
        channels: (C, H, W) beside them, where the model makes some.
        data: the encoded file.
        is_synthetic: whether the file is marked so: it was made, not there.
    """

    sample_id: str
    status: Status
    psnr: float | None = None
    is_same_file: bool = False
    differences: tuple[tuple[str, Any, Any], ...] = ()
    reason: str = ""
    pixels: NDArray[np.uint8] | None = None
    channels: Values | None = None
    data: bytes | None = None
    is_synthetic: bool = True

    def to_json(self) -> dict[str, Any]:
        """Returns all but the image as plain data."""
        return {
            "sample_id": self.sample_id,
            "status": self.status,
            "psnr": self.psnr,
            "is_same_file": self.is_same_file,
            "differences": [
                {"what": what, "recorded": recorded, "here": here}
                for what, recorded, here in self.differences
            ],
            "reason": self.reason,
        }

    def __str__(self) -> str:
        decibel = "" if self.psnr is None else f" (PSNR {self.psnr:.1f} dB)"
        listed = "; ".join(f"{what}: {old!r} -> {here!r}" for what, old, here in self.differences)
        linked = ", although" if self.status == "exact" else ":"
        why = f"{linked} {listed or self.reason}" if listed or self.reason else ""
        return f"{self.sample_id}: {self.status}{decibel}{why}"


def regenerate_rows(
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    places: Places,
    min_psnr: float = MIN_PSNR,
    say: Callable[[str], None] = lambda line: None,
) -> list[Rebuilt]:
    """Makes the images of rows again; rows of one generator share its models and batches.

    Args:
        rows: whole rows of a data set, accepted or rejected.
        recipe: recipe.json of the data set: where model, adapters and references are.
        places: where these lie now.
        min_psnr: dB from which an image that is not exact is within tolerance.
        say: called with one line before each model is loaded.

    Raises:
        SourceError: a folder of `places.references` that holds no images.
        GenerationError: the model fails.
        StoreError: a row without readable provenance.
    """
    records = [read_provenance(row) for row in rows]
    made_from = [list_sources(record) for record in records]
    sources = find_sources([each for row in made_from for each in row], recipe, places)
    rebuilt: dict[int, Rebuilt] = {}
    restored: dict[int, Job] = {}
    groups: dict[str, list[int]] = {}
    for position, (record, wanted) in enumerate(zip(records, made_from, strict=True)):
        missing = [each.sha256 for each in wanted if each.sha256 not in sources.images]
        if missing:
            rebuilt[position] = _leave(rows[position], sources.explain(missing[0]))
            continue
        try:
            restored[position] = restore_job(rows[position], record, sources.images)
        except DamageError as error:
            rebuilt[position] = _leave(rows[position], str(error))
            continue
        group = to_canonical_json([record.generator.to_json(), record.batch_size])
        groups.setdefault(group, []).append(position)
    session = reopen_session(recipe, places.base, places.catalogs)
    for positions in groups.values():
        record = records[positions[0]]
        model = places.model or record.generator.model
        say(f"loading the model {model}; then making {len(positions):,} images again")
        tries = [(rows[p], records[p], restored[p]) for p in positions]
        with use_threads(record):
            try:
                generator = restore_generator(record, recipe, places, session)
                description = to_plain(generator.describe())  # loads the weights
            except (InputError, GenerationError) as error:
                made = [_leave(row, str(error)) for row, *_ in tries]
            else:
                made = list(_make_again(generator, description, tries, min_psnr))
        rebuilt.update(zip(positions, made, strict=True))
    return [rebuilt[position] for position in range(len(rows))]


def _make_again(
    generator: Generator, description: Mapping[str, Any], tries: Sequence[Try], min_psnr: float
) -> Iterator[Rebuilt]:
    """Yields the image of each row, sampled together."""
    made = generator.generate([job for *_, job in tries])
    samples = [each.finish(job.condition) for each, (*_, job) in zip(made, tries, strict=True)]
    for (row, record, job), sample in zip(tries, samples, strict=True):
        found = _compare(row, record, job.condition, sample, description, min_psnr)
        if found.status != "exact" and sample.batch_size > 1:
            place = _try_places(generator, job, sample.batch_size, record.pixels_sha256)
            if place is not None:
                found = _compare(row, record, job.condition, place, description, min_psnr)
        yield found


def _leave(row: Mapping[str, Any], reason: str) -> Rebuilt:
    """Returns that a row was not made again: what it was made from is not here."""
    return Rebuilt(row["sample_id"], "not checked", reason=reason)


def _try_places(generator: Generator, job: Job, size: int, pixels_sha256: str) -> Sample | None:
    """Returns the recorded image from some place of its batch, or None.

    Last bits can depend on the place in a batch (seen with attention on a CPU, in batches of 3),
    and no row records it; so all are tried, which is one forward pass of the same shape.
    """
    made = [each.finish(job.condition) for each in generator.generate([job] * size)]
    return next((each for each in made if _hash(each) == pixels_sha256), None)


def _hash(sample: Sample) -> str:
    return hash_image(sample.pixels, sample.channels)


# --- how equal it is -----------------------------------------------------------------------------


def compute_psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Returns the peak signal-to-noise ratio of two (H, W, 3) uint8 images, dB; inf where equal.

    See `factory.core.metrics.similarity.measure_psnr`.
    """
    return measure_psnr(one, other, 255.0)


def _compare_images(shown: NDArray[np.uint8], kept: Values | None, sample: Sample) -> float | None:
    """Returns the least PSNR of pixels and of each channel, dB; None where the sizes differ.

    The span of a channel is that of its stored values.
    """
    made = sample.channels
    if shown.shape != sample.pixels.shape or (kept is None) != (made is None):
        return None
    found = [compute_psnr(shown, sample.pixels)]
    if kept is not None and made is not None:
        if kept.shape != made.shape:
            return None
        found += [measure_psnr(a, b, float(np.ptp(a))) for a, b in zip(kept, made, strict=True)]
    return min(found)


def _compare(
    row: Mapping[str, Any],
    record: Provenance,
    condition: Condition,
    sample: Sample,
    description: Mapping[str, Any],
    min_psnr: float,
) -> Rebuilt:
    stored = (row["image"] or {}).get("bytes")
    image_format: ImageFormat = "png" if row["image"]["path"].endswith(".png") else "webp"
    data = encode_image(sample.pixels, image_format, not condition.is_existing)
    differences = list(_list_differences(row, record, sample, description))
    is_recorded, kept = _hash(sample) == record.pixels_sha256, row.get(COLUMN)
    psnr: float | None = None
    if stored is not None:
        shown = _try(lambda: decode_image(stored, row["sample_id"]))
        if shown is None or hash_image(shown, kept) != record.pixels_sha256:
            differences.insert(0, ("stored image", record.pixels_sha256, "shows other pixels"))
            is_recorded = False
        psnr = None if shown is None else _compare_images(shown, kept, sample)
    status: Status = "exact" if is_recorded else "different"
    if not is_recorded and psnr is not None and min_psnr <= psnr < math.inf:
        status = "within tolerance"
    unknown = "nothing recorded differs: another processor or library build, or an edited row"
    return Rebuilt(
        sample_id=row["sample_id"],
        status=status,
        psnr=None if is_recorded or psnr == math.inf else psnr,
        is_same_file=hash_bytes(data) == row["image_sha256"],
        differences=tuple(differences),
        reason="" if is_recorded or differences else unknown,
        pixels=sample.pixels,
        channels=sample.channels,
        data=data,
        is_synthetic=not condition.is_existing,
    )


def _list_differences(
    row: Mapping[str, Any],
    record: Provenance,
    sample: Sample,
    description: Mapping[str, Any],
) -> list[tuple[str, Any, Any]]:
    recorded, here = drop_places(record.generator.to_json()), drop_places(description)
    for each in (recorded, here):
        each.pop("model", None)
    if record.generator.threads is None:  # an older run
        here.pop("threads", None)
    return [
        *diff_values(recorded, here),
        *(
            (what, old, new)
            for what, old, new in (
                ("prompt", row["prompt"], sample.prompt),
                ("batch_size", record.batch_size, sample.batch_size),
                ("factory_version", row["factory_version"], __version__),
            )
            if old != new
        ),
    ]


def _try(read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    try:
        return read()
    except SourceError:
        return None
