"""Caption grids: templates x attributes, counted and read by index without making them all."""

import functools
import itertools
import math
import re
import string
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from factory.core.attributes import MEASURED
from factory.core.yaml.messages import advise

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
CatalogId = Annotated[str, Field(pattern=ID_PATTERN)]


@dataclass(frozen=True, slots=True)
class _Wording:
    value: str
    text: str


@dataclass(frozen=True, slots=True)
class _Template:
    """One template of a grid, and the wordings of each attribute that it names."""

    text: str
    wordings: dict[str, tuple[_Wording, ...]]

    @property
    def size(self) -> int:
        return math.prod(len(choices) for choices in self.wordings.values())


class Measure(BaseModel):
    """How an attribute's value is read from an image.

    `by` is the measured attribute, `edges` part its range into the values, lowest first; a measure
    on an edge belongs to the higher value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: CatalogId
    title: str = ""
    templates: tuple[str, ...] = Field(min_length=1)
    attributes: dict[str, dict[str, tuple[str, ...]]]
    class_attribute: str | None = None
    measures: dict[str, Measure] = Field(default_factory=dict)

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            _list_attributes(template)
        if len(set(templates)) < len(templates):
            raise ValueError("a template stands twice: remove one")
        return templates

    @field_validator("attributes")
    @classmethod
    def _check_attributes(
        cls, attributes: dict[str, dict[str, tuple[str, ...]]], info: ValidationInfo
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        templates = info.data.get("templates", ())
        named = {name for template in templates for name in _list_attributes(template)}
        for name in sorted(named - set(attributes)):
            raise ValueError(f"a template names {{{name}}}: {advise(name, tuple(attributes))}")
        for name in sorted(set(attributes) - named) if templates else ():
            raise ValueError(f"{name!r} stands in no template: add {{{name}}} or remove it")
        for name, values in attributes.items():
            texts = [wording.text for wording in _list_wordings(values)]
            if not texts or len(set(texts)) < len(texts):
                raise ValueError(f"{name!r} needs values whose wordings all differ, got {texts}")
        return attributes

    @field_validator("class_attribute")
    @classmethod
    def _check_class_attribute(cls, name: str | None, info: ValidationInfo) -> str | None:
        for template in info.data.get("templates", ()):
            if name is not None and name not in _list_attributes(template):
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

    @functools.cached_property
    def layout(self) -> tuple[_Template, ...]:
        """The templates with the wordings that fill them."""
        return tuple(
            _Template(
                template,
                {
                    name: _list_wordings(self.attributes[name])
                    for name in _list_attributes(template)
                },
            )
            for template in self.templates
        )


def count_captions(grid: CaptionGrid) -> int:
    """Returns the number of captions of a grid, by arithmetic."""
    return sum(template.size for template in grid.layout)


def caption_at(grid: CaptionGrid, index: int) -> tuple[str, dict[str, str]]:
    """Returns one caption of a grid and the value name of each attribute in it.

    The index is read in mixed radix, the last attribute of a template changing fastest, so that no
    more than one caption is ever made.

    Raises:
        IndexError: not in [0, count_captions(grid)).
    """
    rest = index
    for template in grid.layout:
        if 0 <= rest < template.size:
            chosen: dict[str, _Wording] = {}
            for name in reversed(template.wordings):
                rest, digit = divmod(rest, len(template.wordings[name]))
                chosen[name] = template.wordings[name][digit]
            texts = {name: wording.text for name, wording in chosen.items()}
            values = {name: chosen[name].value for name in template.wordings}
            return template.text.format_map(texts), values
        rest -= template.size
    raise IndexError(f"{grid.id} has {count_captions(grid)} captions, got index {index}")


def _list_attributes(template: str) -> tuple[str, ...]:
    """Returns the names in braces, once each, in order.

    Raises:
        ValueError: braces that hold no plain name.
    """
    names: dict[str, None] = {}
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        message = f"template {template!r}: {error}: braces take an attribute's name"
        raise ValueError(message) from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not re.fullmatch(r"\w+", name):
            raise ValueError(f"template {template!r}: braces take an attribute's name only")
        names[name] = None
    return tuple(names)


def _list_wordings(values: dict[str, tuple[str, ...]]) -> tuple[_Wording, ...]:
    return tuple(
        _Wording(value, text) for value, texts in values.items() for text in texts or (value,)
    )
