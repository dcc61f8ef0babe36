"""The Python API: what notebooks call, and commands on runs, data sets and evaluations.

Importing it loads no model library; a function loads what it needs. What a function reads or writes
is a folder, a file or an fsspec URL, as on the command line. `say` is called with one line at the
start of each step; by default nothing is said.
"""

from factory.api.evaluating import (
    evaluate_control,
    evaluate_copies,
    evaluate_fewshot,
    evaluate_fidelity,
    evaluate_retrieval,
)
from factory.api.everything import AllSettings, evaluate_all
from factory.api.making import (
    Preview,
    estimate,
    load_recipe,
    plan,
    prepare_scoring,
    preview,
    refilter,
    run,
    score_images,
    status,
)
from factory.api.sharing import (
    card,
    export,
    merge,
    open_dataset,
    publish_dataset,
    regenerate,
    report,
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
