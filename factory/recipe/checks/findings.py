"""What checks of a recipe share: the recipe, the problems found, and what the model takes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from factory.catalog.catalog import ModelEntry
from factory.catalog.checker import Checker
from factory.core.yaml.reader import FieldPath
from factory.models.generators.families import Family

if TYPE_CHECKING:
    from factory.recipe.file import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Model:
    """What the recipe's model takes.

    `family` is None where only the network would tell, `streams` and `class_names` where only
    loading the model would.
    """

    name: str
    family: Family | None
    required: frozenset[str] = frozenset()
    streams: frozenset[str] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def entry(self) -> ModelEntry | None:
        """Its catalog entry, which the plan can take class names from."""
        return None if self.family is None else self.family.entry


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

    def check_strength(self, strength: float, steps: int | None, path: FieldPath) -> None:
        """Notes a start within the path that leaves a cache nothing to leave out."""
        family = None if self.model is None else self.model.family
        steps = family.num_inference_steps if family is not None and steps is None else steps
        if family is None or steps is None:
            return
        idle = family.explain_idle_cache(max(1, round(steps * strength)))
        if idle is not None:
            advice = "raise strength or steps, or lower generator.cache.start"
            self.add((*path, "strength"), f"cache: {idle} that it runs: {advice}")

    def check_prompt(self, template: str | None, path: FieldPath) -> None:
        """Checks a block's own template of prompts, and that the model takes text."""
        self.check_template(template, path, required=False)
        model = self.model
        if template is None or model is None or model.streams is None:
            return
        if "caption" not in model.streams:
            self.add(path, f"{model.name} takes no text: remove it")
