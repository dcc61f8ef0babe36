"""The edge to file systems: opens one by URL, and turns all that it raises into errors of ours."""

import errno
import re
from typing import Any

from factory.core.errors import FactoryError, InputError, MissingError, StoreError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
          "abfss": "azure"}  # fmt: skip
"""Protocol -> the extra of this package that brings what speaks it."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # A listing that is kept shows what was there once: other processes write here too.
    "gcs": {"use_listings_cache": False},
    "azure": {"use_listings_cache": False},
    "s3": {
        "use_listings_cache": False,
        # Three tries of 5 s to connect: a dead endpoint is told in less than half a minute.
        "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}},
    },
}
_CREDENTIALS = frozenset(
    {
        "ClientAuthenticationError",
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
    }
)
"""Names of what botocore, google.auth and azure raise: none of them has to be installed."""
_UNREACHED = frozenset(
    {
        "ClientConnectionError",
        "ConnectionError",
        "EndpointConnectionError",
        "HTTPClientError",
        "ServiceRequestError",
        "TimeoutError",
        "TransportError",
    }
)
_NO_PLACE = re.compile(
    r"(bucket|container) (does not|doesn't) exist|NoSuchBucket|ContainerNotFound|InvalidBucketName"
)


_NO_RIGHTS = "no permission: fix the access rights, or give another folder"
_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space, or raise the quota",
    errno.EROFS: "this file system is read-only: make it writable, or give another folder",
    errno.EACCES: _NO_RIGHTS,
    errno.EPERM: _NO_RIGHTS,
    errno.ENOTDIR: "a file is where a folder must be: move it, or give another folder",
    errno.EISDIR: "a folder is where a file must be: move it, or give another folder",
    errno.EFBIG: "files may not be so large here: raise the limit, or give another folder",
    errno.EIO: "check the disk",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
}
"""What to do about an error of a disk, by its number."""


_BUCKET = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|arn:aws[^/]*")
"""What some store takes, old names of S3 among them, and access points; the store says the rest."""


def check_bucket(url: str) -> None:
    """Refuses a URL of an object store that names no bucket, or one of an impossible name.

    Raises:
        InputError: says so; the store was not asked.
    """
    protocol, _, place = url.partition("://")
    if protocol not in EXTRAS:
        return
    bucket = place.partition("/")[0].partition("@")[0]
    if not bucket:
        raise InputError(f"{url}: names no bucket: want {protocol}://BUCKET/FOLDER")
    if _BUCKET.fullmatch(bucket) is None:
        raise InputError(
            f"{url}: {bucket!r} can be no bucket: want letters, digits, dots and hyphens, with a "
            "letter or digit at both ends"
        )


def check_run_place(url: str) -> None:
    """Refuses a place where two commands could write into one run folder at a time.

    huggingface_hub's file system answers from listings that it keeps, and creates a file by looking
    whether one is there and then committing: of two callers both would win.

    Raises:
        InputError: says so; nothing was asked.
    """
    if url.partition("://")[0] == "hf":
        raise InputError(
            f"{url}: hf:// can be no run folder: two commands could write into it at a time, as no "
            "file is created there only where none is: run into a folder, or into s3://, gs:// or "
            "abfs://, and then `factory publish RUN --repo OWNER/NAME`"
        )


def open_filesystem(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the URL's path there; asks nothing of it yet.

    Raises:
        InputError: nothing here speaks its protocol, or it names no bucket that can be.
    """
    import fsspec

    protocol = url.partition("://")[0] if "://" in url else "file"
    extra = EXTRAS.get(protocol)
    check_bucket(url)
    options = _OPTIONS.get(str(extra), {})
    given = fsspec.config.conf.get(protocol, {})
    try:
        fs, root = fsspec.core.url_to_fs(url, **{**options, **given})
    except ImportError as error:
        remedy = f'pip install "factory-pathology[{extra}]"' if extra else str(error)
        raise InputError(
            f"{url}: what speaks {protocol}:// is not installed ({error.name or error}): {remedy}"
        ) from error
    except ValueError as error:
        raise InputError(f"{url}: cannot be opened: {_join_lines(error)}") from error
    except OSError as error:
        raise describe_failure(url, error, is_local=False) from error
    return fs, root


def is_of_disk(error: OSError) -> bool:
    """Tells whether an error of the system is one of a disk: it is full, read-only, not ours."""
    is_named = error.errno in _REMEDIES
    return is_named and (error.errno not in (errno.EPERM, errno.EACCES) or bool(error.filename))


class Edge:
    """Around a call of a file system: its error becomes a `StoreError` that names the object.

    Implementations raise what their client raises (botocore, aiohttp, google, azure), which has
    no base in common; so everything from there is taken, and from a disk what the system says.
    """

    def __init__(self, url: str, name: str, is_local: bool) -> None:
        self.place = f"{url.rstrip('/')}/{name}"
        self.is_local = is_local

    def __enter__(self) -> None:
        """Nothing to do yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        taken: type[Exception] = OSError if self.is_local else Exception
        if isinstance(error, taken) and not isinstance(error, FactoryError):
            raise describe_failure(self.place, error, self.is_local) from error


def describe_failure(place: str, error: Exception, is_local: bool) -> FactoryError:
    """Returns the error of ours for one of a file system: what failed, and what to do."""
    text = _join_lines(error)
    if is_local:
        reason = getattr(error, "strerror", None) or text
        if isinstance(error, FileNotFoundError):
            return MissingError(f"{place}: {reason}: run the same command again")
        number = getattr(error, "errno", None) or 0
        remedy = _REMEDIES.get(number, "check the disk")
        return StoreError(f"{place}: {reason}: {remedy}, then run the same command again")
    names = {kind.__name__ for kind in type(error).__mro__}
    if _NO_PLACE.search(text):
        return InputError(f"{place}: {text}: create it, or correct the URL")
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{place}: is not there ({text}): run the same command again")
    if names & _CREDENTIALS:
        what = f"no credentials ({text}): set those of the store (README: object stores)"
    elif isinstance(error, PermissionError):
        what = f"access is denied ({text}): check credentials and their rights"
    elif names & _UNREACHED:
        what = f"cannot be reached ({text or type(error).__name__}): check endpoint and network"
    else:
        what = f"failed ({type(error).__name__}: {text}): mend the cause"
    return StoreError(f"{place}: {what}, then run the same command again")


def _join_lines(error: BaseException) -> str:
    return " ".join(str(error).split())
