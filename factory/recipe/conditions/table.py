"""Kinds that read a table: each row a condition, of the kind's own stream and those beside it."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from factory.catalog.entries import LicenceTerms, ModelEntry
from factory.catalog.entries import Stream as StreamName
from factory.catalog.licences.terms import Term
from factory.core.errors import InputError, SourceError
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.images.fields import GroupColumn
from factory.data.rows import Rows, open_rows
from factory.data.streams import Caption, ClassName, Stream
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    ConditionKind,
    ConditionSettings,
    Count,
    Identity,
    Planning,
)
from factory.recipe.conditions.series import Series
from factory.recipe.conditions.table_series import ConditionTable, Part, TableSeries

MOST_TOLD = 5
"""Rows whose faults are told one by one."""


class TableSettings(ConditionSettings):
    """What every block says that reads a table."""

    columns: dict[StreamName, Annotated[str, Field(min_length=1)] | dict[str, Any]] = Field(
        {},
        description="what else a row asks for: stream -> its column, or column and more, e.g. "
        "{class_name: tissue, scale: mpp, embedding: {column: uni, encoder: uni2-h}}",
    )
    group_column: GroupColumn = None
    count: Count | None = Field(None, description="accepted images over all rows, in turn")
    per_row: Count | None = Field(None, description="accepted images of each row")
    licence: LicenceTerms | None = Field(None, description="terms of the table as you read them")

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if (self.per_row is None) == (self.count is None):
            raise ValueError("takes either per_row or count: set one of them")
        return self


def list_columns_beside(settings: TableSettings) -> frozenset[str]:
    """Returns the columns that are named for something else than the kind's own stream."""
    found = {settings.group_column} if settings.group_column is not None else set()
    for how in settings.columns.values():
        named = [how] if isinstance(how, str) else [how.get("column"), *(how.get("names") or ())]
        found |= {name for name in named if isinstance(name, str)}
    return frozenset(found)


