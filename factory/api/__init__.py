"""The Python API: what notebooks call, and commands on runs, data sets and evaluations.

Importing it loads no model library; a function loads what it needs. What a function reads or writes
is a folder, a file or an fsspec URL, as on the command line. `say` is called with one line at the
start of each step; by default nothing is said.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from factory.api.catalogs import (
    adopt_model,
    check_encoder,
    check_model,
    convert_model,
    copy_recipe,
    find_encoder,
    find_model,
    list_catalog,
    list_encoders,
    list_models,
    list_recipes,
    schema,
)
from factory.api.evaluating import (
    evaluate_composition,
    evaluate_control,
    evaluate_copies,
    evaluate_fewshot,
    evaluate_fidelity,
    evaluate_readers,
    evaluate_retrieval,
    evaluate_segmentation,
    evaluate_translation,
    run_evaluation,
)
from factory.api.everything import evaluate_all
from factory.api.expression import score_expression
from factory.api.forgetting import forget
from factory.api.making import (
    Preview,
    calibrate,
    estimate,
    load_recipe,
    measure_speeds,
    plan,
    prepare_scoring,
    preview,
    refilter,
    run,
    score_images,
    status,
    validate,
)
from factory.api.reviewing import read_review_answers, review, watch, write_review_page
from factory.api.sharing import (
    card,
    check_words,
    export,
    merge,
    open_dataset,
    publish_dataset,
    regenerate,
    report,
    verify,
    write_words,
)
from factory.api.training import (
    train_adapter,
    train_classifier,
    train_encoder,
    train_generator,
    train_layout,
    train_translator,
)
from factory.api.tuning import tune

if TYPE_CHECKING:
    from factory.evaluate.everything import AllSettings

__all__ = [
    "AllSettings",
    "Preview",
    "adopt_model",
    "calibrate",
    "card",
    "check_encoder",
    "check_model",
    "check_words",
    "convert_model",
    "copy_recipe",
    "estimate",
    "evaluate_all",
    "evaluate_composition",
    "evaluate_control",
    "evaluate_copies",
    "evaluate_fewshot",
    "evaluate_fidelity",
    "evaluate_readers",
    "evaluate_retrieval",
    "evaluate_segmentation",
    "evaluate_translation",
    "export",
    "find_encoder",
    "find_model",
    "forget",
    "list_catalog",
    "list_encoders",
    "list_models",
    "list_recipes",
    "load_recipe",
    "measure_speeds",
    "merge",
    "open_dataset",
    "plan",
    "prepare_scoring",
    "preview",
    "publish_dataset",
    "read_review_answers",
    "refilter",
    "regenerate",
    "report",
    "review",
    "run",
    "run_evaluation",
    "schema",
    "score_expression",
    "score_images",
    "status",
    "train_adapter",
    "train_classifier",
    "train_encoder",
    "train_generator",
    "train_layout",
    "train_translator",
    "tune",
    "validate",
    "verify",
    "watch",
    "write_review_page",
    "write_words",
]


def __getattr__(name: str) -> Any:
    """Returns `AllSettings`, whose module takes longer to load than those of all functions."""
    if name == "AllSettings":
        return import_module("factory.evaluate.everything").AllSettings
    raise AttributeError(f"module 'factory.api' has no attribute {name!r}")
