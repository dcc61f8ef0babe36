"""Embedding conditions: images of arrays of an encoder, of a table or of real images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from factory.catalog.licences.terms import SOURCE_IMAGES, Term
from factory.core.errors import InputError, SourceError
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.records import Condition
from factory.data.rows import ARRAY, Rows
from factory.data.streams import ClassName, Embedding, Stream
from factory.data.streams.cells import Cells
from factory.data.streams.embedding import EmbeddingCells
from factory.models.encoders import list_needed
from factory.models.encoders.check import check_encoder
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import BlockImages, Identity, Planning
from factory.recipe.conditions.encoded import CLASS, EncodedRows, EncodedTable
from factory.recipe.conditions.prototypes import (
    Medoid,
    Prototypes,
    PrototypeSeries,
    check_prototypes,
    choose_medoids,
)
from factory.recipe.conditions.series import Series
from factory.recipe.conditions.table import TableKind, TableSettings, list_columns_beside
from factory.recipe.conditions.table_series import ConditionTable, Part


class EmbeddingConditions(TableKind):
    """Images of embeddings: what an encoder made of real patches."""

    streams = (Embedding,)
    source = "embeddings"

    class Settings(TableSettings):
        kind: Literal["embedding"]
        embeddings: Path | None = Field(
            None, description="parquet, npy, safetensors, jsonl or datasets folder with the arrays"
        )
        images: Path | None = Field(
            None, description="or real images, encoded here and kept; a folder is a class"
        )
        column: str | None = Field(
            None, description="of the arrays; default: `embedding`, or the only one"
        )
        encoder: str = Field(min_length=1, description="catalog id or Hub id of what made them")
        revision: str | None = Field(None, description="of the encoder that made a table's arrays")
        group_pattern: str | None = Field(
            None, description="of images: regex on file names, one (group) around the patient"
        )
        prototypes: Prototypes | None = Field(
            None, description="of images: medoids of clusters of each class, instead of all"
        )
        grid: int = Field(
            1, ge=1, le=16, description="of images: crops a side, each a token, row by row"
        )

        @model_validator(mode="after")
        def _check_source(self) -> Self:
            if (self.embeddings is None) == (self.images is None):
                raise ValueError("takes either embeddings or images: set one of them")
            for name in ("grid", "group_pattern", "prototypes") if self.images is None else ():
                if getattr(self, name) not in (None, 1):
                    raise ValueError(f"{name}: is of images: leave it out")
            if self.images is not None:
                named = {"column": self.column, "columns": self.columns or None}
                given = [name for name, value in named.items() if value is not None]
                if given:
                    raise ValueError(f"{given[0]}: is of a table of embeddings: leave it out")
                if self.revision is not None:
                    raise ValueError(
                        "revision: is what made a table; images are encoded with that of the "
                        "encoder's own spec or catalog entry: name it there"
                    )
            return self

    settings: Settings

    @property
    def path(self) -> Path:
        """Of the table or of the images."""
        return self.settings.embeddings or self.settings.images or Path()

    @property
    def held(self) -> tuple[type[Stream], ...]:
        """Images may have a class."""
        return super().held if self.settings.images is None else (Embedding, ClassName)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Its own, what chooses prototypes, and those of columns beside."""
        chosen = self.settings.prototypes
        also = () if chosen is None or chosen.encoder is None else (chosen.encoder,)
        return tuple(dict.fromkeys((self.settings.encoder, *also, *super().encoders)))

    @property
    def images(self) -> BlockImages | None:
        """The real images that are encoded."""
        settings = self.settings
        if settings.images is None:
            return None
        named = {"group_column", "group_pattern"}
        return BlockImages(settings.images, columns=settings.model_dump(include=named))

    def open_rows(self, planning: Planning) -> Rows:
        """Opens the table, or lists the images; raises SourceError where they cannot be read."""
        settings, session = self.settings, planning.session
        if self.images is None:
            return super().open_rows(planning)
        listed, root = self.images.list(session), session.resolve(self.images.path)
        if not listed:
            raise SourceError(f"{root}: holds no images")
        return EncodedRows(root, listed, session, settings.encoder, settings.grid)

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns the one series of the table or images, or one of the prototypes of each class.

        Raises:
            SourceError: a table, row or image that cannot be read, or too few for prototypes.
        """
        settings, session, found = self.settings, planning.session, list[Series]()
        chosen = settings.prototypes
        if chosen is None or self.images is None:
            return super().build_series(planning)
        root, images = session.resolve(self.path), self.images.list(session)
        names = sorted({image.class_name for image in images}, key=lambda name: name or "")
        for place, name in enumerate(names):
            mine = [image for image in images if image.class_name == name]
            each = (settings.per_row or 0) * chosen.per_class
            count = each or len(range(place, settings.count or 0, len(names)))
            medoids = choose_medoids(
                chosen, mine, name, root, session, planning.seed, settings.encoder
            )
            held = tuple(self._ask(medoid, name, root, session) for medoid in medoids)
            prototypes = tuple(medoid.prototype for medoid in medoids)
            if count:
                found.append(
                    PrototypeSeries(self.kind, name, held, prototypes, chosen.order, count)
                )
        return found

    def _ask(self, medoid: Medoid, name: str | None, root: Path, session: Session) -> Condition:
        """Returns the condition of a prototype: what the block's encoder makes of the medoid."""
        settings = self.settings
        rows = EncodedRows(root, [medoid.image], session, settings.encoder, settings.grid)
        array = rows.read(0, [ARRAY])[ARRAY]
        found = Embedding.of(array, settings.encoder, None, medoid.group_sha256)
        return Condition(name, None, replace(found, prototype=medoid.prototype))

    def make_table(self, rows: Rows, parts: Sequence[Part]) -> ConditionTable:
        """Returns the conditions, of images with the class of their folder."""
        if not isinstance(rows, EncodedRows):
            return super().make_table(rows, parts)
        labels = [(ClassName, Cells(column=CLASS))] if CLASS in rows.header else []
        space = rows.find_space()
        if space is not None:
            cells = EmbeddingCells(column=ARRAY, encoder=space, revision=self.settings.encoder)
            parts = [(Embedding, cells), *parts[1:]]
        return EncodedTable(rows, [*parts, *labels])

    def choose_cells(self, header: Sequence[str]) -> EmbeddingCells:
        """Returns the column of the arrays.

        Raises:
            InputError: there is none, or no telling which.
        """
        settings = self.settings
        others = list_columns_beside(settings)
        left = [name for name in header if name not in others]
        column = settings.column or (ARRAY if ARRAY in left or len(left) != 1 else left[0])
        if column not in header:
            message = f"no column {column!r}: name it with column"
            raise InputError(f"{message}: {advise(column, tuple(left))}")
        return EmbeddingCells(column=column, encoder=settings.encoder, revision=settings.revision)

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes what is wrong with the table; of images, without encoding one."""
        if self.images is None:
            return super().check(findings, path)
        settings = self.settings
        check_space(findings, settings.encoder, settings.grid**2, (*path, "encoder"))
        if self.images.check_groups(findings, path) and findings.check_files:
            self._check_images(findings, path)
        chosen = settings.prototypes
        how = () if chosen is None else ("as prototypes", chosen.model_dump_json())
        return [(self.kind, str(self.path), "encoded by", settings.encoder, *how)]

    def terms(self, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of the table, or of the images: the block's own, else the card's."""
        settings = self.settings
        if settings.images is None:
            return super().terms(source)
        if settings.licence is not None:
            plain = settings.licence.model_dump(mode="json")
            return (Term("encoded images", settings.images.name, plain),)
        return (Term(SOURCE_IMAGES, "of the recipe", source),)

    def _check_images(self, findings: Findings, path: FieldPath) -> None:
        planning = Planning(findings.loaded.recipe.seed, findings.loaded.session)
        place: FieldPath = (*path, "images")
        try:
            rows = self.open_rows(planning)
            if self.settings.prototypes is not None and self.images is not None:
                listed = self.images.list(planning.session)
                check_prototypes(findings, path, self.settings.prototypes, listed)
            names = self.open_table(rows).class_names
            if isinstance(rows, EncodedRows):
                for fault in rows.find_uncut():
                    findings.add((*path, "grid"), fault)
        except SourceError as error:
            findings.add(place, str(error))
            return
        findings.asked.add(names, place)
        model = findings.model
        if names and model is not None and model.streams is not None:
            if ClassName.name not in model.streams:
                findings.add(place, f"{model.name} takes no class_name: put them in one folder")
            elif model.class_names is not None:
                findings.check_names(names, model.class_names, place, model.name, keyed=False)


def check_space(findings: Findings, encoder: str, tokens: int, place: FieldPath) -> None:
    """Notes an encoder that is not there, or whose tokens the model was not conditioned on."""
    entry = None if findings.model is None else findings.model.entry
    for part in list_needed(encoder, findings.catalogs):
        check_encoder(findings, part, place)
    known = encoder in findings.catalogs.list_ids("encoders")
    if known and entry is not None and entry.embedding is not None:
        found = findings.catalogs.find_encoder(encoder)
        told = Embedding.of([[0.0] * found.dim] * tokens, found.space or encoder).find_misfit(entry)
        if told is not None:
            findings.add(place, told)
