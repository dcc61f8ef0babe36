"""Families: each request of a block with one thing varied, seed and all else the same."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.family import LOOKS, Family
from factory.data.records import Condition, Request
from factory.data.streams import STREAMS, ClassName, Recolour, Stream, Vector
from factory.data.streams.cells import Cells
from factory.recipe.conditions.family_looks import Looks, check_looks, find_looks
from factory.recipe.conditions.series import Series, find_details, find_quotas, find_shares

if TYPE_CHECKING:
    from factory.recipe.checks.findings import Findings
    from factory.recipe.conditions.base import ConditionKind, Planning

Value = str | float


def _check_values(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(map(write_value, values))) < len(values):
        raise ValueError("a value stands twice, as rows show it: remove one")
    return values


Vary = Annotated[
    dict[str, Annotated[tuple[Value, ...], Field(min_length=2), AfterValidator(_check_values)]],
    Field(min_length=1),
]
"""What is varied -> its values: a stream of one plain value, a caption's attribute, a vector's."""

PLAIN: Mapping[str, type[Stream]] = {
    stream.name: stream for stream in STREAMS if stream.Cells is Cells
}
"""Streams that one value gives, by name: class, caption and scale."""


@dataclass(frozen=True)
class FamilySeries:
    """The requests of a series in their order, each once for every value of what is varied.

    All members of one family follow each other. A request with several things to vary gives a
    family of each, with noise of its own.
    """

    base: Series
    vary: tuple[tuple[str, tuple[Value, ...]], ...]
    count: int
    looks: Looks = field(default_factory=dict)

    @classmethod
    def of(
        cls, base: Series, vary: Mapping[str, tuple[Value, ...]], looks: Looks | None = None
    ) -> "FamilySeries":
        """Returns the families of all requests of a series; `looks` are those of its values."""
        count = base.count * sum(map(len, vary.values()))
        return cls(base, tuple(vary.items()), count, looks or {})

    @cached_property
    def members(self) -> tuple[tuple[str, Value], ...]:
        """What each request of the base is asked for with: (what is varied, value)."""
        pairs = (itertools.product([name], values) for name, values in self.vary)
        return tuple(itertools.chain.from_iterable(pairs))

    @property
    def sizes(self) -> dict[str, int]:
        """What is varied -> images of a whole family."""
        return {name: len(values) for name, values in self.vary}

    @cached_property
    def key(self) -> str:
        """Identity of the series: that of its base, and what is varied."""
        varied = [[name, [self._tell(name, value) for value in of]] for name, of in self.vary]
        return compute_digest("series", {"base": self.base.key, "vary": varied})[:16]

    @property
    def label(self) -> str:
        """That of its base, and what is varied."""
        return f"{self.base.label}, families of {', '.join(name for name, _ in self.vary)}"

    def _tell(self, name: str, value: Value) -> Any:
        """Returns what of a value counts: the value, or the numbers or images of a look."""
        if name not in self.looks:
            return value
        stream = self.looks[name][value].stream
        return None if stream is None else stream.identity()

    @property
    def details(self) -> tuple[str, ...]:
        """Those of its base."""
        found: tuple[str, ...] = find_details(self.base).get("details", ())
        return found

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Attribute -> value -> its share: those of its base, and of families that vary it.

        Of such a family each value has an image of its own, of any other each image the value that
        the base asks for.
        """
        varied, total = dict(self.vary), len(self.members)
        return {
            name: {
                value: self._share(value, share, varied.get(name, ()), total)
                for value, share in row.items()
            }
            for name, row in find_shares(self.base).items()
        }

    @staticmethod
    def _share(value: str, share: float, values: Sequence[Value], total: int) -> float:
        own = sum(write_value(each) == value for each in values)
        return (own + (total - len(values)) * share) / total

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of its base, and those that it is varied to."""
        added = dict(self.vary).get(ClassName.name, ())
        return tuple(dict.fromkeys((*self.base.class_names, *map(str, added))))

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request.

        Raises:
            InputError: the base has nothing of that name, or the value is none of it.
        """
        place, member = divmod(index, len(self.members))
        asked, (name, value) = self.base.request_at(place), self.members[member]
        before = asked.condition_at(0)
        condition = self._vary(place, before, name, value)
        text = self.looks[name][value].text if name in self.looks else write_value(value)
        family = Family(before.key, name, text)
        return Request(self.key, index, condition, asked.ordinal, family=family)

    def _vary(self, place: int, condition: Condition, name: str, value: Value) -> Condition:
        if name in self.looks:
            return self._restain(condition, self.looks[name][value].stream)
        others = [each for each in condition.streams if each.name != name]
        if name in PLAIN:
            stream: Stream = PLAIN[name].read_cells({name: value}, Cells(column=name), Path())
            return Condition(None, None, *others, stream)
        vector = condition.get(Vector)
        if vector is not None and name in vector.names:
            others = [each for each in others if each is not vector]
            return Condition(None, None, *others, vector.change(name, value))
        vary_at: Any = getattr(self.base, "vary_at", None)
        found = None if vary_at is None else vary_at(place, name, write_value(value))
        if found is None:
            known = (
                *PLAIN,
                *LOOKS,
                *(() if vector is None else vector.names),
                *condition.attributes,
            )
            raise InputError(f"no stream, attribute or value {name!r} here: {advise(name, known)}")
        whole: Condition = found
        return whole

    @staticmethod
    def _restain(condition: Condition, stream: Stream | None) -> Condition:
        """Returns a condition with another look, or with none."""
        replaced = Recolour.name if stream is None else stream.name
        others = (each for each in condition.streams if each.name != replaced)
        return Condition(None, None, *others, *([] if stream is None else [stream]))


