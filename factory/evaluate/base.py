"""What an evaluation is: settings, a result with a version, a measure, and what is shown of it."""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_origin

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.core.registry import import_name, name_kind
from factory.data.artefact import Artefact

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs
    from factory.engine.run import RunResult
    from factory.models.session import Session

Say = Callable[[str], None]
RunRecipe = Callable[[Path, Sequence[str], Path], "RunResult"]
"""Runs a recipe with overrides into a folder, where what is there already is kept."""
EVALUATION = "evaluation"
"""Folder of a run for what `factory evaluate ... --json` writes."""
TIERS = ("pixel fidelity", "semantic consistency", "diagnostic utility", "attribute control")
COPIES = "memorisation"
OTHER = "other measures"
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}
"""Suffix of a drawing -> its media type."""

Parts = Annotated[dict[str, Any], Field(default_factory=dict)]
"""Of a result: named parts; an older version may lack them."""
Items = Annotated[list[dict[str, Any]], Field(default_factory=list)]
Texts = Annotated[list[Any], Field(default_factory=list)]


class EvaluationSettings(fields.Options):
    """What an evaluation measures, and how; each field is an option of its command."""

    kind: str


class GridSettings(EvaluationSettings):
    """Of an evaluation that measures in the pixels what a caption grid names."""

    grid: str = Field(
        "he-attributes",
        description="Catalog id of the caption grid whose wordings and measures are used.",
    )
    catalogs: fields.CatalogFolders = ()
    size: fields.Size = None
    fit: fields.Fitted = "crop"
    seed: fields.Chance = 0


class EvaluationResult(Artefact):
    """What was found, as the JSON file holds it; a metric is an object with `mean` or `value`.

    Attributes:
        kind: of the evaluation.
        data: which sets were measured: name, digest and rows of each.
        settings: what a reader needs to measure it again.
        warnings: what makes the figures weak; so do `notes` and `leaks`.
        circular: which encoder took part in making what it judges.
    """

    kind: str | None = None
    data: Any = None
    settings: Any = None
    warnings: Texts
    notes: Texts
    leaks: Texts
    circular: Texts


def open_session(folders: Sequence[Path] = ()) -> "Session":
    """Opens the session of evaluations."""
    from factory.models.session import Session

    return Session.open(folders=folders)


@dataclass(frozen=True, slots=True)
class Context:
    """What a measure is given besides its settings.

    Attributes:
        say: called with one line at the start of each step.
        run: runs a recipe as `factory run` does, card and all.
        session: with the shipped catalogs; one for all parts of `evaluate all`.
    """

    say: Say
    run: RunRecipe
    session: "Session" = field(default_factory=open_session)
    _opened: "dict[tuple[Path, ...], Catalogs]" = field(default_factory=dict)

    def open_catalogs(self, folders: Iterable[Path]) -> "Catalogs":
        """Returns the catalogs in folders, and the shipped ones behind them; opens each once.

        Raises:
            CatalogError: a folder that is missing or holds no kind of entry.
        """
        key = tuple(folder.absolute() for folder in folders)
        if key not in self._opened:
            self._opened[key] = open_session(key).catalogs if key else self.session.catalogs
        return self._opened[key]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of `factory evaluate all`.

    Attributes:
        tier: of TIERS, COPIES, or one of the evaluation's own.
        measure: what is measured, with the encoder or arm.
        value: the figure; None where it was refused.
        low: end of the 95 % interval, if there is one.
        high: the other end.
        beside: what to read it by: the floor, chance, or the control arm, in words.
        marks: what weakens it, e.g. CIRCULAR, LABELS SEEN.
    """

    tier: str
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    beside: str = ""
    marks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        tier: str,
        measure: str,
        metric: Mapping[str, Any],
        beside: str = "",
        marks: tuple[str, ...] = (),
    ) -> Self:
        """Returns the row of a metric."""
        value = metric.get("mean", metric.get("value"))
        return cls(tier, measure, value, metric.get("low"), metric.get("high"), beside, marks)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that an evaluation leaves beside its JSON file."""

    place: str
    text: str
    shows_real: bool = False


