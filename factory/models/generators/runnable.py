"""Whether a catalog's model can run here, and with what it is tried."""

from collections.abc import Set as AbstractSet
from pathlib import Path

from factory.catalog.entries import ModelEntry
from factory.core.errors import CatalogError, InputError, PluginError
from factory.data.records import Condition
from factory.models.generators.base import Capabilities
from factory.models.generators.families import open_family
from factory.models.generators.settings import GeneratorSettings

CAPTION = "H&E stained histology, lymph node, dense nuclei"


def explain_missing(entry: ModelEntry, streams: AbstractSet[str]) -> str | None:
    """Returns what a model lacks to run here, or None; asks the disk, never the network.

    Args:
        entry: the model.
        streams: names of those that condition kinds give.
    """
    try:
        family = open_family(GeneratorSettings(model=entry.id), entry, Path())
    except (CatalogError, PluginError) as error:
        return str(error)
    unasked = sorted(set(entry.required) - streams)
    if unasked and not family.is_on_record:
        return f"needs {', '.join(unasked)}"
    return family.explain_missing()


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
