"""Runs the command line and kills its own process at one call of an object store.

Usage: python -m tests.store_killer METHOD PART before|after ARGUMENTS...

METHOD is a method of the file system (pipe_file, cp_file, rm_file), or `close` of a stream that is
written; it is fatal the first time that its last path holds PART.
"""

import sys
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


if __name__ == "__main__":
    arm(*sys.argv[1:4])
    main(sys.argv[4:])
