"""factory: declarative, reproducible synthetic datasets for computational pathology.

    import factory

    factory.run("quickstart", "runs/quickstart")

The functions are those of `factory.api`, which is loaded when one of them is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from factory.api import (
        AllSettings,
        Preview,
        card,
        estimate,
        evaluate_all,
        evaluate_control,
        evaluate_copies,
        evaluate_fewshot,
        evaluate_fidelity,
        evaluate_retrieval,
        export,
        load_recipe,
        merge,
        open_dataset,
        plan,
        prepare_scoring,
        preview,
        publish_dataset,
        refilter,
        regenerate,
        report,
        run,
        score_images,
        status,
        verify,
    )

__all__ = [
    "AllSettings",
    "Preview",
    "card",
    "estimate",
    "evaluate_all",
    "evaluate_control",
    "evaluate_copies",
    "evaluate_fewshot",
    "evaluate_fidelity",
    "evaluate_retrieval",
    "export",
    "load_recipe",
    "merge",
    "open_dataset",
    "plan",
    "prepare_scoring",
    "preview",
    "publish_dataset",
    "refilter",
    "regenerate",
    "report",
    "run",
    "score_images",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Returns a function of the Python API."""
    if name not in __all__:
        raise AttributeError(f"module 'factory' has no attribute {name!r}")
    return getattr(import_module("factory.api"), name)


def __dir__() -> list[str]:
    """Lists the functions of the Python API, too."""
    return sorted({*globals(), *__all__})
