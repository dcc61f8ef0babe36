"""Adapters: LoRA, merged into a pipeline's weights, and IP-Adapters, which stand beside them."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from factory.catalog.entries import ModelEntry
from factory.core.errors import InputError
from factory.core.places import take_name
from factory.models.generators import weights
from factory.models.generators.quiet import READ_ERRORS
from factory.models.generators.settings import GeneratorSettings

_HALVES = (("lora_A", "lora_B"), ("lora_down", "lora_up"), (".down.weight", ".up.weight"))
"""Names of the two matrices of a layer, as peft, kohya's scripts and diffusers write them."""
_IMAGE = ("image_proj.", "ip_adapter.")
"""Beginnings of the names of all weights of an IP-Adapter."""
_NOT_WHOLE = "the file is not whole: fetch or save it again"


def load_adapters(
    pipeline: Any, settings: GeneratorSettings, entry: ModelEntry | None, base: Path
) -> tuple[dict[str, Any], ...]:
    """Merges the LoRA adapters of catalog entry and recipe into the weights, each with its scale.

    IP-Adapters, of which pipelines save nothing, are loaded beside them. Merged weights sample as
    fast as the base model's (Hu et al. 2022, arXiv 2106.09685, section 4).

    Raises:
        InputError: the pipeline takes no adapters, or an adapter may not be loaded.
    """
    adapters = (*(entry.adapters if entry is not None else ()), *settings.adapters)
    if not adapters:
        return ()
    name = type(pipeline).__name__
    is_flow = hasattr(pipeline, "put_classes")
    if not is_flow and not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"generator.adapters: {name} takes no LoRA adapters: leave them out")
    loaded, scales, seeing = [], dict[str, float](), dict[Path, float]()
    for position, adapter in enumerate(adapters):
        path = find_adapter(
            adapter.source, adapter.weight_name, adapter.revision, base, settings.allow_pickle
        )
        if _check_whole(path):
            seeing[path] = adapter.scale
        elif is_flow:
            from factory.models.generators.flow_adapter import merge_adapter

            merge_adapter(pipeline, path, adapter.scale)
        else:
            _load_lora(pipeline, path, f"adapter_{position}")
            scales[f"adapter_{position}"] = adapter.scale
        loaded.append(
            {
                "source": take_name(adapter.source),
                "weight_name": path.name,
                "revision": adapter.revision,
                "scale": adapter.scale,
                "sha256": weights.hash_file(path),
            }
        )
    if scales:
        pipeline.set_adapters([*scales], [*scales.values()])
        pipeline.fuse_lora(adapter_names=[*scales])
        pipeline.unload_lora_weights()
    if seeing:
        _load_image_adapters(pipeline, seeing)
    return tuple(loaded)


def _load_image_adapters(pipeline: Any, scales: Mapping[Path, float]) -> None:
    """Loads all IP-Adapters; their image encoder is not needed, as embeddings are given.

    Raises:
        InputError: the pipeline takes none, or weights that do not fit its layers.
    """
    name, first = type(pipeline).__name__, next(iter(scales))
    if not hasattr(pipeline, "load_ip_adapter"):
        raise InputError(f"{first}: an IP-Adapter, and {name} takes none: leave it out")
    known = inspect.signature(pipeline.load_ip_adapter).parameters
    options: dict[str, Any] = {"subfolder": "", "local_files_only": True}
    encoders = ("image_encoder_folder", "image_encoder_pretrained_model_name_or_path")
    options |= {each: None for each in encoders if each in known}
    many = {"weight_name": [path.name for path in scales]}
    try:
        pipeline.load_ip_adapter([str(path.parent) for path in scales], **many, **options)
        pipeline.set_ip_adapter_scale([*scales.values()])
    except (ArithmeticError, AttributeError, LookupError, OSError, *READ_ERRORS) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{first}: no IP-Adapter that fits {name} ({said}): it was trained on another model: "
            "take its base, or another adapter"
        ) from error


