"""Follows a pydantic error location through a model's annotations to the field path in the YAML.

Pydantic puts names of union branches and discriminator values into its locations; they are no part
of what a person wrote.
"""

import types
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from factory.core.yaml.reader import FieldPath


class LateUnion:
    """In an annotation: a union that is made once somebody asks for it."""

    union: Any


@dataclass(frozen=True, slots=True)
class FieldType:
    """The annotation of a field, and what it says about the values that fit."""

    annotation: Any
    description: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Field names, where this is a model."""
        return tuple(self.annotation.model_fields) if _is_model(self.annotation) else ()

    @property
    def tags(self) -> tuple[str, ...]:
        """Where this is a union of models that a field such as `kind` tells apart, its values."""
        return tuple(tag for tags in _list_tags(_list_members(self.annotation)) for tag in tags)

    def follow(
        self, location: tuple[str | int, ...]
    ) -> tuple[FieldPath, FieldPath | None, "FieldType"]:
        """Follows a location as pydantic gives it.

        Returns:
            The path as written in the YAML; the path of the plain union on the way, if there is
            one; and the type at the end, or of the model for a field that it does not have.
        """
        path: FieldPath = ()
        union: FieldPath | None = None
        here = self
        for step in location:
            here = FieldType(_unwrap(here.annotation), here.description)
            members = _list_members(here.annotation)
            if len(members) > 1:
                union = union if _list_tags(members) else path
                here = FieldType(_choose_member(members, step))
                continue
            if step == "[key]":
                continue
            path = (*path, step)
            here = here._get_inner(step)
        return path, union, FieldType(_unwrap(here.annotation), here.description)

    def _get_inner(self, step: str | int) -> "FieldType":
        annotation = self.annotation
        if _is_model(annotation):
            known = annotation.model_fields.get(step)
            return self if known is None else FieldType(known.annotation, known.description or "")
        arguments = get_args(annotation)
        if get_origin(annotation) is dict:
            return FieldType(arguments[1])
        if get_origin(annotation) in {tuple, list}:
            return FieldType(arguments[0])
        return self


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrap(annotation: Any) -> Any:
    """Removes `Annotated` and an optional None."""
    annotation = _strip(annotation)
    members = _list_members(annotation)
    if len(members) == 1 and members[0] is not annotation:
        return _unwrap(members[0])
    return annotation


def _strip(annotation: Any) -> Any:
    """Removes `Annotated`; of a late union, returns the union."""
    while get_origin(annotation) is Annotated:
        inner, *told = get_args(annotation)
        late = next((each for each in told if isinstance(each, LateUnion)), None)
        annotation = inner if late is None else late.union
    return annotation


def _list_members(annotation: Any) -> tuple[Any, ...]:
    annotation = _strip(annotation)
    if get_origin(annotation) in {Union, types.UnionType}:
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return (annotation,)


def _list_tags(members: tuple[Any, ...]) -> tuple[tuple[str, ...], ...]:
    """Returns of each branch the values of the field that tells all apart; () where none does."""
    if not all(_is_model(member) for member in members):
        return ()
    for name in members[0].model_fields:
        found = [member.model_fields.get(name) for member in members]
        if all(each is not None and get_origin(each.annotation) is Literal for each in found):
            tags = tuple(get_args(each.annotation) for each in found if each is not None)
            if len(set(chain(*tags))) == sum(map(len, tags)):
                return tags
    return ()


def _choose_member(members: tuple[Any, ...], tag: str | int) -> Any:
    """Returns the branch of a tagged union, or the only branch of a plain one that has parts."""
    tags = _list_tags(members)
    if tags:
        return next(each for each, own in zip(members, tags, strict=True) if tag in own)
    whole = [_unwrap(member) for member in members]
    parts = [member for member in whole if _is_model(member) or get_origin(member) in {dict, tuple}]
    return parts[0] if parts else whole[0]
