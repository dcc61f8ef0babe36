"""Every evaluation that the data allow, and the four tiers in one table.

The tiers are UniPath's; memorisation stands beside them. The table holds nothing of its own: each
row names the part, and so the result file, that it comes from.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import EvaluationError, FactoryError, InputError, PluginError
from factory.core.files.atomic import write_file
from factory.evaluate import DEFAULT_ENCODER, EVALUATIONS, view_result
from factory.evaluate.base import (
    COPIES,
    EVALUATION,
    TIERS,
    Context,
    Evaluation,
    EvaluationResult,
    EvaluationSettings,
    Parts,
)

Tell = Callable[[str, "Mapping[str, Any] | Exception | None"], None]
"""Called with a part and None before it is measured, then with its result or why it has none."""


def pass_over(part: str, found: Mapping[str, Any] | Exception | None) -> None:
    """Tells nobody."""


class AllSettings(EvaluationSettings):
    """What is measured, and how; each evaluation takes of it what it needs."""

    kind: Literal["tiers"] = "tiers"
    real: fields.Images = Field(description="Real training images.")
    test: fields.Images = Field(description="Real images that no training used.")
    synthetic: fields.Images = Field(description="Finished run, or any image set.")
    out: fields.NewFolder | None = Field(
        None, description="Folder for results; default: evaluation/ in --synthetic."
    )
    encoder: Annotated[str, fields.Option(metavar="SPEC")] = Field(
        DEFAULT_ENCODER, description="Image encoder."
    )
    shots: int = Field(10, ge=1, le=10_000, description="Of each class, in the few-shot study.")
    seeds: fields.Draws = Field(5, description="Draws of shots.")
    steps: fields.Count | None = Field(None, description="Of every arm of the few-shot study.")
    fewshot_encoder: str | None = Field(
        None, description="Frozen encoder and linear head, instead of ResNet-18."
    )
    pairs: fields.Images | None = Field(
        None, description="Held-out image-caption pairs: measures retrieval too."
    )
    clip: str = Field("tiny", description="Image-text model of retrieval.")
    pretrained: str | None = Field(None, description="Tag of its weights.")
    grid: str = Field("he-attributes", description="Caption grid of control.")
    targets: fields.Images | None = Field(
        None, description="Real images of the places that were translated: translation too."
    )
    spots: Annotated[Path, fields.Option(takes="images")] | None = Field(
        None, description="CSV of real spots with cell-type proportions: composition too."
    )
    masks: fields.Images | None = Field(
        None, description="Label maps named as --real are, with --test-masks: segmentation too."
    )
    test_masks: fields.Images | None = Field(None, description="Likewise of --test.")
    image_column: fields.ImageColumn = None
    group_pattern: fields.GroupPattern = None
    fit: fields.Fitted = "crop"
    size: fields.Pixels = Field(64, description="px of all images.")
    skip: tuple[Annotated[str, fields.Option(takes="evaluation")], ...] = Field(
        (), description="Leave a part out."
    )
    force: bool = Field(False, description="Go on with leaks and small sets, and mark them.")
    catalogs: fields.CatalogFolders = ()

    @property
    def folder(self) -> Path:
        """Folder for results."""
        return self.out or self.synthetic / EVALUATION

    @property
    def has_card(self) -> bool:
        """Whether the results land in a finished run, whose card shows them."""
        from factory.engine.dataset import Dataset

        is_run = Dataset(str(self.synthetic)).summary is not None
        return is_run and self.folder == self.synthetic / EVALUATION

    @property
    def cache(self) -> Path:
        """Folder for features, which parts share."""
        return self.folder / "features"


class Everything(Evaluation):
    """Runs every evaluation that the data allow, and fills one table of four tiers.

    Each part's result lies in OUT as JSON, where `factory card` finds it. A part that cannot be
    measured is named with its reason. Labels that models or filters saw beyond the shots, and shots
    of other draws, are marked in the few-shot study; test images that leak are refused. The same
    command resumes the long parts.
    """

    kind = "tiers"
    Settings = AllSettings
    sources: ClassVar[Mapping[str, str]] = {"real": "settings.real", "test": "settings.test"}

    class Result(EvaluationResult):
        """Tier -> measure -> figure and what to read it by; part -> why it was not measured."""

        tiers: Parts
        not_measured: Parts

    settings: AllSettings

    def __init__(self, settings: AllSettings, tell: Tell = pass_over) -> None:
        super().__init__(settings)
        self._tell = tell

    def plan(self) -> tuple[dict[str, Evaluation], dict[str, str]]:
        """Returns the parts that can be measured, in order, and why the others cannot."""
        found: dict[str, Evaluation] = {}
        missing: dict[str, str] = {}
        for name in EVALUATIONS.names:
            if name in self.settings.skip:
                missing[name] = "left out by --skip"
                continue
            try:
                kind = EVALUATIONS.get(name)
                with EVALUATIONS.guard(name):
                    found[name] = kind(kind.adapt(self.settings))
            except InputError as error:
                missing[name] = _brief(error)
        return found, missing

    def measure(self, context: Context) -> dict[str, Any]:
        """Measures every part, writes its result, and returns the table.

        Raises:
            StoreError: results cannot be written.
        """
        settings = self.settings
        parts, missing = self.plan()
        results: dict[str, Mapping[str, Any]] = {}
        for name, part in parts.items():
            self._tell(name, None)
            try:
                with EVALUATIONS.guard(name):
                    found = part.take(context)
            except (EvaluationError, InputError) as error:
                paths = (settings.synthetic, settings.real, settings.test)
                missing[name] = _shorten(_brief(error), paths)
                self._tell(name, error)
                continue
            write_file(settings.folder / f"{name}.json", found.dump())
            results[name] = found.to_json()
            self._tell(name, results[name])
        named = {"real": str(settings.real), "test": str(settings.test)}
        return build_tiers(
            results, {n: missing[n] for n in EVALUATIONS.names if n in missing}, named
        )

    @classmethod
    def write_command(cls, name: str, result: Mapping[str, Any], folder: str) -> str:
        """Returns the command that fills the table again."""
        words = [*cls.name_sources(result), "--synthetic", folder]
        return shlex.join(["factory", "evaluate", "all", *words])


def is_whole(missing: Iterable[str], skipped: Iterable[str]) -> bool:
    """Whether nothing is missing but what was left out, or needs what many sets have not."""
    working, _ = EVALUATIONS.list_all()
    may = {name for name, each in working.items() if each.is_optional}
    return not set(missing) - set(skipped) - may


def build_tiers(
    results: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the table as plain data.

    Args:
        results: part -> what its evaluation returned.
        missing: part -> why it was not measured.
        settings: where the real sets lie.
    """
    from factory.evaluate.measured import join_data

    tiers: dict[str, dict[str, Any]] = {tier: {} for tier in (*TIERS, COPIES)}
    for part, result in results.items():
        rows, broken = view_result(result, part, partial(_list_rows, result))
        for tier, measure, found in rows:
            if broken is not None:
                found["marks"] = (*found["marks"], f"BROKEN PLUG-IN: {broken.brief}")
            tiers.setdefault(tier, {})[measure] = {**found, "part": part}
    return {
        "kind": Everything.kind,
        "data": join_data(results.values()),
        "settings": dict(settings or {}),
        "tiers": tiers,
        "not_measured": dict(missing),
    }


