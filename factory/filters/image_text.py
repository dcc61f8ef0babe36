"""`ImageTextFilter`: base of filters that judge by a contrastive image-text model."""

from functools import cached_property
from typing import Any

from pydantic import Field

from factory.filters.asked import AskedFilter
from factory.filters.base import FilterSettings
from factory.filters.check import FilterCheck
from factory.filters.encoded import EncodedFilter
from factory.models.encoders import open_text_kind
from factory.models.encoders.base import Encoder, EncoderKind
from factory.models.encoders.check import check_clip


class ImageTextSettings(FilterSettings):
    """Names the model."""

    encoder: str = Field(
        min_length=1, description="catalog id, open_clip:hf-hub:OWNER/NAME or :local-dir:FOLDER"
    )


class ImageTextFilter(AskedFilter, EncodedFilter):
    """Has the image side of a model; the text side is loaded where it is needed."""

    def check(self, check: FilterCheck) -> None:
        """Notes a model that cannot be had."""
        check_clip(check.checker, self.settings.encoder, check.at("encoder"))

    def open_kind(self) -> EncoderKind:
        """Returns what loads the model.

        Raises:
            InputError: it cannot be had.
        """
        return open_text_kind(self.settings.encoder, self.context.base, self.context.catalogs)

    @cached_property
    def encoder(self) -> Encoder:
        """The image side; raises InputError where it cannot be had."""
        return self.context.encoders.load(self.open_kind().spec, self.context.base)

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, and what the encoder says of itself.

        Raises:
            InputError: the model cannot be had.
        """
        encoder = self.encoder.describe()
        told = {key: encoder[key] for key in ("revision", "weights_sha256")}
        return {**self.dump_settings(), **told}
