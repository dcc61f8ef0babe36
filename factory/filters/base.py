"""What a filter is: settings, scores with the thresholds that bound them, and one way to decide."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from factory.catalog.entries import Strict
from factory.catalog.licences.terms import Term
from factory.core.errors import FilterError
from factory.core.late import ArrayLike, NDArray, np
from factory.core.registry import name_kind
from factory.data.images import SourceImage
from factory.data.records import SCORE_DECIMALS, Condition, Sample, Verdict
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.filters.check import FilterCheck

Scores = Mapping[str, ArrayLike]


class FilterSettings(Strict):
    """A filter as a recipe names it; of one score the `min_` is not above the `max_`."""

    kind: str

    @property
    def name(self) -> str:
        """What verdicts, `accept` and `--set` call the filter."""
        return self.kind

    def settle(self, base: Path) -> Self:
        """Returns the settings with what a file of the user's own adds, relative to `base`.

        Raises:
            SourceError: the file cannot be read.
            PluginError: it cannot be used.
            RecipeError: it refuses the settings, by field.
        """
        return self

    def change(self, values: Mapping[str, Any]) -> Self:
        """Returns the settings with other values, as the fields hold them: whole numbers as such.

        Raises:
            ValidationError: a field does not take its value.
        """
        return type(self).model_validate({**self.model_dump(), **values})

    def summarise(self) -> dict[str, Any]:
        """Returns the settings as summaries and cards tell them; `kind` is the name."""
        return {**self.model_dump(mode="json"), "kind": self.name}

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for name in type(self).model_fields:
            if not name.startswith("min_"):
                continue
            other = f"max_{name.removeprefix('min_')}"
            low, high = getattr(self, name), getattr(self, other, None)
            if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
                raise ValueError(
                    f"{name} {low:g} lies above {other} {high:g}, so that no image passes: lower "
                    "the one, or raise the other"
                )
        return self


def read_score(scores: Mapping[str, float | None], name: str) -> float:
    """Returns a score, NaN where tables have null."""
    value = scores[name]
    return math.nan if value is None else value


def round_limit(limit: float) -> float:
    """Returns a threshold as it is compared: rounded as scores are."""
    return round(limit, SCORE_DECIMALS)


@dataclass(frozen=True, slots=True)
class Score:
    """A number that a filter gives each image, and the fields of its settings that bound it.

    Attributes:
        name: column in `scores`, e.g. `tissue_fraction`; unique over all filters.
        at_least: field with the least accepted value, if there is one: `min_...`.
        at_most: field with the largest accepted value: `max_...`.
        may_be_nan: it does not apply to every image: of a class where none was asked, of glass
            where there is none.
        where: score of the same filter; where that is a number, this one must be one too.
        unknown: why it may not be, as the reason of a rejection.
    """

    name: str
    at_least: str | None = None
    at_most: str | None = None
    may_be_nan: bool = False
    where: str | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class RealImages:
    """Real images that a filter compares with: the field that names them, and how to read them."""

    field: str
    path: Path
    is_held_out: bool = False
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """`image_column`, `group_column` and `group_pattern`, as far as they are set."""

    def list(self, session: Session) -> tuple[SourceImage, ...]:
        """Lists them.

        Raises:
            SourceError: nothing there, or a column that is missing.
        """
        return session.images.list(self.path, **self.columns)


@dataclass(frozen=True, slots=True)
class Near:
    """The real image that a filter finds nearest to a made one.

    Attributes:
        image: the real one.
        fit: how it was brought to the size of the made one.
        distance: 1 is usual among real images.
    """

    image: SourceImage
    fit: str
    distance: float


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that a filter learned from, as its settings or a run's description of it tell.

    Attributes:
        classifier: catalog id or folder of one that was fitted on them; None: images with classes.
        images: where these lie, in words.
        digest: of their hashes and classes; None: not known.
    """

    classifier: str | None = None
    images: str = ""
    digest: str | None = None