def list_rows(table: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Returns tier, measure, value with interval, what to read it by, and marks, as text.

    Args:
        table: what `build_tiers` returned; a tier of which nothing was measured has a row too.
    """
    rows = []
    for tier, measures in table["tiers"].items():
        if not measures:
            rows.append((tier, "not measured", "", "", ""))
        for measure, found in measures.items():
            value = "refused" if found["value"] is None else f"{found['value']:.3g}"
            if found["low"] is not None:
                value += f" [{found['low']:.3g}, {found['high']:.3g}]"
            rows.append((tier, measure, value, found["beside"], ", ".join(found["marks"])))
    return rows


def _list_rows(
    result: Mapping[str, Any], kind: type[Evaluation]
) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns tier and measure of each row, and the rest of it."""
    rows = [asdict(row) for row in kind.list_rows(result)]
    return [(row.pop("tier"), row.pop("measure"), row) for row in rows]


def _brief(error: FactoryError) -> str:
    """Returns what a result, which is published, says of an error."""
    return error.brief if isinstance(error, PluginError) else str(error)


def _shorten(text: str, paths: Sequence[Path]) -> str:
    """Returns a text without the folders above the sets: results are published."""
    for path in paths:
        for form in (str(path.absolute()), str(path)):
            text = text.replace(form, path.name)
    return text