def _check_whole(path: Path) -> bool:
    """Checks that a file of safetensors holds weights, and both halves of each layer's pair.

    Returns whether it is an IP-Adapter.

    Raises:
        InputError: an empty file, one that cannot be read, one without weights, or lone halves.
    """
    if not path.stat().st_size:
        raise InputError(f"{path}: an empty file, no LoRA adapter: {_NOT_WHOLE}")
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="np") as opened:
            keys = frozenset(opened.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: no readable LoRA adapter ({error}): {_NOT_WHOLE}") from error
    if not keys:
        raise InputError(f"{path}: a LoRA adapter without weights: {_NOT_WHOLE}")
    partners = {key: partner for key in sorted(keys) if (partner := _name_partner(key)) is not None}
    lone = {key: partner for key, partner in partners.items() if partner not in keys}
    if lone:
        key, partner = next(iter(lone.items()))
        raise InputError(
            f"{path}: {len(lone):,} of its {len(partners):,} low-rank weights lack the other half "
            f"of their pair (down and up, A and B), e.g. {key} is there, {partner} is missing: "
            f"{_NOT_WHOLE}"
        )
    return all(key.startswith(_IMAGE) for key in keys)


def _name_partner(key: str) -> str | None:
    """Returns the name of the matrix that makes a low-rank pair with this one."""
    for down, up in _HALVES:
        for half, other in ((down, up), (up, down)):
            if half in key:
                return key.replace(half, other)
    return None


def _load_lora(pipeline: Any, path: Path, name: str) -> None:
    """Loads a LoRA file of any form that diffusers reads, all of it or nothing.

    diffusers passes over weights for which the model has no layer, with a line in the log at most.
    So what it made of the file is compared with what the networks hold afterwards.

    Raises:
        InputError: the file cannot be read, or weights of it fit no layer of the model.
    """
    model = type(pipeline).__name__
    remedy = "it was trained on another model: take its base, or another adapter"
    place = {"weight_name": path.name, "local_files_only": True}
    network = getattr(pipeline, "unet", None)
    config = {} if network is None else {"unet_config": network.config}
    try:
        found = pipeline.lora_state_dict(str(path.parent), **place, **config)
        pipeline.load_lora_weights(str(path.parent), **place, adapter_name=name)
    except (ArithmeticError, AttributeError, LookupError, OSError, *READ_ERRORS) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no LoRA adapter that fits {model} ({said}): {remedy}") from error
    state = found[0] if isinstance(found, tuple) else found
    wanted = [key for key in state if not key.endswith((".alpha", "dora_scale", "_vector"))]
    loaded = [
        f"{component}.{key}"
        for component, module in pipeline.components.items()
        if hasattr(module, "named_parameters")
        for key, _ in module.named_parameters()
        if ".lora_" in key and f".{name}" in key and "_vector" not in key
    ]
    if len(loaded) < len(wanted) or not wanted:
        layers = [key.split(".lora_")[0].partition(".")[2] for key in loaded]
        astray = [key for key in wanted if not any(layer in key for layer in layers)]
        example = f", e.g. {(astray or wanted)[0]}" if wanted else ""
        raise InputError(
            f"{path}: {len(wanted) - len(loaded)} of its {len(wanted)} weights fit no layer of "
            f"{model}{example}: {remedy}"
        )
    if len(loaded) > len(wanted):
        raise InputError(
            f"{path}: {len(wanted)} weights for layers of {model} that take {len(loaded)}: one of "
            f"a pair (down and up, A and B) is missing: {_NOT_WHOLE}"
        )


def find_adapter(
    source: str, weight_name: str | None, revision: str | None, base: Path, allow_pickle: bool
) -> Path:
    """Returns the local file of a LoRA adapter.

    Raises:
        InputError: no such adapter, more than one file, or a pickle.
        GenerationError: gated, or the Hub cannot be reached.
    """
    folder = weights.find_folder(source, base)
    if folder is None:
        path = Path(
            weights.fetch_file(source, weight_name or "pytorch_lora_weights.safetensors", revision)
        )
    elif weight_name is not None:
        path = folder / weight_name
    else:
        suffixes = (".safetensors", *weights.PICKLES) if allow_pickle else (".safetensors",)
        found = sorted(file for file in folder.glob("*") if file.suffix in suffixes)
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise InputError(f"{folder}: adapter files: {names}: name one in adapters.weight_name")
        path = found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such adapter file")
    if path.suffix != ".safetensors" and not allow_pickle:
        raise InputError(f"{path}: weights are not safetensors: {weights.PICKLE_REMEDY}")
    return path
