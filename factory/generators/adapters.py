"""LoRA adapters: found, checked, and merged into a pipeline's weights."""

from pathlib import Path, PurePath
from typing import Any

from factory.catalog_entries import ModelEntry
from factory.errors import InputError
from factory.generators import weights
from factory.recipe import GeneratorSettings


def load_adapters(
    pipeline: Any, settings: GeneratorSettings, entry: ModelEntry | None, base: Path
) -> tuple[dict[str, Any], ...]:
    """Merges the LoRA adapters of catalog entry and recipe into the weights, each with its scale.

    Merged weights sample as fast as the base model's (Hu et al. 2022, arXiv 2106.09685, section 4).

    Raises:
        InputError: the pipeline takes no adapters, or an adapter may not be loaded.
    """
    adapters = (*(entry.adapters if entry is not None else ()), *settings.adapters)
    if not adapters:
        return ()
    name = type(pipeline).__name__
    is_flow = name == "FlowPipeline"
    if not is_flow and not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"generator.adapters: {name} takes no LoRA adapters: leave them out")
    loaded = []
    for position, adapter in enumerate(adapters):
        path = find_adapter(
            adapter.source, adapter.weight_name, adapter.revision, base, settings.allow_pickle
        )
        if is_flow:
            from factory.generators.flow_adapter import merge_adapter

            merge_adapter(pipeline, path, adapter.scale)
        else:
            pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=f"adapter_{position}",
                local_files_only=True,
            )
        loaded.append(
            {
                "source": _name_source(adapter.source),
                "weight_name": path.name,
                "revision": adapter.revision,
                "scale": adapter.scale,
                "sha256": weights.hash_file(path),
            }
        )
    if not is_flow:
        names = [f"adapter_{position}" for position in range(len(loaded))]
        pipeline.set_adapters(names, [adapter.scale for adapter in adapters])
        pipeline.fuse_lora(adapter_names=names)
        pipeline.unload_lora_weights()
    return tuple(loaded)


def _name_source(source: str) -> str:
    """Returns a Hub id as it is, and a folder without where it lies: rows tell no one's disk."""
    return PurePath(source).name if source.startswith(("/", "~")) else source


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
