"""Options of a command from a settings model: each field an option, with its help and bounds."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from factory.cli.options import FOLDER_PLACE, IMAGES, MANY, NEW_FILE, NEW_FOLDER, LocalPath, Number
from factory.cli.shipped import RECIPE
from factory.core.errors import InputError
from factory.core.fields import Option, Options

SettingsT = TypeVar("SettingsT", bound=Options)
PATHS: dict[str, Any] = {
    "images": IMAGES,
    "folder": LocalPath(exists=True, file_okay=False, path_type=Path),
    "folder or URL": FOLDER_PLACE,
    "recipe": RECIPE,
    "new file": NEW_FILE,
    "new folder": NEW_FOLDER,
}


class Listed(click.types.StringParamType):
    """Values with commas between them."""

    def __init__(self, is_whole: bool) -> None:
        self._is_whole = is_whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads the values."""
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        try:
            return tuple(int(part) for part in parts) if self._is_whole else tuple(parts)
        except ValueError as error:
            name = "" if param is None else f"{param.opts[0]}: "
            raise InputError(f"{name}want numbers like 0,25,50, got {value}") from error


class SettingsCommand(click.Command):
    """A command with an option for each field of its settings, imported when it is used.

    Args:
        settings: `module:Class` of each.
    """

    def __init__(self, *args: Any, settings: Sequence[str], **kwargs: Any) -> None:
        self._settings = tuple(settings)
        super().__init__(*args, **kwargs)

    @property
    def params(self) -> list[click.Parameter]:
        """Its options, those of the settings first."""
        places, self._settings = self._settings, ()
        for place in reversed(places):
            module, name = place.split(":")
            self._params[:0] = build_options(getattr(importlib.import_module(module), name))
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = params


def build_options(settings: type[Options]) -> list[click.Parameter]:
    """Returns an option for each field, those that must be given first."""
    fields = [(name, each) for name, each in settings.model_fields.items() if name != "kind"]
    fields.sort(key=lambda field: not field[1].is_required())
    found = (_build_option(name, field) for name, field in fields)
    return [option for option in found if option is not None]


def read_settings(settings: type[SettingsT], given: Mapping[str, Any], **fixed: Any) -> SettingsT:
    """Returns settings of the options that were given; the others have the model's defaults.

    Args:
        settings: the model.
        given: as click tells it: a flag that is not set was not given.
        fixed: fields that have their value whatever it is.

    Raises:
        InputError: a value that the settings refuse.
    """
    asked = {name: value for name, value in given.items() if is_given(value)}
    return settings(**asked, **fixed)


def is_given(value: Any) -> bool:
    """Whether an option was given, as click tells it; 0 is a value."""
    return value is not None and value is not False and value != ()


def _build_option(name: str, field: FieldInfo) -> click.Option | None:
    kind, notes = _unwrap(field.annotation, list(field.metadata))
    is_many = get_origin(kind) is tuple
    if is_many:
        kind, notes = _unwrap(get_args(kind)[0], notes)
    options = [each for each in notes if isinstance(each, Option)]
    takes = next((each.takes for each in options if each.takes), None)
    if any(each.is_hidden for each in options):
        return None
    title = next((each.name for each in options if each.name), f"--{name.replace('_', '-')}")
    more: dict[str, Any] = {"help": field.description, "required": field.is_required()}
    more["metavar"] = next((each.metavar for each in options if each.metavar), None)
    if kind is bool:
        return click.Option([title, name], is_flag=True, **more)
    if takes == "list":
        return click.Option([title, name], type=Listed(kind is int), **more)
    if is_many:
        more["multiple"] = True
    elif not field.is_required() and field.default not in (None, ""):
        more |= {"default": field.default, "show_default": True}
    return click.Option([title, name], type=_choose_type(kind, notes, takes), **more)


def _choose_type(kind: Any, notes: list[Any], takes: str | None) -> Any:
    if takes == "evaluation":
        from factory.evaluate import EVALUATIONS

        return click.Choice(EVALUATIONS.names)
    if takes is not None and takes in PATHS:
        return PATHS[takes]
    if kind is Path:
        return LocalPath(path_type=Path)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind not in (int, float):
        return click.STRING
    found = {
        end: getattr(note, end)
        for note in notes
        for end in ("ge", "gt", "le", "lt")
        if getattr(note, end, None) is not None
    }
    low, high = found.get("ge", found.get("gt", -MANY)), found.get("le", found.get("lt", MANY))
    kinds = {int: click.IntRange, float: Number}
    return kinds[kind](low, high, min_open="gt" in found, max_open="lt" in found)


def _unwrap(annotation: Any, notes: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the type below `Annotated` and `| None`, and all notes on the way."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        inner = get_args(annotation)
        if get_origin(annotation) is Annotated:
            for note in inner[1:]:
                notes = [*notes, *(note.metadata if isinstance(note, FieldInfo) else [note])]
            annotation = inner[0]
        else:
            annotation = next(each for each in inner if each is not type(None))
    return annotation, notes
