"""Caption grids: templates x attributes, counted and read by index without making them all."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from factory.catalog.captions.layout import Chosen, Template, lay_out, list_attributes
from factory.catalog.captions.weights import (
    Fault,
    Given,
    Rule,
    Weights,
    find_given_faults,
    find_rule_faults,
    find_weight_faults,
)
from factory.core.attributes import MEASURED
from factory.core.errors import InputError
from factory.core.yaml.messages import FieldsError, advise

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
CatalogId = Annotated[str, Field(pattern=ID_PATTERN)]


class Measure(BaseModel):
    """How an attribute's value is read from an image.

    `by` is the measured attribute, `edges` part its range into the values, lowest first; a measure
    on an edge belongs to the higher value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    by: str
    edges: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(min_length=1)

    @field_validator("by")
    @classmethod
    def _check_by(cls, by: str) -> str:
        if by not in MEASURED:
            raise ValueError(f"{by!r} is not measured: {advise(by, MEASURED)}")
        return by

    @field_validator("edges")
    @classmethod
    def _check_edges(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError(f"must increase, got {list(edges)}")
        return edges


class CaptionGrid(BaseModel):
    """Captions as templates x attributes, addressed by index.

    `attributes` maps an attribute to its values, and a value's name to its wordings (none: the name
    is the wording). The grid is, for each template, the product of every wording of every value of
    each attribute that it names in braces. `class_attribute` names the attribute whose value is the
    class. `measures` says which attributes can be measured from an image and how.

    `never_together` keeps captions from contradicting themselves: of each rule, no caption says one
    value of each attribute. `weights` and `given` (a table for each value of another attribute)
    state how often values occur; attributes that neither names have equal shares. `base` is a grid
    whose fields hold where this one has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    id: CatalogId
    title: str = ""
    templates: tuple[str, ...] = Field(min_length=1)
    attributes: dict[str, dict[str, tuple[str, ...]]]
    class_attribute: str | None = None
    measures: dict[str, Measure] = Field(default_factory=dict)
    base: CatalogId | None = None
    never_together: tuple[Rule, ...] = ()
    weights: Weights = Field(default_factory=dict)
    given: Given = Field(default_factory=dict)

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            list_attributes(template)
        if len(set(templates)) < len(templates):
            raise ValueError("a template stands twice: remove one")
        return templates

    @field_validator("attributes")
    @classmethod
    def _check_attributes(
        cls, attributes: dict[str, dict[str, tuple[str, ...]]], info: ValidationInfo
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        templates = info.data.get("templates", ())
        named = {name for template in templates for name in list_attributes(template)}
        for name in sorted(named - set(attributes)):
            raise ValueError(f"a template names {{{name}}}: {advise(name, tuple(attributes))}")
        for name in sorted(set(attributes) - named) if templates else ():
            raise ValueError(f"{name!r} stands in no template: add {{{name}}} or remove it")
        for name, values in attributes.items():
            texts = [text for value, known in values.items() for text in known or (value,)]
            if not texts or len(set(texts)) < len(texts):
                raise ValueError(f"{name!r} needs values whose wordings all differ, got {texts}")
        return attributes

    @field_validator("class_attribute")
    @classmethod
    def _check_class_attribute(cls, name: str | None, info: ValidationInfo) -> str | None:
        for template in info.data.get("templates", ()):
            if name is not None and name not in list_attributes(template):
                raise ValueError(f"template {template!r} does not name {{{name}}}: add it")
        return name

    @field_validator("measures")
    @classmethod
    def _check_measures(
        cls, measures: dict[str, Measure], info: ValidationInfo
    ) -> dict[str, Measure]:
        attributes = info.data.get("attributes", {})
        for name, measure in measures.items() if attributes else ():
            if name not in attributes:
                raise ValueError(f"{name!r} is no attribute: {advise(name, tuple(attributes))}")
            wanted = len(attributes[name]) - 1
            if len(measure.edges) != wanted:
                raise ValueError(
                    f"{name!r} has {wanted + 1} value(s) and takes {wanted} edge(s), "
                    f"got {len(measure.edges)}"
                )
        return measures

    @field_validator("never_together", "weights", "given")
    @classmethod
    def _check_shares(cls, value: Any, info: ValidationInfo) -> Any:
        known, field = info.data.get("attributes"), info.field_name
        if not known:
            return value
        if field == "never_together":
            faults = find_rule_faults(known, value)
        elif field == "weights":
            faults = find_weight_faults(known, value)
        else:
            faults = find_given_faults(known, info.data.get("weights", {}), value)
        if found := tuple(faults):
            raise FieldsError(found)
        return value

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        if self.never_together or self.is_weighted:
            try:
                self.layout  # noqa: B018
            except ValueError as error:
                at = "never_together" if self.never_together else "given"
                raise FieldsError([((at,), str(error))]) from error
        return self

    @property
    def is_weighted(self) -> bool:
        """Whether it states how often values occur."""
        return bool(self.weights or self.given)

    @functools.cached_property
    def layout(self) -> tuple[Template, ...]:
        """The templates with what may fill them."""
        return lay_out(
            self.templates, self.attributes, self.weights, self.given, self.never_together
        )

    def describe(self) -> dict[str, Any]:
        """Returns what shapes its captions, as plain data: what identities are made of."""
        content = self.model_dump(mode="json", exclude={"title", "base"})
        for name in ("never_together", "weights", "given"):
            if not content[name]:  # as before there were any
                del content[name]
        return content

    def find_faults(self, weights: Weights, given: Given) -> list[Fault]:
        """Returns what is wrong in other shares, as `reweigh` takes them: path and message."""
        found = [
            (("weights", *at), what) for at, what in find_weight_faults(self.attributes, weights)
        ]
        found += [
            (("given", *at), what)
            for at, what in find_given_faults(self.attributes, weights, given)
        ]
        if not found:
            try:
                self.reweigh(weights, given)
            except ValidationError as error:
                at = "given" if given else "weights"
                found = [((at,), str(each["ctx"]["error"])) for each in error.errors()]
        return found

    def keep_naming(self, names: Iterable[str]) -> "CaptionGrid":
        """Returns it with the templates alone in which these attributes may take any value.

        Raises:
            InputError: none names them all, but for those where `never_together` ties one of them.
        """
        wanted = set(names)
        kept = tuple(
            each.text
            for each in self.layout
            if wanted <= each.wordings.keys()
            and not any(rule.keys() & wanted for rule in each.rules)
        )
        for name in sorted(wanted - self.attributes.keys()):
            near = advise(name, tuple(self.attributes))
            raise InputError(f"{self.id}: no template names {name}: {near}")
        if not kept:
            listed = " and ".join(sorted(wanted))
            raise InputError(f"{self.id}: no template names {listed} free of never_together")
        fields = {name: getattr(self, name) for name in CaptionGrid.model_fields}
        return CaptionGrid.model_construct(**{**fields, "templates": kept})

    def reweigh(self, weights: Weights, given: Given) -> "CaptionGrid":
        """Returns it with other shares of the attributes that either names.

        Raises:
            ValidationError: they do not fit the grid.
        """
        named = {*weights, *given}
        content = self.model_dump(mode="json", exclude_unset=True)
        for field, mine in (("weights", weights), ("given", given)):
            kept = {name: row for name, row in content.get(field, {}).items() if name not in named}
            content[field] = {**kept, **mine}
        return CaptionGrid.model_validate(content)


def count_captions(grid: CaptionGrid) -> int:
    """Returns the number of captions of a grid, by arithmetic."""
    return sum(template.size for template in grid.layout)


def caption_at(grid: CaptionGrid, index: int) -> tuple[str, dict[str, str]]:
    """Returns one caption of a grid and the value of each attribute in it; raises as `words_at`."""
    template, chosen = words_at(grid, index)
    return template.fill(chosen)


def words_at(grid: CaptionGrid, index: int) -> tuple[Template, Chosen]:
    """Returns the template of one caption of a grid, and what fills it.

    The index is read in mixed radix, the last attribute of a template changing fastest, so that no
    more than one caption is ever made.

    Raises:
        IndexError: not in [0, count_captions(grid)).
    """
    rest = index
    for template in grid.layout:
        if 0 <= rest < template.size:
            chosen: dict[str, tuple[str, str]] = {}
            for tied in reversed(template.tied):
                rest, digit = divmod(rest, tied.size)
                chosen |= tied.choose(digit)
            return template, chosen
        rest -= template.size
    raise IndexError(f"{grid.id} has {count_captions(grid)} captions, got index {index}")


def draw_caption(grid: CaptionGrid, point: int, bits: int) -> tuple[str, dict[str, str]]:
    """Returns the caption at a point, and the value of each attribute in it; as `draw_words`."""
    template, chosen = draw_words(grid, point, bits)
    return template.fill(chosen)


def draw_words(grid: CaptionGrid, point: int, bits: int) -> tuple[Template, Chosen]:
    """Returns what a caption is filled with at a point of [0, 2**bits): each has its share of it.

    Templates share alike, then values as the grid states, then wordings alike: in this order each
    splits what the one before leaves, so that points that are spread evenly ask for shares that
    are met evenly.

    Args:
        grid: the grid.
        point: in [0, 2**bits).
        bits: enough for all the splits: 128 are.
    """
    line = _Line(point, bits)
    template = grid.layout[line.split((1.0,) * len(grid.layout))]
    values: dict[str, str] = {}
    for tied in template.tied:
        place = line.split(tied.shares)
        values |= zip(tied.names, tied.combinations[place], strict=True)
    chosen = {}
    for name, value in values.items():
        known = template.wordings[name][value]
        chosen[name] = value, known[line.split((1.0,) * len(known))]
    return template, chosen


def list_phrases(grid: CaptionGrid) -> tuple[str, ...]:
    """Returns the wordings of all values."""
    kinds = grid.attributes.values()
    return tuple(
        text for values in kinds for value, texts in values.items() for text in texts or (value,)
    )


def list_shares(grid: CaptionGrid) -> dict[str, dict[str, float]]:
    """Returns attribute -> value -> its share of the captions by `draw_caption` that say it."""
    found: dict[str, dict[str, float]] = {}
    for tied in (tied for template in grid.layout for tied in template.tied):
        for combination, share in zip(tied.combinations, tied.shares, strict=True):
            for name, value in zip(tied.names, combination, strict=True):
                row = found.setdefault(name, dict.fromkeys(grid.attributes[name], 0.0))
                row[value] += share
    totals = {name: sum(row.values()) for name, row in found.items()}
    return {
        name: {value: share / totals[name] for value, share in row.items()}
        for name, row in found.items()
    }


class _Line:
    """A point on a line that is split again and again; what it falls into becomes the line."""

    def __init__(self, point: int, bits: int) -> None:
        self.point, self.length = point, 1 << bits

    def split(self, parts: Sequence[float]) -> int:
        """Returns the part that the point falls into."""
        total, before, low = math.fsum(parts), 0.0, 0
        for place, part in enumerate(parts):
            before += part
            high = self.length
            if place < len(parts) - 1:
                high = min(self.length, int(Fraction(before / total) * self.length))
            if self.point < high:
                self.point, self.length = self.point - low, high - low
                return place
            low = high
        raise ValueError(f"point {self.point} is not on a line of {self.length}")
