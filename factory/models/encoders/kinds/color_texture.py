"""`color-texture`: hand-made features, no weights."""

from factory.core.errors import InputError
from factory.models.encoders.base import Encoder, EncoderKind


class ColorTextureKind(EncoderKind):
    """Colour and texture statistics: works anywhere, and shares a teacher with no generator."""

    kind = "color-texture"
    form = "color-texture"
    is_bare = True

    def load(self, device: str) -> Encoder:
        """Returns the encoder; the device does not matter.

        Raises:
            InputError: a name behind that of the kind.
        """
        lack = self.explain_missing()
        if lack is not None:
            raise InputError(lack)
        from factory.models.encoders.color_texture import ColorTextureEncoder

        return ColorTextureEncoder()

    def explain_missing(self) -> str | None:
        """Says that there is one of it only."""
        return (
            f"encoder {self.source!r}: there is one only: give {self.kind}" if self.name else None
        )
