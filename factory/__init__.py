"""factory: declarative, reproducible synthetic datasets for computational pathology.

    import factory

    factory.run("quickstart", "runs/quickstart")

The functions are those of `factory.api`, which is loaded when one of them is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from factory.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Returns a function of the Python API, or `__all__`: their names."""
    if name == "__all__" or not name.startswith("__"):
        api = import_module("factory.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'factory' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the functions of the Python API, too."""
    return sorted({*globals(), *import_module("factory.api").__all__})
