"""The steps of a publication: look, refuse, send what is missing, compare all, mark as whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.errors import InputError
from factory.publish.hub.items import CARD, Item
from factory.publish.hub.target import Say, Target, cut_batches, find_pending, find_stale

MAX_BYTES = 4_000_000_000
"""Bytes of one step at most, unless one file is larger."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did.

    Attributes:
        url: where it is.
        commit: the version that was compared; None: the place has no versions.
        tag: the version's name; None: none, or the comparison failed.
        sent: names of files that were sent.
        sent_bytes: their bytes.
        removed: names of files that were taken away.
        steps: in how many steps.
        problems: what differs from the run; none: every file and row is there.
    """

    url: str
    commit: str | None
    tag: str | None
    sent: tuple[str, ...]
    sent_bytes: int
    removed: tuple[str, ...]
    steps: int
    problems: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def publish_items(
    items: Sequence[Item],
    target: Target,
    recipe_sha256: str,
    say: Say,
    max_files: int = 20,
    replace: bool = False,
) -> Published:
    """Sends what the target does not have yet, and compares everything that it has then.

    Args:
        items: all files, in the order in which they are sent.
        target: the place.
        recipe_sha256: named in the message of every step.
        say: called with a line for each step.
        max_files: files of one step.
        replace: take the place of another data set that is there.

    Raises:
        InputError: another data set is there, or the target refuses; nothing was touched.
        PublishError: it was broken off and can be resumed.
        StoreError: likewise, of a folder.
    """
    target.check(items)
    held = target.list_held()
    pending, stale = list(find_pending(target, items, held)), find_stale(items, held)
    replaced = [*stale, *(item.name for item in pending if item.is_data and item.name in held)]
    if replaced and not replace:
        raise InputError(
            f"{target.url}: holds other data, e.g. {', '.join(replaced[:3])}: add --replace to put "
            "this data set in its place, or take another name"
        )
    removed = list(stale)
    if CARD in held and (stale or any(item.is_data for item in pending)):
        removed.append(CARD)  # until all is there, so that the mixture does not look whole
        pending = [item for item in items if item in pending or item.name == CARD]
    say(f"{len(items) - len(pending)} of {len(items)} files are there already")
    target.prepare()
    batches = cut_batches(pending, max_files, MAX_BYTES)
    for number, batch in enumerate(batches):
        what = "card" if batch[0].name == CARD else "data" if batch[0].is_data else "documents"
        message = f"Add {what}, step {number + 1} of {len(batches)} (recipe {recipe_sha256[:12]})"
        say(f"{message}: {len(batch)} files, {sum(each.size for each in batch) / 1e6:,.1f} MB")
        target.send(batch, removed if number == 0 else (), message)
    commit = target.pin()
    say("comparing")
    problems = compare(items, target)
    return Published(
        url=target.url,
        commit=commit,
        tag=None if problems else target.finish(),
        sent=tuple(item.name for item in pending),
        sent_bytes=sum(item.size for item in pending),
        removed=tuple(removed),
        steps=len(batches),
        problems=problems,
    )


def compare(items: Sequence[Item], target: Target) -> tuple[str, ...]:
    """Returns how the target differs in names, sizes, hashes and row counts; empty: not at all."""
    held = target.list_held()
    problems = [f"{name}: not of this data set" for name in find_stale(items, held)]
    for item in items:
        found = held.get(item.name)
        if found is None:
            problems.append(f"{item.name}: missing")
        elif found.size != item.size:
            problems.append(f"{item.name}: {found.size} bytes, not {item.size}")
        elif not target.holds(item, found):
            problems.append(f"{item.name}: another hash")
        elif item.rows is not None and (rows := target.count_rows(item.name)) != item.rows:
            problems.append(f"{item.name}: {rows} rows, not {item.rows}")
    return tuple(problems)
