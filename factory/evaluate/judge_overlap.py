"""Whether an encoder may judge a set: it must not have filtered, taught or conditioned it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.catalog.catalog import Catalogs
from factory.core.errors import FactoryError, SourceError, StoreError
from factory.core.places import take_name
from factory.data.folders import RUN_SUMMARY
from factory.data.summary import JudgeSummary, Maker, Summary
from factory.engine.dataset import Dataset
from factory.models.classifiers.model import read_classifier_info
from factory.models.encoders import find_source, find_weights, list_parts
from factory.recipe.judge_overlap import GUIDE, ROLES, list_guides


@dataclass(frozen=True, slots=True)
class Involved:
    """An encoder that had a part in a set.

    Attributes:
        what: its part, e.g. `filter realism judged with it`.
        names: Hub ids, names or folders of its weights.
        hashes: sha256 of its weights, as far as known.
    """

    what: str
    names: frozenset[str]
    hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Making:
    """What a finished run says of the encoders in it.

    Attributes:
        involved: encoders of its filters, pick and stop, and of its generator.
        is_known: whether the set is a run at all.
    """

    involved: tuple[Involved, ...] = ()
    is_known: bool = False


def read_making(root: Path, catalogs: Catalogs) -> Making:
    """Reads which encoders had a part in a set; nothing is known of sets that are not runs.

    Raises:
        SourceError: a damaged record.
    """
    summary = read_own_summary(root)
    if summary is None:
        return Making()
    try:
        found = [
            *_list_judges(summary.encoders, catalogs),
            *(each for maker in summary.makers for each in _list_described(maker)),
            *(each for maker in summary.makers for each in _list_classifiers(maker, catalogs)),
            *(each for maker in summary.makers for each in _list_components(maker)),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        where = f"{root / RUN_SUMMARY}: damaged"
        raise SourceError(f"{where} ({error!r}): run the recipe again") from error
    return Making(tuple(dict.fromkeys(found)), is_known=True)


def read_model(root: Path) -> str | None:
    """Returns which model a finished run used; None for images that no run of ours made.

    Raises:
        SourceError: a damaged record.
    """
    summary = read_own_summary(root)
    if summary is None or summary.judged:
        return None
    return next((maker.model for maker in summary.makers), None)


def read_own_summary(root: Path) -> Summary | None:
    """Returns the summary of a finished run, or of a copy of it; None for other images.

    Raises:
        SourceError: it is damaged.
    """
    try:
        return Dataset(str(root)).summary
    except StoreError as error:
        raise SourceError(str(error)) from error


def find_parts(
    spec: str, described: Mapping[str, Any], making: Making, catalogs: Catalogs
) -> tuple[str, ...]:
    """Returns what parts an encoder had in a set: it must have none to judge it.

    Args:
        spec: as the user named the encoder.
        described: what the encoder says of itself.
        making: of the set.
        catalogs: where ids are looked up.
    """
    names = _list_names(spec, catalogs) | {spec, str(described["id"])}
    sha256 = described["weights_sha256"]
    found = [each.what for each in making.involved if names & each.names or sha256 in each.hashes]
    return tuple(dict.fromkeys(found))


def write_circle(spec: str, name: str, part: str) -> str:
    """Writes the warning that an encoder judges a set in which it had a part."""
    return (
        f"CIRCULAR: {spec} must not judge {name}: {part}. Its figures favour the set; take another "
        "--encoder"
    )


def _list_judges(encoders: Iterable[JudgeSummary], catalogs: Catalogs) -> list[Involved]:
    return [
        Involved(
            _say_part(each.used_by),
            frozenset({each.weights}) | _list_names(each.spec, catalogs),
        )
        for each in encoders
    ]


def _list_names(spec: str, catalogs: Catalogs) -> frozenset[str]:
    """Returns the names of an encoder's weights, and of those that taught it or that it moves."""
    parts = list_parts(spec, catalogs)
    return frozenset(take_name(find_weights(each, catalogs)) for each in parts)


def _say_part(user: str) -> str:
    return "it guided the sampling" if user == GUIDE else f"{user} judged with it"


def _list_described(maker: Maker) -> list[Involved]:
    """What filters, pick and stop said of their encoders when the images were made."""
    found = [
        Involved(
            f"filter {each.kind} judged with it",
            frozenset({take_name(find_source(each.get("encoder")))}),
            frozenset({each.get("weights_sha256")} - {None}),
        )
        for each in maker.filters
        if each.get("encoder") is not None
    ]
    for user, used in (("pick", maker.pick_encoder), ("stop", maker.stop_encoder)):
        if used is None:
            continue
        sha256 = used.weights_sha256
        if sha256 is None:
            found.append(Involved(_say_part(user), frozenset({used.id})))
        else:  # an id may be that of an architecture only
            found.append(Involved(_say_part(user), frozenset(), frozenset({sha256})))
    return found


def _list_classifiers(maker: Maker, catalogs: Catalogs) -> list[Involved]:
    """The encoders inside classifiers, by the hash of their weights, where they are still there."""
    found = []
    for each in (*maker.filters, *list_guides(maker)):
        for model in each.get("models") or filter(None, [each.get("model")]):
            try:
                folder = catalogs.find_classifier_folder(model) or Path(model)
                sha256 = read_classifier_info(folder).encoder_description.weights_sha256
            except FactoryError:
                continue
            if sha256 is not None:
                what = _say_part(GUIDE if each.kind == GUIDE else f"filter {each.kind}")
                found.append(Involved(what, frozenset(), frozenset({sha256})))
    return found


def _list_components(maker: Maker) -> list[Involved]:
    """The parts of the model, and the encoders of what conditions held."""
    parts = [*maker.components, *(maker.other_terms or ())]
    return [
        Involved(
            f"it {ROLES[part.role]} ({maker.model})",
            frozenset({find_source(part.source), take_name(part.source)}),
        )
        for part in parts
        if part.role in ROLES
    ]
