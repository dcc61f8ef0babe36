"""Loads a diffusers model: pipelines that share their weights, adapters, device, dtype, digests."""

import importlib.metadata
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.entries import ModelEntry
from factory.core.errors import GenerationError, InputError
from factory.core.registry import import_name
from factory.core.warned import shorten_warnings
from factory.models.generators import weights
from factory.models.generators.adapters import load_adapters
from factory.models.generators.base import Capabilities
from factory.models.generators.consent import allow_remote_code, check_consent, find_imports
from factory.models.generators.families.base import read_index
from factory.models.generators.families.pipeline import PipelineFamily
from factory.models.generators.quiet import READ_ERRORS, listen_to_libraries
from factory.models.generators.sampling import build_scheduler
from factory.models.generators.settings import GeneratorSettings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        pipeline: starts from noise.
        image_pipeline: image-to-image on the same components, or None.
        schedulers: component -> one that took no step; every call samples with copies.
        class_labels: class name -> index of its embedding; empty for text models.
        width: native px.
        height: native px.
        mpp: µm per pixel as the model itself says, or None.
        revision: commit, or short weights digest of a local folder.
        weights_sha256: digest of all weight files.
        dtype: of the weights, e.g. `float32`.
        device: torch device, e.g. `cuda:0`.
        adapters: LoRA adapters as loaded, for provenance.
    """

    pipeline: Any
    image_pipeline: Any | None
    schedulers: Mapping[str, Any]
    class_labels: Mapping[str, int]
    width: int
    height: int
    mpp: float | None
    revision: str
    weights_sha256: str
    dtype: str
    device: str
    adapters: tuple[dict[str, Any], ...]

    @property
    def scheduler(self) -> Any:
        """The scheduler that makes the images."""
        return self.schedulers["scheduler"]


def _prepare(pipeline: Any, family: PipelineFamily, device: str) -> None:
    import torch

    from factory.models.generators.remembered import remember_texts
    from factory.models.generators.speed import make_fast

    model, speed = family.settings.model, family.settings.speed
    try:
        pipeline.to(device)
    except RuntimeError as error:
        raise GenerationError(f"model {model}: cannot move to {device}: {error}") from error
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    remember_texts(pipeline.components)
    family.prepare(pipeline)
    if speed is not None:
        make_fast(pipeline, speed, device)


def load_model(family: PipelineFamily) -> LoadedModel:
    """Loads the weights and everything else that sampling needs.

    Raises:
        InputError: a recipe that does not fit the model, or weights that may not be loaded.
        GenerationError: the model cannot be fetched or loaded.
    """
    import torch

    settings, entry, base = family.settings, family.entry, family.base
    known = _find_index_folder(family)
    own_code = allow_remote_code(family, known)
    folder, pipeline_class = _locate(family, known, bool(own_code))
    device = choose_device(settings.device)
    dtype = choose_dtype(settings, entry, device)
    index = read_index(folder)
    components = [name for name in index if not name.startswith("_")]
    weights.check_weights(folder, components, settings.allow_pickle)
    weights.check_variant(folder, components, settings.variant)
    weights.check_tokenizers(folder, index)
    parts = family.find_parts(folder)
    for place in parts.values():
        weights.check_weights(place, ["."], settings.allow_pickle)
    arguments = {
        **family.load_arguments,
        **own_code,
        "variant": settings.variant,
        "use_safetensors": None if settings.allow_pickle else True,
        "local_files_only": True,
        "dtype": getattr(torch, dtype),
    }
    shorten_warnings()
    with listen_to_libraries() as said, find_imports(own_code, folder):
        arguments |= {name: _read_part(name, place, dtype) for name, place in parts.items()}
        pipeline = _read_pipeline(pipeline_class, folder, arguments, settings.model)
        lacking = said.find_new_weights()
        if lacking is not None:
            raise InputError(
                f"model {settings.model}: {folder}: its files lack weights, which would be drawn "
                f"at random: {lacking[:300]}: get the whole model"
            )
        adapters = load_adapters(pipeline, settings, entry, base)
    _prepare(pipeline, family, device)
    width, height = read_native_size(pipeline, family)
    digest = weights.compute_weights_digest(folder, settings.allow_pickle, parts)
    return LoadedModel(
        pipeline=_silence(pipeline),
        image_pipeline=_share(pipeline, family),
        schedulers=_build_schedulers(pipeline, family),
        class_labels=family.find_labels(pipeline, index),
        width=width,
        height=height,
        mpp=pipeline.config.get("mpp"),
        revision=weights.name_revision(folder, digest),
        weights_sha256=digest,
        dtype=dtype,
        device=str(pipeline.device),
        adapters=adapters,
    )


def _read_pipeline(pipeline_class: Any, folder: Path, arguments: dict[str, Any], model: str) -> Any:
    """Reads the weights of a folder.

    Raises:
        InputError: they cannot be read, or do not fit what the folder's configuration says.
    """
    # diffusers reads each model's own code into one module, and would find the last one's there.
    for name in [each for each in sys.modules if each.startswith("diffusers_modules.local")]:
        del sys.modules[name]
    try:
        return pipeline_class.from_pretrained(folder, **arguments)
    except (OSError, KeyError, AttributeError, *READ_ERRORS) as error:
        broken = weights.find_broken(folder)
        said = broken or f"{folder}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"model {model}: cannot load: {said}: get the model again") from error


def _read_part(name: str, folder: Path, dtype: str) -> Any:
    """Reads a component that lies elsewhere, by the class that its configuration names.

    Raises:
        InputError: it cannot be read.
    """
    import diffusers
    import torch

    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, str(described["_class_name"]))
        options = {"torch_dtype": getattr(torch, dtype), "local_files_only": True}
        return kind.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, KeyError, AttributeError, *READ_ERRORS) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{name} {folder}: cannot load: {said}: get it again") from error


def choose_device(device: str) -> str:
    """Returns the torch device for a recipe's `device`.

    Raises:
        InputError: not a device, or one that this machine lacks.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"generator.device: {device!r} is no torch device: {error}") from error
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"generator.device: {device!r}, but {torch.cuda.device_count()} CUDA devices are here: "
            "take auto or cpu"
        )
    return device


