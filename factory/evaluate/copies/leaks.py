"""What makes a search for copies say less than it seems: leaks, and data that it did not see."""

from collections.abc import Iterator, Mapping, Sequence

from factory.catalog.catalog import Catalogs
from factory.data.splits import find_leaks
from factory.data.varied import find_varied
from factory.evaluate.image_sets import ImageSet, count_smaller
from factory.evaluate.judge_overlap import read_model

Hashes = Mapping[str, Sequence[str]]
"""`train`, `synthetic`, `held_out` -> sha256 of each image's fitted pixels."""


def find_copy_warnings(
    train: ImageSet,
    synthetic: ImageSet,
    held_out: ImageSet | None,
    hashes: Hashes,
    catalogs: Catalogs,
) -> Iterator[str]:
    """Yields exact copies, leaks between the sets, and what the reference set does not cover.

    Raises:
        SourceError: an image that cannot be read.
    """
    for name, images in (("train", train), ("held_out", held_out)):
        shared = set(hashes["synthetic"]) & set(hashes.get(name, ()))
        if shared and images is not None:
            count = sum(each in shared for each in hashes["synthetic"])
            yield f"EXACT COPIES: {count} synthetic images are in {images.name}, pixel by pixel"
    if held_out is not None:
        yield from _find_real_leaks(train, held_out, synthetic)
    for each in (train, synthetic, *([] if held_out is None else [held_out])):
        smaller = count_smaller(each.images, each.size)
        if smaller:
            yield f"{each.name}: {smaller} images are smaller than {each.size} px and were enlarged"
    yield from _name_training_data(train, synthetic, catalogs)


def _find_real_leaks(train: ImageSet, held_out: ImageSet, synthetic: ImageSet) -> Iterator[str]:
    leaks = find_leaks(train.images, held_out.images)
    if leaks:
        yield (
            f"LEAK: {train.name} and {held_out.name} share {leaks}: what is usual is too near, and "
            "C_T and the ratios hide copies; take other held-out images"
        )
    unknown = [each.name for each in (train, held_out) if None in each.groups]
    if unknown:
        yield (
            f"patients or slides are not known of all images of {' and '.join(unknown)}, so leaks "
            "between them were looked for by image only; give --group-column or --group-pattern"
        )
    varied = find_varied(synthetic.references, held_out.images)
    if varied:
        yield (
            f"LEAK: {synthetic.name} varies {len(varied)} images of {held_out.name}: these are "
            "held out no more"
        )


def _name_training_data(train: ImageSet, synthetic: ImageSet, catalogs: Catalogs) -> Iterator[str]:
    model = read_model(synthetic.root)
    entry = None if model is None else catalogs.get_model(model)
    if entry is not None and entry.training_data:
        yield (
            f"{model} was trained on: {'; '.join(entry.training_data)}. Copies of images that are "
            f"not in {train.name} are not found"
        )
    elif model is not None:
        yield (
            f"it is not recorded what {model} was trained on: copies of images that are not in "
            f"{train.name} are not found"
        )
