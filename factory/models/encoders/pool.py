"""Encoders that filters, picks and guidance share: loaded once, and asked once for an image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.core.hashing import hash_bytes
from factory.core.late import NDArray, np
from factory.models.encoders import Encoder, load_encoder

KEPT = 2048
"""Images whose features are remembered: more than a batch of any worker."""
_REMEMBERING = threading.Lock()
"""Held while features are looked up or noted: a model may ask for some while a filter does."""


class EncoderPool:
    """Loads encoders by spec, each once.

    Args:
        catalogs: where ids are looked up.
        device: as in `load_encoder`.
    """

    def __init__(self, catalogs: Catalogs, device: str = "auto") -> None:
        self.catalogs, self.device = catalogs, device
        self._loaded: dict[tuple[str, str, str], RememberingEncoder] = {}
        self._lock = threading.Lock()  # a batch is judged while the next is made

    def load(self, spec: str, base: Path, device: str | None = None) -> RememberingEncoder:
        """Returns the encoder of a spec.

        Args:
            spec: as in `load_encoder`.
            base: where a relative folder starts.
            device: None: that of the pool.

        Raises:
            InputError: as in `load_encoder`.
        """
        folder = base / Path(spec).expanduser()
        is_folder = self.catalogs.get_encoder(spec) is None and folder.is_dir()
        name = ("folder", str(folder.resolve())) if is_folder else ("id", spec)
        with self._lock:
            key = (*name, self._choose_device(device))
            if key not in self._loaded:
                found = load_encoder(spec, base=base, device=key[2], catalogs=self.catalogs)
                self._loaded[key] = RememberingEncoder(found)
            return self._loaded[key]

    def _choose_device(self, device: str | None) -> str:
        """Returns a device by the one name that the pool has for it."""
        if device is None or device == self.device:
            return self.device
        import torch

        usual = "cuda" if torch.cuda.is_available() else "cpu"
        return "auto" if self.device == "auto" and device == usual else device


class RememberingEncoder:
    """An encoder that computes the features of an image once, however often it is asked.

    Attributes:
        inner: the encoder itself.
        dim: of its features.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.inner, self.dim = encoder, encoder.dim
        self._features: OrderedDict[tuple[str, tuple[int, ...]], NDArray[np.float32]]
        self._features = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """Returns what the encoder says of itself."""
        return self.inner.describe()

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (N, dim) float32 features of (N, H, W, 3) uint8 RGB."""
        keys = [(hash_bytes(each.tobytes()), each.shape) for each in images]
        with _REMEMBERING:
            found = {key: self._features[key] for key in keys if key in self._features}
        rows = {key: row for row, key in enumerate(keys) if key not in found}
        if rows:
            fresh = self.inner.encode(images[list(rows.values())])
            found.update(zip(rows, fresh, strict=True))
        with _REMEMBERING:
            for key, features in found.items():
                self._features[key] = features
                self._features.move_to_end(key)
            while len(self._features) > KEPT:
                self._features.popitem(last=False)
        empty = np.zeros((0, self.dim), np.float32)
        return np.stack([found[key] for key in keys]) if keys else empty
