"""What checks of a recipe share: the recipe, the problems found, and what the model takes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from factory.catalog.checker import Checker
from factory.models.generators.families import Family

if TYPE_CHECKING:
    from factory.recipe.file import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Model:
    """What the recipe's model takes.

    `streams` and `class_names` are None where only loading the model would tell; `size` is (width,
    height) of one that makes no other, `native` that of its images where the recipe asks for none;
    `in_catalog` says whether the plan can take its class names from there.
    """

    name: str
    family: Family | None
    required: frozenset[str] = frozenset()
    streams: frozenset[str] | None = None
    class_names: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    native: tuple[int, int] | None = None
    in_catalog: bool = False


@dataclass
class Findings(Checker):
    """The problems of a recipe found so far."""

    loaded: "LoadedRecipe" = field(kw_only=True)
    model: Model | None = None
    """What the model takes; None: unknown, as a problem was noted."""

    @classmethod
    def open(cls, loaded: "LoadedRecipe", check_files: bool) -> "Findings":
        """Returns no findings yet of a recipe."""
        catalogs = loaded.session.catalogs
        return cls(loaded.document, loaded.base, catalogs, check_files, loaded=loaded)
