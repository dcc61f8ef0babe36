"""What an adaptation leaves behind: catalog entry, model card and samples beside the weights."""

import datetime
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from factory import __version__
from factory.catalog.catalog import ModelEntry
from factory.core.files.atomic import write_file
from factory.core.markdown import escape, escape_cell, fence, write_code, write_line
from factory.models.generators import weights
from factory.models.generators.diffusers import DiffusersGenerator
from factory.train.adapter.loop import Progress
from factory.train.adapter.settings import AdapterSettings, describe_settings
from factory.train.adapter.shots import Shot
from factory.train.copies import CopyMeter
from factory.train.generator.objectives.base import WEIGHTS, Objective


@dataclass(frozen=True, slots=True)
class Adapted:
    """All that entry and card tell of an adaptation."""

    settings: AdapterSettings
    entry: ModelEntry | None
    family: str
    generator: DiffusersGenerator
    objective: Objective
    shots: tuple[Shot, ...]
    words: Mapping[str, str]
    meter: CopyMeter

    @property
    def title(self) -> str:
        """One line: what was adapted to what."""
        base = (
            self.entry.title or self.entry.id if self.entry else PurePath(self.settings.base).name
        )
        return f"{base}, adapted to {self.settings.shots} images each of {', '.join(self.words)}"

    @property
    def data(self) -> str:
        """One line on the shots: how many, of what, from where."""
        about = self.settings.about or f"folder {self.settings.data.name} (terms not recorded)"
        names = ", ".join(self.words)
        return f"{self.settings.shots} labelled images each of {names}: {about}"


def write_adapter(adapted: Adapted, progress: Progress, samples: Path, out: Path) -> str:
    """Writes `models/ID.yaml`, `README.md` and `samples.png`; returns the sha256 of the weights."""
    sha256 = weights.hash_file(out / WEIGHTS)
    shutil.copyfile(samples, out / "samples.png")
    write_file(out / "README.md", build_card(adapted, progress, sha256).encode())
    folder = out / "models"
    folder.mkdir(exist_ok=True)
    entry = build_entry(adapted, folder)
    text = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=100)
    write_file(
        folder / f"{adapted.settings.id}.yaml",
        f"# Written by `factory train adapter`.\n{text}".encode(),
    )
    return sha256


def build_entry(adapted: Adapted, folder: Path) -> dict[str, Any]:
    """Returns the catalog entry, to be written into `folder`: what differs from the base."""
    settings, entry, model = adapted.settings, adapted.entry, adapted.generator.model
    fields: dict[str, Any] = {"id": settings.id, "title": adapted.title}
    if entry is not None:
        fields["base"] = entry.id
        streams = (*entry.required, *entry.optional)
        if streams and "class_name" not in streams:
            fields["optional"] = [*entry.optional, "class_name"]
        if weights.is_pinned(model.revision) and not Path(entry.source).is_absolute():
            fields["revision"] = model.revision
    else:
        fields |= _describe_bare_base(adapted, folder)
    if settings.guidance is not None:
        fields["guidance"] = settings.guidance
    known = entry.training_data if entry is not None else ()
    return {
        **fields,
        "adapters": [{"source": "..", "weight_name": WEIGHTS}],
        **adapted.objective.describe_entry(),
        "mpp": settings.mpp,
        "training_data": [*known, adapted.data],
        "labels_seen": True,
    }


def _describe_bare_base(adapted: Adapted, folder: Path) -> dict[str, Any]:
    """Returns the fields that the entry of a base without an entry must have."""
    generator, source = adapted.generator, adapted.settings.base
    described, size = generator.describe(), generator.capabilities
    path = Path(source).expanduser()
    fields: dict[str, Any] = {"source": source}
    if path.is_dir():
        fields["source"] = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    elif weights.is_pinned(generator.model.revision):
        fields["revision"] = generator.model.revision
    return {
        **fields,
        "family": adapted.family,
        "width": size.width,
        "height": size.height,
        "steps": described["num_inference_steps"],
        "guidance": described["guidance_scale"],
        "dtype": described["dtype"],
        "licence": {
            "id": "other",
            "date_read": datetime.date.today().isoformat(),
            "note": "The terms of the base model were not recorded: read them before sharing.",
        },
    }


def build_card(adapted: Adapted, progress: Progress, sha256: str) -> str:
    """Returns the model card, YAML header included."""
    sections = [
        f"# {escape(adapted.title)}",
        "![Samples, one row per class](samples.png)",
        _write_use(adapted),
        _write_origin(adapted, sha256),
        _write_checks(adapted, progress),
        _write_shots(adapted),
        _write_settings(adapted, progress),
        "## Limits\n\nA few images show little of what a class can look like: the samples vary "
        "around them, may resemble them, and may carry what identifies their patients. A study "
        "must keep these images, and other images of their patients, out of its test set. Whether "
        "the class is right must be measured with a classifier fitted on other real images. Not "
        "for diagnosis.",
    ]
    return f"---\n{_write_header(adapted)}---\n\n" + "\n\n".join(sections) + "\n"


