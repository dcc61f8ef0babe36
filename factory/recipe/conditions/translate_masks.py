"""Masks that say what of the images of a translation is made anew."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from factory.core.errors import SourceError
from factory.data.images import SourceImage
from factory.data.streams import Control
from factory.data.streams.control import MaskFile
from factory.models.session import Session
from factory.recipe.conditions.base import BlockImages
from factory.recipe.conditions.mask import scan_mask


def find_masks(
    block: BlockImages, images: Sequence[SourceImage], session: Session
) -> list[Control]:
    """Returns the mask of each image: the file of the same name, whatever the suffix.

    Raises:
        SourceError: an image without one, or a file that is no label map.
    """
    masks = {_name(each): each for each in block.list(session)}
    found = []
    for image in images:
        mask = masks.get(_name(image))
        if mask is None:
            where = session.resolve(block.path)
            raise SourceError(f"{where}: no mask named as {image.key}: give each image one")
        facts = scan_mask(mask, session.images.hash_bytes(mask))
        palette = tuple((each, f"anew {each}") for each in facts.values if each)
        found.append(Control(MaskFile(mask, facts.sha256, block.fit), palette))
    return found


def _name(image: SourceImage) -> str:
    return str(PurePosixPath(image.key).with_suffix(""))
