"""The protocol of places to publish to, and what they say of the files that they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from factory.publish.hub.items import CARD, OWN_FOLDERS, Item

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Held:
    """A file at the target: its size in bytes, and one of its hashes."""

    size: int
    sha256: str | None = None
    git_hash: str | None = None


class Target(Protocol):
    """A place to publish to."""

    url: str
    """What a person opens or loads."""

    def list_held(self) -> Mapping[str, Held]:
        """Lists the files that are there; touches nothing; empty where nothing is."""

    def check(self, items: Sequence[Item]) -> None:
        """Refuses before anything is touched: rights, visibility, a tag that is taken."""

    def prepare(self) -> None:
        """Makes the place, where it is not there yet."""

    def holds(self, item: Item, held: Held | None) -> bool:
        """Tells whether the file is there with the same bytes."""

    def send(self, items: Sequence[Item], removed: Sequence[str], message: str) -> None:
        """Puts files there, and takes others away, as one step."""

    def count_rows(self, name: str) -> int:
        """Reads how many rows a parquet file at the target has."""

    def pin(self) -> str | None:
        """Fixes the version that is looked at from now on; returns its name, if there is one."""

    def finish(self) -> str | None:
        """Marks what was sent as whole; returns the mark's name, where the target has such."""


def find_stale(items: Sequence[Item], held: Mapping[str, Held]) -> tuple[str, ...]:
    """Returns files at the target, in the data set's own folders, that it does not have."""
    names = {item.name for item in items}
    return tuple(
        name
        for name in sorted(held)
        if name not in names and "/" in name and name.split("/", 1)[0] in OWN_FOLDERS
    )


def find_pending(
    target: Target, items: Sequence[Item], held: Mapping[str, Held]
) -> tuple[Item, ...]:
    """Returns the files that are not at the target with the same bytes."""
    return tuple(item for item in items if not target.holds(item, held.get(item.name)))


def cut_batches(
    items: Sequence[Item], max_files: int, max_bytes: int
) -> tuple[tuple[Item, ...], ...]:
    """Cuts files into steps of bounded count and size; the card is a step of its own, the last."""
    batches: list[list[Item]] = []
    for item in (each for each in items if each.name != CARD):
        last = batches[-1] if batches else []
        is_full = len(last) >= max_files or sum(each.size for each in last) + item.size > max_bytes
        if not last or is_full or last[-1].is_data != item.is_data:
            batches.append([item])
        else:
            last.append(item)
    card = [[item] for item in items if item.name == CARD]
    return tuple(tuple(batch) for batch in (*batches, *card))
