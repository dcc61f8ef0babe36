"""A local folder: `encoder.json` and `encoder.safetensors`, as `factory train encoder` leaves."""

import json
from pathlib import Path
from typing import Any

from factory.models.encoders.base import Encoder, EncoderKind


class FolderKind(EncoderKind):
    """Weights of your own: a spec that begins with no kind's name is a folder."""

    kind = "folder"
    form = "FOLDER"

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.name = self.source.removeprefix("folder:")

    @property
    def path(self) -> Path:
        """The folder."""
        return self.base / Path(self.name).expanduser()

    def load(self, device: str) -> Encoder:
        """Returns the encoder of the folder.

        Raises:
            InputError: a file that is missing or does not fit.
        """
        from factory.models.encoders.learned import list_options, load_from_folder

        name = None if self.entry is None else self.entry.id
        return load_from_folder(self.path, device, name=name, **list_options(self.entry))

    @property
    def has_gradient(self) -> bool:
        """Whether it is one of `factory train encoder`; false where it cannot be read."""
        return bool(self._read().get("architecture") == "small-resnet")

    @property
    def teacher(self) -> str | None:
        """What `encoder.json` names; None where it cannot be read."""
        teacher = self._read().get("teacher")
        return None if teacher is None else str(teacher)

    def _read(self) -> dict[str, Any]:
        """Returns `encoder.json`; empty where it cannot be read, which `load` tells."""
        try:
            read = json.loads((self.path / "encoder.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    def explain_missing(self) -> str | None:
        """Says that the folder is not there."""
        if self.path.is_dir():
            return None
        return f"the weights of {self.label} are missing, no folder {self.name!r}: put them there"
