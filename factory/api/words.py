"""Words that the functions of the Python API share: what counts as a path, a recipe, overrides."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from factory.recipe.file import LoadedRecipe

Say = Callable[[str], None]
"""Called with one line at the start of each step."""
AnyPath = str | PathLike[str]
"""A folder or file, or its fsspec URL."""
AnyRecipe = LoadedRecipe | AnyPath
"""A recipe that `load_recipe` gave, its file, or the name of one that ships."""
Overrides = Sequence[str] | Mapping[str, Any]
"""`["generator.steps=8"]` or `{"generator.steps": 8}`."""
ObjectFormat = Literal["coco", "yolo", "ome-labels"]
"""What `export` writes with the objects of masks."""
ExportFormat = Literal["imagefolder", "webdataset", "ome-tiff", "bags", ObjectFormat]
"""What `export` writes."""


def keep_quiet(line: str) -> None:
    """Says nothing."""


def write_overrides(overrides: Overrides) -> list[str]:
    """Returns overrides as `--set` takes them."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{name}={json.dumps(value, default=os.fspath)}" for name, value in overrides.items()]
