"""Masks that say what of the images of a translation is made anew."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from factory.core.errors import SourceError
from factory.core.yaml.reader import FieldPath
from factory.data.images import SourceImage
from factory.data.label_maps import MOST_ID
from factory.data.streams import Control
from factory.data.streams.control import MaskFile
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import BlockImages
from factory.recipe.conditions.mask import scan_mask


def find_masks(
    block: BlockImages, images: Sequence[SourceImage], session: Session
) -> list[Control]:
    """Returns the mask of each image: the file of the same name, whatever the suffix.

    Raises:
        SourceError: an image without one, or a file that is no label map of its size.
    """
    masks = {_name(each): each for each in block.list(session)}
    found = []
    for image in images:
        mask = masks.get(_name(image))
        if mask is None:
            where = session.resolve(block.path)
            raise SourceError(f"{where}: no mask named as {image.key}: give each image one")
        facts = scan_mask(mask, session.images.hash_bytes(mask))
        size = session.images.read_size(image)
        if facts.size != size:  # cropped, it would mark another place
            (wide, high), (width, height) = facts.size, size
            told = f"{wide} x {high} px, but its image {width} x {height} px"
            raise SourceError(f"{mask.place}: {told}: give it the size of its image")
        if max(facts.values) > MOST_ID:
            told = f"has the id {max(facts.values)}, and {MOST_ID} is the largest"
            raise SourceError(f"{mask.place}: {told}: write 1 where the image is made anew")
        palette = tuple((each, f"anew {each}") for each in facts.values if each)
        found.append(Control(MaskFile(mask, facts.sha256, block.fit), palette))
    return found


def check_masks(
    findings: Findings, block: BlockImages | None, images: BlockImages, path: FieldPath
) -> None:
    """Notes masks that are missing or do not fit the images, at `path`; None: none are asked."""
    session = findings.loaded.session
    try:
        listed = () if block is None else images.list(session)
    except SourceError:  # told of the images
        return
    try:
        if block is not None:
            find_masks(block, listed, session)
    except SourceError as error:
        findings.add(path, str(error))


def _name(image: SourceImage) -> str:
    return str(PurePosixPath(image.key).with_suffix(""))
