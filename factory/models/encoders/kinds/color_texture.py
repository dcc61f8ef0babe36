"""`color-texture`: hand-made features, no weights."""

from factory.models.encoders.base import Encoder, EncoderKind


class ColorTextureKind(EncoderKind):
    """Colour and texture statistics: works anywhere, and shares a teacher with no generator."""

    kind = "color-texture"
    form = "color-texture"
    is_bare = True

    def load(self, device: str) -> Encoder:
        """Returns the encoder; the device does not matter."""
        from factory.models.encoders.color_texture import ColorTextureEncoder

        return ColorTextureEncoder()
