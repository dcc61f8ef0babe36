"""Whether a catalog's model can run here, and with what it is tried."""

from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from pathlib import Path

from factory.catalog.entries import ModelEntry
from factory.catalog.vocabulary import SCHEDULERS
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.models.generators.base import Capabilities
from factory.models.generators.families import FAMILIES

CAPTION = "H&E stained histology, lymph node, dense nuclei"


def explain_missing(entry: ModelEntry, streams: AbstractSet[str]) -> str | None:
    """Returns what a model lacks to run here, or None; asks the disk, never the network.

    Args:
        entry: the model.
        streams: names of those that condition kinds give.
    """
    unasked = sorted(set(entry.required) - streams)
    own_code = entry.custom_pipeline is not None or entry.remote_code
    scheduler = SCHEDULERS.get((entry.scheduler or "").removesuffix("Scheduler"))
    package = None if scheduler is None else scheduler.package
    reason: str | None = None
    if entry.family == "given":
        reason = "judges only: factory judge"
    elif entry.family == "fake":
        reason = None
    elif entry.family not in FAMILIES:
        reason = "on record only"
    elif unasked:
        reason = f"needs {', '.join(unasked)}"
    elif package is not None and find_spec(package) is None:
        reason = f"needs the package {package}"
    elif Path(entry.source).is_absolute():
        is_here = (Path(entry.source) / "model_index.json").is_file()
        reason = None if is_here else "its weights are missing"
    elif not _is_cached(entry):
        gate = "gated, not downloaded" if entry.licence.gated else "not downloaded"
        reason = f"{gate}, runs its own code" if own_code else gate
    elif own_code:
        reason = "runs its own code: generator.trust_remote_code"
    return reason


def _is_cached(entry: ModelEntry) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.source, "model_index.json", revision=entry.revision)
    return isinstance(found, str)


def choose_test_condition(model: str, capabilities: Capabilities) -> Condition:
    """Returns a condition that a model takes: a class that it knows, else a caption.

    Raises:
        InputError: it takes neither.
    """
    streams = capabilities.required | capabilities.optional
    names = capabilities.class_names
    unasked = capabilities.required - {"class_name", "caption"}
    if unasked or not streams & {"class_name", "caption"}:
        takes = ", ".join(sorted(unasked or streams)) or "nothing"
        raise InputError(f"model {model}: takes {takes}, which this check cannot give")
    if "class_name" in streams and names:
        asks_both = "caption" in capabilities.required
        return Condition(names[0], CAPTION if asks_both else None)
    if "caption" in streams:
        return Condition(None, CAPTION)
    return Condition("tumor")
