"""numpy for modules that a recipe is read with: imported when something of it is first asked for.

Such a module says `from __future__ import annotations`, so that annotations ask for nothing, and
writes a name for a type of arrays as text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
else:

    class _Late:
        """A module that is imported at the first look at anything in it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)  # what looks for these asks any object
            found = getattr(import_module(self._name), name)
            setattr(self, name, found)  # next time this is not called
            return found

    np = _Late("numpy")
    ArrayLike = NDArray = Any

__all__ = ["ArrayLike", "NDArray", "np"]