def choose_dtype(settings: GeneratorSettings, entry: ModelEntry | None, device: str) -> str:
    """Returns the dtype of the weights; `auto` is the catalog's on CUDA and float32 elsewhere."""
    if settings.dtype != "auto":
        return settings.dtype
    if not device.startswith("cuda"):
        return "float32"
    return entry.dtype if entry is not None else "bfloat16"


def _choose_source(family: PipelineFamily) -> tuple[str, str | None]:
    """Returns the Hub id or folder, and the revision, as recipe and catalog say."""
    settings, entry = family.settings, family.entry
    source = entry.source if entry is not None else settings.model
    return source, settings.revision or (entry.revision if entry is not None else None)


def _find_index_folder(family: PipelineFamily) -> Path:
    """Returns the model's folder; of one that is not here yet, where its index is fetched to."""
    check_consent(family)
    source, revision = _choose_source(family)
    return weights.find_folder(source, family.base) or weights.fetch_index(source, revision)


def _locate(family: PipelineFamily, known: Path, runs_code: bool) -> tuple[Path, Any]:
    settings, entry, base = family.settings, family.entry, family.base
    source, revision = _choose_source(family)
    class_name = read_index(known).get("_class_name")
    paths = {path.partition(":")[2]: path for path in family.pipelines}
    if entry is not None and entry.custom_pipeline is not None:
        pipeline_class = import_name("diffusers:DiffusionPipeline")
    else:
        pipeline_class = import_name(paths.get(str(class_name), family.pipelines[0]))
    if weights.find_folder(source, base) is not None:
        return known, pipeline_class
    folder = weights.download_snapshot(
        pipeline_class, source, revision, settings.allow_pickle, settings.variant, runs_code
    )
    return folder, pipeline_class


def _build_schedulers(pipeline: Any, family: PipelineFamily) -> dict[str, Any]:
    """Returns the schedulers of a pipeline by component, the one that is asked for among them.

    Raises:
        InputError: a pipeline that steps none, or a scheduler that does not fit the model.
    """
    settings, entry = family.settings, family.entry
    asked = settings.scheduler or (entry.scheduler if entry is not None else None)
    found = {
        name: each
        for name, each in pipeline.components.items()
        if hasattr(each, "step") and hasattr(each, "set_timesteps")
    }
    if "scheduler" not in found:
        raise InputError(
            f"model {settings.model}: {type(pipeline).__name__} has no component `scheduler` that "
            "steps: it cannot be sampled here"
        )
    own = found.pop("scheduler")
    others = {name: build_scheduler(None, each, family) for name, each in found.items()}
    return {"scheduler": build_scheduler(asked, own, family, settings.steps), **others}


def _share(pipeline: Any, family: PipelineFamily) -> Any | None:
    """Returns the image-to-image pipeline on the same components, without copying weights."""
    if not family.image_pipelines:
        return None
    image_class = import_name(family.image_pipelines[0])
    if isinstance(pipeline, image_class):
        return pipeline
    accepted = inspect.signature(image_class.__init__).parameters
    shared = {key: value for key, value in pipeline.components.items() if key in accepted}
    options = {key: value for key, value in pipeline.config.items() if key in accepted}
    return _silence(image_class(**{**family.load_arguments, **options, **shared}))


def _silence(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_native_size(pipeline: Any, family: PipelineFamily) -> tuple[int, int]:
    """Returns (width, height) px of the images that the model was made for.

    Raises:
        InputError: neither the model nor the recipe tells.
    """
    if hasattr(pipeline, "image_size"):
        return pipeline.image_size, pipeline.image_size
    settings = family.settings
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    size = getattr(pipeline, "default_sample_size", None)
    size = size or getattr(getattr(network, "config", None), "sample_size", None)
    if size is None:
        found = family.native_size or (settings.width, settings.height)
        if None in found:
            raise InputError(
                f"model {settings.model}: {type(pipeline).__name__} tells no size of its images: "
                "set generator.width and generator.height"
            )
        return found  # type: ignore[return-value]
    factor, vae = getattr(pipeline, "vae_scale_factor", None), getattr(pipeline, "vae", None)
    if factor is None:
        factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = (size, size) if isinstance(size, int) else size
    return int(width) * factor, int(height) * factor


def describe_making(
    capabilities: Capabilities, dtype: str, device: str, libraries: Sequence[str]
) -> dict[str, Any]:
    """Returns size and scale of images, and what pixels hang on besides the model, as plain data.

    Args:
        capabilities: of the generator.
        dtype: of the weights.
        device: torch device, e.g. `cuda:0`.
        libraries: packages whose versions are told.
    """
    return {
        "width": capabilities.width,
        "height": capabilities.height,
        "mpp": capabilities.mpp,
        "dtype": dtype,
        "device": device.partition(":")[0],
        "device_name": name_device(device),
        **count_threads(device),
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }


def count_threads(device: str) -> dict[str, int]:
    """Returns how many threads a CPU samples with, which last bits hang on; of a GPU nothing."""
    import torch

    return {"threads": torch.get_num_threads()} if device == "cpu" else {}


def name_device(device: str) -> str:
    """Returns what a device calls itself: a GPU by its product, others by their type."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)
