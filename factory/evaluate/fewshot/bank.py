"""Features of a frozen encoder, of images and of their augmented views, each computed once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from factory.core.files.kept import KeptRows
from factory.core.hashing import derive_seed, hash_bytes
from factory.evaluate.fewshot.augment import Strength, augment_images
from factory.models.encoders import Encoder

MANY = 50
"""Images from which it is told that they are encoded; held-out shots are fewer."""


class FeatureBank:
    """What an encoder makes of images, by the hash of their bytes.

    It is kept in a temporary file while the study runs; that of images to predict in memory.
    """

    def __init__(self, encoder: Encoder, say: Callable[[str], None]) -> None:
        self.encoder, self.say = encoder, say
        self._known: KeptRows[tuple[str, int, Strength]] = KeptRows(np.float32)
        self._tests: dict[str, NDArray[np.float32]] = {}

    def encode(
        self,
        pixels: NDArray[np.uint8],
        sha256s: Sequence[str],
        view: int = 0,
        strength: Strength = "classical",
    ) -> NDArray[np.float32]:
        """Returns (N, dim) features.

        Args:
            pixels: (N, S, S, 3) uint8 RGB.
            sha256s: (N,) of the images' bytes.
            view: 0 is the image as it is, others are augmented by a draw of view and bytes.
            strength: of the augmentation.
        """
        places = {sha: row for row, sha in enumerate(sha256s)}
        how: Strength = strength if view else "none"
        keys: list[tuple[str, int, Strength]] = [(sha, view, how) for sha in sha256s]
        unknown = self._known.list_lacking(keys)
        if unknown:
            names = [sha for sha, _, _ in unknown]
            shown = pixels[[places[sha] for sha in names]]
            if view:
                shown = _augment_alone(shown, names, view, strength)
            self._known.add(unknown, self.encoder.encode(shown))
        return self._known.read(keys)

    def encode_test(self, test: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (M, dim) features of images that are predicted again and again."""
        name = hash_bytes(test.tobytes())
        if name not in self._tests:
            if len(test) >= MANY:
                self.say(f"encoding {len(test):,} images to predict")
            self._tests[name] = self.encoder.encode(test)
        return self._tests[name]


def _augment_alone(
    pixels: NDArray[np.uint8], sha256s: Sequence[str], view: int, strength: Strength
) -> NDArray[np.uint8]:
    """Augments each image by a draw of its own bytes, so that company changes nothing."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    varied = [
        augment_images(images[row : row + 1], derive_seed(view, "fewshot", "view", sha), strength)
        for row, sha in enumerate(sha256s)
    ]
    return torch.cat(varied).permute(0, 2, 3, 1).contiguous().numpy()
