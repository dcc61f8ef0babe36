"""`Prototype`: which cluster of real images the medoid stands for that an image is made from."""

from dataclasses import asdict, dataclass
from typing import Any

ATTRIBUTE = "prototype"
"""What rows, summary and card call it among their attributes."""


@dataclass(frozen=True, slots=True)
class Prototype:
    """A medoid of real images of a class: a note of a stream, and no part of its identity.

    `pixels_sha256` is the hash of the medoid's pixels, `size` how many different images its
    cluster holds, `patients` of how many patients or slides they are (None: not all tell), and
    `encoder` whose features were clustered.
    """

    id: str
    pixels_sha256: str
    size: int
    patients: int | None
    encoder: str

    def record(self) -> dict[str, Any]:
        """Returns what the provenance of a row holds of it."""
        return {ATTRIBUTE: asdict(self)}

    def describe(self) -> str:
        """Returns e.g. `tumor-1 (31 images of 4 patients or slides, medoid 0123456789ab)`."""
        whose = "" if self.patients is None else f" of {self.patients:,} patients or slides"
        return f"{self.id} ({self.size:,} images{whose}, medoid {self.pixels_sha256[:12]})"
