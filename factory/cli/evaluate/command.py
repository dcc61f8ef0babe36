"""The command of an evaluation, built from its settings; and what it prints of a result."""

import inspect
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from factory.cli.fields import Listed, build_options, is_given, read_settings
from factory.cli.options import NEW_FILE
from factory.core.errors import InputError, PluginError
from factory.core.fields import Options
from factory.evaluate import EVALUATIONS, view_result
from factory.evaluate.base import Evaluation


def build_command(kind: str) -> click.Command:
    """Returns the command of an evaluation; that of a broken plug-in says what is wrong with it."""
    try:
        evaluation = EVALUATIONS.get(kind)
        with EVALUATIONS.guard(kind):
            options = build_options(evaluation.Settings)
    except PluginError as error:
        return _refuse(kind, error)

    def call(json_file: Path | None, **given: Any) -> None:
        from factory import api

        part = evaluation(read_settings(evaluation.Settings, given))
        try:
            result = api.run_evaluation(kind, dict(part.settings), json_file, say)
        except InputError as error:
            changed = part.mend(error)
            if changed is None:
                raise
            file = () if json_file is None else ("--json", str(json_file))
            words = [*_write(part.settings, changed), *file]
            command = shlex.join(["factory", "evaluate", kind, *words])
            raise InputError(f"{error}\nthis works: {command}") from error
        show(kind, result)
        with EVALUATIONS.guard(kind):
            written = part.tell_written()
        if written:
            click.echo(written)

    json_option = click.Option(["--json", "json_file"], type=NEW_FILE, help="Result file.")
    params = [*options, json_option]
    return click.Command(kind, params=params, callback=call, help=inspect.getdoc(evaluation))


def show(kind: str, result: Mapping[str, Any]) -> None:
    """Prints the tables of a result, and what makes its figures weak."""

    def view(each: type[Evaluation]) -> tuple[list[str], list[str]]:
        return list(each.write_lines(result)), list(each.list_warnings(result))

    (lines, warnings), broken = view_result(result, kind, view)
    for line in lines:
        click.echo(line)
    for line in warnings:
        click.echo(line, err=True)
    if broken is not None:
        click.echo(f"warning: shown plainly: {broken}", err=True)


def say(line: str) -> None:
    """Prints what is being done."""
    click.echo(line, err=True)


def _write(settings: Options, changed: Mapping[str, Any]) -> Iterator[str]:
    """Yields the options that give these settings, some of them changed."""
    values = {**dict(settings), **changed}
    for option in build_options(type(settings)):
        value, default = values[str(option.name)], type(settings).model_fields[str(option.name)]
        if not is_given(value) or value == default.default:
            continue
        if isinstance(option.type, Listed):
            value = ",".join(map(str, value))
        for each in value if isinstance(value, tuple) else (value,):
            yield option.opts[0]
            if not getattr(option, "is_flag", False):
                yield str(each)


def _refuse(kind: str, error: PluginError) -> click.Command:
    def fail(given: tuple[str, ...]) -> None:
        raise error

    return click.Command(
        kind,
        params=[click.Argument(["given"], nargs=-1, type=click.UNPROCESSED)],
        callback=fail,
        help=f"Broken: {error}",
        short_help="BROKEN PLUG-IN: " + str(error),
        context_settings={"ignore_unknown_options": True},
    )
