"""`flow:FOLDER`: embeddings as they would be in another domain, by a flow that factory trained."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.catalog.entries import Strict
from factory.core.yaml.model import parse_model, read_document
from factory.models.encoders.base import Encoder, EncoderKind

CONFIG = "flow.json"


class FlowConfig(Strict):
    """The `flow.json` of a folder."""

    format: Literal[1] = 1
    encoder: str = Field(min_length=1, description="of both domains: catalog id or spec")
    encoder_sha256: str | None = Field(
        None, description="of the weights that it was trained with; None: not known"
    )
    dim: int = Field(ge=1, description="of its embeddings")
    width: int = Field(1024, ge=8, multiple_of=2)
    blocks: int = Field(6, ge=1, le=64)
    steps: int = Field(100, ge=1, le=1000, description="Euler steps from source to target")


class FlowKind(EncoderKind):
    """Folders of `factory train translator`: an encoder, and behind it a flow to another stain."""

    kind = "flow"
    form = "flow:FOLDER"

    @property
    def path(self) -> Path:
        """The folder."""
        return self.base / Path(self.name).expanduser()

    def load(self, device: str) -> Encoder:
        """Returns the encoder with the flow behind it.

        Raises:
            InputError: a file that is missing or does not fit, or the encoder cannot be had.
        """
        from factory.models.encoders import load_encoder
        from factory.models.encoders.latent_flow import load_flow

        config = parse_model(read_document(self.path / CONFIG), FlowConfig)
        inner = load_encoder(config.encoder, device=device, catalogs=self.catalogs)
        return load_flow(self.path, self.label, device, inner)

    def explain_missing(self) -> str | None:
        """Says that the folder is not there."""
        if not self.path.is_dir():
            return f"the flow {self.label} is missing, no folder {self.name!r}: put it there"
        return None
