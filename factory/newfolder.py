"""`build_folder`: a new folder of files that appears whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factory.errors import InputError

_BUILD = ".unfinished"


@contextmanager
def build_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to write into; at the end its content is moved into `out`.

    What an earlier attempt left unfinished is removed first; anything else in `out` is not touched.

    Raises:
        InputError: `out` holds something already.
    """
    if out.exists():
        present = sorted(path.name for path in out.iterdir() if path.name != _BUILD)
        if present:
            raise InputError(f"{out}: not empty (holds {present[0]}): give --out a new folder")
    build = out / _BUILD
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    yield build
    for path in sorted(build.iterdir()):
        path.rename(out / path.name)
    build.rmdir()
