"""What a stream is: one named part of a condition, from its identity to what a model gets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from factory.catalog.entries import ModelEntry, Strict
from factory.catalog.licences.terms import SOURCE_IMAGES, Term
from factory.core.errors import InputError
from factory.data.images import SourceImage
from factory.data.provenance import Provenance
from factory.data.varied import Varied

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


RealImages = Mapping[str, SourceImage]
"""Real images by sha256."""
Row = Mapping[str, Any]
"""Column -> value."""


class HasFields(Protocol):
    """What adds columns to rows: a stream, or what is told of rows besides."""

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns column -> Arrow type."""
        ...


class Stream(ABC):
    """One named part of a condition; subclasses are frozen and comparable.

    Attributes:
        name: what catalogs and families call it.
        recorded: the key of its identity in condition keys and rows; the name, where it was not
            renamed since.
        is_image: whether it is the image itself, so that none is made.
        is_shown: whether a model is told of it; else it is laid over what was made, or a note.
        is_real: whether it comes from real images of the recipe, whose terms the card tells.
        real_columns: of what `keep` puts into rows, real images: no model made them.
        Cells: how columns of a table give it, beside those of any kind; None: no table does.
    """

    name: ClassVar[str]
    recorded: ClassVar[str]
    is_image: ClassVar[bool] = False
    is_shown: ClassVar[bool] = True
    is_real: ClassVar[bool] = False
    real_columns: ClassVar[tuple[str, ...]] = ()
    Cells: ClassVar[type[Strict] | None] = None

    def __init_subclass__(cls) -> None:
        cls.recorded = vars(cls).get("recorded", cls.name)

    @classmethod
    def read_cells(cls, row: Mapping[str, Any], cells: Any, folder: Path) -> Self:
        """Returns the stream of a row of a table.

        Args:
            row: its columns that `cells` names; of a CSV file, all are text.
            cells: settings of its `Cells`.
            folder: of the table, where files that it names lie.

        Raises:
            InputError: they do not give it; the message is without its place.
        """
        raise InputError(f"no column gives {cls.name}")

    @classmethod
    def make_example(cls, entry: ModelEntry) -> Self | None:
        """Returns one to try a model with, as its catalog entry describes it; None: no telling."""
        return None

    @abstractmethod
    def identity(self) -> Any:
        """Returns what enters the condition key, as plain data."""

    def load(self, width: int, height: int) -> Any:
        """Returns what a model gets that makes images of `width` x `height` px: the identity."""
        return self.identity()

    def finish(self, pixels: "NDArray[np.uint8]") -> "tuple[NDArray[np.uint8], dict[str, Any]]":
        """Returns the image as its row has it, by what was made, and what the row notes of that.

        Args:
            pixels: (H, W, 3) uint8 RGB, as the model made it.

        Raises:
            SourceError: what it is made from cannot be read.
        """
        return pixels, {}

    def find_unfit(self, width: int, height: int) -> str | None:
        """Says why no image of this size can be made of it.

        Raises:
            SourceError: what it is made from cannot be read.
        """
        return None

    def draw(self, width: int, height: int) -> "NDArray[np.uint8] | None":
        """Returns what people see of it beside an image: (height, width, 3) uint8 RGB, or None.

        Raises:
            SourceError: what it is made from cannot be read.
        """
        return None

    @classmethod
    def draw_row(cls, identity: Any, row: Mapping[str, Any]) -> "NDArray[np.uint8] | None":
        """Returns what people see of it beside the image of a row, by what the row keeps.

        Raises:
            SourceError: what it keeps cannot be read.
        """
        return None

    def find_misfit(self, entry: ModelEntry) -> str | None:
        """Says what a model, by its catalog entry, does not take of it; None: it takes it."""
        return None

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the stream that a row recorded; by default what its identity alone gives.

        Args:
            identity: as `identity` gave it.
            images: real ones, by sha256.
            row: all of it, with what `keep` put there.

        Raises:
            DamageError: the row does not hold what `keep` put there.
        """
        return cls(identity)  # type: ignore[call-arg]

    @classmethod
    def fields(cls) -> "Mapping[str, pa.DataType]":
        """Returns the columns that it adds to the row contract, with their Arrow types."""
        return {}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns what a row shows of it, by column."""
        return {}

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns what the row of an image of `width` x `height` px keeps of it, by column.

        It is what `restore` needs and the identity does not tell, such as a mask. The provenance
        holds the hash of each (`factory.data.columns.hash_value`), which `factory verify` checks.

        Raises:
            SourceError: what it is made from cannot be read.
        """
        return {}

    def record(self) -> dict[str, Any]:
        """Returns what the provenance holds besides its identity.

        The hash of a patient or slide, or a list of several, stands under a key that ends in
        `_group_sha256`.

        Raises:
            SourceError: a real image that cannot be read.
        """
        return {}

    @classmethod
    def find_source(cls, identity: Any, record: Provenance) -> Varied | None:
        """Returns the real image that it comes from, by a row's provenance."""
        return None

    @classmethod
    def list_sources(cls, identity: Any, record: Provenance) -> tuple[Varied, ...]:
        """Returns the real images that it is restored from, by a row's provenance."""
        found = cls.find_source(identity, record)
        return () if found is None else (found,)

    @classmethod
    def terms(cls, source: Mapping[str, Any] | None) -> tuple[Term, ...]:
        """Returns the terms of what it comes from; `source` are the card's for real images."""
        return (Term(SOURCE_IMAGES, "of the recipe", source),) if cls.is_real else ()

    def list_attributes(self) -> Mapping[str, str]:
        """Returns attribute -> value that is told of it, and counted where shares are stated."""
        return {}

    def groups(self) -> tuple[str, ...]:
        """Returns the hashes of the patients or slides that it comes from."""
        return ()
