"""`EncodedFilter`: what filters share that look at images in the features of an encoder."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import FilterError
from factory.filters.base import Filter

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
    def encoder(self) -> "Encoder":
        """The encoder; raises InputError where it cannot be loaded."""
        return self.context.encoders.load(self.settings.encoder, self.context.base)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) features of (N, H, W, 3) uint8 RGB images.

        Raises:
            FilterError: the encoder fails.
        """
        try:
            return self.encoder.encode(images)
        except (RuntimeError, ValueError, OSError) as error:
            raise FilterError(f"{self.kind} {self.settings.encoder}: {error}") from error
