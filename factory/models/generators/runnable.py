"""Whether a catalog's model can run here, and with what it is tried."""

from collections.abc import Set as AbstractSet
from pathlib import Path

from factory.catalog.entries import ModelEntry
from factory.core.errors import CatalogError, InputError, PluginError
from factory.data.records import Condition
from factory.data.streams import STREAMS
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


def choose_test_condition(
    model: str, capabilities: Capabilities, entry: ModelEntry | None = None
) -> Condition:
    """Returns a condition that a model takes: a class that it knows, else a caption.

    What else it needs is an example of what its catalog entry describes.

    Raises:
        InputError: it takes neither, or needs what nothing describes.
    """
    streams = capabilities.required | capabilities.optional
    names = capabilities.class_names
    unasked = capabilities.required - {"class_name", "caption"}
    kinds = {stream.name: stream for stream in STREAMS}
    made = [
        kinds[name].make_example(entry)
        for name in sorted(unasked)
        if name in kinds and entry is not None
    ]
    examples = [stream for stream in made if stream is not None]
    if len(examples) < len(unasked) or not (examples or streams & {"class_name", "caption"}):
        takes = ", ".join(sorted(unasked or streams)) or "nothing"
        raise InputError(f"model {model}: takes {takes}, which this check cannot give")
    if "class_name" in streams and names:
        asks_both = "caption" in capabilities.required
        return Condition(names[0], CAPTION if asks_both else None, *examples)
    if "caption" in streams:
        return Condition(None, CAPTION, *examples)
    return Condition("tumor" if "class_name" in streams else None, None, *examples)