class Evaluation:
    """Measures what images are worth; a subclass names its kind, its `Settings`, and measures.

    What follows `measure` says what is shown of a result, new or as an older version wrote it; by
    default every metric in it is.

    Attributes:
        kind: its command, `factory evaluate KIND`; by default the `kind` of its own `Settings`.
        study: `module:function` that measures, called with settings and context on use; by default
            `study:measure` below the package of the class. Or the class has its own `measure`.
        Result: model of the result.
        tier: of the table, for metrics that no `list_rows` tells of.
        names: key of a result -> what it is called in tables, added to those below; other keys lose
            their underscores.
        hidden: keys whose parts stand in the JSON file alone, added to those below.
        drawings: pictures that the report shows.
        sources: option -> where a result names the set that it took, with dots between keys.
        is_optional: it needs what many sets have not, so that `evaluate all` is whole without it.
        known_by: key by which a result of a version that wrote no `kind` is known.
    """

    kind: ClassVar[str] = ""
    study: ClassVar[str] = ""
    Settings: ClassVar[type[EvaluationSettings]] = EvaluationSettings
    Result: ClassVar[type[EvaluationResult]] = EvaluationResult
    tier: ClassVar[str] = OTHER
    names: ClassVar[Mapping[str, str]] = {
        "auroc": "AUROC",
        "macro_f1": "macro F1",
        "paired": "difference",
    }
    hidden: ClassVar[frozenset[str]] = frozenset({"settings", "per_class", "encoder"})
    drawings: ClassVar[tuple[Drawing, ...]] = ()
    sources: ClassVar[Mapping[str, str]] = {}
    is_optional: ClassVar[bool] = False
    known_by: ClassVar[str | None] = None

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuses a class that measures nothing, and drawings that no report can show.

        Raises:
            TypeError: says what is missing, or names the drawing.
        """
        super().__init_subclass__(**more)
        name_kind(cls)
        if cls.measure is Evaluation.measure:
            if not cls.study and hasattr(sys.modules.get(cls.__module__), "__path__"):
                cls.study = f"{cls.__module__}.study:measure"
            module = cls.study.partition(":")[0]
            if not module or find_spec(module) is None:
                said = f"{cls.__name__}: has no measure: write one"
                raise TypeError(f"{said}, or a module {module} with it" if module else said)
        for each in cls.drawings:
            if not (isinstance(each, Drawing) and PurePath(each.place).suffix in MEDIA):
                raise TypeError(f"{each!r}: want a Drawing, {' or '.join(MEDIA)}")

    def measure(self, context: Context) -> EvaluationResult | Mapping[str, Any]:
        """Returns the result, or its fields but `kind` and `version`.

        Raises:
            InputError: settings or images that do not fit.
            EvaluationError: a measurement that cannot be taken.
        """
        found: Mapping[str, Any] = import_name(self.study)(self.settings, context)
        return found

    def take(self, context: Context) -> EvaluationResult:
        """Measures; the result says of which kind and version it is.

        Raises:
            FactoryError: see `measure`.
        """
        found = self.measure(context)
        plain = found.to_json() if isinstance(found, EvaluationResult) else found
        return self.Result(**{"version": self.Result.newest, "kind": self.kind, **plain})

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> EvaluationSettings:
        """Returns its settings in `evaluate all`: those fields of `AllSettings`, but for `others`.

        Raises:
            InputError: it cannot run there; says why.
        """
        found: dict[str, Any] = {}
        for name, declared in cls.Settings.model_fields.items():
            if name != "kind" and hasattr(given, name):
                value = getattr(given, name)
                is_tuple = get_origin(declared.annotation) is tuple and not isinstance(value, tuple)
                found[name] = (value,) if is_tuple else value
        return cls.Settings(**{**found, **others})

    def describe_work(self) -> str:
        """Says beforehand what it takes: what is computed, and roughly how long that is."""
        return (type(self).__doc__ or self.kind).partition("\n")[0].rstrip(".")

    def mend(self, error: InputError) -> Mapping[str, Any] | None:
        """Returns other values of options with which a refused command would run, if it knows."""
        return None

    def tell_written(self) -> str:
        """Says what it wrote besides its result."""
        return ""

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[Row]:
        """Yields the lines of the table of `evaluate all`."""
        from factory.evaluate.figures import find_figures

        for path, metrics in find_figures(cls, result):
            for key, metric in metrics.items():
                words = ", ".join(each for each in (cls.name_measure(key), *path) if each)
                yield Row.of(cls.tier, words, metric)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns what the command prints."""
        from factory.evaluate.figures import tabulate_figures

        return tabulate_figures(cls, result)

    @classmethod
    def list_warnings(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns what makes the figures weak, a line each."""
        return [f"warning: {text}" for text in result.get("warnings") or ()]

    @classmethod
    def name_measure(cls, key: str) -> str:
        """Returns what a key is called in tables."""
        return {**Evaluation.names, **cls.names}.get(key, key.replace("_", " "))

    @classmethod
    def hides(cls, key: str) -> bool:
        """Whether a part of a result stands in the JSON file alone."""
        return key in cls.hidden or key in Evaluation.hidden

    @classmethod
    def list_marks(cls, result: Mapping[str, Any]) -> Iterator[str]:
        """Yields marks such as LABELS SEEN, which stand above every number."""
        marks = result.get("marks") or ()
        if isinstance(marks, Mapping):
            for arm, found in marks.items():
                yield from (
                    f"{arm}: {mark}" for mark in ([found] if isinstance(found, str) else found)
                )
        else:
            yield from map(str, marks)

    @classmethod
    def list_notes(cls, result: Mapping[str, Any]) -> Iterator[Any]:
        """Yields what a reader must know beside the figures."""
        for name in ("warnings", "notes", "leaks"):
            yield from result.get(name) or ()
        yield from (f"NOT INDEPENDENT: {part}" for part in result.get("circular") or ())

    @classmethod
    def show(cls, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the parts of a result that cards show."""
        return result

    @classmethod
    def tell_copies(cls, result: Mapping[str, Any]) -> str:
        """Returns what the card's section on memorisation says of a result, if anything."""
        return ""

    @classmethod
    def write_command(cls, name: str, result: Mapping[str, Any], folder: str) -> str:
        """Returns the command that measures a result again, on what a run folder holds now.

        Args:
            name: of the result, without `.json`.
            result: as it was read; the real sets are those that it names.
            folder: run folder.
        """
        if not cls.kind:
            return ""
        file = f"{folder}/{EVALUATION}/{name}.json"
        words = [*cls.name_sources(result), "--synthetic", folder, "--json", file]
        return shlex.join(["factory", "evaluate", cls.kind, *words])

    @classmethod
    def name_sources(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the options that name the real sets which a result took."""
        words: list[str] = []
        for option, path in cls.sources.items():
            place: Any = result
            for key in path.split("."):
                place = place.get(key) if isinstance(place, Mapping) else None
            place = place.get("path") if isinstance(place, Mapping) else place
            words += [f"--{option}", place] if isinstance(place, str) else []
        return words
