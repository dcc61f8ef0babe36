"""Captions of given images: measured attributes become named values, and values a sentence."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from factory.catalog.captions.grid import CaptionGrid
from factory.core.errors import InputError
from factory.core.yaml.messages import advise


def bin_attributes(
    grid: CaptionGrid, measured: Mapping[str, NDArray[np.floating]]
) -> list[dict[str, str]]:
    """Names the value of every attribute that the grid can read from an image.

    Args:
        grid: a grid with `measures`.
        measured: (N,) for each measured attribute, as `measure_attributes` returns it.

    Returns:
        For each image, attribute -> value name; an attribute whose measure is NaN is left out.

    Raises:
        InputError: an attribute that the grid reads was not measured, or the lengths differ.
    """
    for name, measure in grid.measures.items():
        if measure.by not in measured:
            advice = advise(measure.by, tuple(measured))
            raise InputError(f"{grid.id} reads {name!r} by {measure.by!r}, not measured: {advice}")
    lengths = {name: len(numbers) for name, numbers in measured.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"measures must be of the same images, got {lengths}")
    named: list[dict[str, str]] = [{} for _ in range(next(iter(lengths.values()), 0))]
    for name, measure in grid.measures.items():
        values = tuple(grid.attributes[name])
        numbers = measured[measure.by]
        bins = np.searchsorted(measure.edges, numbers, side="right")
        for image in np.flatnonzero(~np.isnan(numbers)):
            named[image][name] = values[bins[image]]
    return named


def write_caption(grid: CaptionGrid, values: Mapping[str, str], draw: np.random.Generator) -> str:
    """Writes one of the grid's captions that say only what is given.

    A template is drawn among those whose attributes are all given (an attribute with a single value
    counts as given) and may stand together, then a wording of each value.

    Args:
        grid: the grid; attributes that it does not have are ignored in `values`.
        values: attribute -> value name.
        draw: source of chance; it alone decides the result.

    Raises:
        InputError: an unknown value, or no template does with what is given.
    """
    known = {name: next(iter(kinds)) for name, kinds in grid.attributes.items() if len(kinds) == 1}
    known |= {name: value for name, value in values.items() if name in grid.attributes}
    for name, value in known.items():
        if value not in grid.attributes[name]:
            advice = advise(value, tuple(grid.attributes[name]))
            raise InputError(f"{grid.id}: {name!r} has no value {value!r}: {advice}")
    fitting = [
        each for each in grid.layout if known.keys() >= each.wordings.keys() and each.allows(known)
    ]
    if not fitting:
        has = ", ".join(sorted(known)) or "nothing"
        raise InputError(f"{grid.id}: no template does with only {has}: add a shorter one")
    template = fitting[draw.integers(len(fitting))]
    texts = {}
    for name in template.wordings:
        wordings = grid.attributes[name][known[name]] or (known[name],)
        texts[name] = wordings[draw.integers(len(wordings))]
    return template.text.format_map(texts)
