"""Scores that came after the run: kept in the run folder by digest, and laid over stored ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import DamageError, InputError
from factory.core.files.new_folder import WORK
from factory.core.hashing import compute_digest
from factory.data.artefact import Artefact
from factory.engine.run_folder import RunFolder
from factory.filters import FILTERS
from factory.filters.base import FilterSettings
from factory.filters.later import Gathered
from factory.recipe.recipe import Recipe

LATER = f"{WORK}/later"


class LaterRecord(Artefact):
    """`later/DIGEST.json`: see `factory.filters.later.Gathered`."""

    missing: dict[str, float | None]
    scores: dict[str, dict[str, float | None]]


@dataclass(frozen=True, slots=True)
class Later:
    """Scores to lay over those that workers stored."""

    missing: Mapping[str, float | None] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def lay_over(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds the scores to rows with `sample_id` and `scores`."""
        for row in rows if self.missing else ():
            own = self.scores.get(row["sample_id"], {})
            row["scores"] = {**(row["scores"] or {}), **self.missing, **own}


def read_later(folder: RunFolder, recipe: Recipe) -> Later:
    """Returns the scores by which a recipe decides, and that came after its run.

    Raises:
        DamageError: they are gone, or damaged.
    """
    missing: dict[str, float | None] = {}
    scores: dict[str, dict[str, float | None]] = {}
    for settings in recipe.filters:
        digest = getattr(settings, "later", None)
        if digest is None:
            continue
        found = read_scores(folder, settings.name, digest)
        missing |= found.missing
        for sample, own in found.scores.items():
            scores.setdefault(sample, {}).update(own)
    return Later(missing, scores)


def read_scores(folder: RunFolder, kind: str, digest: str) -> LaterRecord:
    """Returns the scores of one filter.

    Raises:
        DamageError: they are gone, or damaged.
    """
    name = f"{LATER}/{digest}.json"
    found = folder.read(name, LaterRecord)
    if found is None or compute_later(found.missing, found.scores) != digest:
        raise DamageError(
            f"{folder.url}/{name}: is gone or was changed: decide anew with factory refilter "
            f"{folder.url} --set filters.{kind}.FIELD=VALUE"
        )
    return found


def gather(url: str, recipe: Recipe, kinds: Iterable[str]) -> tuple[Recipe, dict[str, Gathered]]:
    """Asks the filters that people tell afterwards, those of `kinds`, what came since.

    Args:
        url: run folder.
        recipe: of the run; a filter that it has not is added at its end.
        kinds: filters that are decided by anew.

    Returns:
        The recipe that decides by what came, and that by digest.

    Raises:
        InputError: nothing came, or the folder is not on this machine.
    """
    filters: list[FilterSettings] = list(recipe.filters)
    found: dict[str, Gathered] = {}
    for kind in sorted({*kinds} & {*FILTERS.names}):
        judge = FILTERS.get(kind)
        ask = getattr(judge, "gather", None)
        if ask is None:
            continue
        if "://" in url:
            raise InputError(f"{url}: answers lie in folders on this machine: refilter there")
        came = ask(Path(url))
        digest = compute_later(came.missing, came.scores)
        found[digest] = came
        told = {"later": digest, "looked": came.looked}
        names = [each.name for each in filters]
        if kind in names:
            place = names.index(kind)
            filters[place] = filters[place].model_copy(update=told)
        else:
            filters.append(judge.Settings.model_validate({"kind": kind, **told}))
    return recipe.model_copy(update={"filters": tuple(filters)}), found


def write_later(folder: RunFolder, found: Mapping[str, Gathered]) -> None:
    """Keeps scores, each under its digest.

    Raises:
        StoreError: they cannot be written.
    """
    for digest, came in found.items():
        scores = {name: dict(own) for name, own in came.scores.items()}
        record = LaterRecord(version=1, missing=dict(came.missing), scores=scores)
        folder.files.write(f"{LATER}/{digest}.json", record.dump())


def compute_later(missing: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Returns the digest that scores are kept under."""
    return compute_digest("later scores", [missing, scores])
