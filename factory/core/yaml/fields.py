"""Follows a pydantic error location through a model's annotations to the field path in the YAML.

Pydantic puts names of union branches and discriminator values into its locations; they are no part
of what a person wrote.
"""

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from factory.core.yaml.reader import FieldPath


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
    def kinds(self) -> tuple[str, ...]:
        """Values of `kind`, where this is a union of models that it tells apart."""
        return tuple(_get_kinds(member)[0] for member in _list_members(self.annotation))

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
                union = union if _is_tagged(members) else path
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
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = _list_members(annotation)
    if len(members) == 1 and members[0] is not annotation:
        return _unwrap(members[0])
    return annotation


def _list_members(annotation: Any) -> tuple[Any, ...]:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in {Union, types.UnionType}:
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return (annotation,)


def _get_kinds(member: Any) -> tuple[str, ...]:
    if _is_model(member) and "kind" in member.model_fields:
        annotation = member.model_fields["kind"].annotation
        if get_origin(annotation) is Literal:
            return get_args(annotation)
    return ("",)


def _is_tagged(members: tuple[Any, ...]) -> bool:
    return all(_get_kinds(member) != ("",) for member in members)


def _choose_member(members: tuple[Any, ...], tag: str | int) -> Any:
    """Returns the branch of a tagged union, or the only branch of a plain one that has parts."""
    if _is_tagged(members):
        return next(member for member in members if tag in _get_kinds(member))
    whole = [_unwrap(member) for member in members]
    parts = [member for member in whole if _is_model(member) or get_origin(member) in {dict, tuple}]
    return parts[0] if parts else whole[0]
