"""Given images: made by something else, or real, to be judged as they are."""

import functools
from dataclasses import dataclass

from factory.core.hashing import compute_digest, hash_bytes
from factory.data.images import SourceImage
from factory.data.records import Condition, Given, Request


@dataclass(frozen=True)
class GivenSeries:
    """The images of one class, one request each; their order is that of their names.

    `content_sha256` tells sets of the same names apart, where the whole set was read before.
    """

    class_name: str | None
    images: tuple[SourceImage, ...]
    count: int
    content_sha256: str | None = None

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: the names of its images, and their content where known."""
        names = [image.key for image in self.images]
        content = {"kind": "given", "class": self.class_name, "names": names}
        if self.content_sha256 is not None:
            content["content_sha256"] = self.content_sha256
        return compute_digest("series", content)[:16]

    @property
    def label(self) -> str:
        """The class, or that there is none."""
        return f"{self.class_name or 'images'} (given)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class, if the images have one."""
        return () if self.class_name is None else (self.class_name,)

    def request_at(self, index: int) -> Request:
        """Returns the request of the `index`-th image, which is read for its hash.

        Raises:
            SourceError: it cannot be read any more.
        """
        image = self.images[index]
        given = Given(image, hash_bytes(image.read_bytes()))
        condition = Condition(self.class_name, image.caption, given=given)
        return Request(self.key, index, condition, 0)
