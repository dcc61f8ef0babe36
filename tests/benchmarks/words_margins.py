"""How far measures move when a patch hardly changes: what margins of words are taken from.

Each image is cut twice, one pixel apart (of both ways the larger), and stored once as JPEG. What a
pathologist would call the same patch should get the same word, or none.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.core.stains import measure_attributes
from factory.data.images import list_images
from factory.data.shots import rank_shots

QUANTILES = (0.5, 0.9, 0.95)
QUALITY = 90


def read(folder: Path, size: int, count: int) -> NDArray[np.uint8]:
    """Returns centre crops with one more pixel on each side, (N, size + 2, size + 2, 3)."""
    images = {str(image.path): image for image in list_images(folder)}
    found = []
    for image in (images[key] for key in rank_shots(images, 0)[:count]):
        pixels = image.read_pixels()
        rows, columns = ((side - size - 2) // 2 for side in pixels.shape[:2])
        if min(rows, columns) >= 0:
            found.append(pixels[rows : rows + size + 2, columns : columns + size + 2])
    return np.stack(found)


def store(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image as JPEG of QUALITY shows it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=QUALITY)
    return np.asarray(Image.open(stream))


def main() -> None:
    """Prints quantiles of how far each measure moves, by folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=500)
    given = parser.parse_args()
    for folder in given.folders:
        wide = read(folder, given.size, given.count)
        plain = measure_attributes(np.ascontiguousarray(wide[:, 1:-1, 1:-1]))
        others = [wide[:, 2:, 1:-1], wide[:, 1:-1, 2:]]
        others.append(np.stack([store(each) for each in wide[:, 1:-1, 1:-1]]))
        moved = [measure_attributes(np.ascontiguousarray(each)) for each in others]
        print(f"{folder}: {len(wide)} images")
        for name, numbers in plain.items():
            apart = np.abs(np.stack([each[name] for each in moved]) - numbers).max(0)
            told = np.nanquantile(apart, QUANTILES)
            shown = ", ".join(f"{q:g}: {each:.4f}" for q, each in zip(QUANTILES, told, strict=True))
            print(f"  {name}: {shown}")


if __name__ == "__main__":
    main()