def _write_header(adapted: Adapted) -> str:
    entry = adapted.entry
    header: dict[str, Any] = {"license": entry.licence.id if entry else "other"}
    if entry is not None and not Path(entry.source).is_absolute():
        header["base_model"] = entry.source
    header |= {
        "library_name": "diffusers",
        "tags": ["lora", "pathology", "histology", "few-shot", "factory"],
    }
    return yaml.safe_dump(header, sort_keys=False)


def _write_use(adapted: Adapted) -> str:
    block = {"kind": "class", "per_class": dict.fromkeys(adapted.words, 100)}
    recipe = [
        "catalogs: [PATH_OF_THIS_FOLDER]",
        write_line("generator", {"model": adapted.settings.id}),
        write_line("conditions", [block]),
        "filters:\n  - {kind: training_copy, max_similarity: 0.9, images: YOUR_SHOTS}",
    ]
    return (
        "## Use\n\nThis folder is a catalog of factory. In a recipe (where the base is an entry of "
        f"a catalog of your own, name that catalog too):\n\n{fence(chr(10).join(recipe), 'yaml')}"
    )


def _write_origin(adapted: Adapted, sha256: str) -> str:
    entry, described = adapted.entry, adapted.generator.describe()
    lines = [
        f"- base: {write_code(described['model'])} ({escape(described['pipeline'])}), revision "
        f"{write_code(described['model_revision'])}, weights sha256 "
        f"{write_code(described['weights_sha256'])}",
        f"- adapter: `{WEIGHTS}`, sha256 `{sha256}`, made by factory {__version__}",
        f"- images: {escape(adapted.data)}",
    ]
    if entry is None:
        return "\n".join(
            ["## Origin and terms", "", *lines, "- terms of the base: **not recorded**"]
        )
    terms = entry.licence
    words = f"- terms of the base, which hold for this adapter too: {escape(terms.id)}"
    words += f" ({escape(terms.url)})" if terms.url else ""
    words += f", as read on {terms.date_read}"
    named = ("commercial_use", "redistribution_of_outputs", "training_on_outputs")
    denied = [name.replace("_", " ") for name in named if getattr(terms, name) is False]
    words += "".join(f"; **{name}: not allowed**" for name in denied)
    lines.append(f"{words}. {escape(terms.note)}".strip())
    lines += [f"- attribution: {escape(text)}" for text in terms.attribution]
    lines += [f"- the base learnt from: {escape(text)}" for text in entry.training_data]
    return "\n".join(["## Origin and terms", "", *lines])


def _write_checks(adapted: Adapted, progress: Progress) -> str:
    meter = adapted.meter
    rows = [
        f"| {check.step:,} | {check.loss:.4f} | {check.images} | {check.copies:.1%} | "
        f"{check.highest:.3f} | {check.median:.3f} |"
        for check in progress.checks
    ]
    ending = "all steps were done" if not progress.is_stopped else "copies stopped the training"
    return (
        "## Measured copies\n\nSimilarity of samples to the shots, over flips and quarter turns "
        f"(normalised correlation of local structure); above {meter.threshold:.3f} a sample counts "
        f"as a copy. Two different shots reach {meter.shots_similarity:.3f}. At most "
        f"{adapted.settings.max_copies:.0%} copies were allowed: {ending}, and the weights of "
        f"step {progress.good_step:,} are kept.\n\n"
        "| step | loss | samples | copies | highest similarity | median |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _write_shots(adapted: Adapted) -> str:
    groups = {shot.group_sha256 for shot in adapted.shots}
    counted = Counter(shot.class_name for shot in adapted.shots)
    lines = [
        f"- {escape(name)} ({escape(adapted.words[name])}): {count}"
        for name, count in counted.items()
    ]
    told = (
        f"{len(groups):,} patients or slides."
        if None not in groups
        else ("**Patients or slides were not told**, so that some may be in a test set too.")
    )
    table = [
        f"| {escape_cell(shot.class_name)} | `{shot.sha256}` | "
        f"{(shot.group_sha256 or 'not told')[:16]} |"
        for shot in adapted.shots
    ]
    return "\n".join(
        [
            f"## Images adapted to\n\n{told}\n",
            *lines,
            "\n| class | sha256 of the file | patient or slide, hashed |\n| --- | --- | --- |",
            *table,
        ]
    )


def _write_settings(adapted: Adapted, progress: Progress) -> str:
    settings = describe_settings(adapted.settings)
    lines = [f"- {name}: {escape(value)}" for name, value in settings.items() if value is not None]
    return "\n".join([f"## Settings\n\n- steps done: {progress.step:,}", *lines])
