"""Checks of filters that compare with real images: these are there, fit, and leak nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from factory.catalog.catalog import EncoderEntry
from factory.core.errors import SourceError
from factory.core.images import hash_pixels
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage, check_fit, list_images
from factory.data.splits import find_leaks
from factory.filters.settings import RealismFilter, TrainingCopyFilter
from factory.models.encoders import LIBRARIES, describe_gate, find_weights, has_access, list_specs
from factory.recipe.checks.findings import AskedClasses, Findings
from factory.recipe.conditions.base import RealImages


def check_training_copy(findings: Findings, settings: TrainingCopyFilter, number: int) -> None:
    """Notes missing images, and references that a held-out set has too."""
    if settings.images is None and settings.held_out is None:
        if not any(block.varied for block in findings.loaded.recipe.blocks):
            message = "has nothing to compare with: set images, or remove the filter"
            findings.add(("filters", number), message)
    elif settings.images is not None and findings.check_files:
        try:
            list_images(findings.resolve(settings.images), image_column=settings.image_column)
        except SourceError as error:
            findings.add(("filters", number, "images"), str(error))
    if settings.held_out is not None and findings.check_files:
        _check_held_out(findings, settings, ("filters", number, "held_out"))


def check_realism(
    findings: Findings, settings: RealismFilter, number: int, asked: AskedClasses
) -> None:
    """Notes a set that is missing, too small or without an asked class, and a missing encoder."""
    from factory.filters.real.set import read_real_set

    check_encoder(findings, settings.encoder, ("filters", number, "encoder"))
    if not findings.check_files:
        return
    try:
        real = read_real_set(settings, findings.loaded.base)
        if findings.pixels is not None:
            sources = [image.source for image in real.images]
            check_fit(sources, *findings.pixels, settings.fit, findings.resolve(settings.images))
        seen: dict[str, SourceImage] = {}
        for image in real.images:  # a broken one stops here, before any sampling
            source = image.source
            known = seen.setdefault(hash_pixels(source.read_pixels()), source)
            if known.class_name != source.class_name:
                raise SourceError(
                    f"{source.place}: the same pixels as {known.place}, of another class: remove "
                    "one"
                )
    except SourceError as error:
        findings.add(("filters", number, "images"), str(error))
        return
    for name, where in asked.fields.items():
        if real.class_names and name not in real.class_names:
            hint = advise(name, real.class_names)
            message = f"realism: {settings.images} has no class {name!r}: {hint}"
            findings.add(where, f"{message}; rename the class, or take another real set")


def check_encoder(findings: Findings, spec: str, path: FieldPath) -> None:
    """Notes an encoder that is neither known by its kind nor a folder; loads nothing."""
    if spec in findings.catalogs.list_ids("encoders"):
        entry = findings.look_up(path, findings.catalogs.find_encoder, spec)
        if entry is not None and findings.check_files:
            _check_entry(findings, entry, path)
        return
    library, _, name = spec.partition(":")
    if library in LIBRARIES and name:
        return
    if findings.check_files and not findings.resolve(spec).is_dir():
        known = list_specs(findings.catalogs)
        message = f"no encoder {spec!r} and no such folder: {advise(spec, known)}, or a folder"
        findings.add(path, message)


def _check_entry(findings: Findings, entry: EncoderEntry, path: FieldPath) -> None:
    """Notes missing weights, and gated ones where neither a token nor a stored copy is there."""
    if entry.source.startswith("/") and not Path(entry.source).is_dir():
        message = f"the weights of {entry.id} are missing, no folder {entry.source!r}"
        findings.add(path, f"{message}: put them there")
    if entry.licence.gated and not has_access(find_weights(entry.id, findings.catalogs)):
        findings.add(path, describe_gate(entry))


def _check_held_out(findings: Findings, settings: TrainingCopyFilter, path: FieldPath) -> None:
    """References, and the real set of `realism`, must share no image or patient with held-out."""
    recipe, base = findings.loaded.recipe, findings.loaded.base
    sources: list[tuple[str, Mapping[str, Any], Callable[[], Sequence[SourceImage]]]] = [
        (f"conditions[{number}]", block.varied.columns, partial(block.list_used, base, recipe.seed))
        for number, block in enumerate(recipe.blocks)
        if block.varied is not None
    ]
    for each in recipe.filters:
        if isinstance(each, RealismFilter):
            named = each.model_dump(include={"image_column", "group_column", "group_pattern"})
            real = RealImages(each.images, each.fit, named)
            sources.append(("realism", real.columns, partial(real.list, base)))
    held_out = RealImages(
        settings.held_out or Path(), columns={"image_column": settings.image_column}
    )
    try:
        held_out.list(base)
        for name, columns, list_used in sources:
            try:
                used = list_used()
            except SourceError:
                continue  # another check complains
            mine = replace(held_out, columns={**columns, **held_out.columns})
            leaks = find_leaks(used, mine.list(base))
            if leaks:
                message = f"{name} uses images of {settings.held_out}: {leaks}: take others"
                findings.add(path, message)
    except SourceError as error:
        findings.add(path, str(error))
