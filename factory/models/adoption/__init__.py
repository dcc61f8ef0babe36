"""`adopt_model`: loads any model of a pipeline, proves what it takes, and writes its entry."""

import importlib.metadata
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.catalog.entries import LicenceTerms, Measured, ModelEntry, Strict
from factory.catalog.licences.known import UNANSWERED
from factory.core.errors import InputError
from factory.core.files.atomic import write_file
from factory.models.adoption.entry import check_place, check_size, read_terms, write_entry
from factory.models.adoption.proofs import (
    Found,
    count_words,
    is_whole,
    measure,
    prove_guidance,
    prove_reference,
    prove_rows,
    prove_sampling,
    prove_streams,
)
from factory.models.adoption.trials import Trials
from factory.models.generators import weights
from factory.models.generators.consent import find_own_code
from factory.models.generators.families import open_family
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.loading import LoadedModel, name_device, read_native_size
from factory.models.generators.settings import GeneratorSettings


class AdoptionSettings(Strict):
    """How a model is tried.

    Sizes and steps that are not given are the model's own.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    trial_steps: int = 2
    largest_batch: int = 8
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    embedding: tuple[int, int] | None = None
    class_names: tuple[str, ...] | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """A model with its entry.

    Attributes:
        entry: as written.
        path: its file.
        proven: what holds, in words.
    """

    entry: ModelEntry
    path: Path
    proven: tuple[str, ...]

    @property
    def unproven(self) -> tuple[str, ...]:
        """What does not hold, or could not be tried, and why."""
        return self.entry.unproven

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return {
            "entry": self.entry.model_dump(mode="json"),
            "path": str(self.path),
            "proven": list(self.proven),
            "unproven": list(self.unproven),
        }


def adopt_model(source: str, out: Path, settings: AdoptionSettings) -> Adopted:
    """Proves what a model takes and makes, and writes its catalog entry.

    Args:
        source: Hub id, or folder of a diffusers pipeline.
        out: the entry, `CATALOG/models/ID.yaml`.
        settings: how it is tried.

    Raises:
        InputError: no such model, a place where no entry can be, or a model that cannot be asked.
        GenerationError: it cannot be fetched or loaded, or makes nothing.
        StoreError: the entry cannot be written.
    """
    check_place(out)
    check_size(settings.width, settings.height)
    family = _tell(untold := _open(source, settings), out.stem, settings)
    loaded = _load(family)
    read_native_size(loaded.pipeline, untold)  # refuses a model that tells none, if nobody does
    entry = _describe(source, out.stem, family, loaded, settings)
    check_size(entry.width, entry.height)
    found = Found()
    with tempfile.TemporaryDirectory() as scratch:
        trials = _prepare(entry, settings, loaded, Path(scratch))
        _prove(trials, entry, settings, found)
    if "embedding" in entry.call:
        found.unproven.append(
            "embedding: arrays of noise were sent: say which encoder makes them (embedding:)"
        )
    if entry.licence.id == UNANSWERED:
        found.unproven.append(
            "licence: the card states none that factory knows: fill in licence before publishing"
        )
    written = _finish(entry, found, loaded)
    write_file(out, write_entry(written, out).encode())
    return Adopted(written, out, tuple(found.proven))


def _open(source: str, settings: AdoptionSettings) -> PipelineFamily:
    """Returns the family as the model itself tells it."""
    shared = {"trust_remote_code", "width", "height", "device", "dtype"}
    asked = GeneratorSettings(model=source, **settings.model_dump(include=shared))
    family = open_family(asked, None, Path())
    if not isinstance(family, PipelineFamily):
        raise InputError(f"model {source}: family {family.kind!r} is no diffusers pipeline")
    return family


def _tell(family: PipelineFamily, name: str, settings: AdoptionSettings) -> PipelineFamily:
    """Returns the family with an entry of what is told: classes, consent to own code, a pin."""
    source = family.settings.model
    folder = weights.find_folder(source, Path())
    place = weights.fetch_index(source, None) if folder is None else folder
    width, height = family.native_size or (64, 64)
    told = ModelEntry(
        id=name,
        source=source if folder is None else str(folder),
        revision=place.name if folder is None else None,
        family=family.kind,
        remote_code=settings.trust_remote_code and find_own_code(place) is not None,
        class_names=settings.class_names,
        width=settings.width or width,
        height=settings.height or height,
        steps=settings.steps or family.steps,
        guidance=family.scale,
        licence=LicenceTerms(id=UNANSWERED, date_read="1970-01-01"),
    )
    return type(family)(family.settings, told, Path())


def _load(family: PipelineFamily) -> LoadedModel:
    from factory.models.generators.diffusers import DiffusersGenerator

    return DiffusersGenerator(family).model


def _describe(
    source: str,
    name: str,
    family: PipelineFamily,
    loaded: LoadedModel,
    settings: AdoptionSettings,
) -> ModelEntry:
    """Returns the entry before anything is proved."""
    folder = weights.find_folder(source, Path())
    call = getattr(getattr(family, "signature", None), "parameters", {})
    steps, scale = call.get("num_inference_steps"), call.get(str(family.guidance_argument))
    names = settings.class_names or (tuple(loaded.class_labels) or None)
    required, optional = family.streams
    revision = loaded.revision if folder is None else None
    return ModelEntry(
        id=name,
        title=f"{type(loaded.pipeline).__name__} of {source if folder is None else folder.name}",
        source=source if folder is None else str(folder),
        revision=revision,
        family=family.kind,
        required=tuple(sorted(required)),
        optional=tuple(sorted(optional or ())),
        class_names=names,
        width=settings.width or loaded.width,
        height=settings.height or loaded.height,
        mpp=loaded.mpp,
        steps=settings.steps or (steps if isinstance(steps, int) else family.steps),
        guidance=float(scale) if isinstance(scale, int | float) else family.scale,
        **({} if settings.dtype == "auto" else {"dtype": settings.dtype}),
        remote_code=family.entry is not None and family.entry.remote_code,
        licence=read_terms(source, folder, revision),
        call=dict(getattr(family, "arguments", {})),
    )


def _prepare(
    entry: ModelEntry, settings: AdoptionSettings, loaded: LoadedModel, scratch: Path
) -> Trials:
    asked = GeneratorSettings(
        model=entry.id,
        width=entry.width,
        height=entry.height,
        steps=settings.trial_steps,
        batch_size=1,
        device=settings.device,
        dtype=settings.dtype,
    )
    free = entry.model_copy(
        update={"required": (), "optional": tuple(dict.fromkeys(entry.required + entry.optional))}
    )
    embedding = settings.embedding or (1, _guess_width(loaded.pipeline))
    return Trials(free, asked, loaded, scratch, embedding)


def _prove(trials: Trials, entry: ModelEntry, settings: AdoptionSettings, found: Found) -> None:
    whole = is_whole(trials.build())
    names = [n for n in trials.entry.optional if n != "class_name" or trials.class_names]
    varied = "reference" in entry.optional  # it starts from noise as well
    if varied:
        names.remove("reference")
    streams = trials.make_streams(0, names, whole)
    if not streams:
        raise InputError(
            f"model {entry.source}: takes no stream that a recipe can give: it makes images of "
            "nothing"
        )
    first = prove_sampling(trials, streams, found)
    prove_streams(trials, names, whole, first, found)
    if varied:
        prove_reference(trials, names, whole, first, found)
    prove_rows(trials, names, whole, found)
    if "reference" in found.optional and varied:
        prove_rows(trials, [*names, "reference"], whole, found)
    elif varied and found.fields.get("one_per_call") is False:
        found.fields["one_per_call"] = None  # as the family has it: images may mix
    prove_guidance(trials, streams, found)
    found.fields["caption_words"] = count_words(trials, streams, found)
    measure(trials, streams, settings.largest_batch, found)


def _finish(entry: ModelEntry, found: Found, loaded: LoadedModel) -> ModelEntry:
    """Returns the entry with what was found."""
    fields = found.fields
    names = ("diffusers", "torch", "transformers")
    measured = Measured(
        device=name_device(loaded.device),
        seconds_per_image=fields["seconds_per_image"],
        batch_sizes=fields["batch_sizes"],
        caption_words=fields.get("caption_words"),
        libraries={name: importlib.metadata.version(name) for name in names},
    )
    return entry.model_copy(
        update={
            "required": tuple(sorted(found.required)),
            "optional": tuple(sorted(set(found.optional) - set(found.required))),
            "guidance_kind": fields.get("guidance_kind"),
            "one_per_call": fields.get("one_per_call"),
            "memory_gb": fields.get("memory_gb"),
            "measured": measured,
            "unproven": tuple(found.unproven),
        }
    )


def _guess_width(pipeline: Any) -> int:
    """Returns the width of embeddings by the denoiser's configuration; 1 where it says none."""
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    config = getattr(network, "config", {})
    names = ("caption_channels", "encoder_hid_dim", "cross_attention_dim")
    found = (config.get(name) for name in names)
    return next((each for each in found if isinstance(each, int)), 1)
