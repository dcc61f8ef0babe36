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
    Where the input turns out to be wrong, no folder is left that was not there.

    Raises:
        InputError: `out` holds something already.
    """
    if out.exists():
        present = sorted(path.name for path in out.iterdir() if path.name != _BUILD)
        if present:
            raise InputError(f"{out}: not empty (holds {present[0]}): give --out a new folder")
    build = out / _BUILD
    shutil.rmtree(build, ignore_errors=True)
    made = [each for each in (out, *out.parents) if not each.exists()]
    build.mkdir(parents=True)
    try:
        yield build
    except InputError:
        shutil.rmtree(build)
        for folder in made:
            folder.rmdir()
        raise
    for path in sorted(build.iterdir()):
        path.rename(out / path.name)
    build.rmdir()