class TableKind(ConditionKind):
    """A block whose conditions are the rows of a table; a subclass says how its stream is read.

    Attributes:
        source: the field of its settings that names the table.
    """

    source: ClassVar[str]

    @abstractmethod
    def choose_cells(self, header: Sequence[str]) -> Any:
        """Returns how columns of a table give the kind's own stream.

        Raises:
            InputError: none do.
        """

    @property
    def path(self) -> Path:
        """Of the table, as the recipe names it."""
        return Path(getattr(self.settings, self.source))

    @property
    def held(self) -> tuple[type[Stream], ...]:
        """Its own stream, and those that columns give beside it."""
        known = _name_streams()
        beside = (known[name] for name in self.settings.columns if name in known)
        return tuple(dict.fromkeys((*self.streams, *beside)))

    @property
    def has_class(self) -> bool:
        """Whether a column names classes."""
        return ClassName in self.held

    @property
    def has_caption(self) -> bool:
        """Whether a column holds captions."""
        return Caption in self.held

    @property
    def encoders(self) -> tuple[str, ...]:
        """Those of arrays in columns beside its own."""
        hows = (how for how in self.settings.columns.values() if isinstance(how, dict))
        return tuple(str(how["encoder"]) for how in hows if "encoder" in how)

    def open_table(self, rows: Rows) -> ConditionTable:
        """Returns the conditions of the rows.

        Raises:
            InputError: columns that are missing or give no stream.
        """
        beside = [self._parse(name, how) for name, how in self.settings.columns.items()]
        own = (self.stream, self.choose_cells(rows.header))
        return self.make_table(rows, [own, *beside])

    def make_table(self, rows: Rows, parts: Sequence[Part]) -> ConditionTable:
        """Returns the conditions of rows whose streams are known."""
        return ConditionTable(rows, parts, self.settings.group_column)

    def open_rows(self, planning: Planning) -> Rows:
        """Opens the table; raises SourceError where it cannot be read."""
        return open_rows(planning.session.resolve(self.path))

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns the one series of the table.

        Raises:
            SourceError: a table or row that cannot be read.
        """
        table, settings = self.open_table(self.open_rows(planning)), self.settings
        count = settings.count or len(table) * (settings.per_row or 0)
        return [TableSeries(self.kind, table, count)]

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes columns that give nothing, and rows that the model does not take."""
        if self._check_columns(findings, path) and findings.check_files:
            planning = Planning(findings.loaded.recipe.seed, findings.loaded.session)
            try:
                rows = self.open_rows(planning)
                missing = self._find_missing(rows)
                table = None if missing else self.open_table(rows)
            except InputError as error:
                findings.add((*path, self.source), str(error))
                return [(self.kind, str(self.path))]
            for field, problem in missing:
                findings.add((*path, *field), problem)
            if table is not None:
                self._check_rows(table, findings, path)
        return [(self.kind, str(self.path))]

    def list_marks(self, session: Session) -> Sequence[str]:
        """Returns the names of the palette that a column of masks has."""
        try:
            parts = [self._parse(name, how) for name, how in self.settings.columns.items()]
        except InputError:  # `check` says so
            return ()
        return tuple(name for _, cells in parts for name in getattr(cells, "marks", ()))

    def advise_lacking(self, name: str) -> tuple[str, str]:
        """Says that a column may give it."""
        return "columns", "name its column"

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of the table, and those of what streams come from."""
        licence = self.settings.licence
        plain = None if licence is None else licence.model_dump(mode="json")
        beside = (term for stream in self.held for term in stream.terms(source))
        return (Term(f"{self.kind} table", self.path.name, plain), *beside)

    def describe_content(self) -> dict[str, Any]:
        """Returns its settings without where the table lies and its terms: its rows count."""
        left_out = ("licence", self.source)
        return {k: v for k, v in super().describe_content().items() if k not in left_out}

    def _parse(self, name: str, how: str | dict[str, Any]) -> Part:
        """Returns a stream that a column gives beside the kind's own.

        Raises:
            InputError: there is none of that name, or the settings do not fit it.
        """
        known = {k: v for k, v in _name_streams().items() if v is not self.stream}
        if name not in known:
            raise InputError(f"no stream that columns give: {advise(name, tuple(known))}")
        stream = known[name]
        given = {"column": how} if isinstance(how, str) else how
        try:
            return stream, stream.Cells.model_validate(given)  # type: ignore[union-attr]
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise InputError(f"{where}: {fault['msg'].lower()}") from error

    def _find_missing(self, rows: Rows) -> list[tuple[FieldPath, str]]:
        """Returns (field, problem) of each column that is named and that a table lacks."""
        named: list[tuple[FieldPath, str]] = [
            (("columns", name), column)
            for name, how in self.settings.columns.items()
            for column in self._parse(name, how)[1].named
        ]
        if self.settings.group_column is not None:
            named.append((("group_column",), self.settings.group_column))
        return [
            (field, f"{rows.path}: no column {column!r}: {advise(column, rows.header)}")
            for field, column in named
            if column not in rows.header
        ]

    def _check_columns(self, findings: Findings, path: FieldPath) -> bool:
        """Whether the columns beside the kind's own give streams that the model takes."""
        model, before = findings.model, len(findings.problems)
        for name, how in self.settings.columns.items():
            place: FieldPath = (*path, "columns", name)
            try:
                self._parse(name, how)
            except InputError as error:
                findings.add(place, str(error))
                continue
            if model is not None and model.streams is not None and name not in model.streams:
                findings.add(place, f"{model.name} takes no {name}: remove it")
        return len(findings.problems) == before

    def _check_rows(self, table: ConditionTable, findings: Findings, path: FieldPath) -> None:
        """Notes rows that cannot be read, or that hold what the model does not take."""
        faults = self._find_faults(table, findings)
        told = [next(faults, None) for _ in range(MOST_TOLD)]
        for fault in told:
            if fault is not None:
                findings.add((*path, fault[0]), fault[1])
        more = sum(1 for _ in faults)
        if more:
            findings.add((*path, self.source), f"and {more:,} rows more")
        if any(told):
            return
        names, model = table.class_names, findings.model
        place: FieldPath = (*path, "columns", ClassName.name)
        findings.asked.add(names, place)
        if names and model is not None and model.class_names is not None:
            findings.check_names(names, model.class_names, place, model.name, keyed=False)

    def _find_faults(self, table: ConditionTable, findings: Findings) -> Iterator[tuple[str, str]]:
        """Yields (field, fault) of rows; what all of them share is told once."""
        entry = None if findings.model is None else findings.model.entry
        shared: set[str] = set()
        for index, condition in enumerate(table.read_all()):
            if isinstance(condition, SourceError):
                yield self.source, str(condition)
                continue
            try:
                streams = condition.streams
                faults = [_find_fault(stream, entry, findings.pixels) for stream in streams]
            except SourceError as error:
                yield self.source, str(error)
                continue
            for stream, fault in zip(streams, faults, strict=True):
                if fault is not None and fault not in shared:
                    shared.add(fault)
                    field = self.source if type(stream) is self.stream else "columns"
                    yield field, f"{table.rows.place(index)}: {fault}"


def _find_fault(
    stream: Stream, entry: ModelEntry | None, pixels: tuple[int, int] | None
) -> str | None:
    """Says why a model, or images of a size, cannot take a stream; raises as `find_unfit`."""
    misfit = None if entry is None else stream.find_misfit(entry)
    return misfit if misfit is not None or pixels is None else stream.find_unfit(*pixels)


def _name_streams() -> dict[str, type[Stream]]:
    """Returns the streams that columns give, by name."""
    from factory.recipe.conditions import list_streams

    return {stream.name: stream for stream in list_streams() if stream.Cells is not None}