class Filter(ABC):
    """Scores candidates; a subclass has its `Settings`, names its scores, and scores.

    Scoring may load models; all else must not, so that `factory refilter` works on stored scores
    without torch. A filter that throws is an infrastructure failure, never a rejection.

    Attributes:
        kind: its word in recipes: the one that the `kind` of its own `Settings` may be.
        scores: what it writes, in the order in which thresholds are asked.
        revision: of the scoring; another one does not go on with stored scores.
        needs_class: it judges nothing where a condition has no class.
        needs_caption: it judges nothing where a condition has no caption.
        likeness: score that is highest for images most like one of `real_images`, or a reference.
        nearness: score that is lowest for images nearest to a real one; it has `find_nearest`.
        fitted: field with a classifier's folder, which a few-shot study may fit on its shots.
        idle: of one that is `fitted`: thresholds that let every image pass.
        context: where it looks up files, catalogs and models: the session that it works in.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[FilterSettings]] = FilterSettings
    scores: tuple[Score, ...] = ()
    revision: ClassVar[str] = "1"
    needs_class: bool = False
    needs_caption: bool = False
    likeness: str | None = None
    nearness: str | None = None
    fitted: str | None = None
    idle: ClassVar[Mapping[str, Any]] = {}

    settings: FilterSettings

    def __init__(self, settings: Any, context: Session) -> None:
        self.settings, self.context = settings, context

    @abstractmethod
    def score(self, samples: Sequence[Sample], conditions: Sequence[Condition]) -> Scores:
        """Returns every score name -> N numbers; NaN only where a score does not apply.

        Args:
            samples: N images of one size.
            conditions: what each was asked to show.

        Raises:
            FilterError: scoring failed.
        """

    def check(self, check: FilterCheck) -> None:  # noqa: B027 - most need none
        """Notes what is wrong with the files, classes and catalog ids that the settings name."""

    def terms(self) -> tuple[Term, ...]:
        """Returns the terms of what it judges with, besides `encoders` and `classifiers`."""
        return ()

    @classmethod
    def list_labels(cls, described: Mapping[str, Any]) -> Sequence[Labels]:
        """Returns the labels that it learned from.

        Args:
            described: its settings, or what a run recorded of it.
        """
        return ()

    @property
    def encoders(self) -> tuple[str, ...]:
        """Specs of the image encoders that it judges with."""
        return ()

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Catalog ids or folders of the classifiers that it judges with."""
        return ()

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """The sets of real images that it compares with."""
        return ()

    def find_nearest(self, pixels: NDArray[np.uint8]) -> Near:
        """Returns the real image nearest to (H, W, 3) uint8 RGB pixels; only with `nearness`.

        Raises:
            FactoryError: the real images, or what compares them, cannot be had.
        """
        raise FilterError(f"{self.name}: finds no nearest real image")

    def describe(self) -> dict[str, Any]:
        """Returns kind, settings and revision as plain data for provenance.

        Raises:
            FilterError: what it judges with cannot be read.
        """
        return {**self.dump_settings(), "revision": self.revision}

    def dump_settings(self) -> dict[str, Any]:
        """Returns the settings that are set, as plain data."""
        return self.settings.model_dump(mode="json", exclude_none=True)

    def __init_subclass__(cls, **more: Any) -> None:
        """Names the kind; refuses thresholds that are no settings or point the other way.

        Raises:
            TypeError: names the score and the field.
        """
        super().__init_subclass__(**more)
        name_kind(cls)
        for score in vars(cls).get("scores", ()):
            for field, start in ((score.at_least, "min_"), (score.at_most, "max_")):
                if field and not (field.startswith(start) and field in cls.Settings.model_fields):
                    wanted = f"must be a field of {cls.__name__}.Settings named {start}..."
                    raise TypeError(f"score {score.name}: {field!r} {wanted}")

    @property
    def name(self) -> str:
        """What verdicts, `accept` and `--set` call it."""
        return self.settings.name

    @cached_property
    def score_names(self) -> tuple[str, ...]:
        """The columns that it writes."""
        return tuple(score.name for score in self.scores)

    @cached_property
    def thresholds(self) -> Mapping[str, str]:
        """Settings field -> the score that it bounds; a field that is None bounds nothing."""
        return {
            field: score.name
            for score in self.scores
            for field in (score.at_most, score.at_least)
            if field is not None
        }

    @property
    def deciding_fields(self) -> tuple[str, ...]:
        """Fields of the settings that hold thresholds, themselves or in parts of them."""
        return tuple(self.thresholds)

    def decide(self, scores: Mapping[str, float | None], class_name: str | None = None) -> Verdict:
        """Accepts or rejects one candidate from its stored scores; says why.

        The rule of every filter: a score below `at_least` or above `at_most` rejects, thresholds
        being rounded as scores are. A NaN of a score that may be NaN lets the image pass, unless
        the score named by `where` is a number; any other NaN of a bounded score rejects.

        Args:
            scores: of one candidate, rounded; None is NaN.
            class_name: what it was asked to show, for thresholds that differ by class.

        Raises:
            FilterError: a score was never stored, or the class has no threshold.
        """
        for score in self.scores:
            reason = next(self._find_faults(score, scores, class_name), None)
            if reason is not None:
                return Verdict(False, self.name, f"{score.name} {reason}")
        return Verdict(True)

    def _find_faults(
        self, score: Score, scores: Mapping[str, float | None], class_name: str | None
    ) -> Iterator[str]:
        for field, is_least in ((score.at_least, True), (score.at_most, False)):
            limit = None if field is None else getattr(self.settings, field, None)
            if limit is None:
                continue
            value = self._read(scores, score.name)
            if math.isnan(value):
                if not score.may_be_nan:
                    yield "is NaN, and always applies"
                elif score.where and not math.isnan(self._read(scores, score.where)):
                    yield f"is not known: {score.unknown}"
                continue
            limit = self._find_limit(str(field), limit, class_name)
            if value < round_limit(limit) if is_least else value > round_limit(limit):
                yield f"{value:g} {'<' if is_least else '>'} {limit:g}"

    def _find_limit(self, field: str, limit: Any, class_name: str | None) -> float:
        """Returns a threshold, of the class where it differs by class."""
        found: float | None = limit.get(class_name) if isinstance(limit, Mapping) else limit
        if found is None:
            names = ", ".join(limit)
            raise FilterError(f"{self.name}: {field} names {names}, but not {class_name!r}: add it")
        return found

    def _read(self, scores: Mapping[str, float | None], name: str) -> float:
        if name not in scores:
            raise FilterError(f"{self.name}: no stored score {name}: images were scored without it")
        return read_score(scores, name)
