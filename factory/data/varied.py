"""Real images that rows vary: known by their pixels, in rows of older runs by their file alone."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from factory.core.errors import SourceError, StoreError
from factory.core.hashing import hash_bytes
from factory.core.images import hash_pixels
from factory.data.images import SourceImage, iterate_rows
from factory.data.provenance import read_origin

COLUMNS = ("reference_sha256", "embedding_sha256", "provenance")


@dataclass(frozen=True, slots=True)
class Varied:
    """The real image that a row varies.

    Attributes:
        sha256: of its file's bytes.
        pixels_sha256: of its pixels, the same for another file of the same image; None where the
            row does not tell.
        shots: the labelled images that the class of the row comes from, where that is not the image
            itself alone.
    """

    sha256: str
    pixels_sha256: str | None = None
    shots: tuple["Varied", ...] = ()

    @property
    def labelled(self) -> tuple["Varied", ...]:
        """The images that the class of the row comes from."""
        return self.shots or (self,)

    def is_among(self, files: AbstractSet[str], pixels: AbstractSet[str]) -> bool:
        """Tells whether images of these hashes, of files and of pixels, hold it."""
        return self.sha256 in files or self.pixels_sha256 in pixels


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled image that the class of what is made comes from: hashes of file, pixels, group."""

    sha256: str
    pixels_sha256: str
    group_sha256: str | None = None


def record_shots(shots: Sequence[Labelled]) -> dict[str, Any]:
    """Returns what the provenance of a row holds of the labelled images of its class."""
    if not shots:
        return {}
    told = [{"sha256": each.sha256, "pixels_sha256": each.pixels_sha256} for each in shots]
    groups = list_groups(shots)
    return {"shots": told, **({"shots_group_sha256": list(groups)} if groups else {})}


def list_groups(shots: Iterable[Labelled]) -> tuple[str, ...]:
    """Returns the hashes of their patients or slides, sorted, as far as known."""
    return tuple(sorted({each.group_sha256 for each in shots if each.group_sha256 is not None}))


def parse_varied(row: Mapping[str, Any], where: str) -> Varied | None:
    """Returns what a row varies, by its columns `COLUMNS`.

    Of an embedding between real images it is the first of them, which is the nearest.

    Raises:
        DamageError: the provenance is no JSON object; names `where`.
        MismatchError: a newer version of factory wrote it.
    """
    varied = row.get("reference_sha256")
    if varied is None and row.get("embedding_sha256") is None:
        return None
    origin = read_origin(row, where)
    shots = tuple(Varied(each.sha256, each.pixels_sha256) for each in origin.shots)
    if varied is not None:
        return Varied(str(varied), origin.reference_pixels_sha256, shots)
    return replace(shots[0], shots=shots) if shots else None


def read_varied(images: Sequence[SourceImage]) -> tuple[Varied | None, ...]:
    """Returns (N,) what each image varies; None where it is no row that tells.

    Raises:
        SourceError: a damaged file, or provenance that is no JSON.
    """
    rows = zip(images, iterate_rows(images, COLUMNS), strict=True)
    try:
        return tuple(parse_varied(row, f"{image.path}#{image.row}") for image, row in rows)
    except StoreError as error:
        raise SourceError(str(error)) from error


def find_varied(
    varied: Iterable[Varied | None], images: Iterable[SourceImage]
) -> dict[str, SourceImage]:
    """Finds real images by their files' bytes, and those not found so by their pixels.

    Nothing is decoded where all are found by their bytes.

    Args:
        varied: by rows; None for nothing.
        images: to search, in this order; only as many are taken as it needs.

    Returns:
        sha256 of the file that was varied -> an image that shows the same.

    Raises:
        SourceError: an image that cannot be read.
    """
    wanted: dict[str, str | None] = {}
    for each in varied:
        if each is not None:
            wanted[each.sha256] = each.pixels_sha256 or wanted.get(each.sha256)
    if not wanted:
        return {}
    found: dict[str, SourceImage] = {}
    passed: list[SourceImage] = []
    for image in images:
        passed.append(image)
        sha256 = hash_bytes(image.read_bytes())
        if sha256 in wanted:
            found.setdefault(sha256, image)
        if wanted.keys() <= found.keys():
            return found
    missing = {pixels: sha for sha, pixels in wanted.items() if pixels and sha not in found}
    by_pixels: dict[str, SourceImage] = {}
    for image in passed:
        if missing.keys() <= by_pixels.keys():
            break
        try:
            by_pixels.setdefault(hash_pixels(image.read_pixels()), image)
        except SourceError:
            continue  # what cannot be decoded was never varied
    for sha256, pixels in wanted.items():
        if sha256 not in found and pixels in by_pixels:
            found[sha256] = by_pixels[pixels]
    return found
