"""Folders for what is kept on disk meanwhile; where there can be none, that is told in words."""

import tempfile

from factory.core.errors import StoreError
from factory.core.files.edge import describe_failure


def make_temporary(prefix: str) -> "tempfile.TemporaryDirectory[str]":
    """Makes an empty folder of this machine, which goes with the object that is returned.

    Raises:
        StoreError: there is no room for it, or no place.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=prefix)
    except FileNotFoundError as error:  # none of the folders that it may be in can be written
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"temporary files: {error.strerror}{where}: have TMPDIR name a folder that can be "
            "written and has room, then run the same command again"
        ) from error
    except OSError as error:
        raise describe_failure("temporary files (TMPDIR)", error, is_local=True) from error
