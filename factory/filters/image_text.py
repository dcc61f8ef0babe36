"""`ImageTextFilter`: base of filters that judge by a contrastive image-text model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory.core.errors import FilterError
from factory.filters.asked import AskedFilter, Images
from factory.filters.base import FilterSettings
from factory.filters.batches import encode_images
from factory.filters.check import FilterCheck
from factory.models.encoders import open_text_kind
from factory.models.encoders.base import Encoder, EncoderKind
from factory.models.encoders.check import check_clip
from factory.models.session import Session


class ImageTextSettings(FilterSettings):
    """Names the model."""

    encoder: str = Field(
        min_length=1, description="catalog id, open_clip:hf-hub:OWNER/NAME or :local-dir:FOLDER"
    )


class ImageTextFilter(AskedFilter):
    """Has the image side of a model; the text side is loaded where it is needed."""

    settings: Any

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._encoder: Encoder | None = None

    @property
    def encoders(self) -> tuple[str, ...]:
        """The image side of the model."""
        return (self.settings.encoder,)

    def check(self, check: FilterCheck) -> None:
        """Notes a model that cannot be had."""
        check_clip(check.checker, self.settings.encoder, check.at("encoder"))

    def open_kind(self) -> EncoderKind:
        """Returns what loads the model.

        Raises:
            InputError: it cannot be had.
        """
        return open_text_kind(self.settings.encoder, self.context.base, self.context.catalogs)

    def load_encoder(self) -> Encoder:
        """Returns the image side.

        Raises:
            InputError: it cannot be had.
        """
        if self._encoder is None:
            spec = self.open_kind().spec
            self._encoder = self.context.encoders.load(spec, self.context.base)
        return self._encoder

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, and what the encoder says of itself.

        Raises:
            InputError: the model cannot be had.
        """
        encoder = self.load_encoder().describe()
        return {
            **self.dump_settings(),
            **{key: encoder[key] for key in ("revision", "weights_sha256")},
        }

    def encode(self, images: Images) -> NDArray[np.float64]:
        """Returns (N, D) image features.

        Raises:
            InputError: the model cannot be had.
            FilterError: it failed.
        """
        encoder = self.load_encoder()
        try:
            return encode_images(encoder, images).astype(np.float64)
        except (RuntimeError, ValueError, OSError) as error:
            raise FilterError(f"{self.kind} {self.settings.encoder}: {error}") from error
