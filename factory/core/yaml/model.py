"""YAML documents to pydantic models: `--set` overrides, and every error at once with its place."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from factory.core.errors import Problem, RecipeError
from factory.core.notes import tell
from factory.core.yaml.fields import FieldType
from factory.core.yaml.messages import (
    FieldsError,
    advise,
    name_wanted,
    read_discriminator,
    show,
    suggest,
    write_message,
)
from factory.core.yaml.reader import (
    Document,
    FieldPath,
    format_path,
    parse_document,
    parse_value,
    read_document,
)

ModelT = TypeVar("ModelT", bound=BaseModel)

COUNTS = "per_class"
"""Field of conditions that takes one number for all classes, or class -> number."""

__all__ = [
    "Document",
    "advise",
    "apply_overrides",
    "parse_document",
    "parse_model",
    "read_document",
    "suggest",
]


# --- overrides -----------------------------------------------------------------------------------


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Returns the document with fields replaced by `path=value` texts, later ones last.

    A path is written as in messages, `conditions[0].per_class.tumor`, or with dots only,
    `conditions.0.per_class`; an entry whose `kind` (or class of one's own) no other of its list has
    may be named by it, `filters.tissue.min_fraction`. The value is YAML. Missing mappings on the
    way are made; list entries must exist. A relative path starts at the recipe's folder, or where
    one stands if it is there alone. A number over a mapping of counts is that number for each class
    named there.

    Raises:
        RecipeError: a text that is no `path=value`, a path that leads nowhere, or a bad value.
    """
    data = json.loads(json.dumps(document.data))
    positions, overridden = dict(document.positions), dict(document.overridden)
    problems: list[Problem] = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[0-9]+\])*", name.strip()):
            message = "must be a path and a value, e.g. output.shard_size=8"
            problems.append(Problem(name, f"{message}, got {text!r}", f"--set {text}"))
            continue
        try:
            given = _find_from_here(parse_value(value, f"--set {text}"), name.strip(), document)
            path = _set_value(data, name.strip(), given)
        except RecipeError as error:
            problems.extend(
                Problem(problem.field or name.strip(), problem.message, f"--set {text}")
                for problem in error.problems
            )
            continue
        for known in [entry for entry in positions if entry[: len(path)] == path]:
            del positions[known]
        for known in [entry for entry in overridden if entry[: len(path)] == path]:
            del overridden[known]
        overridden[path] = text
    if problems:
        raise RecipeError(tuple(problems))
    return Document(data, positions, document.file, overridden)


def _find_from_here(value: Any, name: str, document: Document) -> Any:
    """Makes a path absolute that is there from where one stands, and not from the recipe's folder.

    A path has a `/` in it, or is of a field `images`: other texts may be ids.
    """
    if isinstance(value, list):
        return [_find_from_here(each, name, document) for each in value]
    if not isinstance(value, str) or not (os.sep in value or name.endswith("images")):
        return value
    path = Path(value).expanduser()
    try:
        is_here = not (Path(document.file).parent / path).exists() and path.exists()
    except OSError:  # too long to be one
        return value
    return str(path.absolute()) if is_here else value


def _set_value(data: dict[str, Any], name: str, value: Any) -> FieldPath:
    parts = re.findall(r"[^.\[\]]+", name)
    holder: Any = data
    path: FieldPath = ()
    for place, part in enumerate(parts):
        if isinstance(holder, list):
            path = (*path, _find_entry(holder, part, path))
        elif isinstance(holder, dict):
            path = (*path, part)
        else:
            message = f"holds {holder!r} and has no field {part!r} to set"
            raise RecipeError((Problem(format_path(path), message),))
        key = path[-1]
        if place == len(parts) - 1:
            before = holder.get(key) if isinstance(holder, dict) else None
            holder[key] = _keep_classes(before, value, path)
        else:
            if isinstance(holder, dict) and holder.get(part) is None:
                holder[part] = {}
            holder = holder[key]
    return path


def _keep_classes(before: Any, value: Any, path: FieldPath) -> Any:
    """Spreads a number over the classes of a mapping of counts that it replaces, and tells so.

    Alone it would ask for every class of the model, which nobody means who changes a count.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if path[-1] != COUNTS or not is_number or not isinstance(before, dict) or not before:
        return value
    tell(f"{format_path(path)}: {value} for each class that it names: {', '.join(before)}")
    return dict.fromkeys(before, value)


def _find_entry(entries: list[Any], part: str, path: FieldPath) -> int:
    """Returns the position of a list's entry that is named by number or by its `kind`."""
    kinds = [each.get("kind") if isinstance(each, dict) else None for each in entries]
    classes = [each.get("class_name") if isinstance(each, dict) else None for each in entries]
    for names in (kinds, classes):
        if names.count(part) == 1:
            return names.index(part)
    if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(entries):
        return int(part)
    message = f"has {len(entries)} entries, numbered from 0, got entry {part!r}"
    named = ", ".join(kind for kind in kinds if isinstance(kind, str) and kinds.count(kind) == 1)
    raise RecipeError((Problem(format_path(path), message + (f"; or {named}" if named else "")),))


# --- validation ----------------------------------------------------------------------------------


def parse_model(document: Document, model_class: type[ModelT]) -> ModelT:
    """Validates a document strictly: text is no number, and numbers are no text or booleans.

    Raises:
        RecipeError: with every problem of the document, in the order of the file.
    """
    try:
        return model_class.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        problems = _collect_problems(document, model_class, error)
        raise RecipeError(problems) from error


def _collect_problems(
    document: Document, model_class: type[BaseModel], error: ValidationError
) -> tuple[Problem, ...]:
    groups: dict[FieldPath, list[tuple[FieldPath, FieldType, Any]]] = {}
    for details in _split_faults(error):
        path, union, kind = FieldType(model_class).follow(details["loc"])
        groups.setdefault(path if union is None else union, []).append((path, kind, details))
    found: dict[tuple[FieldPath, str], Problem] = {}
    for union, group in groups.items():
        for path, message in _settle_group(union, group):
            found[path, message] = document.make_problem(path, message)
    return tuple(sorted(found.values(), key=lambda problem: (problem.line or 0, problem.field)))


def _split_faults(error: ValidationError) -> Iterator[Any]:
    """Yields the errors as pydantic gives them, those of a validator with places each by itself."""
    for details in error.errors(include_url=False):
        found = details.get("ctx", {}).get("error")
        if not isinstance(found, FieldsError):
            yield details
            continue
        for path, message in found.faults:
            context = {"error": ValueError(message)}
            yield {**details, "loc": (*details["loc"], *path), "ctx": context}


def _settle_group(
    union: FieldPath, group: list[tuple[FieldPath, FieldType, Any]]
) -> list[tuple[FieldPath, str]]:
    """Keeps the errors of the union's branch that was meant; joins them if none was."""
    wanted = [name_wanted(details) for path, _, details in group if path == union]
    meant = [entry for entry in group if entry[0] != union or name_wanted(entry[2]) is None]
    if not meant and len(group) > 1:
        names = " or ".join(dict.fromkeys(name for name in wanted if name))
        return [(union, f"must be {names}, got {show(group[0][2]['input'])}")]
    messages = [(path, write_message(kind, details)) for path, kind, details in meant or group]
    return [
        (_place_error(path, details), message)
        for (path, message), (_, _, details) in zip(messages, meant or group, strict=True)
        if message
    ]


def _place_error(path: FieldPath, details: Any) -> FieldPath:
    is_tag = details["type"].startswith("union_tag")
    return (*path, read_discriminator(details)) if is_tag else path
