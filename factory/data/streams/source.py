"""The stream `source`: a real image to translate, as frozen to FFPE or H&E to IHC, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from factory.catalog.entries import ModelEntry
from factory.core.errors import DamageError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image
from factory.core.late import NDArray, np
from factory.data.images import SourceImage, fit_source
from factory.data.provenance import Provenance
from factory.data.streams.base import RealImages, Row, Stream
from factory.data.streams.reference import hash_source_pixels
from factory.data.varied import Varied

if TYPE_CHECKING:
    import pyarrow as pa

Method = Literal["model", "invert", "image_to_image"]
"""How: a network that translates in one pass, or a diffusion model from the inverted path of the
source, or from the source with noise."""


@dataclass(frozen=True, slots=True)
class Injection:
    """Queries and keys of self-attention that the way back takes from the inversion.

    `layers` are names of layers, `*` for any letters; `share` in (0, 1] is that of the steps, from
    the first, in which it does.
    """

    layers: tuple[str, ...] = ("*",)
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Translation:
    """How a source is translated.

    `strength` in (0, 1] is the share of the path from image to noise that is gone; `steps` those of
    the whole path, None for the generator's own. `class_name` and `caption` say what the source
    shows while it is inverted. Of the source stay its glass and its haematoxylin, where it is said.
    """

    method: Method = "model"
    strength: float = 1.0
    steps: int | None = None
    inject: Injection | None = None
    class_name: str | None = None
    caption: str | None = None
    keep_glass: bool = True
    keep_haematoxylin: bool = False

    def describe(self) -> dict[str, Any]:
        """Returns it as plain data, without what has no effect."""
        told: dict[str, Any] = {"method": self.method, "keep_glass": self.keep_glass}
        if self.method != "model":
            told |= {"strength": self.strength, "steps": self.steps}
        if self.inject is not None:
            told["inject"] = {"layers": list(self.inject.layers), "share": self.inject.share}
        if self.keep_haematoxylin:  # rows without it are those of older versions
            told["keep_haematoxylin"] = True
        told |= {"class_name": self.class_name, "caption": self.caption}
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def restore(cls, told: Mapping[str, Any]) -> Self:
        """Returns what `describe` told."""
        inject = told.get("inject")
        found = {name: value for name, value in told.items() if name != "inject"}
        if inject is not None:
            found["inject"] = Injection(tuple(inject["layers"]), inject["share"])
        return cls(**found)


@dataclass(frozen=True, slots=True)
class KeptImage:
    """The source that a row kept: encoded, of the size of its image."""

    data: bytes
    place: str = "source"

    def read_pixels(self) -> NDArray[np.uint8]:
        """Returns (H, W, 3) uint8 RGB.

        Raises:
            SourceError: it cannot be read.
        """
        return decode_image(self.data, self.place)


@dataclass(frozen=True, slots=True)
class Source(Stream):
    """A real image to translate: where things are stays, how they look changes.

    `sha256` is the hash of its encoded bytes, `group_sha256` that of its patient or slide. Its row
    keeps it beside the image that was made, unless `is_kept` is False.
    """

    name = "source"
    real_columns = ("source",)
    is_real = True
    image: SourceImage | KeptImage
    sha256: str
    translation: Translation = Translation()
    fit: str = "crop"
    group_sha256: str | None = None
    is_kept: bool = True

    @classmethod
    def make_example(cls, entry: ModelEntry) -> Self:
        """Returns a drawn image of the entry's size: waves of two stains."""
        rows, columns = np.mgrid[0 : entry.height, 0 : entry.width]
        wave = 0.5 + 0.5 * np.sin(rows / 9.0) * np.cos(columns / 7.0)
        pixels = wave[..., None] * (233, 168, 202) + (1.0 - wave[..., None]) * (98, 58, 140)
        data = encode_image(np.rint(pixels).astype(np.uint8), "png")
        return cls(KeptImage(data), hash_bytes(data), is_kept=False)

    def identity(self) -> dict[str, Any]:
        """Returns the hash of its bytes, and how it is translated."""
        told = self.translation.describe()
        return {"sha256": self.sha256, "fit": self.fit, "translation": told}

    def load(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns its pixels, (height, width, 3) uint8 RGB.

        Raises:
            SourceError: it cannot be read, or is too small.
        """
        image = self.image
        return fit_source(image.read_pixels(), width, height, self.fit, image.place)

    def finish(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Lays its haematoxylin and glass into the image, notes the share of glass; as `load`."""
        way = self.translation
        if not way.keep_glass and not way.keep_haematoxylin:
            return pixels, {}
        real = self.load(*pixels.shape[1::-1])
        if way.keep_haematoxylin:
            from factory.core.haematoxylin import keep_haematoxylin

            pixels = keep_haematoxylin(pixels, real)
        if not way.keep_glass:
            return pixels, {}
        from factory.core.glass import keep_glass

        blended, share = keep_glass(pixels, real)
        return blended, {"glass_fraction": round(share, 4)}

    def draw(self, width: int, height: int) -> NDArray[np.uint8]:
        """Returns its pixels; raises as `load`."""
        return self.load(width, height)

    @classmethod
    def draw_row(cls, identity: Any, row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """Returns the source that the row keeps, if it does.

        Raises:
            SourceError: it cannot be read.
        """
        data = _read_kept(row)
        return None if data is None else KeptImage(data).read_pixels()

    @classmethod
    def restore(cls, identity: Any, images: RealImages, row: Row) -> Self:
        """Returns the source of a row: the one that it keeps, else the real image.

        Raises:
            DamageError: the row should keep it and does not.
        """
        told = {**identity, "translation": Translation.restore(identity["translation"])}
        data = _read_kept(row)
        if data is not None:
            return cls(KeptImage(data), **told)
        if identity["sha256"] not in images:
            raise DamageError("source: the row does not hold the image that it translates")
        return cls(images[identity["sha256"]], **told, is_kept=False)

    @classmethod
    def fields(cls) -> Mapping[str, pa.DataType]:
        """Returns the column of the source."""
        from factory.data.columns import IMAGE_TYPE

        return {"source": IMAGE_TYPE}

    @classmethod
    def columns(cls, identity: Any) -> dict[str, Any]:
        """Returns the hash of its bytes, in the column of real images that rows come from."""
        return {"reference_sha256": identity["sha256"]}

    def keep(self, width: int, height: int) -> dict[str, Any]:
        """Returns the source as a PNG of the image's size, lossless; raises as `load`."""
        if not self.is_kept:
            return {}
        data = encode_image(self.load(width, height), "png", is_synthetic=False)
        return {"source": {"bytes": data, "path": f"{hash_bytes(data)[:32]}.png"}}

    def record(self) -> dict[str, Any]:
        """Returns the hash of its pixels, the same for another file, and that of its patient.

        Raises:
            SourceError: it cannot be decoded.
        """
        told: dict[str, Any] = {"reference_group_sha256": self.group_sha256}
        if isinstance(self.image, SourceImage):
            told["reference_pixels_sha256"] = hash_source_pixels(self.image, self.sha256)
        return told

    @classmethod
    def list_sources(cls, identity: Any, record: Provenance) -> tuple[Varied, ...]:
        """Returns the real image, unless the row keeps it."""
        if "source" in record.kept:
            return ()
        return (Varied(str(identity["sha256"]), record.reference_pixels_sha256),)

    def groups(self) -> tuple[str, ...]:
        """Returns the hash of its patient or slide."""
        return () if self.group_sha256 is None else (self.group_sha256,)


def _read_kept(row: Mapping[str, Any]) -> bytes | None:
    data: bytes | None = (row.get("source") or {}).get("bytes")
    return data
