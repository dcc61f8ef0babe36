"""Runs the command line and kills its own process at one call of an object store.

The call is a method of the file system (pipe_file, cp_file, rm_file), or `close` of a stream that
is written; it is fatal the first time that its last path holds a given part.
"""

from typing import Any

from factory.cli import main
from factory.core.files.store import FileStore
from factory.core.files.streams import StoreStream
from tests.killer import die


def arm(method: str, part: str, phase: str) -> None:
    """Makes one call fatal."""
    ask, close = FileStore._ask, StoreStream.close

    def ask_and_die(self: FileStore, name: str, *arguments: Any, **options: Any) -> Any:
        paths = [each for each in arguments if isinstance(each, str)]
        is_it = name == method and part in paths[-1]
        if is_it and phase == "before":
            die()
        answer = ask(self, name, *arguments, **options)
        if is_it:
            die()
        return answer

    def close_and_die(self: StoreStream) -> None:
        is_it = method == "close" and self.writable() and part in self._edge.place
        if is_it and phase == "before":
            die()
        close(self)
        if is_it:
            die()

    FileStore._ask, StoreStream.close = ask_and_die, close_and_die


def run_armed(method: str, part: str, phase: str, arguments: list[str]) -> None:
    """Runs a command that dies before or after that call."""
    arm(method, part, phase)
    main(arguments)
