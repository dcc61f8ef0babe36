"""What a card is made of: summary, files with sizes and hashes, schema, evaluation results."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from factory.core.errors import DamageError, InputError, MismatchError
from factory.core.markdown import join_lines
from factory.data.summary import Summary
from factory.engine.run_folder import RunFolder
from factory.evaluate.measured import EVALUATION, EvaluationRecord, explain_other, read_present
from factory.recipe.recipe import Recipe

CONFIGS = {"data": ("default", "train"), "rejected": ("rejected", "rejected")}
"""Folder -> configuration and split of `load_dataset`."""
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of the data set; `data_bytes` is its size without compression."""

    name: str
    sha256: str
    size: int
    rows: int
    data_bytes: int

    @property
    def folder(self) -> str:
        """`data` or `rejected`."""
        return self.name.split("/", 1)[0]


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
    """

    recipe: Recipe
    summary: Summary
    files: tuple[DataFile, ...] = ()
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None

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

    def list_files(self, folder: str) -> tuple[DataFile, ...]:
        """Returns the files of `data` or `rejected`."""
        return tuple(file for file in self.files if file.folder == folder)


def collect_facts(
    folder: RunFolder, recipe: Recipe, summary: Summary, url: str | None = None
) -> Facts:
    """Reads footers of the data files and the evaluation results of a finalized run.

    Raises:
        StoreError: a file cannot be read.
        InputError: an evaluation result that is no JSON object.
    """
    hashes = summary.hashes
    names = sorted(name for name in hashes if name.endswith(".parquet"))
    if not hashes:  # a run finalized before hashes were kept
        names = [f"{each}/{name}" for each in CONFIGS for name in folder.files.list(each)]
    files: list[DataFile] = []
    schemas: dict[str, pa.Schema] = {}
    for name in names:
        with folder.files.open_parquet(name) as table:
            rows, data_bytes = table.num_rows, table.data_bytes
        with folder.files.open(name, "rb") as stream:
            size = stream.seek(0, 2)
            sha256 = hashes.get(name) or _hash(stream)
        files.append(DataFile(name, sha256, size, rows, data_bytes))
        schemas.setdefault(files[-1].folder, table.schema)
    results = read_evaluations(folder)
    others = find_others(folder, results)
    kept = {name: result for name, result in results.items() if name not in others}
    return Facts(recipe, summary, tuple(files), schemas, kept, others, url)


def find_others(folder: RunFolder, results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns name -> why, of results that do not speak of the images that a folder holds now.

    Raises:
        StoreError: its data cannot be read.
    """
    if not results:
        return {}
    present = read_present(folder)
    told = {name: explain_other(result, present) for name, result in results.items()}
    return {name: why for name, why in told.items() if why}


def read_evaluations(folder: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Returns name -> result of each JSON file in the run's folder `evaluation`.

    Raises:
        InputError: a file that is no result, or one of a newer version.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in folder.files.list(EVALUATION):
        if name.endswith(".json"):
            where = f"{folder.url}/{EVALUATION}/{name}"
            try:
                result = EvaluationRecord.parse(folder.files.read(f"{EVALUATION}/{name}"))
            except (DamageError, MismatchError) as error:
                raise InputError(f"{where}: {error}: write it again, or remove it") from error
            found[name.removesuffix(".json")] = result.to_json()
    return found


def _hash(stream: Any) -> str:
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(CHUNK):
        digest.update(block)
    return digest.hexdigest()
