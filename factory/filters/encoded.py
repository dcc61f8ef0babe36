"""`EncodedFilter`: what filters share that look at images in the features of an encoder."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from factory.core.errors import FilterError
from factory.core.late import NDArray, np
from factory.filters.base import Filter
from factory.filters.batches import Images, encode_images
from factory.filters.check import FilterCheck

if TYPE_CHECKING:
    from factory.models.encoders import Encoder


class EncodedFilter(Filter):
    """A filter whose settings name an `encoder`."""

    settings: Any

    @property
    def encoders(self) -> tuple[str, ...]:
        """The one whose features are compared."""
        return (self.settings.encoder,)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder; raises InputError where it cannot be loaded."""
        return self.context.encoders.load(self.settings.encoder, self.context.base)

    def check(self, check: FilterCheck) -> None:
        """Notes an encoder that cannot be had."""
        from factory.models.encoders.check import check_encoder

        check_encoder(check.checker, self.settings.encoder, check.at("encoder"))

    def encode(self, images: Images) -> NDArray[np.float32]:
        """Returns (N, dim) features of N images (H, W, 3) uint8 RGB.

        Raises:
            InputError: the encoder cannot be had.
            FilterError: it fails.
        """
        try:
            return encode_images(self.encoder, images)
        except (RuntimeError, ValueError, OSError) as error:
            raise FilterError(f"{self.kind} {self.settings.encoder}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, revision, and what the encoder says of itself.

        Raises:
            InputError: the encoder cannot be had.
        """
        encoder = self.encoder.describe()
        told = {"encoder_revision": "revision", "weights_sha256": "weights_sha256"}
        return {**super().describe(), **{key: encoder[name] for key, name in told.items()}}
