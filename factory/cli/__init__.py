"""The command line: parses, calls the library, prints. Nothing else in factory prints."""

import ast
import contextlib
import errno
import gc
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import click

from factory import __version__
from factory.cli.options import check_texts
from factory.core.errors import FactoryError, InputError
from factory.core.yaml.messages import show

COMMANDS: dict[str, str] = {
    "init": "factory.cli.recipes:init",
    "validate": "factory.cli.recipes:validate",
    "recipes": "factory.cli.shipped:recipes",
    "schema": "factory.cli.recipes:schema",
    "plan": "factory.cli.recipes:plan",
    "preview": "factory.cli.runs:preview",
    "calibrate": "factory.cli.calibrate:calibrate",
    "run": "factory.cli.runs:run",
    "judge": "factory.cli.runs:judge",
    "status": "factory.cli.runs:status",
    "refilter": "factory.cli.runs:refilter",
    "review": "factory.cli.review:review",
    "forget": "factory.cli.forget:forget",
    "report": "factory.cli.report:report",
    "card": "factory.cli.runs:card",
    "publish": "factory.cli.publish:publish",
    "regenerate": "factory.cli.verify:regenerate",
    "verify": "factory.cli.verify:verify",
    "merge": "factory.cli.merge:merge",
    "export": "factory.cli.merge:export",
    "words": "factory.cli.words:words",
    "models": "factory.cli.models:models",
    "encoders": "factory.cli.models:encoders",
    "expression": "factory.cli.expression:expression",
    "train": "factory.cli.train:train",
    "tune": "factory.cli.tune:tune",
    "evaluate": "factory.cli.evaluate:evaluate",
}
"""Command -> where it is; imported on use, so that `--help` and `validate` answer at once."""
NO_PATH = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
"""What the system says of a path that cannot be one: never our fault."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, and turns our errors into exit codes."""

    def __init__(self, *args: Any, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the commands in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        if cmd_name not in self._table:
            return None
        module, name = self._table[cmd_name].split(":")
        with _import_in_peace():
            command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists commands with the first sentence of their text, imported only if need be."""
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        rows = []
        for name in self.list_commands(ctx):
            text = _read_docstring(self._table.get(name, ""))
            command = click.Command(name, help=text) if text else self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses texts that no command can take, before any is read."""
        check_texts(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests the nearest command for a misspelt one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from factory.core.yaml.messages import suggest

            raise click.UsageError(
                f"{error.message} {suggest(args[0], self._table)}".strip()
            ) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an error becomes its message and exit code, never a traceback."""
        try:
            with _stop_on_sigterm():
                return super().invoke(ctx)
        except FactoryError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(InputError.exit_code if _names_no_path(error) else error.exit_code)
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to go on", err=True)
            ctx.exit(3)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            ctx.exit(_tell_unforeseen(error))


@contextlib.contextmanager
def _import_in_peace() -> Iterator[None]:
    """Around imports: what they make stays, and to look through it for garbage takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_docstring(place: str) -> str | None:
    """Returns the docstring of `module:function` from the source alone; None if none is there."""
    module, _, function = place.partition(":")
    spec = importlib.util.find_spec(module) if function else None
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node)
    return None


def _tell_unforeseen(error: Exception) -> int:
    """Prints one line on an error that is none of ours; returns the exit code."""
    if isinstance(error, OSError):
        from factory.core.files.edge import describe_failure, is_of_disk

        if _names_no_path(error):
            click.echo(f"error: {error.strerror}: {show(str(error.filename))}", err=True)
            return InputError.exit_code
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return FactoryError.exit_code
        if is_of_disk(error):
            place = str(error.filename or "a file of this command")
            click.echo(f"error: {describe_failure(place, error, is_local=True)}", err=True)
            return FactoryError.exit_code
    from factory.cli.crash import describe_crash

    click.echo(f"error: {describe_crash(error)}", err=True)
    return FactoryError.exit_code


def _names_no_path(error: BaseException | None) -> bool:
    """Whether an error comes of a path that the system takes for none."""
    while error is not None and not (isinstance(error, OSError) and error.errno in NO_PATH):
        error = error.__cause__
    return error is not None


def _is_reader_gone() -> bool:
    """Whether nobody reads what is printed (`| head`); then what is left goes nowhere."""
    try:
        click.echo()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return True
    return False


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: it says what is kept, and cleans up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="factory")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Turns a YAML recipe into a synthetic pathology data set that can be trusted.

    Exit codes: 0 done as asked; 1 finished with a shortfall or a failed check; 2 bad input, nothing
    was touched; 3 the run broke, or was stopped by Ctrl-C or SIGTERM, and can be resumed.
    """
    from factory.cli.notes import print_notes
    from factory.core.warned import shorten_warnings

    print_notes(ctx)
    shorten_warnings()
    if _has_namesake():
        click.echo(
            "warning: factory_boy is installed here, too, and its package is called factory as "
            "well: each overwrites or hides the other: give factory an environment of its own",
            err=True,
        )


def _has_namesake() -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("factory_boy")
    except PackageNotFoundError:
        return False
    return True
