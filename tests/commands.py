"""Many commands in one interpreter that imports once, with variables and a folder of its own.

What a test needs of a process is often no more than that: another Hub, an installed plug-in.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from factory.cli import main
from tests import ROOT

LOOP = """
import json, os, sys, traceback
from click.testing import CliRunner
from factory.cli import main

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer
print(json.dumps("ready"), file=answers, flush=True)
for line in sys.stdin:
    done = CliRunner().invoke(main, json.loads(line))
    said = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        said += "".join(traceback.format_exception(done.exception))
    print(json.dumps([done.exit_code, done.stdout, said]), file=answers, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """The interpreter: called with the words of a command, it gives what that ended with."""

    def __init__(self, asks: IO[str], answers: IO[str]) -> None:
        self._asks, self._answers = asks, answers

    def __call__(self, *words: object) -> Done:
        """Runs `factory` with these words."""
        self._asks.write(json.dumps([str(word) for word in words]) + "\n")
        self._asks.flush()
        answer = self._answers.readline()
        assert answer, "the interpreter has ended"
        return Done(*json.loads(answer))


@contextmanager
def open_commands(environment: Mapping[str, str], folder: Path = ROOT) -> Iterator[Commands]:
    """Starts the interpreter in a folder, with these variables only, and ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", LOOP], cwd=folder, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == '"ready"\n', "the interpreter has not begun"
        yield Commands(process.stdin, process.stdout)
        process.stdin.close()


def read_options(words: list[str]) -> None:
    """Reads a command's options without running it; what is wrong raises."""
    command: click.Command | None = main
    name = ""
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(click.Context(command), name)
        assert command is not None, name
    command.make_context(name, words)
