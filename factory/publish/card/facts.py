"""What a card is made of: summary, files with sizes and hashes, schema, evaluation results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from factory.core.markdown import join_lines
from factory.data.summary import Summary
from factory.engine.dataset import DATA, DataFile, Dataset
from factory.evaluate import AnyResult, view_result
from factory.evaluate.base import EVALUATION
from factory.evaluate.measured import explain_other, read_present
from factory.publish.card.promises import Promises, collect_promises
from factory.recipe.conditions import list_real_columns
from factory.recipe.recipe import Recipe

CONFIGS = {"data": ("default", "train"), "rejected": ("rejected", "rejected")}
"""Folder -> configuration and split of `load_dataset`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a card says, read from a run.

    Attributes:
        recipe: what was asked.
        summary: what was counted.
        files: parquet files, by folder and name.
        schemas: folder -> Arrow schema of its files.
        evaluations: name -> result of `factory evaluate`, of the images that are there.
        left_out: name -> why a result does not speak of these images.
        url: where it is published, or None.
        sampled: model -> schedulers and steps of its rows.
        promises: lines of each filter that promises something of accepted images.
    """

    recipe: Recipe
    summary: Summary
    files: tuple[DataFile, ...] = ()
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    sampled: Mapping[str, tuple[tuple[str, int | None], ...]] = field(default_factory=dict)
    promises: Promises = ()

    @property
    def title(self) -> str:
        """Name for people, on one line."""
        return join_lines(self.recipe.card.pretty_name or self.recipe.name)

    @property
    def license_id(self) -> str:
        """The licence it was published under, else the recipe's."""
        return str(self.summary.license or self.recipe.card.license)

    @property
    def is_synthetic(self) -> bool:
        """False where given images were judged."""
        return not self.summary.judged

    @property
    def varies_real_images(self) -> bool:
        """Whether images are variations of real ones."""
        return self.summary.varies_real_images

    @property
    def real_columns(self) -> tuple[str, ...]:
        """Columns in which rows may hold real images."""
        schema = self.schemas.get(DATA)
        return () if schema is None else list_real_columns(schema.names)

    def list_files(self, folder: str) -> tuple[DataFile, ...]:
        """Returns the files of `data` or `rejected`."""
        return tuple(file for file in self.files if file.folder == folder)


def collect_facts(dataset: Dataset, url: str | None = None) -> Facts:
    """Reads footers of the data files and the evaluation results of a finalized run.

    Raises:
        StoreError: a file cannot be read.
        InputError: not finalized, or an evaluation result that is no JSON object.
    """
    recipe, summary = dataset.require_finished()
    files = dataset.measure_files()
    first = {file.folder: file.name for file in reversed(files)}
    schemas = {folder: dataset.read_schema(name) for folder, name in first.items()}
    results = read_evaluations(dataset)
    others = find_others(dataset, results)
    kept = {name: result for name, result in results.items() if name not in others}
    sampled = {}
    if DATA in schemas and list_real_columns(schemas[DATA].names):  # of sources, else all alike
        sampled = _find_sampled(dataset, [file.name for file in files if file.folder == DATA])
    promises = collect_promises(dataset, recipe, summary)
    return Facts(recipe, summary, files, schemas, kept, others, url, sampled, promises)


def _find_sampled(
    dataset: Dataset, names: Sequence[str]
) -> dict[str, tuple[tuple[str, int | None], ...]]:
    """Returns model -> schedulers and steps of its rows, sorted; raises StoreError as above."""
    wanted = ["model", "scheduler", "num_inference_steps"]
    found: dict[str, set[tuple[str, int | None]]] = {}
    for name in names:
        for row in dataset.iterate_rows(name, wanted):
            model, scheduler, steps = (row.values[column] for column in wanted)
            found.setdefault(str(model), set()).add((str(scheduler), steps))
    return {model: tuple(sorted(each, key=str)) for model, each in found.items()}


def find_others(dataset: Dataset, results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns name -> why, of results that do not speak of the images that are there now.

    Raises:
        StoreError: its data cannot be read.
    """
    if not results:
        return {}
    present = read_present(dataset)
    told = {name: explain_other(result, present) for name, result in results.items()}
    return {name: why for name, why in told.items() if why}


def write_again(dataset: Dataset, name: str, result: Mapping[str, Any]) -> str:
    """Returns the command that measures a result anew; empty where nobody knows one."""
    return view_result(result, name, lambda kind: kind.write_command(name, result, dataset.url))[0]


def read_evaluations(dataset: Dataset) -> dict[str, Mapping[str, Any]]:
    """Returns name -> result of each JSON file in the folder `evaluation`.

    Raises:
        InputError: a file that is no result, or one of a newer version.
    """
    found = dataset.read_records(EVALUATION, AnyResult)
    return {name: record.to_json() for name, record in found.items()}
