"""Galleries of a report: accepted, borderline and rejected images, and near-duplicates in pairs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from factory.engine.dedup import compare_pairs
from factory.publish.report.collect import MAX_COMPARED, Collected, Shown
from factory.publish.report.pictures import Stored, fetch_stored
from factory.publish.report.state import RunState
from factory.publish.report.tiles import SHORT, Maker, Pair, Tile


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidates that a report shows, by gallery, and those compared with real images.

    Attributes:
        accepted: an even choice, by series.
        borderline: those nearest to a threshold.
        rejected: an even choice, by filter and series.
        repeats: near-duplicates.
        references: variations of real images.
        described: accepted ones to compare with real sets: many, where descriptors are stored.
        unauthentic: accepted ones that lie nearest to a real image, by the filter `realism`.
    """

    accepted: tuple[Shown, ...]
    borderline: tuple[Shown, ...]
    rejected: tuple[Shown, ...]
    repeats: tuple[Shown, ...]
    references: tuple[Shown, ...]
    described: tuple[Shown, ...]
    unauthentic: tuple[Shown, ...]

    def list_pictured(self) -> tuple[Shown, ...]:
        """Returns those of the galleries; some more than once."""
        return (*self.accepted, *self.borderline, *self.rejected, *self.repeats)


@dataclass(frozen=True, slots=True)
class Group:
    """Tiles below one heading."""

    heading: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Galleries:
    """The tiles of a report."""

    accepted: tuple[Group, ...]
    borderline: tuple[Group, ...]
    rejected: tuple[Group, ...]
    repeats: tuple[Pair, ...]
    has_real: bool = False
    """Whether real images that rows keep stand beside some."""


def choose(found: Collected) -> Choice:
    """Chooses what is shown: evenly over series and filters, the same for the same run."""
    count = found.per_gallery
    names = ("accepted", "rejected", "repeats", "references", "copies", "unauthentic")
    drawn = {name: tuple(found.pools[name].draw(count)) for name in names}
    described = tuple(found.pools["described"].draw(MAX_COMPARED))
    rejected = found.pools["nearly_accepted"].draw(count // 2)
    accepted = found.pools["nearly_rejected"].draw(count - len(rejected))
    return Choice(
        accepted=drawn["accepted"],
        borderline=tuple(sorted((*accepted, *rejected), key=_rank_margin)),
        rejected=drawn["rejected"],
        repeats=drawn["repeats"],
        references=drawn["references"],
        described=described or drawn["copies"] or drawn["accepted"],
        unauthentic=drawn["unauthentic"] or drawn["accepted"],
    )


def fetch_chosen(state: RunState, choice: Choice, with_real: bool = True) -> dict[str, Stored]:
    """Reads what is stored of the chosen candidates and of those that they repeat.

    Args:
        state: of the run.
        choice: of its candidates.
        with_real: real images that their rows keep, too.

    Raises:
        StoreError: damaged data.
    """
    matches = {str(each.decision.match): str(each.row["series"]) for each in choice.repeats}
    pictured = choice.list_pictured()
    return fetch_stored(state.folder, state.outline, pictured, matches, with_real)


def build_galleries(choice: Choice, maker: Maker) -> Galleries:
    """Makes the tiles of all galleries.

    Raises:
        SourceError: a stored image cannot be read.
    """

    def name_series(shown: Shown) -> str:
        return maker.labels[shown.row["series"]]

    def name_filter(shown: Shown) -> str:
        return str(shown.decision.rejected_by)

    def name_limit(shown: Shown) -> str:
        assert shown.margin is not None
        return f"{shown.margin.limit.filter}.{shown.margin.limit.field}"

    return Galleries(
        accepted=group_tiles(choice.accepted, maker, name_series),
        borderline=group_tiles(choice.borderline, maker, name_limit),
        rejected=group_tiles(choice.rejected, maker, name_filter),
        repeats=pair_repeats(choice.repeats, maker),
        has_real=any(each.has_real for each in maker.stored.values()),
    )


def group_tiles(
    shown: Sequence[Shown], maker: Maker, name: Callable[[Shown], str]
) -> tuple[Group, ...]:
    """Makes tiles below headings, in order of appearance.

    Raises:
        SourceError: a stored image cannot be read.
    """
    groups: dict[str, list[Tile]] = {}
    for each in shown:
        groups.setdefault(name(each), []).append(maker.make(each))
    return tuple(Group(heading, tuple(tiles)) for heading, tiles in groups.items())


def pair_repeats(repeats: Iterable[Shown], maker: Maker) -> tuple[Pair, ...]:
    """Puts near-duplicates beside the images that they repeat, most alike first.

    Raises:
        SourceError: a stored image cannot be read.
    """
    found = []
    for each in repeats:
        match = str(each.decision.match)
        similarity = _compare(maker.stored.get(each.sample_id), maker.stored.get(match))
        first = maker.make(each)
        second = Tile(
            picture=maker.draw(match),
            alt=f"{first.title} that it repeats, sample {match[:SHORT]}",
            title=first.title,
            status="earlier",
            verdict="the one that it repeats",
            facts={"sample": match},
        )
        text = "" if similarity is None else f"similarity {similarity:g}"
        found.append((similarity or 0.0, Pair(first, second, text)))
    return tuple(pair for _, pair in sorted(found, key=lambda each: -each[0]))


def _rank_margin(shown: Shown) -> tuple[str, float]:
    """Ranks by threshold, then along its score, so that the verdict turns within a row."""
    margin = shown.margin
    assert margin is not None
    return f"{margin.limit.filter}.{margin.limit.field}", -margin.slack


def _compare(first: Stored | None, second: Stored | None) -> float | None:
    if first is None or second is None or first.descriptor is None or second.descriptor is None:
        return None
    return float(compare_pairs(first.descriptor[None], second.descriptor[None])[0])
