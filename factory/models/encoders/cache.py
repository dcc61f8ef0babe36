"""Features of images kept on disk, by the pixels and the weights that they come from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from factory.core.files.store import FileStore
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.late import NDArray, np
from factory.models.encoders.base import Encoder

_HASH_LENGTH = 64


class FeatureCache:
    """Features on disk, one file per block of images.

    A file's name is the digest of its images' pixels, in a folder named by the encoder's weights
    and preprocessing; it starts with the hash of its contents. Files appear whole or not at all.

    Args:
        folder: where it lies; None: nothing is kept.
        encoder: whose features these are.
    """

    def __init__(self, folder: Path | None, encoder: Encoder) -> None:
        self._dim = encoder.dim
        self._store = None if folder is None else FileStore(str(folder.absolute()))
        self._name = identify_encoder(encoder.describe())[:16]

    def read(self, pixels_sha256: list[str]) -> NDArray[np.float32] | None:
        """Returns (B, D) features of these images in order; None where there are no sound ones."""
        if self._store is None or not self._store.exists(self._name_file(pixels_sha256)):
            return None
        data = self._store.read(self._name_file(pixels_sha256))
        stored, contents = data[:_HASH_LENGTH], data[_HASH_LENGTH:]
        if hash_bytes(contents).encode() != stored:
            return None
        values: NDArray[np.float32] = np.load(io.BytesIO(contents), allow_pickle=False)
        return values if values.shape == (len(pixels_sha256), self._dim) else None

    def write(self, pixels_sha256: list[str], values: NDArray[np.float32]) -> None:
        """Keeps (B, D) features.

        Raises:
            StoreError: it cannot be written.
        """
        if self._store is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        contents = buffer.getvalue()
        digest = hash_bytes(contents).encode()
        self._store.write(self._name_file(pixels_sha256), digest + contents)

    def _name_file(self, pixels_sha256: list[str]) -> str:
        return f"{self._name}/{compute_digest('features', pixels_sha256)}.npy"


def identify_encoder(described: dict[str, Any]) -> str:
    """Returns a digest of what decides an encoder's features: weights and preprocessing.

    Without weights it is id and revision.
    """
    named = {"id", "revision"} if described["weights_sha256"] is not None else set()
    return compute_digest("encoder", {k: v for k, v in described.items() if k not in named})
