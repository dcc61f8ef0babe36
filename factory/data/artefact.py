"""`Artefact`: base of all that is written to disk as JSON and read again, by this version or later.

What an older version wrote is read with the fields that it had, and is written back with just
those; fields that this version does not know are kept. A newer layout is refused in words.
"""

import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from factory.core.errors import DamageError, MismatchError
from factory.core.plain import write_json


class Part(BaseModel):
    """A part of a record: of it, too, fields that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    def to_json(self) -> dict[str, Any]:
        """Returns what is written: fields that were given, in their order, and unknown ones."""
        return self.model_dump(mode="json", exclude_unset=True)


class Artefact(Part):
    """A record on disk; `version` is that of its layout, absent in what is older than the field."""

    newest: ClassVar[int] = 1

    version: int = 1

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """Reads a record.

        Raises:
            DamageError: it cannot be one; the message is without its place.
            MismatchError: a newer version of factory wrote it.
        """
        try:
            read = cls.model_validate_json(data)
        except ValidationError:  # what is wrong is told by what is read step by step
            return cls._parse_slowly(data)
        return read if read.version <= cls.newest else cls._parse_slowly(data)

    @classmethod
    def _parse_slowly(cls, data: bytes | str) -> Self:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DamageError(f"damaged, no JSON ({error})") from error
        if not isinstance(found, dict):
            raise DamageError(f"damaged, want a JSON object, got {type(found).__name__}")
        version = found.get("version", 1)
        if isinstance(version, int) and version > cls.newest:
            raise MismatchError(
                f"version {version} of this file is newer than {cls.newest}, which this factory "
                "reads: install a newer factory"
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise DamageError(f"damaged, {describe_problem(error)}") from error

    def dump(self) -> bytes:
        """Returns the bytes that are written."""
        return write_json(self.to_json()).encode()


def describe_problem(error: ValidationError) -> str:
    """Returns the first problem of a record: field and message."""
    first = error.errors()[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
