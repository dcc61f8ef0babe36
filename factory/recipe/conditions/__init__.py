"""Conditions: each block of a recipe is of a kind, which turns it into series of requests."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factory.catalog.terms import Concepts
from factory.core.errors import StoreError
from factory.core.registry import Registry
from factory.core.yaml.reader import FieldPath
from factory.data.family import Family
from factory.data.images import SourceImage
from factory.data.records import Condition
from factory.data.streams import STREAMS, Stream
from factory.data.streams.base import HasFields
from factory.models.session import Session
from factory.recipe.conditions.base import ConditionKind, Planning
from factory.recipe.conditions.family import build_families, check_vary, list_varied
from factory.recipe.conditions.series import Series, SeriesInfo

if TYPE_CHECKING:
    from factory.recipe.checks.findings import Findings
    from factory.recipe.recipe import Recipe

__all__ = ["CONDITIONS", "ConditionKind", "Series", "SeriesInfo", "build_series"]

CONDITIONS = Registry("factory.conditions", ConditionKind, "factory.recipe.conditions")  # type: ignore[type-abstract]


def build_series(
    recipe: "Recipe", session: Session, model_classes: Sequence[str]
) -> tuple[Series, ...]:
    """Builds the series of all condition blocks, in recipe order.

    Args:
        recipe: the recipe.
        session: where images, classes and captions are looked up.
        model_classes: the generator's own classes, for blocks that name none.

    Raises:
        SourceError: images or captions that are missing or cannot be read.
        CatalogError: a catalog id that is not known.
    """
    planning = Planning(recipe.seed, session, tuple(model_classes))
    found: list[Series] = []
    for block in recipe.blocks:
        if block.settings.vary is None:
            found += block.build_series(planning)
        else:
            found += build_families(block, planning)
    return tuple(found)


def check_conditions(findings: "Findings") -> None:
    """Checks all condition blocks, and notes the classes that they ask for."""
    identities: dict[tuple[str, ...], FieldPath] = {}
    loaded, model = findings.loaded, findings.model
    classes = (None if model is None else model.class_names) or ()
    planning = Planning(loaded.recipe.seed, loaded.session, classes)
    for number, block in enumerate(findings.loaded.recipe.blocks):
        path: FieldPath = ("conditions", number)
        _check_stream(findings, block, path)
        for identity in block.check(findings, path):
            if identity in identities:
                first, what = identities[identity], " ".join(identity)
                message = f"asks again for {what}, which conditions[{first[1]}] makes: join them"
                findings.add(path, message)
            identities.setdefault(identity, path)
        if block.settings.vary is not None:
            check_vary(findings, block, path, planning)


def _check_stream(findings: "Findings", block: ConditionKind, path: FieldPath) -> None:
    """Notes a block that stands for what the model does not take, or lacks what it needs."""
    model = findings.model
    if model is None or model.streams is None:
        return
    if block.stream.name not in model.streams:
        kinds = CONDITIONS.list_all()[0]
        takes = [name for name, kind in kinds.items() if kind.streams[0].name in model.streams]
        message = f"{model.name} takes no {block.kind} conditions"
        findings.add((*path, "kind"), f"{message}: take {', '.join(takes) or 'another model'}")
        return
    held = frozenset(each.name for each in (*block.held, *list_varied(block.settings.vary)))
    replaced = frozenset[str]() if model.family is None else model.family.replace(held)
    for name in sorted(model.required - held - replaced):
        field, remedy = block.advise_lacking(name)
        findings.add((*path, field), f"{model.name} needs {name} too: {remedy}")


@functools.cache
def list_streams() -> tuple[type[Stream], ...]:
    """Returns all streams: those that condition kinds stand for, and those beside them."""
    kinds = CONDITIONS.list_all()[0].values()
    own = (stream for kind in kinds for stream in kind.streams)
    return tuple(dict.fromkeys((*own, *STREAMS)))


def find_stream(recorded: str) -> type[Stream]:
    """Returns the stream that rows record under a key.

    Raises:
        StoreError: none that a condition kind gives here.
    """
    for stream in list_streams():
        if stream.recorded == recorded:
            return stream
    raise StoreError(
        f"stream {recorded!r} is of no condition kind that is here: install the package that has it"
    )


def show_condition(described: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a row shows of the condition that its provenance describes, by column.

    Raises:
        StoreError: a stream that nothing here knows.
    """
    return {
        name: value
        for key, identity in described.items()
        for name, value in find_stream(key).columns(identity).items()
    }


def list_kept(has: Sequence[str]) -> dict[str, Any]:
    """Returns, of a table's columns, those that streams and terms add, with their Arrow types."""
    adding: tuple[type[HasFields], ...] = (*list_streams(), Concepts, Family)
    own = (column for each in adding for column in each.fields().items())
    return {name: kind for name, kind in own if name in has}


def list_real_columns(has: Sequence[str]) -> tuple[str, ...]:
    """Returns, of a table's columns, those in which streams keep real images."""
    return tuple(name for each in list_streams() for name in each.real_columns if name in has)


def draw_condition(
    described: Mapping[str, Any], row: Mapping[str, Any], with_real: bool = True
) -> list[Any]:
    """Returns what people see of a row's condition beside its image: (H, W, 3) uint8 RGB each.

    Streams that nothing here knows are not seen.

    Args:
        described: as its provenance tells.
        row: with what it keeps.
        with_real: real images, too.

    Raises:
        DamageError: a row without what it kept.
        SourceError: what the row keeps cannot be read.
    """
    known = {stream.recorded: stream for stream in list_streams()}
    found = ((known[key], identity) for key, identity in described.items() if key in known)
    drawn = (
        stream.draw_row(identity, row)
        for stream, identity in found
        if with_real or not stream.real_columns
    )
    return [picture for picture in drawn if picture is not None]


def restore_condition(
    described: Mapping[str, Any], images: Mapping[str, SourceImage], row: Mapping[str, Any]
) -> Condition:
    """Returns the condition that a row recorded.

    Args:
        described: as its provenance tells.
        images: real ones, by sha256.
        row: all of it: what streams keep there is restored from it.

    Raises:
        StoreError: a stream that nothing here knows.
        DamageError: the row does not hold what a stream keeps there.
    """
    found = (find_stream(key).restore(identity, images, row) for key, identity in described.items())
    return Condition(None, None, *found)