def write_value(value: Value) -> str:
    """Returns a value as rows show it."""
    return value if isinstance(value, str) else f"{value:g}"


def build_families(block: "ConditionKind", planning: "Planning") -> list[FamilySeries]:
    """Returns the families of all series of a block that varies something.

    Raises:
        InputError: what the block is made from, or a look, is not there.
    """
    looks, vary = find_looks(block, planning), block.settings.vary
    return [FamilySeries.of(each, vary, looks) for each in block.build_series(planning)]


def list_varied(vary: Mapping[str, Any] | None) -> tuple[type[Stream], ...]:
    """Returns the streams that a block varies, which its conditions hold besides its own."""
    plain = tuple(PLAIN[name] for name in vary or () if name in PLAIN)
    return (*plain, *([Recolour] if any(name in LOOKS for name in vary or ()) else []))


def check_vary(
    findings: "Findings", block: "ConditionKind", path: FieldPath, planning: "Planning"
) -> None:
    """Notes what of a block cannot be varied, and what of the recipe would part families."""
    recipe, vary = findings.loaded.recipe, block.settings.vary
    for whole, told in (
        ("dedup", "would take members of a family for near-duplicates: remove it"),
        ("pick", "would take families apart: remove it"),
    ):
        if getattr(recipe, whole) is not None:
            findings.add((whole,), f"{told}, or conditions[{path[1]}].vary")
    if recipe.budget.attempts != 1:
        message = "members of a family share one seed, and a further try has another"
        findings.add(
            ("budget", "attempts"),
            f"must be 1 with conditions[{path[1]}].vary, got {recipe.budget.attempts}: {message}; "
            "ask for more families instead",
        )
    for quota in find_quotas(block.settings):
        findings.add((*path, quota), "would take families apart: remove it, or vary")
    if block.is_existing:
        findings.add((*path, "vary"), "images that are there cannot be varied: remove it")
    model = findings.model
    for name, values in vary.items():
        place: FieldPath = (*path, "vary", name)
        takes = None if model is None else model.streams
        if model is not None and takes is not None and name in PLAIN and name not in takes:
            findings.add(place, f"{model.name} takes no {name}: remove it")
        if name == ClassName.name:
            findings.asked.add(tuple(map(str, values)), place)
            if model is not None and model.class_names:
                findings.check_names(
                    tuple(map(str, values)), model.class_names, place, model.name, keyed=False
                )
    check_looks(findings, block, path, planning)
    if findings.check_files and not findings.problems:
        _try_first(findings, block, path, planning)


def _try_first(
    findings: "Findings", block: "ConditionKind", path: FieldPath, planning: "Planning"
) -> None:
    """Notes what the first request of each series cannot be varied by, or a model not take."""
    entry = None if findings.model is None else findings.model.entry
    try:
        found = build_families(block, planning)
    except InputError as error:
        findings.add((*path, "vary"), str(error))
        return
    for series in found:
        for index, (name, _) in enumerate(series.members):
            place: FieldPath = (*path, "vary", name)
            try:
                condition = series.request_at(index).condition
            except InputError as error:
                findings.add(place, str(error))
                continue
            for stream in condition.streams:
                misfit = None if entry is None else stream.find_misfit(entry)
                if misfit is not None:
                    findings.add(place, misfit)
