"""Types of options: numbers with both bounds, and paths that are of the right kind before work."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from factory.core.errors import InputError

OF_A_RUN = frozenset(
    {".factory", "data", "rejected", "webdataset", "summary.json", "recipe.json", "README.md"}
    | {"CITATION.cff", "LICENSE", "croissant.json", "prov.json"}
)
"""What a run writes into its folder; no option puts anything there."""
Parameter = click.Parameter | None
Context = click.Context | None
Command = Callable[..., None]
"""What options are added to."""
MANY = 10**9
"""The most of anything that is counted on a command line."""


def defaulted(
    names: str, default: Any, kind: Any, text: str, **more: Any
) -> Callable[[Command], Command]:
    """Returns an option that shows its default; `names` are its flags and name, with blanks."""
    return click.option(
        *names.split(), default=default, show_default=True, type=kind, help=text, **more
    )


class Number(click.FloatRange):
    """A number within bounds: neither NaN nor infinite, which no comparison refuses."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        """Reads a number."""
        if isinstance(value, str | float) and not math.isfinite(_read_float(value)):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        number: float = super().convert(value, param, ctx)
        return number


def _read_float(value: str | float) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0  # no number at all: the range says so


class LocalPath(click.Path):
    """A path on this machine: a URL is refused, and not taken for a folder called `s3:`."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        """Reads a path."""
        if "://" in str(value):
            what = "this" if param is None else param.get_error_hint(ctx)
            raise InputError(
                f"{value}: {what} takes a path on this machine, not a URL: name a local folder or "
                "file (factory publish URL --to DIR copies a finished run)"
            )
        return super().convert(value, param, ctx)


class NewPath(LocalPath):
    """A place to write to: what is there is of the right kind, and so is what lies above it."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        """Reads a path."""
        path = super().convert(value, param, ctx)
        problem = find_obstacle(Path(os.fspath(value)).absolute())
        if problem:
            self.fail(f"{str(value)!r} cannot be made: {problem}.", param, ctx)
        return path


def find_obstacle(place: Path) -> str:
    """Returns what keeps a file or folder from being made there, or an empty text."""
    from factory.data.folders import RUN_RECORD

    for folder in place.parents:
        part = place.relative_to(folder).parts[0]
        if part in OF_A_RUN and (folder / RUN_RECORD).is_file():
            return f"{part!r} of a run folder is its own ({str(folder)!r})"
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        above = next(each for each in place.parents if os.path.lexists(each))
        if not above.is_dir():
            return f"{str(above)!r} is no folder"
        return "" if os.access(above, os.W_OK) else f"{str(above)!r} is read-only"
    except OSError as error:
        return str(error.strerror)
    return ""


class Place(NewPath):
    """A place to write to: a path, checked as such, or an fsspec URL."""

    name = "path or URL"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        """Reads a path or URL."""
        if "://" in str(value):
            from factory.core.files.edge import check_bucket

            check_bucket(str(value))
            return str(value)
        return super().convert(value, param, ctx)


COUNT = click.IntRange(1, MANY)

IMAGES = LocalPath(exists=True, path_type=Path)
"""Images that are there: a folder, or a file of them."""
NEW_FOLDER = NewPath(file_okay=False, path_type=Path)
NEW_FILE = NewPath(dir_okay=False, path_type=Path)
FOLDER_PLACE = Place(file_okay=False)
FILE_PLACE = Place(dir_okay=False)


IMAGE_COLUMN = click.option(
    "--image-column", help="Column of the real images in parquet; default: image, or the only one."
)


def check_texts(arguments: list[str]) -> None:
    """Refuses texts that no command can take.

    Empty ones would pass for `not given` or for the folder where one stands; bytes that are no
    text cannot be written into any record.

    Raises:
        click.UsageError: names the option.
    """
    before = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        given = value if name.startswith("--") and equals else argument
        where = name if name.startswith("--") and equals else before or "an argument"
        if not given.strip():
            raise click.UsageError(f"{where}: is empty: give a value")
        if not given.isascii() and any("\ud800" <= each <= "\udfff" for each in given):
            raise click.UsageError(f"{where}: holds bytes that are no UTF-8 text, got {given!r}")
        before = argument if argument.startswith("-") else ""
